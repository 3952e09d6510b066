"""Companion that joins a run as a guest, and exchanges weights until it is killed."""

from __future__ import annotations

import sys
import time
from typing import Any

from inarch.actors import join
from inarch.experiments.benchmarks.processes.companion import serve
from inarch.population.tasks.built_in import task_of
from inarch.population.tasks.run_folder import find_run, read_config, recorded_config, with_own_data
from inarch.population.tasks.run_spec import RunSpec

PAUSE_SECONDS = 0.5
"""Pause between two exchanges."""


def guest_model(path: str) -> Any:
    """Return a model of the run's architecture.

    Args:
        path: Folder of the run.
    """
    storage = find_run(path)
    config = with_own_data(recorded_config(storage, read_config(storage)), storage)
    task = task_of(RunSpec(name=str(config.name), folder=storage.uri, config=config, factory=None, task=None))
    return task.bind(config, task.load_data(config), begins_trained=False).build(0)


def main() -> None:
    """Join the run whose folder the command line names. The request `exchange` exchanges `during` seconds."""
    path, address = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None
    member = join(path, guest_model(path), name="chaos-guest", begin="clone", address=address)

    def answer(name: str, arguments: Any) -> int:
        deadline = time.monotonic() + float(arguments["during"])
        while time.monotonic() < deadline and not member.should_stop:
            member.exchange()
            time.sleep(PAUSE_SECONDS)
        return member.interval

    serve(answer)


if __name__ == "__main__":
    main()
