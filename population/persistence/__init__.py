"""Files of a run: storage, checkpoints, history tables and claims."""
