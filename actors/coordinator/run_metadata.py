"""Files that the coordinator writes into the run's folder: the configuration once, the members whenever they change.

    config.json              configuration, facts about data and model, versions of the libraries
    data/unreadable.txt      examples that were left out because they cannot be read
    results/N-epochs.json    result of an earlier, shorter schedule
    configs/HASH.json        configuration before that, by its fingerprint
    members/<number>.json    state of the run and of its members

Each record of the members is a new file. The newest two are kept.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import platform
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from inarch.actors.resources import NetworkResources
from inarch.population.config import to_dict
from inarch.population.config.fingerprint import config_fingerprint
from inarch.population.errors import DamagedError, DataError, StructureError
from inarch.population.membership.members import Members
from inarch.population.persistence.claim import check_holds
from inarch.population.persistence.json_files import to_json
from inarch.population.persistence.storage import Storage
from inarch.population.tasks.run_folder import (
    EARLIER_CONFIGS,
    RESULT,
    read_config,
    read_info,
    record_names,
    run_id_of,
)
from inarch.population.tasks.run_spec import RunInfo, RunSpec

VERSIONED = ("inarch", "torch", "torchvision", "numpy", "ray")
"""Packages whose versions are recorded."""


def write_config(storage: Storage, spec: RunSpec, info: RunInfo) -> None:
    """Write config.json, and the list of unreadable examples if there are any.

    config.json holds an id of the run, the whole configuration, the facts about data and model, and the versions of the
    libraries that affect numbers. If it is written again, the id stays.

    Args:
        storage: The run's folder.
        spec: The run.
        info: Facts about data and model.

    Raises:
        RunError: config.json is there already and damaged.
        StorageError: A file cannot be read or written.
    """
    recorded = read_config(storage) if storage.exists("config.json") else None
    content = {
        "id": uuid.uuid4().hex if recorded is None else run_id_of(recorded, storage),
        "config": to_dict(spec.config),
        "open": None if spec.open is None else to_dict(spec.open),
        "model": "callable" if spec.factory is not None else spec.config.model.architecture,
        "info": dataclasses.asdict(info),
        "versions": {
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in VERSIONED},
        },
    }
    storage.replace("config.json", to_json(content))
    if info.unreadable:
        storage.write("data/unreadable.txt", "\n".join(info.unreadable).encode(errors="backslashreplace"))


def update_config(storage: Storage, spec: RunSpec, info: RunInfo) -> None:
    """Write the configuration of a resumed run again if it has changed: more epochs, or data that were moved.

    The result of the shorter schedule moves to results/EPOCHS-epochs.json. The earlier configuration stays in configs/,
    for replays of what was trained with it. A change of the cluster's address alone does not count.

    Args:
        storage: The run's folder.
        spec: The run, with its present configuration.
        info: Facts about data and model.

    Raises:
        DamagedError: config.json is damaged.
        StorageError: A file cannot be read or written.
    """
    recorded = read_config(storage)["config"]
    current = json.loads(json.dumps(to_dict(spec.config)))
    if current | {"address": None} == recorded | {"address": None}:
        return
    earlier = config_fingerprint(recorded)
    if earlier != config_fingerprint(current):
        storage.replace(f"{EARLIER_CONFIGS}/{earlier}.json", to_json({"config": recorded}))
    if storage.exists(RESULT):
        storage.replace(f"results/{recorded['schedule']['epochs']}-epochs.json", storage.read(RESULT))
        storage.delete(RESULT)
    write_config(storage, spec, info)


def check_info(storage: Storage, info: RunInfo, *, run: str) -> None:
    """Raise an error if a resumed run has another network or other data than at its start.

    Args:
        storage: The run's folder.
        info: Present facts about data and model.
        run: Name of the run, for the message.

    Raises:
        StructureError: The network has another structure.
        DataError: The data differ.
        DamagedError: config.json is damaged.
        StorageError: config.json cannot be read.
    """
    recorded = read_info(storage)
    if recorded.structure != info.structure:
        raise StructureError(
            f"run {run} was begun with a network of {recorded.parameters} parameters and structure "
            f"{recorded.structure}; this network has {info.parameters} and {info.structure}"
        )
    if recorded.data_fingerprint != info.data_fingerprint:
        raise DataError(f"run {run} was begun with other data; give the original data")


def write_members(
    storage: Storage,
    *,
    token: str | None = None,
    state: str,
    message: str,
    members: Members,
    placement: NetworkResources | None,
    began: float,
    limit: int | None = None,
    events: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write the record of the members under the next number, then delete all records but the newest two.

    A crash can damage a file that is overwritten. Each record is therefore a new file, and the one before it stays.

    Args:
        storage: The run's folder.
        token: Token of the run's claim on the folder. None: nothing was claimed.
        state: Phase of the run.
        message: Newest failure. Empty if there was none.
        members: All members.
        placement: Resources of each network. None: not planned yet.
        began: Time at which training began, in seconds of the wall clock.
        limit: Largest size that the population may reach by itself. None: no limit.
        events: Events that changed the run or a member, as JSON types.

    Raises:
        RunExistsError: Another start has claimed the folder, or it was deleted.
        StorageError: The record cannot be written.
    """
    check_holds(storage, token)
    record = {
        "state": state,
        "message": message,
        "began": began,
        "limit": limit,
        "placement": None if placement is None else dataclasses.asdict(placement),
        "members": [dataclasses.asdict(member) for member in members],
        "events": list(events),
    }
    names = record_names(storage)
    number = int(names[-1].split(".")[0]) + 1 if names else 0
    storage.write(f"members/{number:08d}.json", to_json(record))
    for old in names[:-1]:
        storage.delete(f"members/{old}")


def placement_of(record: dict[str, Any]) -> NetworkResources | None:
    """Return the resources of each network from a record, or None if they were not planned yet.

    Args:
        record: The record, as from `read_members`.

    Raises:
        DamagedError: The resources are damaged.
    """
    try:
        return None if record["placement"] is None else NetworkResources(**record["placement"])
    except TypeError as error:
        raise DamagedError(f"the record of the members is damaged: placement: {error}") from None
