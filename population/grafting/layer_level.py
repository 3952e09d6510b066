"""Scion and rootstock make new weights, layer by layer.

A layer keeps the part alpha of its own weights and takes 1 - alpha of the scion's. Alpha follows from how much more
information the layer has than the scion's layer, and from the scion's age.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from inarch.population.config import GraftConfig, StalenessConfig
from inarch.population.errors import NotFiniteError
from inarch.population.grafting.alpha import adaptive_weight
from inarch.population.grafting.blending import blend_, blend_compensated_, blend_weighted, reset_
from inarch.population.grafting.criteria import measure
from inarch.population.grafting.units import GraftUnit, graft_units_of_state, reference_units
from inarch.population.membership.staleness import discounted_alpha
from inarch.population.state.state_dict import BATCH_NORM_STATISTICS, check_same_structure, is_structural

WHOLE = "*"
"""In place of a layer's name where one record stands for all."""


@dataclass(frozen=True, kw_only=True)
class LayerGraft:
    """What one graft did to one unit."""

    layer: str
    """Key of the weight whose information decided; WHOLE where nothing was decided by layers."""
    alpha: float
    """Part of its own weights that the rootstock kept; of several donors, 1 less this one's part."""
    own_information: float | None = None
    """Of the rootstock before the graft; None where the rule asks for none."""
    scion_information: float | None = None
    """Of the scion."""


@dataclass(frozen=True, kw_only=True)
class GraftResult:
    """New weights, and how each unit came to them."""

    state: dict[str, Tensor]
    """The grafted state dict: new tensors; a module's versions of its entries are handed on."""
    layers: tuple[LayerGraft, ...]
    """A record for each unit, in the order of the state dict."""


def graft(
    rootstock: Mapping[str, Tensor],
    scion: Mapping[str, Tensor],
    config: GraftConfig | None = None,
    *,
    units: Sequence[GraftUnit] | None = None,
    age: StalenessConfig | None = None,
    age_intervals: float = 0.0,
    random: np.random.Generator | None = None,
) -> GraftResult:
    """Graft one state dict onto another of the same structure, at the level of layers.

    Args:
        rootstock: State dict of the network that takes in; not changed.
        scion: State dict of its neighbor; not changed.
        config: Criterion, a, c, bins, what becomes of batch norm; None: the paper's.
        units: What shares an alpha; None: found from the shapes (with config.reference, from the keys as published).
        age: How age lowers the scion's part; None: not.
        age_intervals: How far the scion trails, at least 0.
        random: For the criterion random.

    Raises:
        StructureError: the two differ in an entry's name or shape.
        NotFiniteError: a weight is NaN or infinite; names side and layer.

    Source: Meng et al. 2020 (arXiv:2001.05868), eq. 2.
    """
    config = config or GraftConfig()
    check_same_structure(rootstock, scion)
    if units is None:
        units = reference_units(rootstock) if config.reference else graft_units_of_state(rootstock, config.units)
    own, theirs = (
        _measure_side(side, state, units, config, random)
        for side, state in (("rootstock", rootstock), ("scion", scion))
    )
    records = layer_alphas(units, own, theirs, config, age=age, age_intervals=age_intervals)
    state = copy.copy(rootstock) if isinstance(rootstock, dict) else dict(rootstock)
    for key, tensor in rootstock.items():
        state[key] = tensor.detach().clone()
    blend_layers(state, scion, units, records, config)
    return GraftResult(state=state, layers=records)


def _measure_side(
    side: str,
    state: Mapping[str, Tensor],
    units: Sequence[GraftUnit],
    config: GraftConfig,
    random: np.random.Generator | None,
) -> tuple[float, ...]:
    try:
        return measure(state, units, config, random=random)
    except NotFiniteError as error:
        raise NotFiniteError(f"{side}: {error}") from None


def layer_alphas(
    units: Sequence[GraftUnit],
    own: Sequence[float],
    scion: Sequence[float],
    config: GraftConfig,
    *,
    age: StalenessConfig | None = None,
    age_intervals: float = 0.0,
) -> tuple[LayerGraft, ...]:
    """Alpha of each unit from both sides' information and the scion's age."""
    records = []
    for unit, mine, theirs in zip(units, own, scion, strict=True):
        alpha = adaptive_weight(mine, theirs, config.a, config.c, reference=config.reference)
        if age is not None:
            alpha = discounted_alpha(alpha, age_intervals, age)
        records.append(LayerGraft(layer=unit.name, alpha=alpha, own_information=mine, scion_information=theirs))
    return tuple(records)


def blend_layers(
    state: Mapping[str, Tensor],
    scion: Mapping[str, Tensor],
    units: Sequence[GraftUnit],
    records: Sequence[LayerGraft],
    config: GraftConfig,
    *,
    past: Mapping[str, Tensor] | None = None,
) -> None:
    """Blend the scion into `state` in place, unit by unit; the scion is only read. Entries of the state that are no
    floats, and with graft.batch_norm keep the running statistics, stay as they are. What is in `past`, the rootstock's
    weights when the scion was made, is first brought forward: the scion's becomes scion + own - past."""
    for unit, record in zip(units, records, strict=True):
        for key in unit.keys:
            own = state[key]
            if is_structural(key):
                continue
            if not own.is_floating_point():
                if config.reference:
                    own.copy_((own * record.alpha + scion[key].to(own.device) * (1.0 - record.alpha)).to(own.dtype))
            elif key.endswith(BATCH_NORM_STATISTICS) and config.batch_norm == "reset":
                reset_(own, key, alpha=record.alpha)
            elif past is not None and key in past:
                blend_compensated_(own, scion[key], past[key], record.alpha)
            elif config.batch_norm == "blend" or not key.endswith(BATCH_NORM_STATISTICS):
                blend_(own, scion[key], record.alpha)


def blend_several(
    state: Mapping[str, Tensor],
    scions: Sequence[Mapping[str, Tensor]],
    units: Sequence[GraftUnit],
    shares: Sequence[Sequence[float]],
    config: GraftConfig,
) -> None:
    """`blend_layers` with several scions at once.

    Args:
        state: Changed in place.
        scions: Only read.
        units: What shares an alpha.
        shares: For each scion its part of each unit; a unit's parts add up to at most 1, the rest stays its own.
        config: As `blend_layers`.
    """
    for index, unit in enumerate(units):
        parts = [of[index] for of in shares]
        for key in unit.keys:
            own, is_statistic = state[key], key.endswith(BATCH_NORM_STATISTICS)
            if not own.is_floating_point() or is_structural(key) or (is_statistic and config.batch_norm == "keep"):
                continue
            if is_statistic and config.batch_norm == "reset":
                reset_(own, key, alpha=1.0 - sum(parts))
            else:
                blend_weighted(own, [scion[key] for scion in scions], parts)
