"""The share of a GPU's memory that a network takes."""

from __future__ import annotations

import pytest
import torch

from inarch.actors.network.gpu import CONTEXT_BYTES, explain_memory, memory_share
from inarch.population.errors import ConfigError

GIB = 2**30


@pytest.mark.parametrize(("gpus", "total"), [(0.25, 80 * GIB), (0.5, 16 * GIB), (1 / 3, 24 * GIB)])
def test_shares_of_a_gpu_leave_room_for_each_context(gpus: float, total: int) -> None:
    num_networks = round(1 / gpus)
    share = memory_share(gpus, total)
    assert num_networks * (share + CONTEXT_BYTES) <= total and share > 0.7 * gpus * total


def test_share_without_room_for_tensors_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"population.gpus 0.1 of a GPU with 8.0 GiB leaves nothing"):
        memory_share(0.1, 8 * GIB)


@pytest.mark.parametrize(("gpus", "is_explained"), [(0.25, True), (1.0, False), (0.0, False)])
def test_error_without_memory_names_the_share_of_the_gpu(gpus: float, is_explained: bool) -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    explain_memory(error, gpus)
    note = "out of GPU memory: this network may use 0.25 of the GPU, less 1 GiB for its process; use a smaller batch"
    assert any(line.startswith(note) for line in getattr(error, "__notes__", ())) is is_explained


def test_other_errors_say_nothing_about_memory() -> None:
    error = RuntimeError("shape mismatch")
    explain_memory(error, 0.5)
    assert not hasattr(error, "__notes__")
