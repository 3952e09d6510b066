"""Find the temperature at which proxies mix a given number of filters, and that number at each epoch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from inarch.population.fusion.proxies import effective_filters, log_proxies

LARGEST = 1e12
"""Highest temperature. Filters that it cannot separate count as equal."""

STEPS = 60
"""Maximum number of bisections in the search for a temperature."""

PRECISION = 1e-4
"""The search ends when the number of filters beyond 1 is right to this relative precision."""


def target_filters(num_filters: int, progress: float) -> float:
    """Return the number of filters that a fused filter should mix.

    The number falls from all filters at the start to one at the end, by the same ratio at each epoch.

    Args:
        num_filters: Filters of the layer, at least 1.
        progress: Share of the schedule that is over, in [0, 1].

    Raises:
        ValueError: `progress` is out of range.
    """
    if not 0 <= progress <= 1:
        raise ValueError(f"progress must lie in [0, 1], got {progress!r}")
    return num_filters ** (1.0 - progress)


def temperature_for(distances: Tensor, target: float) -> float:
    """Return the temperature at which proxies mix `target` filters, averaged over the filters.

    The search bisects the logarithm of the temperature, because the effective number of filters falls monotonically
    with the temperature.

    Args:
        distances: Distances between filters, shape (filters, filters).
        target: Effective number of filters, in [1, filters]. No temperature separates equal filters. If they keep the
            number above `target`, the highest temperature is returned.

    Returns:
        A temperature in [0, LARGEST], to PRECISION. It is 0 if `target` is all filters or a distance is not finite.
    """
    count = len(distances)
    if target >= count or not bool(torch.isfinite(distances).all()):
        return 0.0
    low, high = -math.log(LARGEST), math.log(LARGEST)
    for _ in range(STEPS):
        middle = (low + high) / 2
        effective = float(effective_filters(log_proxies(distances, math.exp(middle))).mean())
        if abs(effective - target) <= PRECISION * (target - 1.0):
            return math.exp(middle)
        if effective > target:
            low = middle
        else:
            high = middle
    return math.exp(high)
