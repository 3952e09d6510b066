"""How mixed filters are at each epoch: the published temperature, and one led by its effect."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from inarch.population.fusion.proxies import effective_filters, log_proxies

LARGEST = 1e12
"""No temperature is higher: filters that lie this close are the same."""

STEPS = 60
"""Halvings of the search for a temperature, at most."""

PRECISION = 1e-4
"""Of the number of filters, relative, at which the search ends."""


def target_filters(num_filters: int, progress: float) -> float:
    """How many filters a fused one is to mix: from all at the beginning to one at the end, by equal ratios.

    Args:
        num_filters: In the layer, at least 1.
        progress: Part of the schedule that is over, in [0, 1].
    """
    if not 0 <= progress <= 1:
        raise ValueError(f"progress must lie in [0, 1], got {progress!r}")
    return num_filters ** (1.0 - progress)


def temperature_for(distances: Tensor, wanted: float) -> float:
    """The temperature at which proxies mix as many filters as wanted, a mean over filters.

    Args:
        distances: Shape (filters, filters).
        wanted: In [1, filters]. Filters that are equal cannot be told apart: where `wanted` is below what they allow,
            the highest temperature is given.

    Returns:
        At least 0 and at most LARGEST, found to PRECISION; the effective number falls monotonically with it.
    """
    count = len(distances)
    if wanted >= count or not bool(torch.isfinite(distances).all()):
        return 0.0
    low, high = -math.log(LARGEST), math.log(LARGEST)
    for _ in range(STEPS):
        middle = (low + high) / 2
        found = float(effective_filters(log_proxies(distances, math.exp(middle))).mean())
        if abs(found - wanted) <= PRECISION * (wanted - 1.0):
            return math.exp(middle)
        if found > wanted:
            low = middle
        else:
            high = middle
    return math.exp(high)
