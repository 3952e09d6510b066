"""The driver's side of a run: start, find, watch, scale, stop and resume it."""
