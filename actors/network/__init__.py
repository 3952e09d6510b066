"""The network actor: trains one network, exchanges snapshots and writes checkpoints."""
