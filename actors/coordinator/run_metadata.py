"""What a run's coordinator writes into its folder: the configuration once, the members whenever they change."""

from __future__ import annotations

import dataclasses
import json
import platform
from typing import Any

import numpy
import ray
import torch
import torchvision

from inarch.actors.resources import NetworkResources
from inarch.population.config import to_dict
from inarch.population.data import report_from
from inarch.population.errors import DataError, MissingError, RunError, StorageError, StructureError
from inarch.population.membership.members import Member, Members, MemberState
from inarch.population.persistence.claim import check_holds
from inarch.population.persistence.storage import Storage, joined
from inarch.population.tasks.run_spec import RunInfo, RunSpec


def write_config(storage: Storage, spec: RunSpec, info: RunInfo) -> None:
    """config.json: the whole configuration, what was found of data and network, versions that decide numbers."""
    content = {
        "config": to_dict(spec.config),
        "model": "callable" if spec.factory is not None else spec.config.model.architecture,
        "info": dataclasses.asdict(info),
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "torchvision": str(torchvision.__version__),
            "numpy": numpy.__version__,
            "ray": ray.__version__,
        },
    }
    storage.replace("config.json", json.dumps(content, indent=2).encode())
    if info.data is not None and info.data.unreadable:
        storage.write("data/unreadable.txt", "\n".join(info.data.unreadable).encode(errors="backslashreplace"))


def update_config(storage: Storage, spec: RunSpec, info: RunInfo) -> None:
    """Record a resumed run's configuration where it is another: more epochs, data that were moved. The result of the
    shorter schedule is kept as results/EPOCHS-epochs.json."""
    recorded = read_config(storage)["config"]
    now = json.loads(json.dumps(to_dict(spec.config)))
    if now | {"address": None} == recorded | {"address": None}:
        return
    if storage.exists("result.json"):
        storage.write(f"results/{recorded['schedule']['epochs']}-epochs.json", storage.read("result.json"))
        storage.delete("result.json")
    write_config(storage, spec, info)


def read_config(storage: Storage) -> dict[str, Any]:
    """What config.json holds. Raises RunError where it is damaged."""
    try:
        found = json.loads(storage.read("config.json"))
        if {"config", "info", "model"} <= set(found):
            return found
    except (ValueError, TypeError):
        pass
    raise RunError(
        f"{joined(storage.uri, 'config.json')} is damaged; without it the run can be neither resumed nor used"
    )


def read_info(storage: Storage) -> RunInfo:
    """What config.json says of data and network."""
    saved = read_config(storage)["info"]
    data = saved.get("data")
    changed = {"image_shape": tuple(saved["image_shape"]), "data": None if data is None else report_from(data)}
    return RunInfo(**{**saved, **changed})


def check_info(storage: Storage, info: RunInfo, *, run: str) -> None:
    """Raises StructureError or DataError where a run has another network or other images than it was begun with."""
    recorded = read_info(storage)
    if recorded.structure != info.structure:
        raise StructureError(
            f"run {run} was begun with a network of {recorded.parameters} parameters and structure "
            f"{recorded.structure}; this one has {info.parameters} and {info.structure}"
        )
    if recorded.data_fingerprint != info.data_fingerprint:
        raise DataError(f"run {run} was begun with other images than its data have now")


def write_members(
    storage: Storage,
    *,
    token: str | None = None,
    state: str,
    message: str,
    members: Members,
    placement: NetworkResources | None,
    began: float,
) -> None:
    """The members' record under the next number, then all but the last two dropped: a file that is written over can be
    lost half-way.

    Args:
        storage: The run's folder.
        token: Of the run's claim on it; None: nothing was claimed.
        state, message: How the run stands.
        members: All of them.
        placement: What each network reserves.
        began: When training began, in seconds of the wall clock.

    Raises:
        RunExistsError: another start has claimed the folder, or it was deleted.
    """
    check_holds(storage, token)
    record = {
        "state": state,
        "message": message,
        "began": began,
        "placement": None if placement is None else dataclasses.asdict(placement),
        "members": [dataclasses.asdict(member) for member in members],
    }
    names = storage.names("members")
    number = int(names[-1].split(".")[0]) + 1 if names else 0
    storage.write(f"members/{number:08d}.json", json.dumps(record).encode())
    for old in names[:-1]:
        storage.delete(f"members/{old}")


def read_members(storage: Storage) -> dict[str, Any] | None:
    """The newest record that is whole: state, message, began, placement, members (as plain dicts); None where none was
    ever written.

    Raises:
        StorageError: storage fails, or every record is damaged.
    """
    names = storage.names("members")
    for name in reversed(names):
        try:
            return json.loads(storage.read(f"members/{name}"))
        except (MissingError, ValueError):  # replaced meanwhile, or half written
            continue
    if names:
        raise StorageError(f"none of the members' records in {storage.uri}/members can be read")
    return None


def members_of(record: dict[str, Any]) -> list[Member]:
    """The members of a record."""
    return [Member(**{**saved, "state": MemberState(saved["state"])}) for saved in record["members"]]


def placement_of(record: dict[str, Any]) -> NetworkResources | None:
    """What a record says that each network reserves."""
    return None if record["placement"] is None else NetworkResources(**record["placement"])
