"""Companion that owns a cluster of several nodes on this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from inarch.experiments.benchmarks.chaos.companions.companion import serve
from inarch.population.errors import ConfigError

HEALTH = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "5"}
"""Settings with which Ray notices within seconds that a node is lost."""

NODE_CPUS = 2


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

    def answer(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """Answer a request.

        Args:
            name: Name of the request: address, add, remove, actors (names of all named actors) or close.
            arguments: Arguments of the request. There are none.

        Raises:
            ConfigError: There is no such request.
        """
        import ray
        from ray.util import list_named_actors

        if name == "address":
            return self._cluster.address
        if name == "add":
            self._nodes.append(self._cluster.add_node(num_cpus=NODE_CPUS))
            return len(self._nodes)
        if name == "remove":
            self._cluster.remove_node(self._nodes.pop(0), allow_graceful=False)
            return len(self._nodes)
        if name == "actors":
            actors: list[Any] = list_named_actors(all_namespaces=True)
            return [str(actor["name"]) for actor in actors]
        if name == "close":
            ray.shutdown()
            self._cluster.shutdown()
            return None
        raise ConfigError(f"there is no request {name!r}")


def main() -> None:
    """Start a cluster, and answer requests."""
    serve(Nodes(int(sys.argv[1])).answer)


if __name__ == "__main__":
    main()
