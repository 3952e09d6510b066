"""DCFF as the authors' public code computes it, for parity tests and the fusion mode `published`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

START, END, STEEPNESS = 1.0, 1e4, 1.0
"""First temperature, last temperature and k of the published schedule."""

PUBLISHED_EPSILON = 1e-7
"""In the denominator of the public code's divergence."""


def published_proxies(weight: Tensor, temperature: float) -> Tensor:
    """The public code's proxies: float32 softmax of unnormalized distances; off the diagonal it underflows to 0 from a
    temperature of some 50 on. Shape (filters, filters); NaN where a weight is."""
    flat = weight.detach().flatten(1).float()
    distances = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
    return torch.softmax(-temperature * distances, dim=1)


def published_importance(p: Tensor) -> Tensor:
    """The public code's importance of its proxies, NaN where a proxy has a zero (0 * log 0). Shape (filters,)."""
    p = p.double()
    own = (p * p.log()).sum(1)
    return own - p @ (p + PUBLISHED_EPSILON).log().mean(0)


def published_temperature(
    epoch: float, epochs: int, *, start: float = START, end: float = END, steepness: float = STEEPNESS
) -> float:
    """T(e) = A / (1 + exp(-k e)) + T_s - A / 2, A = 2 (T_e - T_s) (1 + exp(-k E)) / (1 - exp(-k E)).

    Args:
        epoch: e, in [0, epochs].
        epochs: E, at least 1.
        start, end: T_s and T_e.
        steepness: k, per epoch: with 1 the schedule is all but over after five epochs, whatever E is.

    Source: Lin et al. 2021 (arXiv:2107.06916), DCFF.
    """
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1, got {epochs}")
    decay = math.exp(-steepness * epochs)
    amplitude = 2.0 * (end - start) * (1.0 + decay) / (1.0 - decay)
    return amplitude / (1.0 + math.exp(-steepness * epoch)) + start - amplitude / 2.0


def direct_importance(p: Tensor) -> Tensor:
    """The published formula as written, with its cube of filters^3: what `importance` is measured against."""
    ratio = p[:, None, :] / (p[None, :, :] + PUBLISHED_EPSILON)
    return (p[:, None, :] * ratio.log()).mean(2).sum(1)
