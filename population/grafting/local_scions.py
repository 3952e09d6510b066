"""Scions without a donor: random noise, and the network's own most informative filters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from inarch.population.config import GraftConfig
from inarch.population.grafting.information import l1_norm
from inarch.population.grafting.layer_level import LayerGraft
from inarch.population.grafting.units import GraftUnit


def noise_scion(
    state: Mapping[str, Tensor],
    units: Sequence[GraftUnit],
    config: GraftConfig,
    *,
    epoch: float,
    random: np.random.Generator,
) -> tuple[LayerGraft, ...]:
    """Add noise from N(0, sigma) to the invalid filters of each unit, in place. Sigma is noise_decay ** epoch.

    Args:
        state: State dict of the network. It is changed.
        units: Units of the network. Only the weights that name them change.
        config: threshold and noise_decay.
        epoch: Epochs trained, at least 0.
        random: Random numbers for the noise.

    Returns:
        A record for each unit. Its alpha is the share of filters that stay unchanged. Its own_information and
        scion_information are the mean l1 norm of the filters before and after.

    Source: Meng et al. 2020 (arXiv:2001.05868), eq. 1. noise_decay is 0.975 in the authors' code.
    """
    records = []
    for unit in units:
        filters = unit.filters(state[unit.name])
        before = l1_norm(filters)
        invalid = (before < config.threshold).nonzero().flatten()
        noise = random.normal(0.0, config.noise_decay**epoch, (len(invalid), *filters.shape[1:]))
        filters[invalid] += torch.from_numpy(noise).to(filters)
        unit.set_filters_(state[unit.name], filters)
        records.append(_record(unit, before, l1_norm(filters), len(invalid)))
    return tuple(records)


def internal_scion(
    state: Mapping[str, Tensor], units: Sequence[GraftUnit], config: GraftConfig
) -> tuple[LayerGraft, ...]:
    """Add each unit's filter with the i-th largest l1 norm to the one with the i-th smallest, if the latter is invalid.

    A filter is invalid if its l1 norm lies below the threshold. The added filters have their values from before the
    graft.

    Args:
        state: State dict of the network. It is changed.
        units: Units of the network. Only the weights that name them change.
        config: threshold.

    Returns:
        A record for each unit. Its alpha is the share of filters that stay unchanged. Its own_information and
        scion_information are the mean l1 norm of the filters before and after.

    Source: Meng et al. 2020 (arXiv:2001.05868), section 3.2. The authors' code adds filters, as their theorem 1
    assumes (Z = X + Y).
    """
    records = []
    for unit in units:
        filters = unit.filters(state[unit.name])
        before = l1_norm(filters)
        order = before.argsort()
        least, most = order, order.flip(0)
        half = len(order) // 2
        is_invalid = before[least[:half]] < config.threshold
        donors = filters[most[:half][is_invalid]].clone()
        filters[least[:half][is_invalid]] += donors
        unit.set_filters_(state[unit.name], filters)
        records.append(_record(unit, before, l1_norm(filters), int(is_invalid.sum())))
    return tuple(records)


def _record(unit: GraftUnit, before: Tensor, after: Tensor, num_grafted: int) -> LayerGraft:
    return LayerGraft(
        layer=unit.name,
        alpha=1.0 - num_grafted / len(before),
        own_information=float(before.double().mean()),
        scion_information=float(after.double().mean()),
    )
