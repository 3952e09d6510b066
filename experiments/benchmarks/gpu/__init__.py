"""`inarch bench gpu`: grafts, training speed, compilation and sharing on a GPU, within a limit of time."""

from inarch.experiments.benchmarks.gpu.benchmark import check_gpu, gpu

__all__ = ["check_gpu", "gpu"]
