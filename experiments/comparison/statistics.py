"""Means over seeds with confidence intervals, and differences paired by seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import optimize, stats


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean with its confidence interval, mean - half to mean + half."""

    mean: float
    """Mean of the values. NaN if one of them is not finite."""
    half: float
    """Half of the interval's length. Infinite for a single value, or if a value is not finite."""
    count: int
    """Number of values."""

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return abs(self.mean) > self.half


def interval(values: Sequence[float], *, confidence: float = 0.95) -> Estimate:
    """Return the mean of values and its confidence interval by Student's t.

    Args:
        values: Independent values, at least one.
        confidence: Confidence level, in (0, 1).

    Raises:
        ValueError: There are no values.
    """
    if not values:
        raise ValueError("an interval needs at least one value")
    count = len(values)
    if not all(map(math.isfinite, values)):
        return Estimate(mean=math.nan, half=math.inf, count=count)
    mean = statistics.fmean(values)
    if count == 1:
        return Estimate(mean=mean, half=math.inf, count=1)
    error = statistics.stdev(values) / math.sqrt(count)
    return Estimate(mean=mean, half=float(stats.t.ppf(0.5 + confidence / 2, count - 1)) * error, count=count)


def paired(
    values: Mapping[int, float], baseline: Mapping[int, float], *, num_comparisons: int = 1, confidence: float = 0.95
) -> Estimate:
    """Return the mean difference to a baseline over the seeds that both have, with its confidence interval.

    Args:
        values: Values by seed.
        baseline: Values of the baseline by seed.
        num_comparisons: Number of differences whose intervals are to hold together. The interval is widened for it
            (Bonferroni).
        confidence: Confidence level of all intervals together, in (0, 1).

    Raises:
        ValueError: They share no seed.
    """
    shared = sorted(values.keys() & baseline.keys())
    differences = [values[seed] - baseline[seed] for seed in shared]
    return interval(differences, confidence=1.0 - (1.0 - confidence) / num_comparisons)


def detectable(count: int, *, num_comparisons: int = 1, confidence: float = 0.95, power: float = 0.8) -> float:
    """Return the least true difference whose interval excludes zero with a given probability.

    Args:
        count: Number of seeds, at least 2.
        num_comparisons: Number of differences whose intervals hold together, as in `paired`.
        confidence: Confidence level of all intervals together, in (0, 1).
        power: Probability, in (0, 1).

    Returns:
        The difference, in standard deviations of a paired difference over seeds.

    Raises:
        ValueError: There are fewer than 2 seeds.
    """
    if count < 2:
        raise ValueError(f"differences need at least 2 seeds, got {count}")
    freedom = count - 1
    limit = float(stats.t.ppf(1.0 - (1.0 - confidence) / num_comparisons / 2, freedom))

    def missing(shift: float) -> float:
        return power - float(stats.nct.sf(limit, freedom, shift))

    found = optimize.root_scalar(missing, bracket=(0.0, 20.0 * limit))
    return float(found.root) / math.sqrt(count)
