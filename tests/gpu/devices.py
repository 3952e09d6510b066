"""The devices of the GPU tests: the CPU and a pretend GPU everywhere, and a real GPU with the marker `gpu`.

The bodies of the tests are the same for all of them, so that a mistake in a test is found without a GPU.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterator

import pytest
import torch

from tests.fakes.pretend_cuda import Counts, pretend_cuda

CUDA = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")],
)

CPU_AND_CUDA = ["cpu", CUDA]
PRETEND_AND_CUDA = ["pretend", CUDA]
ALL = ["cpu", "pretend", CUDA]


@dataclasses.dataclass(frozen=True)
class Device:
    """A device of the tests."""

    kind: str
    """cpu, pretend or cuda."""
    counts: Counts | None = None
    """What a pretend GPU was asked."""

    @property
    def name(self) -> str:
        """The device's name in torch."""
        return "cpu" if self.kind == "cpu" else "cuda:0"

    @property
    def is_real_gpu(self) -> bool:
        return self.kind == "cuda"

    def synchronize(self) -> None:
        if self.is_real_gpu:
            torch.cuda.synchronize()

    @contextlib.contextmanager
    def without_waits(self) -> Iterator[None]:
        """Fail if the CPU waits for the device within the context."""
        if self.is_real_gpu:
            torch.cuda.set_sync_debug_mode("error")
            try:
                yield
            finally:
                torch.cuda.set_sync_debug_mode("default")
            return
        before = copy.deepcopy(self.counts)
        yield
        if self.counts is not None and before is not None:
            taken = self.counts.taken(before)
            assert taken.syncs == 0, taken.places


@contextlib.contextmanager
def running(kind: str) -> Iterator[Device]:
    """Make a device available as long as the context lasts.

    On a real GPU convolutions compute in float32 and not in TensorFloat-32, so that results can be compared.
    """
    if kind == "pretend":
        with pretend_cuda() as counts:
            yield Device(kind, counts)
        return
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=False):
        yield Device(kind)


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Use only deterministic algorithms, as with device.deterministic."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
