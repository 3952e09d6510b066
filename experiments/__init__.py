"""The `inarch` command, recipes, benchmarks and reports."""
