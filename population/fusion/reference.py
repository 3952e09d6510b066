"""DCFF as the authors' public code computes it, for parity tests and for fusion mode published."""

from __future__ import annotations

import math

import torch
from torch import Tensor

START, END, STEEPNESS = 1.0, 1e4, 1.0
"""First temperature, last temperature and steepness k of the published schedule."""

PUBLISHED_EPSILON = 1e-7
"""Added to the denominator of the divergence in the public code."""


def published_proxies(weight: Tensor, temperature: float) -> Tensor:
    """Return the proxies of the public code: a float32 softmax of unnormalized distances.

    Off the diagonal, the proxies underflow to 0 from a temperature of about 50 upward.

    Args:
        weight: Filters, shape (filters, ...).
        temperature: At least 0.

    Returns:
        Shape (filters, filters), NaN where a weight is NaN.
    """
    flat = weight.detach().flatten(1).float()
    distances = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
    return torch.softmax(-temperature * distances, dim=1)


def published_importance(p: Tensor) -> Tensor:
    """Return the importance that the public code computes from its proxies.

    Args:
        p: Proxies, shape (filters, filters).

    Returns:
        Shape (filters,), NaN where a proxy holds a zero (0 * log 0).
    """
    p = p.double()
    own = (p * p.log()).sum(1)
    return own - p @ (p + PUBLISHED_EPSILON).log().mean(0)


def published_temperature(
    epoch: float, epochs: int, *, start: float = START, end: float = END, steepness: float = STEEPNESS
) -> float:
    """Return the temperature of the published schedule at an epoch.

    T(e) = A / (1 + exp(-k e)) + T_s - A / 2, with A = 2 (T_e - T_s) (1 + exp(-k E)) / (1 - exp(-k E)).

    Args:
        epoch: Current epoch e, in [0, epochs].
        epochs: Epochs E of the schedule, at least 1.
        start: First temperature T_s.
        end: Last temperature T_e.
        steepness: k, per epoch. With 1, the schedule is almost over after five epochs, for any E.

    Raises:
        ValueError: `epochs` is below 1.

    Source: Lin et al. 2021 (arXiv:2107.06916), DCFF.
    """
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1, got {epochs}")
    decay = math.exp(-steepness * epochs)
    amplitude = 2.0 * (end - start) * (1.0 + decay) / (1.0 - decay)
    return amplitude / (1.0 + math.exp(-steepness * epoch)) + start - amplitude / 2.0


def direct_importance(p: Tensor) -> Tensor:
    """Return the importance by the published formula as written, with its cube of filters^3.

    Tests and benchmarks compare `importance` with it.

    Args:
        p: Proxies, shape (filters, filters).

    Returns:
        Shape (filters,).
    """
    ratio = p[:, None, :] / (p[None, :, :] + PUBLISHED_EPSILON)
    return (p[:, None, :] * ratio.log()).mean(2).sum(1)
