"""What a layer's information is, by name: the number that alpha compares."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from inarch.population.config import GraftConfig
from inarch.population.errors import ConfigError, NotFiniteError
from inarch.population.grafting.information import (
    differential_entropy,
    layer_entropy,
    orthogonality,
    robust_entropy,
    summed_filter_entropy,
)
from inarch.population.grafting.units import GraftUnit


def layer_information(
    weight: Tensor, criterion: str, bins: int = 10, *, reference: bool = False, name: str = ""
) -> float:
    """A layer's information by a criterion that looks at the layer's weights alone.

    Args:
        weight: The layer's weights, shape (filters, ...).
        criterion: entropy, l1, summed_entropy, robust_entropy, differential_entropy, orthogonality; constant is 0.
        bins, reference: as `layer_entropy`.
        name: The layer's name, for the error.

    Raises:
        NotFiniteError: a weight is NaN or infinite; names the layer.
    """
    if criterion == "constant":
        return 0.0
    found = float(OF_WEIGHTS[criterion](weight, bins, reference, name))
    if not math.isfinite(found):
        raise NotFiniteError(f"{name} has a weight that is NaN or infinite")
    return found


def measure(
    state: Mapping[str, Tensor],
    units: Sequence[GraftUnit],
    config: GraftConfig,
    *,
    random: np.random.Generator | None = None,
) -> tuple[float, ...]:
    """The information of each unit of a network.

    Args:
        state: Its state dict.
        units: What shares an alpha.
        config: Criterion and bins.
        random: Draws the information of the criterion random, uniform in [0, 1).

    Raises:
        NotFiniteError: a weight is NaN or infinite; names the layer.
        ConfigError: criterion batch_norm, and a unit has no batch norm.
        ValueError: criterion random without a generator.
    """
    if config.criterion == "random":
        if random is None:
            raise ValueError("criterion random needs a generator")
        return tuple(random.random(len(units)).tolist())
    if config.criterion == "batch_norm":
        return tuple(_scale(state, unit) for unit in units)
    return tuple(
        layer_information(state[unit.name], config.criterion, config.bins, reference=config.reference, name=unit.name)
        for unit in units
    )


@dataclass(frozen=True)
class LayerInformation:
    """What a snapshot tells of its layers beside their weights."""

    config: GraftConfig

    def measure(
        self, state: Mapping[str, Tensor], units: Sequence[GraftUnit], random: np.random.Generator
    ) -> tuple[float, ...]:
        """`measure`, by the configured criterion."""
        return measure(state, units, self.config, random=random)

    def checked_keys(self, units: Sequence[GraftUnit]) -> frozenset[str]:
        """Entries of which every value was looked at: where the information is finite, so are they."""
        return frozenset(unit.name for unit in units) if self.config.criterion in OF_WEIGHTS else frozenset()


def batch_norm_key(state: Mapping[str, Tensor], unit: GraftUnit) -> str | None:
    """Key of the scale of the batch norm that follows a unit's convolution: the first of its outputs' length; None:
    there is none."""
    mixtures = state.get(f"{unit.name.removesuffix('.weight')}.fusion_proxies")  # a compact network's outputs
    num_filters = len(state[unit.name] if mixtures is None else mixtures)
    for key in unit.keys:
        stem = key.removesuffix(".weight")
        if stem != key and f"{stem}.running_mean" in state and tuple(state[key].shape) == (num_filters,):
            return key
    return None


def _scale(state: Mapping[str, Tensor], unit: GraftUnit) -> float:
    """Mean absolute scale of a unit's batch norm."""
    key = batch_norm_key(state, unit)
    if key is None:
        raise ConfigError(f"graft.criterion batch_norm needs a batch norm after each convolution; {unit.name} has none")
    found = float(state[key].detach().abs().double().mean())
    if not math.isfinite(found):
        raise NotFiniteError(f"{key} has a value that is NaN or infinite")
    return found


def _summed(weight: Tensor, bins: int, reference: bool, name: str) -> Tensor:
    try:
        return summed_filter_entropy(weight, bins, reference=reference)
    except NotFiniteError:
        raise NotFiniteError(f"{name} has a weight that is NaN or infinite") from None


OF_WEIGHTS: dict[str, Callable[[Tensor, int, bool, str], Tensor]] = {
    "entropy": lambda weight, bins, reference, name: layer_entropy(weight, bins, reference=reference, name=name),
    "l1": lambda weight, bins, reference, name: weight.detach().abs().sum(dtype=torch.float64),
    "summed_entropy": _summed,
    "robust_entropy": lambda weight, bins, reference, name: robust_entropy(weight, bins, name=name),
    "differential_entropy": lambda weight, bins, reference, name: differential_entropy(weight, bins, name=name),
    "orthogonality": lambda weight, bins, reference, name: orthogonality(weight),
}
"""Criteria that look at every weight of a unit's first entry, and at nothing else."""
