"""What a trial shows, from the rows of its history."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from inarch.experiments.benchmarks.elastic.trial import FOUNDERS, INTERVALS_AFTER, Times

PHASES = ("steps", "evaluate", "stage", "publish", "fetch", "graft")
"""Phases of an interval whose seconds the history has, up to the time of its row."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """The rows of one network."""

    intervals: np.ndarray
    """Numbers of its intervals, ascending. Shape (rows,)."""
    times: np.ndarray
    """When they ended, in seconds of the machine's clock. Shape (rows,)."""
    first_began: float
    """When its first interval began, on the same clock."""

    def at(self, time: float) -> float:
        """Return how many intervals the network had completed, by linear interpolation.

        Args:
            time: A time of the machine's clock.
        """
        return float(np.interp(time, self.times, self.intervals))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measures:
    """What one trial shows. Paces are intervals per second, of the mean network."""

    first_step: float
    """Seconds from the nodes' appearance to the first step of the first newcomer."""
    all_steps: float
    """Seconds from the nodes' appearance to the first step of the last newcomer."""
    pace: float
    """Pace of the founders before the nodes appear."""
    pace_growing: float
    """Pace of the founders from the nodes' appearance to the first step of the last newcomer."""
    pace_together: float
    """Pace of the founders while all networks train, until the node is lost."""
    pace_after_loss: float
    """Pace of the networks on the other nodes, in their next `INTERVALS_AFTER` intervals after the node was lost."""
    founders: float
    """Mean accuracy of the founders' last weights, in percent."""
    stayed: float
    """The same of the newcomers that trained without interruption."""
    returned: float
    """The same of the newcomers whose node was lost. They went on later."""


def measures(times: Times, rows: pa.Table, *, step_seconds: float) -> Measures:
    """Return what a trial shows.

    Args:
        times: When the cluster changed.
        rows: The table `metrics` of the run.
        step_seconds: Duration of a training step.

    Raises:
        ValueError: A network has no rows.
    """
    progress = progress_by_network(rows)
    missing = times.accuracies.keys() - progress.keys()
    if missing:
        raise ValueError(f"networks without rows: {sorted(missing)}")
    founders = [progress[network_id] for network_id in range(FOUNDERS)]
    newcomers = sorted(progress.keys() - set(range(FOUNDERS)))
    stayed = [network_id for network_id in newcomers if network_id not in times.lost]
    first_steps = [progress[network_id].first_began + step_seconds for network_id in newcomers]
    others = [*founders, *(progress[network_id] for network_id in stayed)]
    start = max(float(founder.times[0]) for founder in founders)
    end = min(
        float(
            other.times[min(np.searchsorted(other.times, times.node_removed) + INTERVALS_AFTER, len(other.times) - 1)]
        )
        for other in others
    )
    return Measures(
        first_step=min(first_steps) - times.nodes_added,
        all_steps=max(first_steps) - times.nodes_added,
        pace=pace(founders, start, times.nodes_added),
        pace_growing=pace(founders, times.nodes_added, max(first_steps)),
        pace_together=pace(founders, max(first_steps), times.node_removed),
        pace_after_loss=pace(others, times.node_removed, end),
        founders=_mean(times.accuracies, range(FOUNDERS)),
        stayed=_mean(times.accuracies, stayed),
        returned=_mean(times.accuracies, times.lost),
    )


def progress_by_network(rows: pa.Table) -> dict[int, Progress]:
    """Return the progress of each network, by id.

    Args:
        rows: The table `metrics` of a run.
    """
    by_network: dict[int, list[Mapping[str, float]]] = {}
    for row in rows.select(["network", "interval", "time", *(f"seconds_{phase}" for phase in PHASES)]).to_pylist():
        by_network.setdefault(row["network"], []).append(row)
    result = {}
    for network_id, unsorted in by_network.items():
        ordered = sorted(unsorted, key=lambda row: row["interval"])
        first = ordered[0]
        result[network_id] = Progress(
            intervals=np.array([row["interval"] for row in ordered]),
            times=np.array([row["time"] for row in ordered]),
            first_began=first["time"] - sum(first[f"seconds_{phase}"] or 0.0 for phase in PHASES),
        )
    return result


def pace(networks: Sequence[Progress], began: float, ended: float) -> float:
    """Return the intervals per second of the mean network between two times.

    Args:
        networks: The networks, at least one.
        began: The earlier time.
        ended: The later time.
    """
    return statistics.fmean((network.at(ended) - network.at(began)) / (ended - began) for network in networks)


def _mean(accuracies: Mapping[int, float], network_ids: Iterable[int]) -> float:
    return statistics.fmean(accuracies[network_id] for network_id in network_ids)
