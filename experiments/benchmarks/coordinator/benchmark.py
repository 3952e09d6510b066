"""Measure what a large population costs its coordinator: a real coordinator actor, and members that only call it.

The members call as networks of a population of their size do.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import ray

from inarch.actors import PopulationRun
from inarch.actors.messages import (
    LARGE_POPULATION,
    NAMESPACE,
    Enrollment,
    GuestApplication,
    coordinator_name,
    heartbeat_seconds,
)
from inarch.experiments.benchmarks.coordinator.membership import UNITS, member_info, membership_rows
from inarch.experiments.benchmarks.coordinator.recovery import recovery_rows
from inarch.experiments.benchmarks.harness import Measurement, Must, Row
from inarch.experiments.benchmarks.runs import cpu_seconds
from inarch.population.config import OpenConfig, PopulationConfig, RunConfig, TopologyConfig
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.membership.snapshot_index import PublishedSnapshot
from inarch.population.membership.topology import Places, donors
from inarch.population.persistence.interval_report import IntervalReport
from inarch.population.state.snapshot_info import SnapshotInfo

LIMIT = Must(rule="at most", limit=0.2)
"""Most of a core that the coordinator of a thousand networks may take."""

ANSWER = Must(rule="at most", limit=100.0)
"""Milliseconds within which all but a hundredth of the requests for scions are answered."""

INTERVAL_SECONDS = 30.0
"""Length of a member's interval. It publishes a snapshot, requests one, and reports its exchange."""

SIZES = (100, 1000)
DONORS = 1000
"""Donors that are looked for in each measurement."""

CALL_SECONDS = 120.0
MOST_PENDING = 200
"""Calls that may be without an answer. A coordinator that is slower than that falls behind."""


@dataclass(frozen=True, kw_only=True)
class _Load:
    """What a window of calls cost."""

    core_share: float
    calls: int
    cpu_seconds: float
    answer_seconds: tuple[float, ...]
    """Times until requests for scions were answered."""


def coordinator(*, repeats: int, sizes: tuple[int, ...] = SIZES, seconds: float = 15.0) -> Measurement:
    """Measure the CPU time of a coordinator whose members complete an interval in 30 s and send heartbeats.

    Args:
        repeats: Windows for each size, at least 1.
        sizes: Sizes of the population, in ascending order.
        seconds: Length of a window.
    """
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        config = OpenConfig(topology=TopologyConfig(name="ring"))
        run = PopulationRun.open(f"bench-coordinator-{time.time_ns()}", config, storage=folder, quiet=True)
        try:
            members = _Members(run)
            for size in sizes:
                members.grow(size)
                loads = [members.call_for(seconds) for _ in range(repeats)]
                rows += _rows(size, loads, is_judged=size == max(sizes))
            rows += recovery_rows(run.name, max(sizes), repeats)
            empty = [_empty_call_milliseconds(seconds / 2, rate=100.0) for _ in range(repeats)]
            run.stop()
        finally:
            run.close()
    rows.append(Row(what="reference: CPU time of a call that does nothing", unit="ms", values=tuple(empty)))
    setting = {"interval_seconds": INTERVAL_SECONDS, "window_seconds": seconds, "units": UNITS, "sizes": list(sizes)}
    note = "members are guests, whose rows the coordinator writes too; networks write their own and cost it less"
    rows += [_donor_row(size, repeats) for size in (max(sizes), 10 * max(sizes))]
    rows += membership_rows(10 * max(sizes), repeats)
    return Measurement(name="coordinator", repeats=repeats, rows=tuple(rows), setting=setting, notes=(note,))


def _rows(size: int, loads: list[_Load], *, is_judged: bool) -> list[Row]:
    share = Row(
        what=f"{size} networks, an interval in {INTERVAL_SECONDS:g} s: share of a core",
        unit="cores",
        values=tuple(load.core_share for load in loads),
        must=LIMIT if is_judged else None,
    )
    call = Row(
        what=f"{size} networks: CPU time of a call",
        unit="ms",
        values=tuple(1e3 * load.cpu_seconds / load.calls for load in loads),
    )
    most = Row(
        what=f"{size} networks: networks that would fill a core",
        unit="networks",
        values=tuple(size / load.core_share for load in loads),
    )
    slowest = Row(
        what=f"{size} networks: slowest hundredth of the requests answered within",
        unit="ms",
        values=tuple(1e3 * float(np.quantile(load.answer_seconds, 0.99)) for load in loads),
        must=ANSWER if is_judged else None,
    )
    return [share, slowest, call, most]


def _donor_row(size: int, repeats: int) -> Row:
    """Return the time in which the first donor is found, on a ring."""
    config, places = TopologyConfig(name="ring"), Places(range(size))
    values = []
    for _ in range(repeats):
        began = time.perf_counter()
        for number in range(DONORS):
            next(donors(config, places, number % size, round=number))
        values.append(1e6 * (time.perf_counter() - began) / DONORS)
    return Row(what=f"first donor among {size:,} networks on a ring", unit="us", values=tuple(values))


class _Empty:
    """An actor of the coordinator's kind whose calls do nothing."""

    async def process(self) -> int:
        return os.getpid()

    async def post(self, network_id: int, incarnation: int, reports: list[IntervalReport], snapshot: Any) -> None: ...


def _empty_call_milliseconds(seconds: float, rate: float) -> float:
    """Return the CPU milliseconds that a call costs an actor which does nothing."""
    actor: Any = ray.remote(num_cpus=0)(_Empty).remote()
    process: Any = ray.get(actor.process.remote(), timeout=CALL_SECONDS)
    began, cpu, calls, pending = time.monotonic(), cpu_seconds(process), 0, []
    while (elapsed := time.monotonic() - began) < seconds:
        while calls < elapsed * rate:
            pending.append(actor.post.remote(0, 1, [], None))
            calls += 1
        ray.get(pending, timeout=CALL_SECONDS)
        pending.clear()
        time.sleep(0.002)
    used = cpu_seconds(process) - cpu
    ray.kill(actor)
    return 1e3 * used / max(1, calls)


class _Members:
    """Members without processes: their calls come from this process."""

    def __init__(self, run: PopulationRun) -> None:
        self._coordinator: Any = ray.get_actor(coordinator_name(run.name), namespace=NAMESPACE)
        status: Any = ray.get(self._coordinator.status.remote(), timeout=CALL_SECONDS)
        self._process = status.coordinator_process
        self._payload = [ray.put(np.zeros(64, dtype=np.uint8))]
        self._enrolled: list[Enrollment] = []
        self._intervals: dict[int, int] = {}
        self._pending: list[ray.ObjectRef] = []
        self._unsent: dict[int, IntervalReport] = {}
        self._answered: list[float] = []

    def grow(self, size: int) -> None:
        """Enroll members up to a size, and let each publish once."""
        for number in range(len(self._enrolled), size):
            application = GuestApplication(
                name=f"member-{number}",
                structure="bench",
                snapshot_bytes=64,
                parameters=16,
                every=1,
                process=os.getpid(),
                node=ray.get_runtime_context().get_node_id(),
            )
            call = self._coordinator.enroll.remote(application)
            self._enrolled.append(cast(Enrollment, ray.get(call, timeout=CALL_SECONDS)))
        for enrollment in self._enrolled:
            self._publish(enrollment)
        self._answer(0)

    def call_for(self, seconds: float) -> _Load:
        """Make the calls of all members for a while, evenly spread."""
        size, calls, began = len(self._enrolled), 0, time.monotonic()
        cpu = cpu_seconds(self._process)
        is_large = size > LARGE_POPULATION
        posts = INTERVAL_SECONDS / heartbeat_seconds(RunConfig(population=PopulationConfig(size=size)))
        # In a large population, a snapshot takes the place of a heartbeat, and carries the report before it.
        beats = max(0.0, posts - 1) if is_large else posts
        per_second = {"interval": size / INTERVAL_SECONDS, "heartbeat": size * beats / INTERVAL_SECONDS}
        done = dict.fromkeys(per_second, 0)
        while (elapsed := time.monotonic() - began) < seconds:
            for kind, rate in per_second.items():
                while done[kind] < elapsed * rate:
                    enrollment = self._enrolled[done[kind] % size]
                    is_interval = kind == "interval"
                    calls += self._complete_interval(enrollment, is_large) if is_interval else self._beat(enrollment)
                    done[kind] += 1
            self._answer(MOST_PENDING)
            time.sleep(0.002)
        self._answer(0)
        elapsed, used = time.monotonic() - began, cpu_seconds(self._process) - cpu
        answered, self._answered = tuple(self._answered), []
        return _Load(core_share=used / elapsed, calls=calls, cpu_seconds=used, answer_seconds=answered)

    def _complete_interval(self, enrollment: Enrollment, is_large: bool) -> int:
        origin = self._publish(enrollment)
        self._ask(origin)
        report = self._report(origin, ExchangeOutcome.GRAFTED)
        if is_large:
            self._unsent[enrollment.network_id] = report
            return 2
        self._post(enrollment, [report], None)
        return 3

    def _ask(self, origin: SnapshotInfo) -> None:
        """Request scions, and note when the answer comes. Ray calls back in a thread of its own."""
        asked = time.monotonic()
        call = self._coordinator.ask.remote(origin)
        call.future().add_done_callback(lambda _: self._answered.append(time.monotonic() - asked))
        self._pending.append(call)

    def _publish(self, enrollment: Enrollment) -> SnapshotInfo:
        interval = self._intervals[enrollment.network_id] = self._intervals.get(enrollment.network_id, 0) + 1
        origin = member_info(
            enrollment.network_id, interval, incarnation=enrollment.incarnation, created_at=time.time()
        )
        snapshot = PublishedSnapshot(origin=origin, information=(1.5,) * UNITS, payload=self._payload)
        earlier = self._unsent.pop(enrollment.network_id, None)
        self._post(enrollment, [*([earlier] if earlier else []), self._report(origin, None)], snapshot)
        return origin

    def _beat(self, enrollment: Enrollment) -> int:
        report = self._unsent.pop(enrollment.network_id, None)
        self._post(enrollment, [report] if report else [], None)
        return 1

    def _post(self, enrollment: Enrollment, reports: list[IntervalReport], snapshot: Any) -> None:
        call = self._coordinator.post.remote(enrollment.network_id, enrollment.incarnation, reports, snapshot)
        self._pending.append(call)

    def _answer(self, most: int) -> None:
        """Wait until at most so many calls are without an answer."""
        if len(self._pending) > most:
            ray.get(self._pending[: len(self._pending) - most], timeout=CALL_SECONDS)
            del self._pending[: len(self._pending) - most]

    def _report(self, origin: SnapshotInfo, outcome: ExchangeOutcome | None) -> IntervalReport:
        return IntervalReport(
            origin=origin,
            num_intervals=0,
            epoch=None,
            learning_rate=0.1,
            train_loss=1.0,
            train_metrics={},
            validation_metrics={},
            examples=128,
            examples_per_second=1000.0,
            seconds={"steps": 1.0, "graft": 0.1},
            grafts=0,
            outcome=outcome,
        )
