"""Runs on clusters of several nodes on this machine, whose nodes appear and leave. Prints what was seen as JSON.

    python -m tests.integration.elastic_run SCENARIO CONFIG

It is a process of its own, because a process is connected to one cluster only.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.update(RAY_health_check_period_ms="1000", RAY_health_check_failure_threshold="5")

import ray
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.cluster_utils import Cluster

from inarch.actors import PopulationRun, RunStatus
from inarch.actors.messages import Event, NetworkStatus
from inarch.population.config import RunConfig, from_dict
from tests.integration.runs import ARRAYS, until


class Scenario:
    """A run on a cluster, and the nodes that were added to it."""

    def __init__(self, config: RunConfig, *, cpus: int) -> None:
        head = {"num_cpus": cpus, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        if config.population.num_to_begin > cpus:
            self.cluster.add_node(num_cpus=config.population.size - cpus)
        ray.init(address=self.cluster.address, namespace="inarch", log_to_driver=False)
        self.config, self.run = config, PopulationRun.start(config, data=ARRAYS, quiet=True)
        self.events: list[Event] = []
        threading.Thread(target=self._follow, daemon=True).start()
        self.facts: dict[str, Any] = {}

    def _follow(self) -> None:
        for event in self.run.events():
            self.events.append(event)

    def networks(self, *states: str) -> list[NetworkStatus]:
        """Return the networks in some states, by default those that train."""
        status: RunStatus = self.run.status()
        return [network for network in status.networks if network.state in (states or ("training",))]

    def until(self, condition: Callable[[], Any]) -> None:
        """Wait for a condition. If it does not come true in time, show the status."""
        try:
            until(condition, seconds=120.0)
        except AssertionError:
            print(self.run.status(), file=sys.stderr)
            raise

    def status(self, network_id: int) -> NetworkStatus:
        return next(n for n in self.run.status().networks if n.network_id == network_id)

    def num_training(self) -> int:
        return len(self.networks("training"))


def grow(world: Scenario) -> None:
    """2 networks, then two nodes with room for four more, then one of these nodes leaves, and another appears."""
    world.until(lambda: world.num_training() == 2 and min(n.interval for n in world.networks()) >= 1)
    nodes = [world.cluster.add_node(num_cpus=2) for _ in range(2)]
    appeared = time.time()
    world.until(lambda: world.num_training() == 6)
    joins = [event.seconds for event in world.events if event.kind == "join"]
    world.facts["first_join_seconds"] = joins[2] - appeared
    world.until(lambda: len({n.network_id for n in world.networks() if n.interval > 0}) == 6)
    time.sleep(10.0)
    world.facts["grown"] = sorted(n.network_id for n in world.networks())
    on_node = {n.network_id for n in world.networks() if n.node == nodes[0].node_id}
    world.facts["lost"] = sorted(on_node)
    world.cluster.remove_node(nodes[0], allow_graceful=False)
    world.until(lambda: world.num_training() == 4)
    position = {n.network_id: n.interval for n in world.networks()}
    world.until(lambda: all(n.interval >= position[n.network_id] + 3 for n in world.networks()))
    waiting = world.networks("starting", "lost")
    world.facts["waiting"] = sorted(network.network_id for network in waiting)
    world.facts["size_after_loss"] = len(world.run.status().networks)
    world.cluster.add_node(num_cpus=2)
    world.until(lambda: world.num_training() == 6)
    world.run.stop(seconds=90)


def ask(world: Scenario) -> None:
    """One network waits beside the 2 for which there is room. A node is added for it, on which a fourth fits too."""
    world.until(lambda: world.num_training() == 2 and world.networks("starting"))
    time.sleep(10.0)
    address = ray.get_runtime_context().gcs_address
    demands = get_cluster_status(address).resource_demands.ray_task_actor_demand
    world.facts["demands"] = [(dict(b.bundle), b.count) for demand in demands for b in demand.bundles_by_count]
    world.facts["size_before"] = len(world.run.status().networks)
    world.cluster.add_node(num_cpus=3)
    world.until(lambda: world.num_training() == 4)
    time.sleep(8.0)
    world.facts["size_after"] = len(world.run.status().networks)
    world.run.stop(seconds=90)


def missing(world: Scenario) -> None:
    """Two of four networks, for which there is room. Then a node with room for the other two is added."""
    world.until(lambda: world.num_training() == 2 and min(n.interval for n in world.networks()) >= 2)
    world.facts["first"] = sorted(n.network_id for n in world.networks())
    world.cluster.add_node(num_cpus=2)
    world.until(lambda: world.num_training() == 4)
    position = {n.network_id: n.interval for n in world.networks()}
    world.until(lambda: all(n.interval >= position[n.network_id] + 2 for n in world.networks()))
    world.facts["all"] = [network.network_id for network in world.run.status().networks]
    world.run.stop(seconds=90)


def move(world: Scenario) -> None:
    """Three networks on two full nodes. A node with room for two is added, and then the others' node is drained.

    Afterwards a network of the head node gets SIGTERM.
    """
    world.until(lambda: world.num_training() == 3 and min(n.interval for n in world.networks()) >= 1)
    assert world.cluster.head_node is not None
    head = world.cluster.head_node.node_id
    (mover,) = [n.network_id for n in world.networks() if n.node != head]
    added = world.cluster.add_node(num_cpus=2)
    drain = ["drain-node", "--address", world.cluster.address, "--node-id", world.status(mover).node]
    drain += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "test"]
    drain += ["--deadline-remaining-seconds", "60"]
    subprocess.run([str(Path(sys.executable).with_name("ray")), *drain], check=True, capture_output=True)
    world.until(lambda: (n := world.status(mover)).incarnation == 2 and n.state == "training")
    world.facts["mover"] = mover
    world.facts["is_elsewhere"] = world.status(mover).node == added.node_id
    victim = next(n for n in world.networks() if n.node == head)
    world.facts["victim"] = victim.network_id
    assert victim.process is not None
    os.kill(victim.process, signal.SIGTERM)
    world.until(lambda: (n := world.status(victim.network_id)).incarnation == 2 and n.state == "training")
    position = {n.network_id: n.interval for n in world.networks()}
    world.until(lambda: all(n.interval >= position[n.network_id] + 2 for n in world.networks()))
    world.run.stop(seconds=90)
    world.facts["events"] = [event.kind for event in world.events if event.kind in ("loss", "failure", "restart")]


def bereave(world: Scenario) -> None:
    """Three networks in lockstep. The node of one of them is lost, and there is no place for it elsewhere."""
    world.until(lambda: world.num_training() == 3 and min(n.interval for n in world.networks()) >= 1)
    (node,) = world.cluster.worker_nodes
    lost = next(n.network_id for n in world.networks() if n.node == node.node_id)
    world.cluster.remove_node(node, allow_graceful=False)
    removed = time.monotonic()
    world.until(lambda: world.num_training() == 2)
    position = max(n.interval for n in world.networks())
    world.until(lambda: min(n.interval for n in world.networks()) >= position + 3)
    world.facts["seconds"] = time.monotonic() - removed
    world.cluster.add_node(num_cpus=1)
    world.until(lambda: world.num_training() == 3)
    world.until(lambda: world.status(lost).interval > position + 3)
    world.run.stop(seconds=90)


def turns(world: Scenario) -> None:
    """Four networks on room for two, to the end of their schedule."""
    thread = threading.Thread(target=world.run.wait, kwargs={"seconds": 300.0})
    thread.start()
    world.facts["leads"] = []
    while thread.is_alive():
        intervals = [network.interval for network in world.run.status().networks]
        world.facts["leads"].append(max(intervals) - min(intervals))
        world.facts["most_training"] = max(world.facts.get("most_training", 0), world.num_training())
        time.sleep(0.3)
    times = {kind: [event.seconds for event in world.events if event.kind == kind] for kind in ("pause", "join")}
    later_joins = times["join"][world.facts["most_training"] :]
    pairs = zip(times["pause"], later_joins, strict=False)  # the last joins follow networks that have finished
    world.facts["idle_seconds"] = [join - pause for pause, join in pairs]


SCENARIOS: dict[str, Callable[[Scenario], None]] = {
    "bereave": bereave,
    "grow": grow,
    "ask": ask,
    "missing": missing,
    "move": move,
    "turns": turns,
}
"""Scenarios by name. The head node has two CPUs."""


def main() -> None:
    play = SCENARIOS[sys.argv[1]]
    world = Scenario(from_dict(RunConfig, json.loads(sys.argv[2])), cpus=2)
    try:
        play(world)
        world.facts["networks"] = {
            n.network_id: {"state": n.state, "interval": n.interval, "incarnation": n.incarnation}
            for n in world.run.status().networks
        }
        print(json.dumps(world.facts))
    finally:
        ray.shutdown()
        world.cluster.shutdown()


if __name__ == "__main__":
    main()
