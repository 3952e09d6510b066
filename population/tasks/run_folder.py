"""Reads the folder of a run, without Ray: configuration, what is known of data and model, and members."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from inarch.population.config import OpenConfig, RunConfig, from_dict
from inarch.population.data.datasets import NAMES
from inarch.population.errors import ConfigError, DamagedError, MissingError, RunNotFoundError
from inarch.population.evaluation.metrics import Metric
from inarch.population.membership.members import MemberRecord, MemberState
from inarch.population.persistence.json_files import check_fields, read_json
from inarch.population.persistence.paths import absolute, joined
from inarch.population.persistence.storage import Storage
from inarch.population.tasks.run_spec import RunInfo

FIELDS = {"train": "train", "validation": "validation_set", "test": "test", "query": "query"}
"""Parts of a data set, and the field of `DataConfig` that holds the path of each part."""

RESULT = "result.json"
"""File with the result of a run."""

EARLIER_CONFIGS = "configs"
"""Folder of the configurations before the schedule was made longer, each named by its fingerprint."""

RECORD_FIELDS: Mapping[str, type | tuple[type, ...]] = {
    "state": str,
    "message": str,
    "members": list,
    "began": (int, float),
    "placement": (dict, type(None)),
    "events": list,
    "limit": (int, type(None)),
}
"""Fields of a record of the members, with their types."""

EMPTY_RECORD: Mapping[str, Any] = {"message": "", "began": 0.0, "placement": None, "events": [], "limit": None}
"""Fields that earlier versions did not write."""

_RECORD = re.compile(r"^\d+\.json$")

logger = logging.getLogger("inarch")

T = TypeVar("T")


def read_config(storage: Storage) -> dict[str, Any]:
    """Return the content of config.json.

    Args:
        storage: The run's folder.

    Raises:
        DamagedError: config.json is damaged.
        StorageError: config.json cannot be read.
    """
    fields = {"config": dict, "info": dict, "model": str}
    return read_json(storage, "config.json", fields=fields)


def recorded_config(storage: Storage, recorded: Mapping[str, Any], *, file: str = "config.json") -> RunConfig:
    """Return the configuration in a file of a run's folder.

    Args:
        storage: The run's folder.
        recorded: Content of the file.
        file: Name of the file, for messages.

    Raises:
        ConfigError: A field is unknown, or its value is refused. The message names the file.
        DamagedError: The content has another form.
    """
    return _revived(RunConfig, recorded["config"], "", storage, file)


def earlier_configs(storage: Storage) -> dict[str, RunConfig]:
    """Return the configurations that a run had before its schedule was made longer, by their fingerprints.

    Args:
        storage: The run's folder.

    Raises:
        ConfigError: As `recorded_config`.
        DamagedError: A file is damaged.
        StorageError: The folder cannot be read.
    """
    names = [name for name in storage.names(EARLIER_CONFIGS) if name.endswith(".json")]
    files = {name.removesuffix(".json"): f"{EARLIER_CONFIGS}/{name}" for name in names}
    return {
        fingerprint: recorded_config(storage, read_json(storage, file, fields={"config": dict}), file=file)
        for fingerprint, file in files.items()
    }


def recorded_open(storage: Storage, recorded: Mapping[str, Any]) -> OpenConfig | None:
    """Return the settings of a run without networks of its own. None: the run has networks. As `recorded_config`."""
    settings = recorded.get("open")
    return None if settings is None else _revived(OpenConfig, settings, "open.", storage)


def _revived(kind: type[T], values: Any, path: str, storage: Storage, file: str = "config.json") -> T:
    try:
        return from_dict(kind, values, path)
    except ConfigError as error:
        raise ConfigError(f"{joined(storage.uri, file)}: {error}") from None
    except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
        raise _damaged_config(storage, f"{path or 'config'}: {error}", file) from None


def _damaged_config(storage: Storage, reason: str, file: str = "config.json") -> DamagedError:
    return DamagedError(f"{joined(storage.uri, file)} is damaged ({reason}); restore it from a copy")


def read_result(storage: Storage) -> dict[str, Any] | None:
    """Return the result of a run. None if there is none.

    A process that dies while it writes result.json may leave a part of it. The run then has no result, a warning names
    the file, and the networks can be evaluated again.

    Args:
        storage: The run's folder.

    Raises:
        StorageError: Storage fails.
    """
    try:
        return read_json(storage, RESULT, fields={"run": str, "metrics": list, "networks": list})
    except MissingError:
        return None
    except DamagedError as error:
        logger.warning("%s; the run counts as not evaluated", error)
        return None


def metrics_of(storage: Storage, recorded: Mapping[str, Any]) -> tuple[Metric, ...]:
    """Return the metrics of a run's task, the primary one first.

    Args:
        storage: The run's folder.
        recorded: Content of config.json.

    Raises:
        DamagedError: They are no metrics.
    """
    try:
        return tuple(Metric(**values) for values in recorded["info"]["metrics"])
    except (TypeError, KeyError, ValueError) as error:
        raise _damaged_config(storage, f"info.metrics: {error}") from None


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
    has_ended = recorded.get("open") is not None or read_result(storage) is not None
    return "finished" if has_ended else "stopped"


def read_info(storage: Storage) -> RunInfo:
    """Return the recorded facts about a run's data and model.

    Args:
        storage: The run's folder.

    Raises:
        DamagedError: config.json is damaged.
        StorageError: config.json cannot be read.
    """
    return _revived(RunInfo, read_config(storage)["info"], "info.", storage)


def read_members(storage: Storage) -> dict[str, Any] | None:
    """Return the newest record of the members that is not damaged.

    Args:
        storage: The run's folder.

    Returns:
        The arguments of `write_members` by name (state, message, began, placement, members, limit), as JSON types. None
        if no record was ever written.

    Raises:
        DamagedError: Every record is damaged.
        StorageError: Storage fails.
    """
    names = record_names(storage)
    damages: list[str] = []
    for name in reversed(names):
        try:
            record = {**EMPTY_RECORD, **read_json(storage, f"members/{name}", fields={"members": list, "state": str})}
            check_fields(record, RECORD_FIELDS, joined(storage.uri, f"members/{name}"))
            members_of(record)
        except MissingError:  # deleted meanwhile
            continue
        except DamagedError as error:  # altered, or only partly written
            damages.append(str(error))
            continue
        for damage in damages:
            logger.warning("%s; an older record of the members counts", damage)
        return record
    if names:
        reason = f": {damages[0]}" if damages else ""
        raise DamagedError(f"none of the members' records in {joined(storage.uri, 'members')} can be read{reason}")
    return None


def record_names(storage: Storage) -> list[str]:
    """Return the names of the members' records, oldest first.

    Args:
        storage: The run's folder.

    Raises:
        StorageError: The folder cannot be listed.
    """
    return [name for name in storage.names("members") if _RECORD.match(name)]


def members_of(record: dict[str, Any]) -> list[MemberRecord]:
    """Return the members of a record.

    Args:
        record: The record, as from `read_members`.

    Raises:
        DamagedError: A member has an unknown field or state.
    """
    return [_member(saved) for saved in record["members"]]


def failure_reasons(record: Mapping[str, Any]) -> dict[int, str]:
    """Return why networks failed, by id. The newest reason of a network counts.

    Args:
        record: The record, as from `read_members`.
    """
    return {
        event["network_id"]: str(event["detail"].get("reason", ""))
        for event in record.get("events", ())
        if event["kind"] == "failure" and event["network_id"] is not None
    }


def _member(saved: Any) -> MemberRecord:
    try:
        values: dict[str, Any] = {**saved, "state": MemberState(saved["state"])}
        member = MemberRecord(**values)
    except (TypeError, ValueError, KeyError) as error:
        raise DamagedError(f"the record of a member is damaged: {error}") from None
    counts: list[Any] = [member.id, member.incarnation, member.restarts, member.began_interval]
    if not all(isinstance(count, int) for count in counts):
        raise DamagedError(f"the record of a member is damaged: its numbers are {counts}")
    return member


def find_run(name: str, *, storage: str = "runs") -> Storage:
    """Return the folder of a run.

    Args:
        name: Name of the run, or path or URI of its folder.
        storage: Folder that holds runs, searched by name.

    Raises:
        RunNotFoundError: There is no such run.
    """
    candidates = [absolute(name)] if "://" in name else [absolute(name), joined(absolute(storage), name)]
    for candidate in candidates:
        folder = Storage(candidate)
        if folder.exists("config.json"):
            return folder
    raise RunNotFoundError(f"there is no run at {' nor at '.join(candidates)}")


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
