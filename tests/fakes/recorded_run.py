"""The folder of a run, recorded by the simulator on virtual time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from inarch.population import RunConfig, Simulation, Simulator
from inarch.population.config import to_dict
from inarch.population.persistence.checkpoint import CheckpointStore
from inarch.population.persistence.storage import Storage
from inarch.population.tasks.built_in import resolve_task


def record_run(folder: Path, config: RunConfig, **options: Any) -> Simulation:
    """Simulate a run of the data that its configuration names, and write its folder.

    Args:
        folder: The run's folder.
        config: Its configuration.
        options: Options of the `Simulator`, such as events.
    """
    task = resolve_task(config.task)
    data = task.load_data(config)
    store = CheckpointStore(Storage(str(folder)), keep=config.checkpoint.keep)
    simulation = Simulator(config, lambda: task.bind(config, data), checkpoints=store, **options).run()
    info = {"data_fingerprint": task.bind(config, data).describe().data_fingerprint, "metrics": []}
    recorded = {"config": to_dict(config), "model": config.model.architecture, "info": info}
    (folder / "config.json").write_text(json.dumps(recorded))
    return simulation
