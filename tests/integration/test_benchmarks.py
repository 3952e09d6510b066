"""Benchmarks with real actors."""

from __future__ import annotations

import dataclasses
import functools
import time

import pytest

from inarch.experiments.benchmarks.exchange.benchmark import exchange
from inarch.experiments.benchmarks.gpu.sharing import sharing_rows
from inarch.experiments.benchmarks.gpu.sizes import TINY
from inarch.experiments.benchmarks.speed.overhead import overhead
from inarch.experiments.benchmarks.speed.straggler import straggler
from tests.experiments.test_benchmarks import check_finite_rows

pytestmark = [pytest.mark.ray]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "measure",
    [
        functools.partial(exchange, architectures=("resnet8",), store_networks=2, store_seconds=2.0),
        functools.partial(overhead, architecture="resnet8", num_images=640, epochs=4),
        functools.partial(straggler, step_seconds=0.02, interval_steps=5, seconds=4.0),
    ],
    ids=("exchange", "overhead", "straggler"),
)
def test_benchmark_with_real_actors_measures_finite_values(measure):
    check_finite_rows(measure(repeats=1))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_networks_alone_and_side_by_side_have_speeds():
    sizes = dataclasses.replace(TINY, epochs=80)  # some seconds, so that networks that start in turn train together
    rows, notes = sharing_rows(sizes, is_gpu=False, deadline=time.monotonic() + 500.0)
    assert len(rows) == 5 and notes == []
    assert all(row.median > 0 for row in rows)
