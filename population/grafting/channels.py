"""Which channels of a network are one, and what it is with its channels in other places.

A class of channels is all that must move together if one of them moves: the filter that makes it, its batch norm's
entries, the slices of every layer that reads it, and, where streams are added or joined by a depthwise convolution, the
same of every other filter that makes it. `channel_graph.py` finds them.
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
"""In place of a class: a channel that nothing may move, as an image's or a logit."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One dimension of an entry of the state dict, and the class of each place along it."""

    key: str
    dim: int
    """0: what the entry makes; 1: what it reads."""
    classes: np.ndarray
    """Shape (size of the dimension,), or for a grouped convolution's inputs (size of dim 0, size of dim 1); FREE where
    nothing may move."""


@dataclass(frozen=True, kw_only=True)
class Channels:
    """The classes of a network's channels."""

    num_classes: int
    axes: tuple[Axis, ...]
    producers: tuple[tuple[tuple[str, int], ...], ...]
    """For each class, the filters that make it: key of a convolution's or linear layer's weight, and row."""
    scales: tuple[tuple[tuple[str, int], ...], ...]
    """For each class, its entries in the scales of batch norms: key and place."""
    permutation_groups: tuple[tuple[int, ...], ...]
    """Classes that may change places with each other and leave the network's function as it is: sets of them that lie
    along the same axes."""


def declared_channels(module: nn.Module, groups: Sequence[Sequence[tuple[str, int]]]) -> Channels:
    """Channels as somebody who knows the network says they are.

    Args:
        module: The network.
        groups: Each a list of (key of the state dict, dimension) along which the same channels lie in the same order:
            0 where the entry makes them or has one value for each, 1 where it reads them. An entry that reads each
            channel's pixels side by side may be so many times as long. What is in no group stays as it is. Convolutions
            of several groups cannot be declared.

    Raises:
        ConfigError: an entry is unknown, is declared twice, or has another number of channels than its group.
    """
    state, axes, seen, count = named_tensors(module), [], set(), 0
    grouped = {
        f"{name}.weight" for name, found in module.named_modules() if isinstance(found, nn.Conv2d) and found.groups > 1
    }
    producers: list[tuple[str, np.ndarray]] = []
    scales: list[tuple[str, np.ndarray]] = []
    permutation_groups = []
    for group in groups:
        made = [key for key, dim in group if dim == 0 and key in state and state[key][0].numel() > 1]
        if not made:
            raise ConfigError(f"channel_groups: no weight makes the channels of {list(group)}")
        size = len(state[made[0]])
        classes = np.arange(count, count + size)
        for key, dim in group:
            if key in grouped:
                raise ConfigError(f"channel_groups: {key} is of a convolution of several groups")
            if dim not in (0, 1):
                raise ConfigError(f"channel_groups: the dimension of {key} must be 0 or 1, got {dim!r}")
            length = state[key].shape[dim] if key in state and dim < state[key].dim() else 0
            if length == 0 or length % size or (dim == 0 and length != size):
                raise ConfigError(
                    f"channel_groups: dimension {dim} of {key} has {length} places, {made[0]} makes {size}"
                )
            if (key, dim) in seen:
                raise ConfigError(f"channel_groups: dimension {dim} of {key} is declared twice")
            seen.add((key, dim))
            axes.append(Axis(key=key, dim=dim, classes=np.repeat(classes, length // size)))
            if key in made and dim == 0:
                producers.append((key, classes))
            elif dim == 0 and f"{key.removesuffix('.weight')}.running_mean" in state and key.endswith(".weight"):
                scales.append((key, classes))
        permutation_groups.append(tuple(classes.tolist()))
        count += size
    known = np.arange(count)
    return Channels(
        num_classes=count,
        axes=tuple(axes),
        producers=by_class(producers, known, count),
        scales=by_class(scales, known, count),
        permutation_groups=tuple(permutation_groups),
    )


def by_class(
    found: Sequence[tuple[str, np.ndarray]], known: np.ndarray, count: int
) -> tuple[tuple[tuple[str, int], ...], ...]:
    """For each class, the key and place of each of its channels.

    Args:
        found: Entries, and the channel at each of their places.
        known: The class of each channel, or FREE.
        count: Of classes.
    """
    of: list[list[tuple[str, int]]] = [[] for _ in range(count)]
    for key, channels in found:
        for place, class_ in enumerate(known[channels].tolist()):
            if class_ != UNTRACKED:
                of[class_].append((key, place))
    return tuple(tuple(places) for places in of)


def moved(state: dict[str, Tensor], channels: Channels, places: np.ndarray) -> dict[str, Tensor]:
    """The same network with its channels in other places.

    Args:
        state: A state dict; not changed.
        channels: Of its network.
        places: Shape (classes,): class c is made to be what class places[c] was; a permutation within each kind.

    Returns:
        Copies.
    """
    found = {key: tensor.clone() for key, tensor in state.items()}
    for axis in channels.axes:
        found[axis.key] = moved_along(found[axis.key], axis, places)
    return found


def moved_along(tensor: Tensor, axis: Axis, places: np.ndarray) -> Tensor:
    """One entry with its channels in other places along one of its dimensions; a copy."""
    if axis.classes.ndim == 1:
        order = torch.from_numpy(_order(axis.classes, places)).to(tensor.device)
        return tensor.index_select(axis.dim, order)
    rows = [
        row.index_select(0, torch.from_numpy(_order(classes, places)).to(tensor.device))
        for row, classes in zip(tensor, axis.classes, strict=True)
    ]
    return torch.stack(rows)


def _order(classes: np.ndarray, places: np.ndarray) -> np.ndarray:
    """From where each place along an axis is read: the same occurrence of the class that comes there."""
    sorted_places = np.argsort(classes, kind="stable")
    found = classes[sorted_places]
    starts = np.searchsorted(found, np.arange(UNTRACKED, len(places)))
    occurrence = np.arange(len(classes)) - starts[found - UNTRACKED]
    wanted = np.where(found == UNTRACKED, UNTRACKED, places[found])
    order = np.empty(len(classes), dtype=np.int64)
    order[sorted_places] = sorted_places[starts[wanted - UNTRACKED] + occurrence]
    return order
