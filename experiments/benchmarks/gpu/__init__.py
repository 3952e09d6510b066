"""`inarch bench gpu`: grafts, training speed, compilation and sharing on a GPU, within a limit of time."""

from inarch.experiments.benchmarks.gpu.benchmark import gpu

__all__ = ["gpu"]
