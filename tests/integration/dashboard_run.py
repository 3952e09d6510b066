"""A program of test_dashboard.py: it trains a population on a Ray with a dashboard, and prints what Ray shows of it."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import ray
from ray.util.state import list_actors

from inarch.actors import PopulationRun
from inarch.population import MetricsConfig, TimeoutsConfig
from tests.conftest import small_config
from tests.integration.runs import ARRAYS, paced


def command_lines() -> list[str]:
    """Titles of the processes that Ray has started for actors."""
    titles = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            titles.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace").strip())
        except OSError:
            continue
    return [title for title in titles if title.startswith("ray::")]


def main(folder: str, metrics_port: str) -> None:
    context: Any = ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=True,
        log_to_driver=False,
        namespace="inarch",
        _metrics_export_port=int(metrics_port),
        _system_config={"metrics_report_interval_ms": 1000},
    )
    timeouts = TimeoutsConfig(lease_seconds=60.0)
    settings = paced(16, 0.5, metrics=MetricsConfig(per_network=True), timeouts=timeouts)
    run = PopulationRun.start(small_config(name="shown", storage=folder, **settings), data=ARRAYS)
    while min((network.interval for network in run.status().networks), default=0) < 2:
        time.sleep(0.2)
    running = command_lines()
    run.wait(seconds=120)
    time.sleep(5.0)  # until the exits of the networks are recorded
    run.close()
    time.sleep(2.0)
    listed: Any = list_actors(detail=True)
    actors = [
        {"name": actor.name, "class": actor.class_name, "state": actor.state, "cause": str(actor.death_cause)}
        for actor in listed
    ]
    logs = Path(context.address_info["session_dir"]) / "logs"
    errors = {path.name: path.read_text(errors="replace") for path in logs.glob("worker-*.err")}
    print(json.dumps({"actors": actors, "running": running, "errors": errors}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
