"""Permute a scion's channels into the rootstock's order. Networks with different initial weights do not share one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from inarch.population.grafting.channels import Axis, Channels, moved, moved_along

SWEEPS = 6
"""Maximum number of passes over all permutation groups. Matching stops earlier if a pass changes nothing."""

NOT_MATCHED = ("running_mean", "running_var")
"""Ends of keys whose entries are permuted with their channels but do not take part in matching."""


def match_channels(own: Mapping[str, Tensor], scion: Mapping[str, Tensor], channels: Channels) -> np.ndarray:
    """Return the permutation of the scion's classes that brings its weights closest to the rootstock's.

    The function solves one assignment problem per permutation group while the other groups stay fixed. Each assignment
    maximizes the sum of products between the two networks' weights, so the sum never decreases.

    Args:
        own: The rootstock's state dict. It is only read.
        scion: The scion's state dict. It is only read.
        channels: Channels of the networks.

    Returns:
        `places`, shape (classes,). `channels.moved(scion, channels, places)` is the scion in the rootstock's order.

    Source: Ainsworth et al. 2023 (arXiv:2209.04836), Git Re-Basin, weight matching.
    """
    from scipy.optimize import linear_sum_assignment  # a third of this package's import time, and few runs match

    places = np.arange(channels.num_classes)
    kinds = [np.array(kind) for kind in channels.permutation_groups if len(kind) > 1]
    along = [_axes_of(kind, channels) for kind in kinds]
    keys = {axis.key for axes in along for axis, _ in axes}
    own = {key: own[key].detach().cpu() for key in keys}
    current = {key: scion[key].detach().cpu() for key in keys}
    for _ in range(SWEEPS):
        is_changed = False
        for kind, axes in zip(kinds, along, strict=True):
            products = sum(_slices(own, axis, indices) @ _slices(current, axis, indices).T for axis, indices in axes)
            assignment = linear_sum_assignment(products, maximize=True)[1]
            if (assignment != np.arange(len(kind))).any():
                is_changed = True
                places[kind] = places[kind[assignment]]
                step = np.arange(channels.num_classes)
                step[kind] = kind[assignment]
                for axis, _ in axes:
                    current[axis.key] = moved_along(current[axis.key], axis, step)
        if not is_changed:
            break
    return places


def in_common_order(states: Sequence[Mapping[str, Tensor]], channels: Channels) -> list[Mapping[str, Tensor]]:
    """Return networks with their channels in the order of the first, as their mean and cosine need them.

    No network's function changes.

    Args:
        states: State dicts of networks of the same structure, at least one. They are only read.
        channels: Channels of the networks.

    Returns:
        The first state dict itself, and copies of the others.
    """
    first, *others = states
    return [first, *(moved(dict(other), channels, match_channels(first, other, channels)) for other in others)]


def _axes_of(kind: np.ndarray, channels: Channels) -> list[tuple[Axis, np.ndarray]]:
    """Return the axes of a permutation group, each with the places of its classes, shape (classes, occurrences)."""
    rank = np.full(channels.num_classes + 1, -1)  # the last element is the rank of UNTRACKED
    rank[kind] = np.arange(len(kind))
    axes = []
    for axis in channels.axes:
        ranks = rank[axis.classes.ravel()]
        places = np.flatnonzero(ranks >= 0)
        if len(places) and not axis.key.endswith(NOT_MATCHED):
            axes.append((axis, places[np.argsort(ranks[places], kind="stable")].reshape(len(kind), -1)))
    return axes


def _slices(state: Mapping[str, Tensor], axis: Axis, places: np.ndarray) -> np.ndarray:
    """Return the values of each class in an entry, shape (classes, values). The classes are in the order of places."""
    values = state[axis.key].detach().cpu().numpy()
    if axis.classes.ndim == 1:
        rows = np.moveaxis(values, axis.dim, 0).reshape(values.shape[axis.dim], -1)
    else:
        rows = values.reshape(axis.classes.size, -1)
    return rows[places].reshape(len(places), -1)
