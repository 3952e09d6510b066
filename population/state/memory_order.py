"""The order of a tensor's values in memory, and operations on many tensors at once that do not depend on it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

FOREACH: Any = torch
"""torch itself, for its operations on lists of tensors, `_foreach_...`. torch.optim is built on them, but torch gives
them no types."""


def is_channels_last(tensor: Tensor) -> bool:
    """Return whether a tensor's values lie in channels_last order, and not in the default order too.

    Args:
        tensor: A tensor. Only one of four dimensions can be in channels_last order.
    """
    if tensor.layout != torch.strided or tensor.dim() != 4 or tensor.is_contiguous():
        return False
    return tensor.is_contiguous(memory_format=torch.channels_last)


def to_channels_last(module: nn.Module) -> nn.Module:
    """Put the parameters and buffers of four dimensions into channels_last order, in place. Return the module.

    `module.to(memory_format=torch.channels_last)` fails for modules that have tensors of five dimensions too.

    Args:
        module: A module.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return module


def in_default_order(module: nn.Module) -> nn.Module:
    """Put all parameters and buffers into default order, in place. Return the module.

    Args:
        module: A module.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = tensor.data.contiguous()
    return module


def is_dense(tensor: Tensor) -> bool:
    """Return whether a tensor's values lie in memory without gaps, in default or in channels_last order.

    Args:
        tensor: A tensor.
    """
    return has_same_order(tensor, tensor)


def has_same_order(first: Tensor, second: Tensor) -> bool:
    """Return whether the values of two tensors of one shape lie in the same order in memory, without gaps.

    Args:
        first: A tensor.
        second: A tensor of the same shape.
    """
    if first.layout != torch.strided or second.layout != torch.strided:
        return False
    if first.is_contiguous() and second.is_contiguous():
        return True
    formats = {"memory_format": torch.channels_last}
    return first.dim() == 4 and first.is_contiguous(**formats) and second.is_contiguous(**formats)


def in_memory_order(tensor: Tensor) -> Tensor:
    """Return a tensor's values in one dimension, in the order of memory. It is a view if the values lie without gaps.

    Args:
        tensor: A tensor in default order, in channels_last order, or in any other, which is copied.
    """
    return tensor.permute(0, 2, 3, 1).reshape(-1) if is_channels_last(tensor) else tensor.reshape(-1)


def copy_all(into: list[Tensor], sources: list[Tensor]) -> None:
    """Copy each source into the tensor of the same place.

    On a GPU, tensors of one type are copied by one operation.

    Args:
        into: Tensors on one device. They are changed.
        sources: Tensors of the same shapes.
    """
    if not into or into[0].device.type == "cpu":
        for target, source in zip(into, sources, strict=True):
            target.copy_(source)
        return
    groups: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for target, source in zip(into, sources, strict=True):
        if target.numel():
            targets, found = groups.setdefault(target.dtype, ([], []))
            targets.append(target)
            found.append(source)
    for targets, found in groups.values():
        FOREACH._foreach_copy_(targets, found, non_blocking=True)
