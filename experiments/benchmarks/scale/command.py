"""The command `inarch bench scale`."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from inarch.actors.messages import heartbeat_seconds
from inarch.experiments.benchmarks.harness import machine
from inarch.experiments.benchmarks.scale.gossip_matrix import donor_table, second_eigenvalue
from inarch.experiments.benchmarks.scale.simulation import Quadratic, Setting, Trace, simulate
from inarch.population.config import PopulationConfig, RunConfig, TopologyConfig
from inarch.population.errors import ConfigError
from inarch.population.membership.topology import check_topology
from inarch.population.persistence.paths import prepare_file

SIZES = (100, 1000, 10_000)
TOPOLOGIES = ("ring", "bidirectional_ring", "torus", "random_regular", "one_peer", "exponential", "complete")

INTERVAL_SECONDS = 30.0
"""Length of an interval for the number of calls and reads a second."""

SHOWN_AT = (1, 2, 5, 10, 20, 50, 100)
"""Intervals after which the JSON has the consensus distance."""


@dataclass(frozen=True, kw_only=True)
class ScaleRow:
    """A topology at one size."""

    topology: str
    size: int
    eigenvalue: float
    """Second eigenvalue of the gossip matrix for an interval."""
    mixing_predicted: float
    """Intervals in which the slowest difference between networks shrinks to 1/e, by the eigenvalue."""
    mixing_measured: float
    """The same, measured without training in lockstep."""
    agree_lockstep: float
    """Without training, from independent weights, in lockstep: intervals until the consensus distance is a tenth of
    that at the start. Infinite if that did not happen."""
    agree_async: float
    """The same in asynchronous exchange."""
    gossip_distance: dict[str, float]
    """Asynchronous exchange without training: consensus distance by interval, as a share of that at the start."""
    distance: float
    """With training, asynchronously: consensus distance from the middle of the run until the first network ends, as a
    share of that without exchange."""
    distance_by_interval: dict[str, float]
    """The same by interval."""
    loss: float
    """Mean loss above the optimum's in that time, as a share of that of networks without exchange."""
    mean_network_loss: float
    """Loss of the mean network, as the same share."""
    staleness_mean: float
    """Mean staleness of the scions, in intervals."""
    staleness_99: float
    """The staleness that 1 of 100 scions exceeds."""
    refused: float
    """Share of the exchanges without a graft."""
    calls_per_second: float
    """Calls to the coordinator at intervals of 30 s."""
    reads_per_second: float
    """Snapshots read at intervals of 30 s."""
    seconds: float
    """Time of the simulation."""


def scale(
    *,
    sizes: tuple[int, ...] = SIZES,
    topologies: tuple[str, ...] = TOPOLOGIES,
    intervals: int = 100,
    spread: float = 0.2,
    seed: int = 0,
    out: str | None = None,
) -> int:
    """Simulate large populations: how soon networks agree, by topology and size.

    The networks are vectors that train on a quadratic with a known optimum, asynchronously and at different paces.
    inarch's topologies choose their donors, and its rules of staleness weigh the scions. The table sets the measured
    time in which differences shrink beside the prediction from the second eigenvalue of the gossip matrix.

    Args:
        sizes: Sizes of the population.
        topologies: Names of topologies, or module:function.
        intervals: Intervals of each network, at least 20.
        spread: Networks differ in pace: their mean intervals lie within 1 - SPREAD and 1 + SPREAD.
        seed: Seed of weights, noise and paces.
        out: File for the results as JSON.
    """
    if intervals < 20:
        raise ConfigError(f"intervals must be at least 20, got {intervals}")
    if min(sizes) < 3:
        raise ConfigError(f"sizes must be at least 3, got {min(sizes)}")
    if not 0 <= spread <= 0.4:
        raise ConfigError(f"spread must lie in [0, 0.4], got {spread}")
    file = None if out is None else prepare_file(out)
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    rows: list[ScaleRow] = []
    for name in topologies:
        topology = TopologyConfig(name=name)
        check_topology(topology)
        for size in sizes:
            setting = Setting(topology=topology, size=size, intervals=intervals, spread=spread, seed=seed)
            rows.append(scale_row(setting))
            console.print(f"{name}, {size:,} networks: {rows[-1].seconds:.1f} s")
            if file is not None:  # after each, so that a command that is interrupted leaves its results
                results = content(rows, intervals=intervals, spread=spread, seed=seed)
                file.write_text(json.dumps(results, indent=2) + "\n")
    Console(width=None if console.is_terminal else 160, markup=False, emoji=False).print(table(rows))
    if file is not None:
        console.print(f"written to {out}")
    return 0


def scale_row(setting: Setting) -> ScaleRow:
    """Simulate one topology at one size.

    Args:
        setting: The population.
    """
    began, random, quadratic = time.perf_counter(), np.random.default_rng(setting.seed), Quadratic()
    table = donor_table(setting.topology, setting.size, setting.intervals, seed=setting.seed)
    eigenvalue, slowest = second_eigenvalue(table, setting.alpha, seed=setting.seed)
    white = random.standard_normal((setting.size, quadratic.dimensions))
    in_lockstep = dataclasses.replace(setting, is_lockstep=True)
    wave, gossip_in_lockstep = simulate(in_lockstep, table, slowest), simulate(in_lockstep, table, white)
    gossip = simulate(setting, table, white)
    trained = simulate(setting, table, white * np.sqrt(quadratic.variances_alone), training=quadratic)
    start, alone = float(np.sqrt(((white - white.mean(0)) ** 2).sum(1).mean())), quadratic.distance_alone
    all_train = 0.95 * (1 - setting.spread) * setting.intervals  # then the fastest network ends
    is_late = (trained.times >= 0.5 * setting.intervals) & (trained.times <= all_train)
    calls = 1 / INTERVAL_SECONDS + max(1 / INTERVAL_SECONDS, 1 / _heartbeat(setting.size))
    return ScaleRow(
        topology=setting.topology.name,
        size=setting.size,
        eigenvalue=eigenvalue,
        mixing_predicted=_mixing(math.log(eigenvalue)) if eigenvalue else 0.0,
        mixing_measured=_mixing(_rate(wave)),
        agree_lockstep=_agreement(gossip_in_lockstep, start),
        agree_async=_agreement(gossip, start),
        gossip_distance=_shown(gossip, start),
        distance=float(trained.distance[is_late].mean()) / alone,
        distance_by_interval=_shown(trained, alone),
        loss=float(trained.loss[is_late].mean()) / quadratic.loss_alone,
        mean_network_loss=float(trained.mean_loss[is_late].mean()) / quadratic.loss_alone,
        staleness_mean=float(trained.staleness.mean()),
        staleness_99=float(np.quantile(trained.staleness, 0.99)),
        refused=1 - len(trained.staleness) / trained.exchanges,
        calls_per_second=setting.size * calls,
        reads_per_second=len(trained.staleness) / setting.intervals / INTERVAL_SECONDS,
        seconds=time.perf_counter() - began,
    )


def _heartbeat(size: int) -> float:
    return heartbeat_seconds(RunConfig(population=PopulationConfig(size=size)))


def _rate(trace: Trace) -> float:
    """Return the logarithm of the factor by which the consensus distance shrank in an interval, over the second half.

    Differences that have become as small as rounding say nothing. The half before them is used then.
    """
    usable = trace.distance > 1e-12
    times, logs = trace.times[usable], np.log(trace.distance[usable])
    half = times >= times[-1] / 2
    return float((logs[half][-1] - logs[half][0]) / (times[half][-1] - times[half][0])) if half.sum() > 1 else -math.inf


def _agreement(trace: Trace, start: float) -> float:
    """Return when the consensus distance has fallen to a tenth of that at the start."""
    reached = np.flatnonzero(trace.distance <= 0.1 * start)
    return float(trace.times[reached[0]]) if len(reached) else math.inf


def _mixing(rate: float) -> float:
    """Return the intervals in which a difference shrinks to 1/e."""
    return math.inf if rate >= 0 else -1 / rate


def _shown(trace: Trace, unit: float) -> dict[str, float]:
    """Return the consensus distance after some intervals."""
    return {
        str(interval): float(np.interp(interval, trace.times, trace.distance)) / unit
        for interval in SHOWN_AT
        if interval <= trace.times[-1]
    }


COLUMNS = {
    "topology": "topology",
    "size": "networks",
    "eigenvalue": "second eigenvalue",
    "mixing_predicted": "predicted",
    "mixing_measured": "measured",
    "agree_lockstep": "lockstep",
    "agree_async": "async",
    "distance": "distance",
    "loss": "loss",
    "mean_network_loss": "loss of the mean",
    "staleness_mean": "staleness",
    "refused": "no graft",
    "calls_per_second": "calls/s",
}
"""Columns of the table, by the field of a row."""

TITLE = (
    "scale: intervals until the slowest difference has shrunk to 1/e, predicted and measured; until the distance "
    "between independent networks is a tenth of that at the start, in both modes; with training: distance and losses "
    "as shares of those without exchange"
)
"""Title of the table."""


def table(rows: Sequence[ScaleRow]) -> Table:
    """Return the table of the command.

    Args:
        rows: A row for each topology and size.
    """
    result = Table(title=TITLE)
    for name in COLUMNS.values():
        result.add_column(name, justify="left" if name == "topology" else "right")
    for row in rows:
        values = dataclasses.asdict(row)
        result.add_row(*(_text(values[field]) for field in COLUMNS))
    return result


def _text(value: str | float) -> str:
    if isinstance(value, (str, int)):
        return value if isinstance(value, str) else f"{value:,}"
    if math.isinf(value):
        return "-"
    if value > 0.999 and value < 1:
        return f"1 - {1 - value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def content(rows: Sequence[ScaleRow], *, intervals: int, spread: float, seed: int) -> dict[str, Any]:
    """Return the results in JSON's types. An infinite time is null.

    Args:
        rows: A row for each topology and size.
        intervals: Intervals of each network.
        spread: Spread of the paces.
        seed: Seed of the simulation.
    """
    without_infinity = [
        {
            name: None if isinstance(value, float) and math.isinf(value) else value
            for name, value in dataclasses.asdict(row).items()
        }
        for row in rows
    ]
    setting = {"intervals": intervals, "spread": spread, "seed": seed, "quadratic": dataclasses.asdict(Quadratic())}
    return {"name": "scale", "machine": machine(), "setting": setting, "rows": without_infinity}
