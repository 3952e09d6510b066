"""How a network's filters stand: entropy, l1 norms and invalid filters of each layer, as rows of the history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inarch.population.grafting.information import l1_norm, layer_entropy
from inarch.population.grafting.units import GraftUnit
from inarch.population.persistence.history import THRESHOLDS
from inarch.population.state.state_dict import is_convolution

ENTROPY_BINS = 10
"""Of the history's entropies, whatever grafts go by."""


@dataclass(frozen=True, kw_only=True)
class FilterDensity:
    """Mean l1 norm of the filters that a baseline holds valid, and of the others."""

    num_valid: int
    num_invalid: int
    valid: float | None
    """None where there are none."""
    invalid: float | None


def filter_rows(
    state: Mapping[str, Tensor], units: Sequence[GraftUnit], entropies: Mapping[str, float]
) -> list[dict[str, Any]]:
    """One row for each convolution that opens a unit: layer, filters, entropy (nats), mean_l1, and how many filters lie
    below each of THRESHOLDS.

    Args:
        state: A state dict.
        units: Whose first entries are looked at.
        entropies: Layers' entropies, by key, that are known already.

    Raises:
        NotFiniteError: a weight is NaN or infinite; names the layer.
    """
    rows = []
    for unit in units:
        weight = state[unit.name]
        if not is_convolution(weight):
            continue
        norms = l1_norm(weight).float()
        below = torch.tensor(list(THRESHOLDS.values()), device=norms.device)
        counts = (norms[:, None] < below).sum(0).tolist()
        rows.append(
            {
                "layer": unit.name,
                "filters": len(norms),
                "entropy": entropies[unit.name] if unit.name in entropies else _entropy(weight, unit.name),
                "mean_l1": float(norms.double().mean()),
                **dict(zip(THRESHOLDS, counts, strict=True)),
            }
        )
    return rows


def _entropy(weight: Tensor, name: str) -> float:
    return float(layer_entropy(weight, ENTROPY_BINS, name=name))


def filter_density(state: Mapping[str, Tensor], baseline: Mapping[str, Tensor], threshold: float) -> FilterDensity:
    """How dense a network's filters are where a baseline of the same structure has valid and invalid ones.

    Args:
        state: The network's state dict.
        baseline: Decides which filters are valid.
        threshold: l1 norm below which one is not.

    Source: Cheng et al. 2020 (arXiv:2004.12311), table of filter density; there the baseline is the network trained
    alone.
    """
    keys = [key for key, weight in baseline.items() if is_convolution(weight)]
    valid = torch.cat([l1_norm(baseline[key]) >= threshold for key in keys])
    norms = torch.cat([l1_norm(state[key]) for key in keys]).double()
    there, gone = norms[valid], norms[~valid]
    return FilterDensity(
        num_valid=len(there),
        num_invalid=len(gone),
        valid=float(there.mean()) if len(there) else None,
        invalid=float(gone.mean()) if len(gone) else None,
    )
