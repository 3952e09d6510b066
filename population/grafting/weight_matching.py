"""Bringing a scion's channels into the rootstock's order: networks from different weights have unrelated channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from inarch.population.grafting.channels import Axis, Channels, moved, moved_along

SWEEPS = 6
"""Passes over all kinds of channels, at most; it ends when a pass changes nothing."""

NOT_MATCHED = ("running_mean", "running_var")
"""Entries that follow their channels and do not say where these belong."""


def match_channels(own: Mapping[str, Tensor], scion: Mapping[str, Tensor], channels: Channels) -> np.ndarray:
    """Which of the scion's classes stands where, so that its weights come closest to the rootstock's.

    Kind by kind, an assignment that makes the sum of products between both networks' weights greatest while the other
    kinds stay as they are; it never falls.

    Args:
        own: The rootstock's state dict.
        scion: The scion's; only read.
        channels: Of their network.

    Returns:
        Shape (classes,): `channels.moved(scion, channels, places)` is the scion in the rootstock's order.

    Source: Ainsworth et al. 2023 (arXiv:2209.04836), Git Re-Basin, weight matching.
    """
    from scipy.optimize import linear_sum_assignment  # a third of this package's import; few networks align

    places = np.arange(channels.num_classes)
    kinds = [np.array(kind) for kind in channels.permutation_groups if len(kind) > 1]
    along = [_axes_of(kind, channels) for kind in kinds]
    now = {key: tensor.detach().cpu() for key, tensor in scion.items()}
    for _ in range(SWEEPS):
        is_changed = False
        for kind, axes in zip(kinds, along, strict=True):
            products = sum(_slices(own, axis, found) @ _slices(now, axis, found).T for axis, found in axes)
            chosen = linear_sum_assignment(products, maximize=True)[1]
            if (chosen != np.arange(len(kind))).any():
                is_changed = True
                places[kind] = places[kind[chosen]]
                step = np.arange(channels.num_classes)
                step[kind] = kind[chosen]
                for axis, _ in axes:
                    now[axis.key] = moved_along(now[axis.key], axis, step)
        if not is_changed:
            break
    return places


def in_common_order(states: Sequence[Mapping[str, Tensor]], channels: Channels) -> list[Mapping[str, Tensor]]:
    """Several networks, each with its channels in the first one's order: what their mean and cosine are of. None
    computes anything else for it."""
    first, *others = states
    return [first, *(moved(dict(other), channels, match_channels(first, other, channels)) for other in others)]


def _axes_of(kind: np.ndarray, channels: Channels) -> list[tuple[Axis, np.ndarray]]:
    """Axes along which a kind lies, with where each of its classes does: shape (classes of the kind, occurrences)."""
    rank = np.full(channels.num_classes + 1, -1)
    rank[kind] = np.arange(len(kind))
    found = []
    for axis in channels.axes:
        of = rank[axis.classes.ravel()]
        places = np.flatnonzero(of >= 0)
        if len(places) and not axis.key.endswith(NOT_MATCHED):
            found.append((axis, places[np.argsort(of[places], kind="stable")].reshape(len(kind), -1)))
    return found


def _slices(state: Mapping[str, Tensor], axis: Axis, places: np.ndarray) -> np.ndarray:
    """All that an entry holds of each class of a kind: shape (classes of the kind, values), in the order of places."""
    values = state[axis.key].detach().cpu().numpy()
    if axis.classes.ndim == 1:
        rows = np.moveaxis(values, axis.dim, 0).reshape(values.shape[axis.dim], -1)
    else:
        rows = values.reshape(axis.classes.size, -1)
    return rows[places].reshape(len(places), -1)
