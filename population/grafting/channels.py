"""Classes of channels that move together, and networks with their channels permuted.

A class of channels holds everything that must move with one channel. That is the filter that makes it, its batch
norm's entries, and the slices of every layer that reads it. Additions and depthwise convolutions join channels of
several filters into one class, which then holds the same entries of each of these filters. `channel_tracing.py`
derives the classes from a network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from inarch.population.errors import ConfigError
from inarch.population.state.state_dict import named_tensors

UNTRACKED = -1
"""Stands for the class of a channel that must not move, such as a channel of the image or a logit."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One dimension of an entry of the state dict, with the class of each place along it."""

    key: str
    """Key of the entry."""
    dim: int
    """0: the channels that the entry makes. 1: the channels that it reads."""
    classes: np.ndarray
    """Class of each place, or UNTRACKED. Shape (size of the dimension,). For the inputs of a grouped convolution, whose
    rows read different channels, shape (size of dim 0, size of dim 1)."""


@dataclass(frozen=True, kw_only=True)
class Channels:
    """The classes of a network's channels."""

    num_classes: int
    """Number of classes. Their ids are 0 to num_classes - 1."""
    axes: tuple[Axis, ...]
    """All dimensions along which classes lie."""
    producers: tuple[tuple[tuple[str, int], ...], ...]
    """For each class, the filters that make it: key of a convolution's or linear layer's weight, and row."""
    scales: tuple[tuple[tuple[str, int], ...], ...]
    """For each class, its values in the scales of batch norms: key and place."""
    permutation_groups: tuple[tuple[int, ...], ...]
    """Sets of classes that lie along the same axes. Permuting the classes of a set does not change the network's
    function."""


def declared_channels(module: nn.Module, groups: Sequence[Sequence[tuple[str, int]]]) -> Channels:
    """Return the channels that the author of a network declares, where they cannot be traced.

    Grouped convolutions cannot be declared. Entries in no group stay as they are.

    Args:
        module: The network.
        groups: Groups of channels. Each is a list of (key of the state dict, dimension) along which the same channels
            lie in the same order. Dimension 0: the entry makes the channels, or has one value for each. Dimension 1:
            the entry reads them. It may be n times as long if it reads n pixels of each channel side by side.

    Raises:
        ConfigError: An entry is unknown, is declared twice, belongs to a grouped convolution, or has a different
            number of channels than its group. Or no weight of a group makes its channels.
    """
    state, axes, declared, num_classes = named_tensors(module), [], set(), 0
    grouped = {
        f"{name}.weight" for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d) and layer.groups > 1
    }
    producers: list[tuple[str, np.ndarray]] = []
    scales: list[tuple[str, np.ndarray]] = []
    permutation_groups = []
    for group in groups:
        producer_keys = [key for key, dim in group if dim == 0 and key in state and state[key][0].numel() > 1]
        if not producer_keys:
            raise ConfigError(
                f"channel_groups: no weight makes the channels of {list(group)}; "
                "a group needs the weight of a convolution or linear layer with dimension 0"
            )
        size = len(state[producer_keys[0]])
        classes = np.arange(num_classes, num_classes + size)
        for key, dim in group:
            if key in grouped:
                raise ConfigError(f"channel_groups: {key} belongs to a grouped convolution, which cannot be declared")
            if dim not in (0, 1):
                raise ConfigError(f"channel_groups: the dimension of {key} must be 0 or 1, got {dim!r}")
            length = state[key].shape[dim] if key in state and dim < state[key].dim() else 0
            if length == 0 or length % size or (dim == 0 and length != size):
                raise ConfigError(
                    f"channel_groups: dimension {dim} of {key} has {length} places, {producer_keys[0]} makes {size} "
                    "channels"
                )
            if (key, dim) in declared:
                raise ConfigError(f"channel_groups: dimension {dim} of {key} is declared twice")
            declared.add((key, dim))
            axes.append(Axis(key=key, dim=dim, classes=np.repeat(classes, length // size)))
            if key in producer_keys and dim == 0:
                producers.append((key, classes))
            elif dim == 0 and f"{key.removesuffix('.weight')}.running_mean" in state and key.endswith(".weight"):
                scales.append((key, classes))
        permutation_groups.append(tuple(classes.tolist()))
        num_classes += size
    class_ids = np.arange(num_classes)
    return Channels(
        num_classes=num_classes,
        axes=tuple(axes),
        producers=by_class(producers, class_ids, num_classes),
        scales=by_class(scales, class_ids, num_classes),
        permutation_groups=tuple(permutation_groups),
    )


def by_class(
    producers: Sequence[tuple[str, np.ndarray]], known: np.ndarray, count: int
) -> tuple[tuple[tuple[str, int], ...], ...]:
    """Return for each class the key and place of each of its channels.

    Args:
        producers: Keys of entries, each with the channel at every place of its first dimension.
        known: The class of each channel, or UNTRACKED.
        count: Number of classes.
    """
    members: list[list[tuple[str, int]]] = [[] for _ in range(count)]
    for key, channels in producers:
        for place, class_ in enumerate(known[channels].tolist()):
            if class_ != UNTRACKED:
                members[class_].append((key, place))
    return tuple(tuple(places) for places in members)


def moved(state: dict[str, Tensor], channels: Channels, places: np.ndarray) -> dict[str, Tensor]:
    """Return a state dict with its channels permuted.

    Args:
        state: A state dict. It is not changed.
        channels: Channels of its network.
        places: Shape (classes,). Class c receives the values that class places[c] had. Classes move only within their
            permutation group.

    Returns:
        Copies of all tensors.
    """
    copies = {key: tensor.clone() for key, tensor in state.items()}
    for axis in channels.axes:
        copies[axis.key] = moved_along(copies[axis.key], axis, places)
    return copies


def moved_along(tensor: Tensor, axis: Axis, places: np.ndarray) -> Tensor:
    """Return a copy of an entry with its channels permuted along one dimension.

    Args:
        tensor: The entry. It is not changed.
        axis: Classes along the dimension.
        places: Shape (classes,). Class c receives the values that class places[c] had.
    """
    if axis.classes.ndim == 1:
        order = torch.from_numpy(_order(axis.classes, places)).to(tensor.device)
        return tensor.index_select(axis.dim, order)
    rows = [
        row.index_select(0, torch.from_numpy(_order(classes, places)).to(tensor.device))
        for row, classes in zip(tensor, axis.classes, strict=True)
    ]
    return torch.stack(rows)


def _order(classes: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return the source of each place along an axis. The n-th place of a class reads the n-th of its source class."""
    sorted_places = np.argsort(classes, kind="stable")
    sorted_classes = classes[sorted_places]
    starts = np.searchsorted(sorted_classes, np.arange(UNTRACKED, len(places)))
    occurrence = np.arange(len(classes)) - starts[sorted_classes - UNTRACKED]
    sources = np.where(sorted_classes == UNTRACKED, UNTRACKED, places[sorted_classes])
    order = np.empty(len(classes), dtype=np.int64)
    order[sorted_places] = sorted_places[starts[sources - UNTRACKED] + occurrence]
    return order
