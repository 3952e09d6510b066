"""Measure what an exchange adds to the step of a training loop that has joined a population."""

from __future__ import annotations

import tempfile
import time
from typing import Any

import ray
import torch
from torch import nn
from torchvision.models import resnet50

from inarch.actors import Member, PopulationRun, join
from inarch.experiments.benchmarks.harness import Measurement, Must, Row, ratio
from inarch.population.config import OpenConfig, StalenessConfig
from inarch.population.membership.outcome import ExchangeOutcome

CLASSES, BATCH, PIXELS = 100, 8, 64

WARMUP = 3
"""Exchanges before the first that counts. They allocate the memory that the others use again."""

PAUSE_SECONDS = 0.5
"""Pause between two exchanges, in which the snapshots are put into the store and fetched."""

LIMIT_MS = 250.0
"""Most milliseconds that an exchange of a ResNet-50 may add to a step."""

START_SECONDS = 120.0


def join_loop(*, repeats: int) -> Measurement:
    """Measure the exchange of a ResNet-50 between two loops on one machine, beside a training step.

    Each loop computes with one thread, and both exchange at the same time.

    Args:
        repeats: Exchanges that count, at least 1.
    """
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        config = OpenConfig(staleness=StalenessConfig(max_intervals=1e9))
        run = PopulationRun.open(f"bench-join-{time.time_ns()}", config, storage=folder, quiet=True)
        try:
            torch.set_num_threads(1)
            exchanges, steps = _measure(run.name, repeats)
            run.stop()
        finally:
            torch.set_num_threads(threads)
            run.close()
    rows = (
        Row(
            what="exchange of a ResNet-50",
            unit="ms",
            values=tuple(exchanges),
            must=Must(rule="at most", limit=LIMIT_MS),
        ),
        Row(what=f"training step, {BATCH} images of {PIXELS} pixels", unit="ms", values=tuple(steps)),
        ratio("exchange / training step", exchanges, steps),
    )
    setting = {"loops": 2, "threads": 1, "batch": BATCH, "pixels": PIXELS, "warmup": WARMUP}
    note = "join: the time of Member.exchange in one of two loops that exchange at once; both graft each time"
    return Measurement(name="join", repeats=repeats, rows=rows, setting=setting, notes=(note,))


def _measure(run: str, repeats: int) -> tuple[list[float], list[float]]:
    """Return milliseconds of exchanges and of training steps, in turns."""
    model = resnet50(num_classes=CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    other: Any = ray.remote(num_cpus=0)(_Partner).remote(run)
    exchanges, steps = [], []
    with join(run, model, name="measured") as member:
        ray.get(other.exchange.remote(1), timeout=START_SECONDS)
        _until_grafted(member)
        for turn in range(WARMUP + repeats):
            pending = other.exchange.remote(1)
            milliseconds = _until_grafted(member)
            ray.get(pending, timeout=START_SECONDS)
            step = _step(model, optimizer)
            time.sleep(PAUSE_SECONDS)
            if turn >= WARMUP:
                exchanges.append(milliseconds)
                steps.append(step)
    ray.get(other.leave.remote(), timeout=START_SECONDS)
    ray.kill(other)
    return exchanges, steps


def _until_grafted(member: Member) -> float:
    """Exchange until the rule has grafted, and return the milliseconds of that exchange."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        summary = member.exchange()
        if summary.outcome is ExchangeOutcome.GRAFTED:
            return 1e3 * summary.seconds
        time.sleep(PAUSE_SECONDS)
    raise TimeoutError(f"the loop did not graft within {START_SECONDS:g} s")


def _step(model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    """Take a training step, and return its milliseconds."""
    images, labels = torch.randn(BATCH, 3, PIXELS, PIXELS), torch.zeros(BATCH, dtype=torch.long)
    began = time.perf_counter()
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(images), labels).backward()
    optimizer.step()
    return 1e3 * (time.perf_counter() - began)


class _Partner:
    """The other loop, in a process of its own."""

    def __init__(self, run: str) -> None:
        torch.set_num_threads(1)
        self._member = join(run, resnet50(num_classes=CLASSES), name="partner")

    def exchange(self, count: int) -> None:
        for _ in range(count):
            self._member.exchange()

    def leave(self) -> None:
        self._member.leave()
