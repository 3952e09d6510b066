"""Recognize a scion whose weights have an absurd scale, as those of a network that diverges.

Such weights may still be finite, and the entropy of a layer does not see its scale. A network that took them in would
carry them on to all others.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor

from inarch.population.grafting.units import GraftUnit
from inarch.population.state.snapshot import Layout

MAX_RATIO = 10.0
"""Greatest scale of a scion's unit, as a multiple of the rootstock's. Networks of one run that train normally differ by
less than 3, also with different learning rates."""

MAX_SAMPLES = 256
"""Most values of one tensor that are read. A root mean square of so many values is exact to about 5 %."""


class WeightScale:
    """Measures the scale of each unit of a network in the buffer of a snapshot."""

    def __init__(self, layout: Layout, units: Sequence[GraftUnit], trained: Collection[str]) -> None:
        """Choose the values to read: evenly spaced ones of each trained tensor, and all values of a small tensor.

        Args:
            layout: Layout of the buffers.
            units: Graft units of the network.
            trained: Keys of the trained tensors. Others, such as running statistics, have scales of another kind.
        """
        unit_of = {key: number for number, unit in enumerate(units) for key in unit.keys if key in trained}
        counts = np.zeros(len(units))
        chosen: dict[torch.dtype, list[tuple[np.ndarray, int, float]]] = {}
        for entry in layout.entries:
            dtype = getattr(torch, entry.dtype)
            size = math.prod(entry.shape)
            if entry.name in unit_of and dtype.is_floating_point and size:
                places = np.arange(0, size, -(-size // MAX_SAMPLES)) + entry.offset // dtype.itemsize
                chosen.setdefault(dtype, []).append((places, unit_of[entry.name], size / len(places)))
                counts[unit_of[entry.name]] += size
        self._counts = torch.from_numpy(np.maximum(counts, 1.0))
        self._chosen = [(dtype, *_joined(parts)) for dtype, parts in chosen.items()]

    def measure(self, buffer: np.ndarray) -> tuple[float, ...]:
        """Return the root mean square of each unit's trained weights, estimated from the chosen values.

        Args:
            buffer: Bytes of a snapshot, shape (bytes,), uint8. It is only read.
        """
        flat, sums = torch.from_numpy(buffer), torch.zeros(len(self._counts), dtype=torch.float64)
        for dtype, places, units, weights in self._chosen:
            values = flat.view(dtype)[places].double()
            sums.index_add_(0, units, values * values * weights)
        return tuple((sums / self._counts).sqrt().tolist())


def _joined(parts: Sequence[tuple[np.ndarray, int, float]]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the places of all chosen values, with the unit and the weight of each."""
    sizes = [len(places) for places, _, _ in parts]
    return (
        torch.from_numpy(np.concatenate([places for places, _, _ in parts])),
        torch.from_numpy(np.repeat([unit for _, unit, _ in parts], sizes)),
        torch.from_numpy(np.repeat([weight for _, _, weight in parts], sizes)),
    )


def is_diverging(scion: Sequence[float], own: Sequence[float], *, max_ratio: float = MAX_RATIO) -> bool:
    """Return whether a scion's weights are far larger than the rootstock's, in any unit.

    A unit whose weights are near zero, as fresh biases are, is compared with the whole rootstock. A scion that is far
    smaller does not count: it cannot spoil the rootstock, and it heals one that diverges itself.

    Args:
        scion: Root mean square of the trained weights of each unit of the scion.
        own: The same of the rootstock.
        max_ratio: Greatest ratio that is normal.
    """
    whole = math.sqrt(sum(scale * scale for scale in own) / len(own)) if own else 0.0
    if not 0.0 < whole < math.inf:
        return False
    return any(theirs > max_ratio * max(mine, whole) for theirs, mine in zip(scion, own, strict=True))
