"""Measure the pace of three networks while a fourth is five times slower, in async and in lockstep mode."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence

import pyarrow.compute as pc

from inarch.actors import PopulationRun
from inarch.experiments.benchmarks.harness import Measurement, Must, Row, ratio
from inarch.experiments.benchmarks.runs import await_networks, own_ray
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
"""Factor by which network 0 is slower than the others."""

MODES: tuple[Mode, ...] = ("async", "lockstep")
UNHURT = Must(rule="at least", limit=0.95)


def straggler(
    *, repeats: int = 5, step_seconds: float = 0.05, interval_steps: int = 12, seconds: float = 12.0
) -> Measurement:
    """Measure the intervals per second of networks 1 to 3, with and without a straggler, in turns.

    Args:
        repeats: Number of turns. Each turn has four runs: both modes, with and without a straggler.
        step_seconds: Duration to which every step is padded, so that the number of cores does not limit the pace.
        interval_steps: Steps between grafts.
        seconds: Seconds for which each run is measured.
    """
    paces: dict[tuple[Mode, bool], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, own_ray():
        for _ in range(repeats):
            for mode in MODES:
                for is_slowed in (False, True):
                    config = _config(folder, mode, is_slowed, step_seconds=step_seconds, interval_steps=interval_steps)
                    paces.setdefault((mode, is_slowed), []).append(pace_of_others(config, seconds=seconds))
    limit = 1 / (step_seconds * interval_steps)
    rows = [Row(what="pace that the padding allows", unit="intervals/s", values=(limit,))]
    for mode in MODES:
        without, with_straggler = paces[mode, False], paces[mode, True]
        rows += [
            Row(what=f"{mode}, all equally fast", unit="intervals/s", values=tuple(without)),
            Row(what=f"{mode}, one {SLOWDOWN:g} times slower", unit="intervals/s", values=tuple(with_straggler)),
            ratio(
                f"{mode}: with / without the straggler", with_straggler, without, UNHURT if mode == "async" else None
            ),
        ]
    setting = {"networks": NETWORKS, "step_seconds": step_seconds, "interval_steps": interval_steps, "seconds": seconds}
    note = (
        "if the pace without a straggler is far below what the padding allows, the cores were too few, and the ratios "
        "are too good"
    )
    return Measurement(name="straggler", repeats=repeats, rows=tuple(rows), setting=setting, notes=(note,))


def pace_of_others(config: RunConfig, *, seconds: float) -> float:
    """Train a population for a while, and return the median pace of all networks but network 0.

    The pace is read from the committed history.

    Args:
        config: Configuration of the run. It must last longer than `seconds`.
        seconds: Seconds to train after every network has completed its first interval.

    Returns:
        Intervals per second.

    Raises:
        TimeoutError: A network did not complete its first interval in time.
    """
    run = PopulationRun.start(config, quiet=True)
    try:
        await_networks(run, config.population.size, lambda network: network.interval >= 1)
        time.sleep(seconds)
        run.stop()
    finally:
        run.close()
    rows = read_table(Storage(run.path), "metrics")
    others = range(1, config.population.size)
    return statistics.median(
        pace(rows.filter(pc.field("network") == network_id)["time"].to_pylist(), seconds) for network_id in others
    )


def pace(times: Sequence[float], seconds: float) -> float:
    """Return the pace of a network over its last `seconds`. Earlier, some other networks may not have started yet.

    Args:
        times: Time at which each interval ended, in seconds, ascending.
        seconds: Length of the counted time, which ends with the last interval.

    Returns:
        Intervals per second.

    Raises:
        ValueError: Fewer than two intervals ended in that time.
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
