"""Measure the information of layers by the name of a criterion. Alpha compares these numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inarch.population.config import GraftConfig
from inarch.population.errors import ConfigError, NotFiniteError
from inarch.population.grafting.criterion_names import CRITERIA
from inarch.population.grafting.information import (
    differential_entropy,
    effective_rank,
    layer_entropies,
    layer_entropy,
    orthogonality,
    robust_entropy,
    summed_filter_entropy,
)
from inarch.population.grafting.units import GraftUnit


def layer_information(weight: Tensor, criterion: str, bins: int = 10, *, name: str = "") -> float:
    """Return a layer's information by a criterion that needs only the layer's weights.

    Args:
        weight: The layer's weights, shape (filters, ...).
        criterion: A name in CRITERIA, module:function, or constant.
        bins: Cells of the histogram, at least 2.
        name: The layer's name, for the error.

    Returns:
        A finite number. 0 for the criterion constant.

    Raises:
        NotFiniteError: A weight is NaN or infinite. The message names the layer.
    """
    if criterion == "constant":
        return 0.0
    return _finite_values([CRITERIA.resolve(criterion)(weight, bins=bins, name=name)], [name])[0]


def measure(
    state: Mapping[str, Tensor],
    units: Sequence[GraftUnit],
    config: GraftConfig,
    *,
    random: np.random.Generator | None = None,
) -> tuple[float, ...]:
    """Return the information of each unit of a network.

    Args:
        state: State dict of the network.
        units: Groups of entries that share one alpha.
        config: Criterion and bins.
        random: Random numbers for the criterion `random`, whose information is uniform in [0, 1).

    Returns:
        A finite number for each unit, in the order of `units`.

    Raises:
        NotFiniteError: A weight is NaN or infinite. The message names the layer.
        ConfigError: The criterion is batch_norm and a unit has no batch norm.
        ValueError: The criterion is random and no generator is given.
    """
    if config.criterion == "random":
        if random is None:
            raise ValueError("criterion random needs a generator")
        return tuple(random.random(len(units)).tolist())
    if config.criterion == "batch_norm":
        return tuple(_scale(state, unit) for unit in units)
    names = [unit.name for unit in units]
    weights = [unit.filters(state[unit.name]) for unit in units]
    if config.criterion == "entropy":
        return layer_entropies(weights, config.bins, names=names)
    if config.criterion == "constant":
        return (0.0,) * len(units)
    function = CRITERIA.resolve(config.criterion)
    return _finite_values(
        [function(weight, bins=config.bins, name=name) for weight, name in zip(weights, names, strict=True)], names
    )


def _finite_values(found: Sequence[Any], names: Sequence[str]) -> tuple[float, ...]:
    """Return the results of a criterion as numbers. Those of a GPU come in one transfer."""
    are_tensors = bool(found) and all(isinstance(value, Tensor) and value.numel() == 1 for value in found)
    values = (
        torch.stack([value.detach().double().reshape(()) for value in found]).tolist()
        if are_tensors
        else [float(value) for value in found]
    )
    for value, name in zip(values, names, strict=True):
        if not math.isfinite(value):
            raise NotFiniteError(f"{name} has a weight that is NaN or infinite")
    return tuple(values)


@dataclass(frozen=True)
class LayerInformation:
    """Measures the information that a snapshot publishes beside its weights."""

    config: GraftConfig

    def measure(
        self, state: Mapping[str, Tensor], units: Sequence[GraftUnit], random: np.random.Generator
    ) -> tuple[float, ...]:
        """Return the information of each unit by the configured criterion.

        Args:
            state: Tensors of the network.
            units: Groups of tensors that share one alpha.
            random: Random numbers for the criterion `random`.

        Raises:
            NotFiniteError: A weight is NaN or infinite. The message names the layer.
            ConfigError: The criterion is batch_norm and a unit has no batch norm.
        """
        return measure(state, units, self.config, random=random)

    def checked_keys(self, units: Sequence[GraftUnit]) -> frozenset[str]:
        """Return the keys whose values are all finite if the information is finite.

        Args:
            units: Units of the network.
        """
        return frozenset(unit.name for unit in units) if self.config.criterion in READ_ALL_VALUES else frozenset()


def batch_norm_key(state: Mapping[str, Tensor], unit: GraftUnit) -> str | None:
    """Return the key of the scale of the batch norm that follows a unit's convolution, or None.

    It is the first scale of the unit that has as many values as the convolution has outputs.

    Args:
        state: State dict of the network.
        unit: The unit that the convolution opens.
    """
    mixtures = state.get(f"{unit.name.removesuffix('.weight')}.fusion_proxies")  # outputs of a compact network
    num_filters = len(unit.filters(state[unit.name]) if mixtures is None else mixtures)
    for key in unit.keys:
        stem = key.removesuffix(".weight")
        if stem != key and f"{stem}.running_mean" in state and tuple(state[key].shape) == (num_filters,):
            return key
    return None


def _scale(state: Mapping[str, Tensor], unit: GraftUnit) -> float:
    """Return the mean absolute scale of a unit's batch norm."""
    key = batch_norm_key(state, unit)
    if key is None:
        raise ConfigError(f"graft.criterion batch_norm needs a batch norm after each convolution; {unit.name} has none")
    scale = float(state[key].detach().abs().double().mean())
    if not math.isfinite(scale):
        raise NotFiniteError(f"{key} has a value that is NaN or infinite")
    return scale


def by_entropy(weight: Tensor, *, bins: int, name: str) -> Tensor:
    """Return the entropy of the histogram of the weights."""
    return layer_entropy(weight, bins, name=name)


def by_l1(weight: Tensor, *, bins: int, name: str) -> Tensor:
    """Return the l1 norm of the weights."""
    return weight.detach().abs().sum(dtype=torch.float64)


def by_summed_entropy(weight: Tensor, *, bins: int, name: str) -> Tensor:
    """Return the sum of the filters' entropies."""
    try:
        return summed_filter_entropy(weight, bins)
    except NotFiniteError:
        raise NotFiniteError(f"{name} has a weight that is NaN or infinite") from None


def by_robust_entropy(weight: Tensor, *, bins: int, name: str) -> Tensor:
    """Return the entropy of the histogram without outliers."""
    return robust_entropy(weight, bins, name=name)


def by_differential_entropy(weight: Tensor, *, bins: int, name: str) -> Tensor:
    """Return the differential entropy."""
    return differential_entropy(weight, bins, name=name)


def by_orthogonality(weight: Tensor, *, bins: int, name: str) -> Tensor:
    """Return how orthogonal the filters are."""
    return orthogonality(weight)


def by_effective_rank(weight: Tensor, *, bins: int, name: str) -> Tensor:
    """Return the entropy of the singular values."""
    if not weight.isfinite().all():
        raise NotFiniteError(f"{name} has a weight that is NaN or infinite")
    return effective_rank(weight)


READ_ALL_VALUES = CRITERIA.built_in()
"""Criteria whose information is finite only if all values of the weight are."""
