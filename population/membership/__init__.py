"""Members of a population, their topology, the index of their newest snapshots, and staleness."""
