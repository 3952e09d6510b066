"""Tasks: what networks learn, and how a run is described and evaluated."""
