"""One trial: a run whose cluster gains two nodes and loses one. It is a process of its own, with a cluster of its own.

    python -m inarch.experiments.benchmarks.elastic.trial FOLDER SEED EPOCHS STEP_SECONDS

The last line that it prints is the trial's `Times` as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from inarch.actors import PopulationRun
from inarch.experiments.benchmarks.processes.nodes import Nodes
from inarch.experiments.recipes import digits
from inarch.population.config import DebugConfig, PopulationConfig, RunConfig, StragglerConfig, TimeoutsConfig
from inarch.population.errors import RunError

NAME = "elastic"
"""Name of the run in the trial's folder."""

FOUNDERS, LARGEST = 2, 6
"""Networks at the start, and with both nodes."""

SMALL_NODE, LARGE_NODE = 1, 3
"""CPUs of the nodes that are added. Each network takes one. The large node is lost again, so that 3 networks remain."""

INTERVALS_BEFORE = 6
"""Intervals of the founders before the nodes are added."""

INTERVALS_TOGETHER = 6
"""Intervals for which all networks train side by side."""

INTERVALS_AFTER = 6
"""Intervals that must still be left when the large node is lost, so that the pace of the others can be measured."""

WAIT_SECONDS = 240.0
"""Longest wait for a state of the run."""

END_SECONDS = 600.0
"""Longest wait for the end of the run."""

POLL_SECONDS = 0.2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Times:
    """When the cluster changed, in seconds of the machine's clock, and what it meant."""

    nodes_added: float
    """Both nodes have joined the cluster."""
    node_removed: float
    """The large node has been killed."""
    lost: tuple[int, ...]
    """Ids of the networks that trained on the large node."""
    accuracies: dict[int, float]
    """Accuracy of each network's last weights on the test data, in percent, by id."""


def config(folder: Path, *, seed: int, epochs: int, step_seconds: float) -> RunConfig:
    """Return the configuration of a trial.

    Args:
        folder: Folder that holds the run's folder.
        seed: Seed of the run.
        epochs: Epochs of the schedule. An epoch is an interval.
        step_seconds: Duration to which each training step is padded.
    """
    recipe = digits()
    return dataclasses.replace(
        recipe,
        name=NAME,
        storage=str(folder),
        seed=seed,
        population=PopulationConfig(size=FOUNDERS, max_size=LARGEST, cpus=1.0, scale_to="resources"),
        schedule=dataclasses.replace(recipe.schedule, epochs=epochs),
        timeouts=TimeoutsConfig(lease_seconds=10.0),
        debug=DebugConfig(straggler=StragglerConfig(step_seconds=step_seconds)),
    )


class Trial:
    """A run on a cluster that the trial changes."""

    def __init__(self, run_config: RunConfig, nodes: Nodes) -> None:
        """Start the run.

        Args:
            run_config: Its configuration.
            nodes: The cluster.
        """
        self._nodes = nodes
        self._epochs = int(run_config.schedule.epochs)
        self._run = PopulationRun.start(run_config, quiet=True)

    def play(self) -> Times:
        """Add both nodes, remove the large one, and wait for the end of the run.

        Raises:
            RunError: A network did not end its schedule.
            TimeoutError: The run did not get as far as needed in time, or its schedule is too short.
        """
        self._until("the founders train", lambda: self._has_trained(FOUNDERS, INTERVALS_BEFORE))
        large = self._nodes.add(LARGE_NODE)
        self._nodes.add(SMALL_NODE)
        nodes_added = time.time()
        self._until(f"{LARGEST} networks train", lambda: self._has_trained(LARGEST, 1))
        starts = self._intervals()
        self._until("they train side by side", lambda: self._have_gone_on(starts, INTERVALS_TOGETHER))
        if max(self._intervals().values()) > self._epochs - INTERVALS_AFTER:
            raise TimeoutError(f"{self._epochs} epochs were too few: the founders had nearly ended")
        lost = tuple(network.network_id for network in self._run.status().networks if network.node == large)
        self._nodes.remove()
        node_removed = time.time()
        result = self._run.wait(seconds=END_SECONDS)
        if not result.is_complete:
            raise RunError(f"not every network ended its schedule: {result.table}")
        return Times(
            nodes_added=nodes_added,
            node_removed=node_removed,
            lost=lost,
            accuracies={
                network.network_id: 100 * network.last["accuracy"] for network in result.networks if network.last
            },
        )

    def close(self) -> None:
        """Leave the run."""
        self._run.close()

    def _intervals(self) -> dict[int, int]:
        """Return the intervals of the networks that train, by id."""
        networks = self._run.status().networks
        return {network.network_id: network.interval for network in networks if network.state == "training"}

    def _has_trained(self, count: int, intervals: int) -> bool:
        """Return whether `count` networks train, each since at least some intervals."""
        current = self._intervals()
        return len(current) == count and min(current.values()) >= intervals

    def _have_gone_on(self, starts: dict[int, int], intervals: int) -> bool:
        current = self._intervals()
        return all(current.get(network_id, 0) >= start + intervals for network_id, start in starts.items())

    def _until(self, what: str, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {WAIT_SECONDS:g} s: {what}; {self._run.status()}")
            time.sleep(POLL_SECONDS)


def main() -> None:
    """Play a trial, and print its times."""
    folder, seed, epochs, step_seconds = sys.argv[1:]
    nodes = Nodes(FOUNDERS)
    try:
        run_config = config(Path(folder), seed=int(seed), epochs=int(epochs), step_seconds=float(step_seconds))
        trial = Trial(run_config, nodes)
        try:
            times = trial.play()
        finally:
            trial.close()
    finally:
        nodes.close()
    print(json.dumps(dataclasses.asdict(times)))


if __name__ == "__main__":
    main()
