"""Weight shuffling (WASH): single weights change places among the networks, so that their mean stays the same."""

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
    """Permute each weight among the networks with a probability that falls from the first unit to the last.

    In lockstep, with all networks as donors, the population's weights are permuted exactly, because all networks draw
    the same random numbers. In async mode each network replaces some of its weights by those of the newest scions, and
    the population's mean stays the same in expectation.

    Source: Fournier et al. 2024 (arXiv:2405.17517).
    """

    takes_scions = True
    information_measure = None

    def __init__(self, config: WashConfig) -> None:
        """Create the rule.

        Args:
            config: The probability in the first unit.
        """
        self._config = config

    def apply(self, rootstock: Rootstock, scions: Sequence[Scion]) -> tuple[Contribution, ...]:
        """Replace the weights whose turn it is by those of the scions."""
        own_id = rootstock.origin.network_id
        states = {scion.snapshot.origin.network_id: scion.snapshot.state() for scion in scions}
        ring = sorted({own_id, *states})
        place, last_unit = ring.index(own_id), max(1, len(rootstock.units) - 1)
        num_swapped, num_values = dict.fromkeys(ring, 0), 0
        for depth, unit in enumerate(rootstock.units):
            probability = self._config.probability * (1.0 - depth / last_unit)
            for key in unit.keys:
                values = rootstock.state[key]
                if not values.is_floating_point() or is_structural(key) or key.endswith(BATCH_NORM_STATISTICS):
                    continue
                num_values += values.numel()
                indices, shifts = _draw(rootstock.common_random, values.numel(), probability, len(ring))
                for donor_id, state in states.items():
                    from_donor = indices[(place + shifts) % len(ring) == ring.index(donor_id)]
                    num_swapped[donor_id] += len(from_donor)
                    _copy_values(values, state[key], from_donor)
        return tuple(
            _contribution(scion, num_swapped[scion.snapshot.origin.network_id] / max(1, num_values)) for scion in scions
        )


def _contribution(scion: Scion, scion_weight: float) -> Contribution:
    record = LayerGraft(layer=WHOLE, alpha=1.0 - scion_weight)
    return Contribution(scion=scion, scion_weight=scion_weight, layers=(record,))


def _draw(
    random: np.random.Generator, num_values: int, probability: float, num_networks: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw which weights change places, and by how many networks each.

    A weight that is drawn twice counts once, so the share of drawn weights is a little below the probability.

    Args:
        random: Random numbers.
        num_values: Number of weights.
        probability: Probability that a weight is drawn.
        num_networks: Networks that exchange, the rootstock included.

    Returns:
        Flat indices and shifts, both of shape (num_drawn,).
    """
    indices = np.unique(random.integers(0, num_values, random.binomial(num_values, probability)))
    return indices, random.integers(1, num_networks, len(indices))


def _copy_values(values: Tensor, scion: Tensor, indices: np.ndarray) -> None:
    """Copy single values of a scion into a tensor of any memory order."""
    axes = np.unravel_index(indices, tuple(values.shape)) if values.dim() else ()
    if values.dim() and len(indices):
        index = tuple(torch.from_numpy(axis) for axis in axes)
        values[index] = scion[index].to(values.device)
