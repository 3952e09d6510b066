"""Statistics of a network's filters for the history: entropy, l1 norm and invalid filters of each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.spectral_norm import SpectralNorm

from inarch.population.grafting.information import l1_norm, layer_entropies
from inarch.population.grafting.units import GraftUnit
from inarch.population.persistence.history_schemas import THRESHOLDS
from inarch.population.state.state_dict import is_convolution, named_tensors, weight_hooks

ENTROPY_BINS = 10
"""Histogram cells for the entropies in the history, whatever criterion the grafts use."""


@dataclass(frozen=True, kw_only=True)
class FilterDensity:
    """Mean l1 norm of the filters that are valid in a baseline, and of its invalid filters."""

    num_valid: int
    """Filters that are valid in the baseline."""
    num_invalid: int
    """Filters that are invalid in the baseline."""
    valid: float | None
    """Mean l1 norm of the network's filters that are valid in the baseline. None if there are none."""
    invalid: float | None
    """The same for the filters that are invalid in the baseline."""


@dataclass(frozen=True, kw_only=True)
class FilterNorms:
    """What was measured of a network's filters. On a GPU the norms are still there, and nothing has waited for them."""

    norms: Mapping[str, Tensor]
    """l1 norms of the filters by key of the weight, shape (filters,), float32."""
    entropies: Mapping[str, float]
    """Entropies by key of the weight, in nats."""

    def rows(self) -> list[dict[str, Any]]:
        """Return one row of statistics for each layer. On a GPU, wait for the norms.

        Returns:
            Rows with layer, filters, entropy (nats), mean_l1, and for each of THRESHOLDS the number of filters below
            it.
        """
        if not self.norms:
            return []
        on_host = torch.cat(list(self.norms.values())).cpu().split([len(layer) for layer in self.norms.values()])
        below = torch.tensor(list(THRESHOLDS.values()))
        return [
            {
                "layer": name,
                "filters": len(layer),
                "entropy": self.entropies[name],
                "mean_l1": float(layer.double().mean()),
                **dict(zip(THRESHOLDS, (layer[:, None] < below).sum(0).tolist(), strict=True)),
            }
            for name, layer in zip(self.norms, on_host, strict=True)
        ]


def measure_filters(
    state: Mapping[str, Tensor], units: Sequence[GraftUnit], entropies: Mapping[str, float]
) -> FilterNorms:
    """Measure the filters of each graft unit that a convolution opens.

    Args:
        state: State dict of the network.
        units: Graft units of the network. The weight that names a unit is measured.
        entropies: Entropies that are already known, by key of the weight, in nats.

    Raises:
        NotFiniteError: A weight is NaN or infinite. The message names the layer.
    """
    filters = {
        unit.name: unit.filters(state[unit.name])
        for unit in units
        if unit.name in state and is_convolution(state[unit.name])
    }
    unknown = [name for name in filters if name not in entropies]
    measured = layer_entropies([filters[name] for name in unknown], ENTROPY_BINS, names=unknown)
    return FilterNorms(
        norms={name: l1_norm(weight).float() for name, weight in filters.items()},
        entropies=dict(entropies) | dict(zip(unknown, measured, strict=True)),
    )


@torch.no_grad()
def computed_weights(module: nn.Module) -> dict[str, Tensor]:
    """Return the weights that layers compute from parts of them, as with weight norm and spectral norm.

    The parts have other norms than the weight. Both torch.nn.utils.parametrizations and the older functions in
    torch.nn.utils are considered.

    Args:
        module: The network. It keeps its mode, and is in evaluation mode meanwhile.

    Returns:
        The weight by the key of each part of it that has its shape. Empty if no layer has parts.
    """
    parametrized = [(stem, owner) for stem, owner in module.named_modules() if is_parametrized(owner, "weight")]
    hooked = [
        (f"{stem}.weight" if stem else "weight", owner, hook)
        for stem, owner in module.named_modules()
        for hook in weight_hooks(owner)
        if hook.name == "weight"
    ]
    if not parametrized and not hooked:
        return {}
    weights, tensors, was_training = {}, named_tensors(module), module.training
    module.eval()  # in training mode, spectral norm would take a step of its estimate
    for stem, owner in parametrized:
        weight: Any = owner.weight
        prefix = f"{stem}.parametrizations.weight." if stem else "parametrizations.weight."
        weights |= {key: weight for key in tensors if key.startswith(prefix) and tensors[key].shape == weight.shape}
    for name, owner, hook in hooked:
        is_spectral = isinstance(hook, SpectralNorm)
        weight = hook.compute_weight(owner, do_power_iteration=False) if is_spectral else hook.compute_weight(owner)
        weights[f"{name}_orig" if is_spectral else f"{name}_v"] = weight
    module.train(was_training)
    return weights


def filter_density(state: Mapping[str, Tensor], baseline: Mapping[str, Tensor], threshold: float) -> FilterDensity:
    """Return the mean l1 norm of a network's filters, for the valid and the invalid filters of a baseline.

    Args:
        state: State dict of the network.
        baseline: State dict of the same structure, which determines which filters are valid.
        threshold: l1 norm below which a filter of the baseline is invalid.

    Source: Cheng et al. 2020 (arXiv:2004.12311), table of filter density. There the baseline is the network trained
    alone.
    """
    keys = [key for key, weight in baseline.items() if is_convolution(weight)]
    valid = torch.cat([l1_norm(baseline[key]) >= threshold for key in keys])
    norms = torch.cat([l1_norm(state[key]) for key in keys]).double()
    valid_norms, invalid_norms = norms[valid], norms[~valid]
    return FilterDensity(
        num_valid=len(valid_norms),
        num_invalid=len(invalid_norms),
        valid=float(valid_norms.mean()) if len(valid_norms) else None,
        invalid=float(invalid_norms.mean()) if len(invalid_norms) else None,
    )
