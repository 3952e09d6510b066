"""The folder of a run that has ended in order: three networks are done, of which one joined, and one has retired."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from inarch.population.config import RunConfig, to_dict
from inarch.population.evaluation.metrics import Metric
from inarch.population.membership.members import MemberRecord, MemberState
from inarch.population.persistence.checkpoint import Checkpoint, CheckpointId, CheckpointStore
from inarch.population.persistence.json_files import to_json
from inarch.population.persistence.storage import Storage
from inarch.population.tasks.run_spec import RunInfo

LAST = 4
"""Intervals of the schedule."""

INTERVALS = {0: range(1, LAST + 1), 1: range(1, LAST + 1), 2: range(1, 3), 3: range(3, LAST + 1)}
"""Intervals of each network. Network 2 retired, and network 3 joined."""


def members() -> list[MemberRecord]:
    """Return the members of the run."""
    states = {0: MemberState.DONE, 1: MemberState.DONE, 2: MemberState.RETIRED, 3: MemberState.DONE}
    return [MemberRecord(id=number, state=state, is_initial=number < 3) for number, state in states.items()]


def write_members(storage: Storage, records: list[MemberRecord]) -> None:
    """Write the record of the members."""
    content = {"state": "finished", "members": [dataclasses.asdict(member) for member in records]}
    storage.write("members/00000001.json", to_json(content))


def commit(storage: Storage, network_id: int, interval: int, *, outcome: str = "grafted") -> None:
    """Write the checkpoint of an interval, with its rows."""
    row: dict[str, Any] = {"network": network_id, "interval": interval, "incarnation": 1, "outcome": outcome}
    graft = {"rootstock": network_id, "scion": 1 - network_id % 2, "interval": interval, "incarnation": 1, "layer": "x"}
    CheckpointStore(storage).commit(
        Checkpoint(
            network_id=network_id,
            id=CheckpointId(incarnation=1, interval=interval),
            model={"x": torch.zeros(2)},
            tensors={"momentum": torch.zeros(2)},
            training={"interval": interval},
            rows={"metrics": [row], "grafts": [graft] if outcome == "grafted" else []},
        )
    )


def ended_run(folder: Path) -> Storage:
    """Write the folder."""
    storage = Storage(str(folder))
    metrics = (Metric(name="accuracy", form="{:.2%}"),)
    info = RunInfo(
        metrics=metrics,
        train_examples=96,
        data_bytes=0,
        data_fingerprint="",
        structure="",
        snapshot_bytes=8,
        parameters=2,
        num_intervals=LAST,
        steps_per_epoch=3,
    )
    content = {"config": to_dict(RunConfig(name="chaos")), "info": dataclasses.asdict(info), "model": "resnet8"}
    storage.write("config.json", to_json(content))
    for network_id, intervals in INTERVALS.items():
        for interval in intervals:
            commit(storage, network_id, interval)
    write_members(storage, members())
    rows = [{"network": member.id, "ended": member.state.value} for member in members()]
    storage.write("result.json", to_json({"run": "ended", "metrics": [], "networks": rows, "damaged_files": []}))
    return storage
