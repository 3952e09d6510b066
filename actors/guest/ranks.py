"""The processes that train one model together: rank 0 takes part in the population, and the others follow it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

T = TypeVar("T")


class Ranks:
    """The ranks of torch.distributed, or this process alone."""

    def __init__(self, *, is_distributed: bool | None = None) -> None:
        """Find out which rank this process is.

        Args:
            is_distributed: Whether the ranks of torch.distributed train one model together. None: they do if the
                process group is initialized.
        """
        is_initialized = distributed.is_available() and distributed.is_initialized()
        joint = is_initialized if is_distributed is None else is_distributed and is_initialized
        self.rank = distributed.get_rank() if joint else 0
        self.size = distributed.get_world_size() if joint else 1

    @property
    def is_first(self) -> bool:
        """Whether this process is rank 0, which takes part in the population."""
        return self.rank == 0

    def share(self, compute: Callable[[], T]) -> T:
        """Return a value that rank 0 computes. What it raises is raised on every rank.

        Every rank must call this at the same place.

        Args:
            compute: Called on rank 0 only. Its value must be picklable if there are several ranks.
        """
        if self.size == 1:
            return compute()
        value: Any = None
        error: Exception | None = None
        if self.is_first:
            try:
                value = compute()
            except Exception as raised:
                error = raised
        content = [value, error]
        distributed.broadcast_object_list(content, src=0)
        if content[1] is not None:
            raise content[1]
        return content[0]

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Copy rank 0's tensors into those of the other ranks.

        Args:
            tensors: The same tensors in the same order on every rank.
        """
        if self.size > 1:
            with torch.no_grad():
                for tensor in tensors:
                    distributed.broadcast(tensor.detach(), src=0)
