"""Replay: repeat an asynchronous run in one process, from what its folder records, with the same bits."""
