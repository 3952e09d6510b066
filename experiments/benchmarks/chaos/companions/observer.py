"""Companion that is attached to a run: it reports the run's status, and scales and stops the run."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from inarch.actors import PopulationRun
from inarch.experiments.benchmarks.processes.companion import serve
from inarch.population.errors import ConfigError


def answer(run: PopulationRun, name: str, arguments: Mapping[str, Any]) -> Any:
    """Answer a request.

    Args:
        run: The run.
        name: Name of the request: status or scale.
        arguments: Arguments of the request.

    Raises:
        InarchError: The run refuses the request, or does not answer.
    """
    if name == "scale":
        return run.scale(arguments["size"])
    if name != "status":
        raise ConfigError(f"there is no request {name!r}")
    status = run.status()
    return {
        "state": status.state,
        "message": status.message,
        "coordinator": status.coordinator_process,
        "networks": [
            {
                "id": network.network_id,
                "name": network.name,
                "state": network.state,
                "incarnation": network.incarnation,
                "interval": network.interval,
                "process": network.process,
            }
            for network in status.networks
        ],
    }


def main() -> None:
    """Attach to the run whose folder the command line names, and answer requests."""
    run = PopulationRun.attach(sys.argv[1], address=sys.argv[2] if len(sys.argv) > 2 else None)
    serve(lambda name, arguments: answer(run, name, arguments))


if __name__ == "__main__":
    main()
