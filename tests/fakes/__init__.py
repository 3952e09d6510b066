"""Stand-ins for parts of a run that a unit test drives itself."""
