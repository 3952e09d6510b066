"""Training loops of the caller's own as members of a population: `join`, and the member that it returns."""
