"""Graft layer by layer: a layer keeps the share alpha of its own weights and takes 1 - alpha from the scion.

Alpha follows from how much more information the rootstock's layer has than the scion's, and from the scion's
staleness.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from inarch.population.config import GraftConfig, StalenessConfig
from inarch.population.errors import NotFiniteError
from inarch.population.grafting.alpha import adaptive_weight
from inarch.population.grafting.blending import Blend, Followers, blend_all, blend_weighted, reset_
from inarch.population.grafting.criteria import measure
from inarch.population.grafting.units import GraftUnit, graft_units_of_state
from inarch.population.membership.staleness import discounted_alpha
from inarch.population.state.state_dict import BATCH_NORM_STATISTICS, check_finite, check_same_structure, is_structural

WHOLE = "*"
"""Stands for a layer's name where one record covers the whole network."""


@dataclass(frozen=True, kw_only=True)
class LayerGraft:
    """How one unit was grafted."""

    layer: str
    """Key of the weight whose information decided, or WHOLE."""
    alpha: float
    """Share of its own weights that the rootstock kept. With several donors, 1 less this donor's weight."""
    own_information: float | None = None
    """Information of the rootstock's layer before the graft. None if the rule measures none."""
    scion_information: float | None = None
    """Information of the scion's layer."""


@dataclass(frozen=True, kw_only=True)
class GraftResult:
    """A grafted state dict, with a record for each unit."""

    state: dict[str, Tensor]
    """New tensors. Metadata of the rootstock's state dict is copied."""
    layers: tuple[LayerGraft, ...]
    """Records in the order of the state dict."""


def graft(
    rootstock: Mapping[str, Tensor],
    scion: Mapping[str, Tensor],
    config: GraftConfig | None = None,
    *,
    units: Sequence[GraftUnit] | None = None,
    staleness: StalenessConfig | None = None,
    staleness_intervals: float = 0.0,
    random: np.random.Generator | None = None,
) -> GraftResult:
    """Graft one state dict onto another of the same structure, layer by layer.

    Args:
        rootstock: State dict of the network that is grafted onto. It is not changed.
        scion: State dict of its neighbor. It is not changed.
        config: Criterion, a, c, bins and what happens to batch norm. None: the paper's.
        units: Groups of entries that share one alpha. None: found from the shapes.
        staleness: How staleness lowers the scion's weight. None: it does not.
        staleness_intervals: Intervals of training by which the scion is behind, at least 0.
        random: Random numbers for the criterion `random`.

    Returns:
        The grafted state dict and a record for each unit.

    Raises:
        StructureError: The two differ in an entry's name or shape.
        NotFiniteError: An entry is NaN or infinite. The message names side and entry. Infinite entries that are equal
            in both, such as masks, are no error.

    Source: Meng et al. 2020 (arXiv:2001.05868), eq. 2.
    """
    config = config or GraftConfig()
    check_same_structure(rootstock, scion)
    equal = [key for key, tensor in rootstock.items() if torch.equal(tensor, scion[key].to(tensor.device))]
    for side, state in (("rootstock", rootstock), ("scion", scion)):
        try:
            check_finite(state, but=equal)
        except NotFiniteError as error:
            raise NotFiniteError(f"{side}: {error}") from None
    if units is None:
        units = graft_units_of_state(rootstock, config.units)
    own, other = (
        _measure_side(side, state, units, config, random)
        for side, state in (("rootstock", rootstock), ("scion", scion))
    )
    records = layer_alphas(units, own, other, config, staleness=staleness, staleness_intervals=staleness_intervals)
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
    staleness: StalenessConfig | None = None,
    staleness_intervals: float = 0.0,
) -> tuple[LayerGraft, ...]:
    """Return a record with the alpha of each unit.

    Args:
        units: Units of the network.
        own: Information of the rootstock's units.
        scion: Information of the scion's units.
        config: a and c.
        staleness: How staleness lowers the scion's weight. None: it does not.
        staleness_intervals: Intervals of training by which the scion is behind.
    """
    records = []
    for unit, own_value, scion_value in zip(units, own, scion, strict=True):
        alpha = adaptive_weight(own_value, scion_value, config.a, config.c)
        if staleness is not None:
            alpha = discounted_alpha(alpha, staleness_intervals, staleness)
        records.append(
            LayerGraft(layer=unit.name, alpha=alpha, own_information=own_value, scion_information=scion_value)
        )
    return tuple(records)


def blend_layers(
    state: Mapping[str, Tensor],
    scion: Mapping[str, Tensor],
    units: Sequence[GraftUnit],
    records: Sequence[LayerGraft],
    config: GraftConfig,
    *,
    past: Mapping[str, Tensor] | None = None,
    followers: Followers | None = None,
    fixed: Collection[str] = (),
) -> None:
    """Blend the scion into `state` in place, each unit with its alpha.

    Integers stay as they are. So do running statistics with graft.batch_norm=keep.

    Args:
        state: Tensors of the rootstock. They are changed.
        scion: Tensors of the scion. They are only read.
        units: Units of the network.
        records: Alpha of each unit.
        config: What happens to batch norm.
        past: The rootstock's weights when the scion was published. An entry in it is compensated first: the scion's
            becomes scion + own - past.
        followers: Past states, which follow the change of `state`. None: the caller sees to them.
        fixed: Keys of entries that stay as they are.
    """
    blends: dict[str, Blend] = {}
    for unit, record in zip(units, records, strict=True):
        for key in unit.keys:
            own = state[key]
            if is_structural(key) or key in fixed or not own.is_floating_point():
                continue
            is_statistic = key.endswith(BATCH_NORM_STATISTICS)
            if is_statistic and config.batch_norm == "reset":
                reset_(own, key, alpha=record.alpha)
            elif config.batch_norm == "blend" or not is_statistic:
                blends[key] = Blend(
                    own=own,
                    scion=scion[key],
                    alpha=record.alpha,
                    past=None if past is None else past.get(key),
                    moved=() if followers is None else followers.moved_with(key),
                    noted=None if followers is None else followers.noted.get(key),
                )
    blend_all(list(blends.values()))
    if followers is not None:
        followers.note(state, but=blends)


def blend_several(
    state: Mapping[str, Tensor],
    scions: Sequence[Mapping[str, Tensor]],
    units: Sequence[GraftUnit],
    scion_weights: Sequence[Sequence[float]],
    config: GraftConfig,
) -> None:
    """Blend several scions into `state` at once, in place.

    Args:
        state: Tensors of the rootstock. They are changed.
        scions: Tensors of each scion. They are only read.
        units: Units of the network.
        scion_weights: For each scion its weight in each unit. The weights of a unit add up to at most 1.
        config: What happens to batch norm.
    """
    blended: dict[str, list[float]] = {}
    for index, unit in enumerate(units):
        weights = [donor[index] for donor in scion_weights]
        for key in unit.keys:
            own, is_statistic = state[key], key.endswith(BATCH_NORM_STATISTICS)
            if not own.is_floating_point() or is_structural(key) or (is_statistic and config.batch_norm == "keep"):
                continue
            if is_statistic and config.batch_norm == "reset":
                reset_(own, key, alpha=1.0 - sum(weights))
            else:
                blended[key] = weights
    columns = list(zip(*blended.values(), strict=True))
    blend_weighted([state[key] for key in blended], [[scion[key] for key in blended] for scion in scions], columns)
