"""Start, find, watch, scale, stop and resume runs from the driver process."""
