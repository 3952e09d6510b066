"""Copy a network's tensors to host memory for a checkpoint, without waiting for the GPU."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class HostCopies:
    """Copies of tensors in host memory. On a GPU they arrive later, and `wait` waits for them."""

    def __init__(self, device: torch.device) -> None:
        """Create it, without copies.

        Args:
            device: Device of the network.
        """
        self._is_cuda = device.type == "cuda"
        self._copied = torch.cuda.Event() if self._is_cuda else None

    def add(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copy tensors. The originals may change as soon as the GPU has done what was asked before.

        Each copy has the memory order of its original.

        Args:
            tensors: Tensors on the network's device or on the CPU. They are only read.

        Returns:
            A copy of each, by the same name. On a GPU they may be read only after `wait`.
        """
        copies: dict[str, Tensor] = {}
        with torch.no_grad():
            for name, tensor in tensors.items():
                source = tensor.detach()
                if source.device.type == "cpu":
                    copies[name] = source.clone()
                else:
                    copies[name] = torch.empty_like(source, device="cpu", pin_memory=True)
                    copies[name].copy_(source, non_blocking=True)
        if self._copied is not None:
            self._copied.record()
        return copies

    def wait(self) -> None:
        """Wait until all copies are complete. Another thread may call it."""
        if self._copied is not None:
            self._copied.synchronize()
