"""Measure what choosing filters costs: their importance, with and without the published array of filters^3 values."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from inarch.experiments.benchmarks.harness import Measurement, Must, Row, ratio
from inarch.population.fusion import direct_importance, filter_distances, importance, log_proxies, normalized

BESIDE_DIRECT = Must(rule="at least", limit=20.0)
LARGE_SECONDS = Must(rule="at most", limit=2000.0)
TEMPERATURE = 3.0
"""Temperature of the proxies, for normalized distances. The proxies are then neither uniform nor one-hot."""

CHANNELS = 64
"""Input channels of the 3x3 filters. The cost of the distances grows with them, the cost of importance does not."""


def fusion(*, repeats: int = 5, filters: int = 512, large: int = 2048) -> Measurement:
    """Measure the milliseconds of each computation on one thread, in turns.

    Args:
        repeats: Number of turns.
        filters: Filters of the layer on which the published formula is measured too. It needs 12 filters^3 bytes.
        large: Filters of a layer that is too large for the published formula.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        fast, direct, whole, whole_large = _measure(repeats, filters, large)
    finally:
        torch.set_num_threads(threads)
    rows = (
        Row(what=f"importance of {filters} filters", unit="ms", values=tuple(fast)),
        Row(what=f"the published formula as written, {filters} filters", unit="ms", values=tuple(direct)),
        ratio("published / inarch", direct, fast, BESIDE_DIRECT),
        Row(what=f"distances, proxies and importance of {filters} filters", unit="ms", values=tuple(whole)),
        Row(what=f"the same for {large} filters", unit="ms", values=tuple(whole_large), must=LARGE_SECONDS),
    )
    setting = {"filters": filters, "large": large, "weight": [CHANNELS, 3, 3], "threads": 1}
    return Measurement(name="fusion", repeats=repeats, rows=rows, setting=setting)


def _measure(repeats: int, filters: int, large: int) -> tuple[list[float], list[float], list[float], list[float]]:
    random = torch.Generator().manual_seed(0)
    some, many = (torch.randn(count, CHANNELS, 3, 3, generator=random) for count in (filters, large))
    log_p = log_proxies(normalized(filter_distances(some)), TEMPERATURE)
    p = log_p.exp().float()
    timings: tuple[list[float], ...] = ([], [], [], [])
    calls: tuple[Callable[[], Tensor], ...] = (
        lambda: importance(log_p),
        lambda: direct_importance(p),
        lambda: _whole(some),
        lambda: _whole(many),
    )
    for _ in range(repeats):
        for values, call in zip(timings, calls, strict=True):
            values.append(_milliseconds(call))
    return timings[0], timings[1], timings[2], timings[3]


def _whole(weight: Tensor) -> Tensor:
    return importance(log_proxies(normalized(filter_distances(weight)), TEMPERATURE))


def _milliseconds(call: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)
