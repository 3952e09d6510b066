"""The files of a run: storage, checkpoints, history tables and claims."""
