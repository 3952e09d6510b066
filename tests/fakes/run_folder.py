"""The folder of a finished run, as files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from inarch.population.config import RunConfig, to_dict
from inarch.population.evaluation.metrics import Metric
from inarch.population.persistence.history import to_parquet
from inarch.population.persistence.storage import Storage

METRIC = Metric(name="accuracy", form="{:.2%}")


def run_folder(folder: Path, *, networks: int = 3, intervals: int = 8, layers: int = 4) -> Storage:
    """Write the files of a finished run, in which network 1 restarted at interval 5."""
    storage = Storage(str(folder))
    names = [f"layer{number}.weight" for number in range(layers)]
    rows: dict[str, list[dict[str, Any]]] = {"metrics": [], "grafts": [], "filters": []}
    for network in range(networks):
        for interval in range(1, intervals + 1):
            incarnation = 2 if network == 1 and interval >= 5 else 1
            key = {"network": network, "interval": interval, "incarnation": incarnation}
            progress = interval / intervals
            rows["metrics"].append(
                key
                | {"epoch": float(interval), "step": 3 * interval, "learning_rate": 0.1 * (1.0 - progress)}
                | {"train_loss": 2.0 - progress, "validation_accuracy": 0.5 + 0.4 * progress, "examples": 96}
                | {"examples_per_second": 100.0, "seconds_steps": 0.9, "outcome": "grafted", "grafts": interval}
                | {"time": 1000.0 + interval}
            )
            common = {"rootstock": network, "scion": (network - 1) % networks, "interval": interval}
            common |= {"incarnation": incarnation, "staleness_intervals": 0.5}
            rows["grafts"] += [common | {"layer": name, "alpha": 0.6} for name in names]
            measured = {"filters": 8, "invalid_0_1": 2, "mean_l1": 1.0}
            rows["filters"] += [key | measured | {"layer": name, "entropy": 1.5} for name in names]
    for table, content in rows.items():
        storage.write(f"{table}/all.parquet", to_parquet(content, table))
    info = {"metrics": [dataclasses.asdict(METRIC)], "parameters": 1234, "description": ["data: 96 train"]}
    config = to_dict(RunConfig(name="shown"))
    storage.write("config.json", json.dumps({"config": config, "info": info, "model": "resnet8"}).encode())
    events = [
        {"seconds": 1004.5, "kind": "loss", "network_id": 1, "detail": {"reason": "the node <died>"}},
        {"seconds": 1004.6, "kind": "restart", "network_id": 1, "detail": {"incarnation": 2}},
    ]
    members = [{"id": network, "state": "done"} for network in range(networks)]
    record = {"state": "finished", "message": "", "members": members, "events": events}
    storage.write("members/00000000.json", json.dumps(record).encode())
    results = [
        {
            "network": network,
            "ended": "done",
            "interval": intervals,
            "best_interval": intervals,
            "validation_score": 0.9,
            "grafts": intervals,
            "best": {"accuracy": 0.8125 + 0.01 * network},
            "last": {"accuracy": 0.8},
        }
        for network in range(networks)
    ]
    result = {
        "run": "shown",
        "task": "classification",
        "metrics": [dataclasses.asdict(METRIC)],
        "seconds": 12.0,
        "damaged_files": [],
        "evaluated_on": "test",
        "networks": results,
        "mean": {"accuracy": 0.8225},
        "best": networks - 1,
        "ensemble": {"accuracy": 0.8765},
        "soup": {"accuracy": 0.8432},
        "greedy_soup": None,
        "agreement": 0.91,
        "cosine": 0.987,
        "last": {"mean": {"accuracy": 0.8}, "agreement": 0.91, "cosine": 0.987},
        "regime": {"decay_times": [1.0, 2.0], "total_pull": None},
        "train": {"loss": 0.25},
    }
    storage.write("result.json", json.dumps(result).encode())
    return storage
