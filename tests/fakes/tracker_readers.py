"""What trackers hold, read by their own libraries: steps and values, by key and name."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Points = dict[str, dict[str, list[tuple[int, float]]]]
"""Steps and values by key (`network-ID` or `population`) and name."""


def tensorboard_points(folder: Path) -> Points:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    points: Points = {}
    for part in folder.iterdir():
        if part.is_dir():
            events = EventAccumulator(str(part)).Reload()
            names = events.Tags()["scalars"]
            points[part.name] = {name: [(event.step, event.value) for event in events.Scalars(name)] for name in names}
    return points


def mlflow_runs(uri: str) -> dict[str, Any]:
    """Return MLflow's runs by key."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("inarch")
    assert experiment is not None
    return {run.data.tags["inarch.key"]: run for run in client.search_runs([experiment.experiment_id])}


def mlflow_points(uri: str) -> Points:
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    points: Points = {}
    for key, run in mlflow_runs(uri).items():
        history = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
        points[key] = {
            name: sorted((metric.step, metric.value) for metric in values) for name, values in history.items()
        }
    return points


def wandb_points(folder: Path, *, run_name: str) -> Points:
    points: Points = {}
    for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        key = ""
        for record in _wandb_records(file):
            if record.WhichOneof("record_type") == "run":
                assert record.run.run_group == run_name
                key = record.run.display_name.removeprefix(run_name).removeprefix("/") or "population"
            if record.WhichOneof("record_type") == "history":
                row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
                step = row["interval" if key == "population" else "step"]
                for name, value in row.items():
                    points.setdefault(key, {}).setdefault(name, []).append((step, value))
    return points


def _wandb_records(file: Path) -> Iterator[Any]:
    """Yield the records of a .wandb file, as messages of wandb's own protocol.

    wandb has no reader of its own files in Python. They are logs of LevelDB: blocks of 32 KiB, of records with a
    checksum, a length and a type (1 whole, 2 first, 3 middle, 4 last), after a header of 7 bytes.
    """
    from wandb.proto import wandb_internal_pb2

    content, place, parts = file.read_bytes(), 7, b""
    while place + 7 <= len(content):
        rest = 32768 - place % 32768
        if rest < 7:
            place += rest
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()  # pyright: ignore[reportAttributeAccessIssue] # made at run time
            record.ParseFromString(parts)
            yield record
            parts = b""
