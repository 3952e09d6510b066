"""Scions that need no neighbor: noise, and the network's own most informative filters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from inarch.population.config import GraftConfig
from inarch.population.grafting.information import filter_entropy, l1_norm
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
    """Add noise to the invalid filters of each unit, in place: N(0, sigma), sigma = noise_decay ** epoch.

    Args:
        state: Changed in place.
        units: Whose weights.
        config: threshold and noise_decay.
        epoch: Epochs trained, at least 0.
        random: Draws the noise.

    Returns:
        A record a unit: alpha is the part of its filters that was left alone, information the mean l1 norm of its
        filters before and after.

    Source: Meng et al. 2020 (arXiv:2001.05868), eq. 1; 0.975 in the authors' code.
    """
    records = []
    for unit in units:
        weight = state[unit.name]
        before = l1_norm(weight)
        invalid = (before < config.threshold).nonzero().flatten()
        noise = random.normal(0.0, config.noise_decay**epoch, (len(invalid), *weight.shape[1:]))
        weight[invalid] += torch.from_numpy(noise).to(weight)
        records.append(_record(unit, before, l1_norm(weight), len(invalid)))
    return tuple(records)


def internal_scion(
    state: Mapping[str, Tensor], units: Sequence[GraftUnit], config: GraftConfig
) -> tuple[LayerGraft, ...]:
    """Add each unit's i-th most informative filter to its i-th least informative one, where that is invalid, in place.

    The criterion is the filter's l1 norm, or with an entropy criterion its entropy; whether a filter is invalid is
    decided by its l1 norm. Filters that are given are taken as they were before any was added to.

    Args, returns: as `noise_scion`.

    Source: Meng et al. 2020, section 3.2; the authors' code adds, as their theorem 1 assumes (Z = X + Y).
    """
    records = []
    for unit in units:
        weight = state[unit.name]
        before = l1_norm(weight)
        by_entropy = "entropy" in config.criterion
        rank = filter_entropy(weight, config.bins) if by_entropy else before
        order = rank.argsort()
        least, most = order, order.flip(0)
        half = len(order) // 2
        chosen = before[least[:half]] < config.threshold
        given = weight[most[:half][chosen]].clone()
        weight[least[:half][chosen]] += given
        records.append(_record(unit, before, l1_norm(weight), int(chosen.sum())))
    return tuple(records)


def _record(unit: GraftUnit, before: Tensor, after: Tensor, num_grafted: int) -> LayerGraft:
    return LayerGraft(
        layer=unit.name,
        alpha=1.0 - num_grafted / len(before),
        own_information=float(before.double().mean()),
        scion_information=float(after.double().mean()),
    )
