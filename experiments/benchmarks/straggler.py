"""The pace of three networks while a fourth is five times slower: asynchronous, and in lockstep beside it."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence

import pyarrow.compute as pc

from inarch.actors import PopulationRun
from inarch.experiments.benchmarks.harness import Measurement, Must, Row, ratio
from inarch.experiments.benchmarks.runs import own_ray
from inarch.population.config import (
    DataConfig,
    DebugConfig,
    Mode,
    ModelConfig,
    PopulationConfig,
    RunConfig,
    ScheduleConfig,
    StragglerConfig,
)
from inarch.population.persistence.history import read_table
from inarch.population.persistence.storage import Storage

NETWORKS = 4
SLOWDOWN = 5.0
"""Of network 0."""

MODES: tuple[Mode, ...] = ("async", "lockstep")
UNHURT = Must(rule="at least", limit=0.95)
START_SECONDS = 120.0
POLL_SECONDS = 0.2


def straggler(
    *, repeats: int = 5, step_seconds: float = 0.05, interval_steps: int = 12, seconds: float = 12.0
) -> Measurement:
    """Intervals a second of networks 1 to 3, with and without a straggler, in turns.

    Args:
        repeats: Turns of four runs each.
        step_seconds: What every step is padded to, so that cores are not what there is too little of.
        interval_steps: Steps between grafts.
        seconds: How long each run is measured.
    """
    found: dict[tuple[Mode, bool], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, own_ray():
        for _ in range(repeats):
            for mode in MODES:
                for is_slowed in (False, True):
                    config = _config(folder, mode, is_slowed, step_seconds=step_seconds, interval_steps=interval_steps)
                    found.setdefault((mode, is_slowed), []).append(pace_of_others(config, seconds=seconds))
    limit = 1 / (step_seconds * interval_steps)
    rows = [Row(what="what the padding alone allows", unit="intervals/s", values=(limit,))]
    for mode in MODES:
        alone, beside = found[mode, False], found[mode, True]
        rows += [
            Row(what=f"{mode}, all alike", unit="intervals/s", values=tuple(alone)),
            Row(what=f"{mode}, one {SLOWDOWN:g} times slower", unit="intervals/s", values=tuple(beside)),
            ratio(f"{mode}: with / without the straggler", beside, alone, UNHURT if mode == "async" else None),
        ]
    setting = {"networks": NETWORKS, "step_seconds": step_seconds, "interval_steps": interval_steps, "seconds": seconds}
    note = "where all alike stay far below what the padding allows, cores were too few, and the ratios flatter"
    return Measurement(name="straggler", repeats=repeats, rows=tuple(rows), setting=setting, notes=(note,))


def pace_of_others(config: RunConfig, *, seconds: float) -> float:
    """Intervals a second of every network but 0, their median, from what they committed.

    Args:
        config: Of a run that would last longer.
        seconds: Measured once every network has an interval behind it.

    Raises:
        TimeoutError: some network had no interval behind it in time.
    """
    run = PopulationRun.start(config)
    try:
        _await_first_intervals(run, config.population.size)
        time.sleep(seconds)
        run.stop()
    finally:
        run.close()
    rows = read_table(Storage(run.path), "metrics")
    others = range(1, config.population.size)
    return statistics.median(
        pace(rows.filter(pc.field("network") == network)["time"].to_pylist(), seconds) for network in others
    )


def pace(times: Sequence[float], seconds: float) -> float:
    """Intervals a second over the last `seconds`: before, some of the networks were still being placed.

    Args:
        times: When each interval ended.
        seconds: How far to look back.

    Raises:
        ValueError: no two intervals ended in that time.
    """
    counted = [time for time in times if time >= times[-1] - seconds]
    if len(counted) < 2:
        raise ValueError(f"no two intervals ended in {seconds:g} s; measure for longer")
    return (len(counted) - 1) / (counted[-1] - counted[0])


def _config(folder: str, mode: Mode, is_slowed: bool, *, step_seconds: float, interval_steps: int) -> RunConfig:
    return RunConfig(
        name=f"bench-straggler-{time.time_ns()}",
        storage=folder,
        mode=mode,
        model=ModelConfig(architecture="resnet8"),
        data=DataConfig(train="digits", augmentation="crop", padding=1),
        population=PopulationConfig(size=NETWORKS),
        schedule=ScheduleConfig(epochs=10_000, batch_size=16, interval_steps=interval_steps, lr_decay="constant"),
        debug=DebugConfig(
            straggler=StragglerConfig(step_seconds=step_seconds, slowdowns=(SLOWDOWN,) if is_slowed else ())
        ),
    )


def _await_first_intervals(run: PopulationRun, size: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        found = run.status().networks
        if len(found) == size and all(network.interval >= 1 for network in found):
            return
        time.sleep(POLL_SECONDS)
    raise TimeoutError(f"not every network had an interval behind it after {START_SECONDS:g} s")
