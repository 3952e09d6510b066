"""Processes that benchmarks start: companions that answer requests, clusters, and what must not be left over."""
