"""Companion that owns a cluster of several nodes on this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from inarch.experiments.benchmarks.processes.companion import serve
from inarch.population.errors import ConfigError

HEALTH = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "5"}
"""Settings with which Ray notices within seconds that a node is lost."""


class Nodes:
    """A cluster with a head node, and nodes that come and go."""

    def __init__(self, cpus: int) -> None:
        """Start the head node.

        Args:
            cpus: CPUs of the head node.
        """
        os.environ.update(HEALTH)
        import ray
        from ray.cluster_utils import Cluster

        head = {"num_cpus": cpus, "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._nodes: list[Any] = []
        ray.init(address=self._cluster.address, namespace="inarch", log_to_driver=False)

    @property
    def address(self) -> str:
        """Address of the cluster."""
        return str(self._cluster.address)

    def add(self, cpus: int) -> str:
        """Add a node, and return its id.

        Args:
            cpus: CPUs of the node.
        """
        self._nodes.append(self._cluster.add_node(num_cpus=cpus))
        return self._nodes[-1].node_id

    def remove(self) -> None:
        """Kill the node that was added first, with all that runs on it."""
        self._cluster.remove_node(self._nodes.pop(0), allow_graceful=False)

    def close(self) -> None:
        """End the cluster."""
        import ray

        ray.shutdown()
        self._cluster.shutdown()

    def answer(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """Answer a request.

        Args:
            name: Name of the request: address, add, remove, actors (names of all named actors) or close.
            arguments: Arguments of the request.

        Raises:
            ConfigError: There is no such request.
        """
        requests = {"add": self.add, "remove": self.remove, "close": self.close}
        if name == "address":
            return self.address
        if name == "actors":
            return self._actors()
        if name in requests:
            return requests[name](**arguments)
        raise ConfigError(f"there is no request {name!r}")

    def _actors(self) -> list[str]:
        from ray.util import list_named_actors

        actors: list[Any] = list_named_actors(all_namespaces=True)
        return [str(actor["name"]) for actor in actors]


def main() -> None:
    """Start a cluster, and answer requests."""
    serve(Nodes(int(sys.argv[1])).answer)


if __name__ == "__main__":
    main()
