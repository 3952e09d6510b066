"""Values of one network that other packages pass around: state dict, snapshot, optimizer state, seeds."""
