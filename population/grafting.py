"""Scion and rootstock make new weights, layer by layer.

A layer keeps the part alpha of its own weights and takes 1 - alpha of the scion's. Alpha follows from how much more
information the layer has than the scion's layer, and from the scion's age.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch
from inarch.population.config import AgeConfig, GraftConfig
from inarch.population.criteria import measure
from inarch.population.errors import NotFiniteError
from inarch.population.layers import GraftUnit, check_same_structure, graft_units_of_state, is_private, reference_units
from inarch.population.staleness import aged
from torch import Tensor

GRID = 2.0**40
"""Alpha lies on a grid of 2**-40, so that the alphas of two networks that graft each other add up to exactly 1."""

BLOCK_VALUES = 262_144
"""Weights blended at a time on the CPU, so that the products stay in cache: 22 ms for 25.5M floats, 30 at a quarter."""

STATISTICS = ("running_mean", "running_var")
"""Last words of the keys of batch norm's running statistics."""


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


@overload
def adaptive_weight(own: float, scion: float, a: float = ..., c: float = ..., *, reference: bool = ...) -> float: ...
@overload
def adaptive_weight(own: Tensor, scion: Tensor, a: float = ..., c: float = ..., *, reference: bool = ...) -> Tensor: ...
@overload
def adaptive_weight(
    own: np.ndarray, scion: np.ndarray, a: float = ..., c: float = ..., *, reference: bool = ...
) -> np.ndarray: ...


def adaptive_weight(own: Any, scion: Any, a: float = 0.4, c: float = 500.0, *, reference: bool = False) -> Any:
    """Alpha, the part of its own weights that a layer keeps: 0.5 + (a / pi) arctan(c (own - scion)).

    Args:
        own: Information of the rootstock's layer; a float, or a tensor or array of them.
        scion: Information of the scion's layer, alike.
        a: Range in [0, 1]; alpha lies in [0.5 - a/2, 0.5 + a/2].
        c: Sharpness, at least 0.
        reference: As published, rounded to two decimals.

    Returns:
        Alpha, of the arguments' kind. Unrounded, it lies on a grid of 2**-40: alpha(x, y) + alpha(y, x) is exactly 1.

    Source: Meng et al. 2020 (arXiv:2001.05868), eq. 7 with the 1/pi that the printed equation lacks and the public
    code and the paper's own figure have.
    """
    if not 0 <= a <= 1:
        raise ValueError(f"a must lie in [0, 1], got {a!r}")
    if not c >= 0:
        raise ValueError(f"c must be at least 0, got {c!r}")
    if isinstance(own, Tensor) or isinstance(scion, Tensor):
        difference = torch.as_tensor(own, dtype=torch.float64) - torch.as_tensor(scion, dtype=torch.float64)
        values = difference.numpy(force=True)
        alpha = adaptive_weight(values, np.zeros_like(values), a, c, reference=reference)
        return torch.as_tensor(alpha, device=difference.device)
    if isinstance(own, np.ndarray) or isinstance(scion, np.ndarray):
        shift = a / np.pi * np.arctan(c * np.subtract(own, scion, dtype=np.float64))
        return np.round(shift + 0.5, 2) if reference else 0.5 + np.round(shift * GRID) / GRID
    shift = a / math.pi * math.atan(c * (own - scion))
    return round(shift + 0.5, 2) if reference else 0.5 + round(shift * GRID) / GRID


def graft(
    rootstock: Mapping[str, Tensor],
    scion: Mapping[str, Tensor],
    config: GraftConfig | None = None,
    *,
    units: Sequence[GraftUnit] | None = None,
    age: AgeConfig | None = None,
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
    records = decide(units, own, theirs, config, age=age, age_intervals=age_intervals)
    state = copy.copy(rootstock) if isinstance(rootstock, dict) else dict(rootstock)
    for key, tensor in rootstock.items():
        state[key] = tensor.detach().clone()
    blend_units(state, scion, units, records, config)
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


def decide(
    units: Sequence[GraftUnit],
    own: Sequence[float],
    scion: Sequence[float],
    config: GraftConfig,
    *,
    age: AgeConfig | None = None,
    age_intervals: float = 0.0,
) -> tuple[LayerGraft, ...]:
    """Alpha of each unit from both sides' information and the scion's age."""
    records = []
    for unit, mine, theirs in zip(units, own, scion, strict=True):
        alpha = adaptive_weight(mine, theirs, config.a, config.c, reference=config.reference)
        if age is not None:
            alpha = aged(alpha, age_intervals, age)
        records.append(LayerGraft(layer=unit.name, alpha=alpha, own_information=mine, scion_information=theirs))
    return tuple(records)


def blend_units(
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
            if is_private(key):
                continue
            if not own.is_floating_point():
                if config.reference:
                    own.copy_((own * record.alpha + scion[key].to(own.device) * (1.0 - record.alpha)).to(own.dtype))
            elif key.endswith(STATISTICS) and config.batch_norm == "reset":
                reset_(own, key, alpha=record.alpha)
            elif past is not None and key in past:
                blend_forward_(own, scion[key], past[key], record.alpha)
            elif config.batch_norm == "blend" or not key.endswith(STATISTICS):
                blend_(own, scion[key], record.alpha)


def reset_(statistics: Tensor, key: str, *, alpha: float) -> None:
    """A batch norm's running mean 0 or variance 1, in place, where anything was taken in: alpha below 1."""
    if alpha < 1.0:
        statistics.fill_(float(key.endswith("running_var")))


def blend_(own: Tensor, scion: Tensor, alpha: float) -> None:
    """own = own * alpha + scion * (1 - alpha), in place.

    Two products and a sum, each rounded by itself: swapping the sides (and alpha for 1 - alpha) gives the same bits,
    which lerp and fused multiply-add do not. A scion in the object store is read-only and only read here.
    """
    other = scion if scion.device == own.device else scion.to(own.device, non_blocking=True)
    if own.device.type != "cpu" or own.numel() <= BLOCK_VALUES or not (own.is_contiguous() and other.is_contiguous()):
        own.mul_(alpha).add_(other * (1.0 - alpha))
        return
    product = torch.empty(BLOCK_VALUES, dtype=own.dtype)
    for mine, theirs in zip(own.view(-1).split(BLOCK_VALUES), other.view(-1).split(BLOCK_VALUES), strict=True):
        part = product[: mine.numel()]
        torch.mul(theirs, 1.0 - alpha, out=part)
        mine.mul_(alpha).add_(part)


def blend_forward_(own: Tensor, scion: Tensor, past: Tensor, alpha: float) -> None:
    """own = own * alpha + (scion + own - past) * (1 - alpha), in place, which is own + (scion - past) * (1 - alpha)."""
    other = scion if scion.device == own.device else scion.to(own.device, non_blocking=True)
    if own.device.type != "cpu" or own.numel() <= BLOCK_VALUES or not (own.is_contiguous() and other.is_contiguous()):
        own.add_(other - past, alpha=1.0 - alpha)
        return
    difference = torch.empty(BLOCK_VALUES, dtype=own.dtype)
    blocks = (tensor.reshape(-1).split(BLOCK_VALUES) for tensor in (own, other, past))
    for mine, theirs, then in zip(*blocks, strict=True):
        part = difference[: mine.numel()]
        torch.sub(theirs, then, out=part)
        mine.add_(part, alpha=1.0 - alpha)


def blend_several(
    state: Mapping[str, Tensor],
    scions: Sequence[Mapping[str, Tensor]],
    units: Sequence[GraftUnit],
    shares: Sequence[Sequence[float]],
    config: GraftConfig,
) -> None:
    """`blend_units` with several scions at once.

    Args:
        state: Changed in place.
        scions: Only read.
        units: What shares an alpha.
        shares: For each scion its part of each unit; a unit's parts add up to at most 1, the rest stays its own.
        config: As `blend_units`.
    """
    for index, unit in enumerate(units):
        parts = [of[index] for of in shares]
        for key in unit.keys:
            own, is_statistic = state[key], key.endswith(STATISTICS)
            if not own.is_floating_point() or is_private(key) or (is_statistic and config.batch_norm == "keep"):
                continue
            if is_statistic and config.batch_norm == "reset":
                reset_(own, key, alpha=1.0 - sum(parts))
            else:
                blend_weighted(own, [scion[key] for scion in scions], parts)


def blend_weighted(own: Tensor, scions: Sequence[Tensor], parts: Sequence[float]) -> None:
    """own = own * (1 - sum of parts) + sum of part * scion, in place; scions are only read."""
    own.mul_(1.0 - sum(parts))
    for scion, part in zip(scions, parts, strict=True):
        if part:
            own.add_(scion if scion.device == own.device else scion.to(own.device, non_blocking=True), alpha=part)
