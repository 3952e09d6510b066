"""The GPU of a network: its settings, and the share of its memory that the network may take."""

from __future__ import annotations

import time

import torch

from inarch.actors.messages import NetworkSpec
from inarch.population.errors import ConfigError

CONTEXT_BYTES = 2**30
"""Bytes of a GPU that each process takes beside its tensors: its CUDA context, and the libraries' own memory."""

MEMORY_SECONDS = 20.0
"""Longest wait for the memory of a process that died."""


def network_device(spec: NetworkSpec) -> torch.device:
    """Return the device of a network, and set up its GPU if it has one.

    Inside an actor with a GPU, Ray shows it that GPU alone, as cuda:0. Several networks on one GPU share its memory.
    """
    if not spec.gpus:
        return torch.device("cpu")
    device = torch.device("cuda:0")
    torch.cuda.set_device(device)
    torch.backends.cudnn.benchmark = not spec.run.config.device.deterministic
    if spec.incarnation > 1:
        _wait_for_memory(device)
    if spec.gpus < 1:
        total = torch.cuda.mem_get_info(device)[1]
        torch.cuda.set_per_process_memory_fraction(memory_share(spec.gpus, total) / total, device)
    return device


def memory_share(gpus: float, total: int) -> int:
    """Return the bytes of a GPU that a network's tensors may take.

    Args:
        gpus: Share of the GPU, below 1.
        total: Bytes of the GPU.

    Raises:
        ConfigError: The share leaves no room for tensors.
    """
    share = int(gpus * total) - CONTEXT_BYTES
    if share <= 0:
        raise ConfigError(
            f"population.gpus {gpus:g} of a GPU with {total / 2**30:.1f} GiB leaves nothing beside the "
            f"{CONTEXT_BYTES / 2**30:.1f} GiB that each process needs for itself"
        )
    return share


def explain_memory(error: Exception, gpus: float) -> None:
    """Add a note to an error of a GPU without free memory, if the network has only a share of the GPU.

    Args:
        error: What the network's training raised. Other errors stay as they are.
        gpus: Share of the GPU.
    """
    if isinstance(error, torch.OutOfMemoryError) and 0 < gpus < 1:
        error.add_note(
            f"out of GPU memory: this network may use {gpus:g} of the GPU, less {CONTEXT_BYTES / 2**30:g} GiB for its "
            "process; use a smaller batch, a larger population.gpus, or fewer networks"
        )


def _wait_for_memory(device: torch.device) -> None:
    """Wait until the memory of the process that this one replaces is free, as long as more and more becomes free."""
    free = -1
    deadline = time.monotonic() + MEMORY_SECONDS
    while time.monotonic() < deadline:
        before, free = free, torch.cuda.mem_get_info(device)[0]
        if free == before:
            return
        time.sleep(1.0)
