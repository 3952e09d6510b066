"""Weight shuffling: single weights change places among the networks, so that the population's mean stays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from inarch.population.config import WashConfig
from inarch.population.exchange.protocol import Contribution, Rootstock, Scion
from inarch.population.grafting.layer_level import WHOLE, LayerGraft
from inarch.population.state.state_dict import BATCH_NORM_STATISTICS, is_structural


class WashRule:
    """Each weight is, with a probability that falls from the first unit to the last, permuted among the networks.

    Where all networks shuffle the same versions (lockstep, all as donors) the population's weights are permuted
    exactly: draws are common to all. Asynchronously each replaces some of its own by others' newest, and the mean stays
    in expectation.

    Source: Fournier et al. 2024 (arXiv:2405.17517), WASH.
    """

    takes_scions = True
    information_measure = None

    def __init__(self, config: WashConfig) -> None:
        self._config = config

    def apply(self, rootstock: Rootstock, arrivals: Sequence[Scion]) -> tuple[Contribution, ...]:
        own = rootstock.origin.network_id
        donors = {arrival.snapshot.origin.network_id: arrival.snapshot.state() for arrival in arrivals}
        ring = sorted({own, *donors})
        here, last = ring.index(own), max(1, len(rootstock.units) - 1)
        swapped, total = dict.fromkeys(ring, 0), 0
        for depth, unit in enumerate(rootstock.units):
            probability = self._config.probability * (1.0 - depth / last)
            for key in unit.keys:
                values = rootstock.state[key]
                if not values.is_floating_point() or is_structural(key) or key.endswith(BATCH_NORM_STATISTICS):
                    continue
                total += values.numel()
                places, shifts = _draw(rootstock.common_random, values.numel(), probability, len(ring))
                for donor in donors:
                    mine = places[(here + shifts) % len(ring) == ring.index(donor)]
                    swapped[donor] += len(mine)
                    _put(values, donors[donor][key], mine)
        return tuple(
            Contribution(
                arrival=arrival,
                scion_weight=swapped[arrival.snapshot.origin.network_id] / max(1, total),
                layers=(
                    LayerGraft(layer=WHOLE, alpha=1.0 - swapped[arrival.snapshot.origin.network_id] / max(1, total)),
                ),
            )
            for arrival in arrivals
        )


def _draw(
    random: np.random.Generator, num_values: int, probability: float, num_networks: int
) -> tuple[np.ndarray, np.ndarray]:
    """Which weights change places, and by how many networks each: shapes (swapped,). A weight drawn twice counts once,
    so that the part is a little below the probability."""
    places = np.unique(random.integers(0, num_values, random.binomial(num_values, probability)))
    return places, random.integers(1, num_networks, len(places))


def _put(values: Tensor, scion: Tensor, places: np.ndarray) -> None:
    """Copy single values of a scion into a tensor of any memory order."""
    where = np.unravel_index(places, tuple(values.shape)) if values.dim() else ()
    if values.dim() and len(places):
        index = tuple(torch.from_numpy(axis) for axis in where)
        values[index] = scion[index].to(values.device)
