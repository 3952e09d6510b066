"""Values of one network that other packages exchange: state dict, snapshot, optimizer state and seeds."""
