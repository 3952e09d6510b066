"""The `inarch` command, recipes, comparisons and benchmarks."""
