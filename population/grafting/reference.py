"""Grafting as the authors' public code computes it, with its quirks, for parity with published numbers.

The other modules of this package depart from it on purpose. docs/development/decisions says why.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from inarch.population.config import GraftConfig
from inarch.population.errors import ConfigError, NotFiniteError
from inarch.population.grafting.blending import blend_, reset_
from inarch.population.grafting.layer_level import GraftResult, LayerGraft
from inarch.population.grafting.units import GraftUnit, group_entries
from inarch.population.state.state_dict import (
    BATCH_NORM_STATISTICS,
    State,
    check_same_structure,
    is_convolution,
    is_structural,
)


def published_filter_entropy(weight: Tensor, bins: int = 10) -> Tensor:
    """Entropy of each filter's weight histogram with half-open cells: the greatest weight falls into no cell.

    Args:
        weight: Filters of one layer, shape (filters, ...), finite floats.
        bins: Equal cells between a filter's least and greatest weight, at least 2.

    Returns:
        Nats, float64, shape (filters,).

    Raises:
        NotFiniteError: A weight is NaN or infinite.

    Source: the public code of Meng et al. 2020, eq. 4.
    """
    flat = weight.detach().reshape(weight.shape[0], -1)
    flat = flat.float() if flat.dtype in (torch.float16, torch.bfloat16) else flat
    low, high = torch.aminmax(flat, dim=1, keepdim=True)
    if not (math.isfinite(float(low.min())) and math.isfinite(float(high.max()))):
        raise NotFiniteError("weight has a value that is NaN or infinite")
    width = (high - low) / bins
    above = torch.stack([(flat >= low + index * width).sum(1) for index in range(bins + 1)], dim=1)
    cells = (above[:, :-1] - above[:, 1:]).to(torch.float64) / flat.shape[1]
    entropy = -torch.special.xlogy(cells, cells).sum(1)
    return torch.where((low == high).flatten(), torch.zeros_like(entropy), entropy.clamp_min(0.0))


def published_layer_entropy(weight: Tensor, bins: int = 10) -> Tensor:
    """Entropy of a whole layer's weight histogram with half-open cells.

    Args:
        weight: A layer's weights, any shape, finite floats.
        bins: Equal cells between the least and the greatest weight, at least 2.

    Returns:
        Nats, float64, 0-dimensional.

    Raises:
        NotFiniteError: A weight is NaN or infinite.

    Source: the public code of Meng et al. 2020, eq. 6.
    """
    return published_filter_entropy(weight.reshape(1, -1), bins)[0]


def published_alpha(own: float, scion: float, a: float = 0.4, c: float = 500.0) -> float:
    """Alpha rounded to two decimals.

    Args:
        own: Information of the rootstock's layer.
        scion: Information of the scion's layer.
        a: Range, in [0, 1].
        c: Sharpness, at least 0.

    Source: the public code of Meng et al. 2020, eq. 7.
    """
    return round(a / math.pi * math.atan(c * (own - scion)) + 0.5, 2)


def published_units(state: Mapping[str, Tensor]) -> tuple[GraftUnit, ...]:
    """Group the entries of a state dict as the public code does: each key with the word `conv` opens a unit.

    Args:
        state: A state dict.

    Raises:
        ConfigError: No key has the word.
    """
    return group_entries(state, lambda key: key if "conv" in key else None, "convolutions")


@dataclass(frozen=True)
class PublishedInformation:
    """Information that a snapshot publishes beside its weights."""

    config: GraftConfig

    def measure(
        self, state: Mapping[str, Tensor], units: Sequence[GraftUnit], random: np.random.Generator
    ) -> tuple[float, ...]:
        """Return the entropy or l1 norm of each unit's first weight."""
        if self.config.criterion == "l1":
            values = [float(state[unit.name].detach().abs().sum(dtype=torch.float64)) for unit in units]
        else:
            values = [_named_entropy(state[unit.name], self.config.bins, unit.name) for unit in units]
        for unit, value in zip(units, values, strict=True):
            if not math.isfinite(value):
                raise NotFiniteError(f"{unit.name} has a weight that is NaN or infinite")
        return tuple(values)

    def checked_keys(self, units: Sequence[GraftUnit]) -> frozenset[str]:
        """Return the keys whose values are all finite if the information is finite."""
        return frozenset(unit.name for unit in units)


def graft_published(
    rootstock: Mapping[str, Tensor], scion: Mapping[str, Tensor], config: GraftConfig | None = None
) -> GraftResult:
    """Graft one state dict onto another layer by layer, as the public code does.

    Args:
        rootstock: State dict of the network that is grafted onto. It is not changed.
        scion: State dict of its neighbor. It is not changed.
        config: Criterion (entropy or l1), a, c and bins. None: the paper's.

    Raises:
        StructureError: The two differ in an entry's name or shape.
        NotFiniteError: A weight is NaN or infinite.

    Source: the public code of Meng et al. 2020.
    """
    config = config or GraftConfig()
    check_same_structure(rootstock, scion)
    units, random = published_units(rootstock), np.random.default_rng(0)
    own, other = (PublishedInformation(config).measure(state, units, random) for state in (rootstock, scion))
    records = published_layer_alphas(units, own, other, config)
    state = {key: tensor.detach().clone() for key, tensor in rootstock.items()}
    blend_published(state, scion, units, records)
    return GraftResult(state=state, layers=records)


def published_layer_alphas(
    units: Sequence[GraftUnit],
    own: Sequence[float],
    scion: Sequence[float],
    config: GraftConfig,
    *,
    discount: float = 1.0,
) -> tuple[LayerGraft, ...]:
    """Return a record with the rounded alpha of each unit.

    Args:
        units: Units of the network.
        own: Information of the rootstock's units.
        scion: Information of the scion's units.
        config: a and c.
        discount: What staleness leaves of the scion's weight, in [0, 1].
    """
    records = []
    for unit, own_value, scion_value in zip(units, own, scion, strict=True):
        alpha = published_alpha(own_value, scion_value, config.a, config.c)
        alpha = alpha if discount == 1.0 else 1.0 - (1.0 - alpha) * discount
        records.append(
            LayerGraft(layer=unit.name, alpha=alpha, own_information=own_value, scion_information=scion_value)
        )
    return tuple(records)


def blend_published(
    state: Mapping[str, Tensor],
    scion: Mapping[str, Tensor],
    units: Sequence[GraftUnit],
    records: Sequence[LayerGraft],
    *,
    batch_norm: Literal["blend", "keep", "reset"] = "blend",
) -> None:
    """Blend the scion into `state` in place. Unlike `blend_layers`, counters are blended too, and truncated.

    Args:
        state: Tensors of the rootstock. They are changed.
        scion: Tensors of the scion. They are only read.
        units: Units of the network.
        records: Alpha of each unit.
        batch_norm: What happens to running statistics.
    """
    for unit, record in zip(units, records, strict=True):
        for key in unit.keys:
            own, other = state[key], scion[key]
            if is_structural(key):
                continue
            if not own.is_floating_point():
                own.copy_((own * record.alpha + other.to(own.device) * (1.0 - record.alpha)).to(own.dtype))
            elif key.endswith(BATCH_NORM_STATISTICS) and batch_norm == "reset":
                reset_(own, key, alpha=record.alpha)
            elif batch_norm == "blend" or not key.endswith(BATCH_NORM_STATISTICS):
                blend_(own, other, record.alpha)


def published_filter_graft(
    own: State, scion: State, *, discount: float = 1.0
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Graft convolutions filter by filter, as the public code does.

    Each convolution is taken to read what the convolution before it in the state dict makes. Its weight keeps the
    product of the alphas of its filter and of its input. Its bias, the head and counters stay. Batch norm's entries
    are blended as whole vectors once per channel, so that almost nothing of the own values is left. If both scales are
    0, by which the public code divides, alpha is 0.5.

    Args:
        own: The rootstock's state dict, with its modules in the order of their calls. It is only read.
        scion: State dict of the same structure. It is only read.
        discount: What staleness leaves of the scion's weight, in [0, 1].

    Returns:
        A new state dict, and the mean alpha over the weights of each convolution, by key.

    Raises:
        ConfigError: A convolution has no batch norm, or reads more or fewer channels than the one before it makes.

    Source: the public code of Meng et al. 2020, and `graft_filter` of the reference vectors.
    """
    result = {key: tensor.clone() for key, tensor in own.items()}
    mean_alphas: dict[str, float] = {}
    keys = list(own)
    input_alphas: Tensor | None = None
    for place, key in enumerate(keys):
        if not is_convolution(own[key]):
            continue
        after = itertools.takewhile(lambda other: not is_convolution(own[other]), keys[place + 1 :])
        norm = next((k.removesuffix(".running_mean") for k in after if k.endswith(".running_mean")), None)
        if norm is None or f"{norm}.weight" not in own or len(own[f"{norm}.weight"]) != len(own[key]):
            raise ConfigError(f"exchange.rule graft_published at level filter: {key} has no batch norm after it")
        if input_alphas is not None and len(input_alphas) != own[key].shape[1]:
            raise ConfigError(
                f"exchange.rule graft_published at level filter needs convolutions one after the other; {key} reads "
                f"{own[key].shape[1]} channels, the convolution before it makes {len(input_alphas)}"
            )
        own_scale, scion_scale = (side[f"{norm}.weight"].double().abs().cpu() for side in (own, scion))
        total = own_scale + scion_scale
        alphas = torch.where(total > 0, own_scale / total, 0.5)
        pairs = alphas.reshape(-1, 1, 1, 1) * (1.0 if input_alphas is None else input_alphas.reshape(1, -1, 1, 1))
        result[key] = _blended(own[key], scion[key], pairs)
        mean_alphas[key] = 1.0 - (1.0 - float(pairs.mean())) * discount
        for entry in ("weight", "bias", "running_mean", "running_var"):
            name = f"{norm}.{entry}"
            result[name] = _blended(own[name], scion[name], alphas.prod())
        input_alphas = alphas
    if discount < 1.0:
        result = {key: own[key].lerp(new, discount) if new.is_floating_point() else new for key, new in result.items()}
    return result, mean_alphas


def _blended(own: Tensor, scion: Tensor, alpha: Tensor) -> Tensor:
    """Blend in double precision."""
    alpha = alpha.to(own.device)
    return (own * alpha + scion.to(own.device) * (1.0 - alpha)).to(own.dtype)


def _named_entropy(weight: Tensor, bins: int, name: str) -> float:
    try:
        return float(published_layer_entropy(weight, bins))
    except NotFiniteError:
        raise NotFiniteError(f"{name} has a weight that is NaN or infinite") from None
