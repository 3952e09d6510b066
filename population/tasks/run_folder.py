"""Reads the folder of a run, without Ray: configuration, what is known of data and model, and members."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

from inarch.population.config import RunConfig, from_dict
from inarch.population.data.datasets import NAMES
from inarch.population.errors import (
    ConfigError,
    MissingError,
    RunError,
    RunNotFoundError,
    StorageError,
)
from inarch.population.membership.members import MemberRecord, MemberState
from inarch.population.persistence.storage import Storage, absolute, joined
from inarch.population.tasks.run_spec import RunInfo

FIELDS = {"train": "train", "validation": "validation_set", "test": "test", "query": "query"}
"""Parts of a data set, and the field of `DataConfig` that holds the path of each part."""


def read_config(storage: Storage) -> dict[str, Any]:
    """Return the content of config.json.

    Args:
        storage: The run's folder.

    Raises:
        RunError: config.json is damaged.
        StorageError: config.json cannot be read.
    """
    try:
        content = json.loads(storage.read("config.json"))
        if {"config", "info", "model"} <= set(content):
            return content
    except (ValueError, TypeError):
        pass
    raise RunError(
        f"{joined(storage.uri, 'config.json')} is damaged, and the run cannot be resumed or read without it; "
        "restore it from a copy"
    )


def run_id_of(recorded: Mapping[str, Any], storage: Storage) -> str:
    """Return the id of a run, by which trackers tell it from others of its name.

    Args:
        recorded: Content of config.json. Older versions recorded no id. It then follows from the place of the folder.
        storage: The run's folder.
    """
    return recorded.get("id") or hashlib.sha256(storage.uri.encode()).hexdigest()[:32]


def end_state(storage: Storage, recorded: Mapping[str, Any]) -> str | None:
    """Return how a run ended: finished, stopped or failed. None if it has not ended.

    Args:
        storage: The run's folder.
        recorded: Content of config.json.

    Raises:
        StorageError: The folder cannot be read.
    """
    phase = (read_members(storage) or {}).get("state")
    if phase != "finished":
        return "failed" if phase == "failed" else None
    has_ended = storage.exists("result.json") or recorded.get("open") is not None
    return "finished" if has_ended else "stopped"


def read_info(storage: Storage) -> RunInfo:
    """Return the recorded facts about a run's data and model.

    Args:
        storage: The run's folder.

    Raises:
        RunError: config.json is damaged.
        StorageError: config.json cannot be read.
    """
    return from_dict(RunInfo, read_config(storage)["info"], "info.")


def read_members(storage: Storage) -> dict[str, Any] | None:
    """Return the newest record of the members that is not damaged.

    Args:
        storage: The run's folder.

    Returns:
        The arguments of `write_members` by name (state, message, began, placement, members), as JSON types. None if no
        record was ever written.

    Raises:
        StorageError: Storage fails, or every record is damaged.
    """
    names = storage.names("members")
    for name in reversed(names):
        try:
            return json.loads(storage.read(f"members/{name}"))
        except (MissingError, ValueError):  # deleted meanwhile, or only partly written
            continue
    if names:
        raise StorageError(f"none of the members' records in {storage.uri}/members can be read")
    return None


def members_of(record: dict[str, Any]) -> list[MemberRecord]:
    """Return the members of a record.

    Args:
        record: The record, as from `read_members`.
    """
    return [_member(saved) for saved in record["members"]]


def _member(saved: dict[str, Any]) -> MemberRecord:
    values: dict[str, Any] = saved | {"state": MemberState(saved["state"])}
    return MemberRecord(**values)


def find_run(name: str, *, storage: str = "runs") -> Storage:
    """Return the folder of a run.

    Args:
        name: Name of the run, or path or URI of its folder.
        storage: Folder that holds runs, searched by name.

    Raises:
        RunNotFoundError: There is no such run.
    """
    for candidate in (name, joined(storage, name)):
        folder = Storage(candidate)
        if folder.exists("config.json"):
            return folder
    raise RunNotFoundError(f"there is no run at {absolute(name)} nor at {joined(absolute(storage), name)}")


def with_own_data(config: RunConfig, storage: Storage) -> RunConfig:
    """Return a configuration that finds the data stored in the run's own folder, even if the folder was moved.

    Args:
        config: The recorded configuration. Its paths may point to the folder's former place.
        storage: The run's folder.
    """
    own_paths = {
        field: joined(storage.uri, f"data/{part}.arrow")
        for part, field in FIELDS.items()
        if (getattr(config.data, field) or "").partition("?")[0].endswith(f"/data/{part}.arrow")
        and storage.exists(f"data/{part}.arrow")
    }
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **own_paths))


def with_moved_data(config: RunConfig, data: str | Mapping[str, str] | None) -> RunConfig:
    """Return a configuration with new paths of its data.

    Args:
        config: The run's configuration.
        data: Path of the training data, or paths by part (the keys of `FIELDS`). None: nothing was moved.

    Raises:
        ConfigError: A part is unknown, or a value is not a path.
    """
    if data is None:
        return config
    paths = data if isinstance(data, Mapping) else {"train": data}
    for part, path in paths.items():
        if part not in FIELDS or not isinstance(path, (str, os.PathLike)):  # pyright: ignore[reportUnnecessaryIsInstance] # the caller's value
            raise ConfigError(
                f"data of a resumed run must be a path, or paths by part ({', '.join(FIELDS)}), to the same data as "
                f"before; got {part}: {type(path).__name__}"
            )
    moved_paths = {FIELDS[part]: str(path) for part, path in paths.items()}
    return with_absolute_data(dataclasses.replace(config, data=dataclasses.replace(config.data, **moved_paths)))


def with_absolute_data(config: RunConfig) -> RunConfig:
    """Return a configuration with absolute paths of its data. A cluster started in another folder reads the same files.

    Args:
        config: The run's configuration.
    """
    data = config.data
    paths = {
        field: absolute(path)
        for field in (*FIELDS.values(), "image_folder")
        if (path := getattr(data, field)) is not None and path not in NAMES
    }
    return dataclasses.replace(config, data=dataclasses.replace(data, **paths))
