"""What a caller hands in, made part of a run's configuration: a name, a network, data."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
import os
import secrets
import time
from collections.abc import Mapping
from typing import Any

import ray

from inarch.population.config import RunConfig
from inarch.population.data import UnreadableImages, is_path, parts_of, to_images, write_arrow
from inarch.population.data.reading.sources import NAMES
from inarch.population.errors import ConfigError, DataError, RunError, StorageError
from inarch.population.models import ModelFactory, check_factory, resolve
from inarch.population.persistence.storage import Storage, absolute, joined
from inarch.population.training.model_check import data_shape, try_network

FIELDS = {"train": "train", "validation": "validation_set", "test": "test", "query": "query"}
"""The parts of a data set, and the field of `DataConfig` that holds the path of each."""


def with_name(config: RunConfig) -> RunConfig:
    """The configuration with a name: the time and random digits, where it has none."""
    return config if config.name else dataclasses.replace(config, name=new_name("run"))


def new_name(stem: str) -> str:
    """A name for a run: the time, and digits by which two starts in one second differ."""
    return f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def run_storage(config: RunConfig) -> Storage:
    """The folder of a run."""
    return Storage(joined(config.storage, str(config.name)), deadline_seconds=config.timeouts.storage_seconds)


def with_network(config: RunConfig, model: ModelFactory | str | None) -> tuple[RunConfig, ModelFactory | None]:
    """The configuration with the network's name in it, or its callable, and its weights' file as every node sees it; an
    unknown name is an error at once."""
    if model is not None and not isinstance(model, str):
        check_factory(model)
        check_sendable(model)
        return config, model
    if isinstance(model, str):
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, architecture=model))
    weights = config.model.weights
    if weights is not None and os.path.isfile(weights):
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, weights=absolute(weights)))
    resolve(config.model)
    return config, None


def check_sendable(factory: ModelFactory) -> None:
    """Raises ConfigError where a function cannot be sent to other processes; names the variables that prevent it."""
    error = _pickle_error(factory)
    if error is None:
        return
    wrong: list[str] = []
    with contextlib.suppress(TypeError):
        variables = inspect.getclosurevars(factory)
        held = {**variables.nonlocals, **variables.globals}
        wrong = [name for name, value in held.items() if _pickle_error(value) is not None]
    reason = f" because of {', '.join(map(repr, wrong))}" if wrong else ""
    name = getattr(factory, "__qualname__", type(factory).__name__)
    raise ConfigError(
        f"the network function {name} cannot be sent to the cluster{reason}: {error}; make what it needs in the "
        "function itself"
    )


def _pickle_error(value: Any) -> Exception | None:
    cloudpickle: Any = importlib.import_module("ray.cloudpickle")  # Ray's own, which its types do not export
    try:
        cloudpickle.dumps(value)
    except Exception as error:  # each kind of object refuses in its own way
        return error
    return None


def with_teachers(config: RunConfig) -> RunConfig:
    """The configuration with its teachers' folders as every node sees them."""
    paths = [teacher.partition("#") for teacher in config.distillation.teachers]
    teachers = tuple(f"{absolute(folder)}{mark}{chosen}" for folder, mark, chosen in paths)
    return dataclasses.replace(config, distillation=dataclasses.replace(config.distillation, teachers=teachers))


def with_data(config: RunConfig, data: Any, storage: Storage) -> RunConfig:
    """The configuration with its data as every node sees them.

    Paths are made absolute. What was handed in from Python is written into the run's folder first.

    Args:
        config: The run's.
        data: As `PopulationRun.start`; None: the configuration's own paths.
        storage: The run's folder, which is claimed.

    Raises:
        DataError: what was handed in cannot be used.
        UserCodeError: a Dataset raised.
    """
    if data is None:
        return with_absolute_data(config)
    parts = parts_of(data)
    unreadable = UnreadableImages(config.data.skip_unreadable)
    paths = {}
    for part, given in parts.items():
        paths[FIELDS[part]] = str(given) if is_path(given) else _written(given, part, config, storage, unreadable)
    changed = {"test": None, "validation_set": None} | paths
    return with_absolute_data(dataclasses.replace(config, data=dataclasses.replace(config.data, **changed)))


def with_own_data(config: RunConfig, storage: Storage) -> RunConfig:
    """The configuration of a run whose folder may have been moved: data that were handed in lie in the folder."""
    own = {
        field: joined(storage.uri, f"data/{part}.arrow")
        for part, field in FIELDS.items()
        if (getattr(config.data, field) or "").partition("?")[0].endswith(f"/data/{part}.arrow")
        and storage.exists(f"data/{part}.arrow")
    }
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **own))


def with_moved_data(config: RunConfig, data: str | Mapping[str, str] | None) -> RunConfig:
    """The configuration with other paths of its data: the training images', or paths by part.

    Raises:
        ConfigError: no path, or an unknown part.
    """
    if data is None:
        return config
    paths = data if isinstance(data, Mapping) else {"train": data}
    for part, path in paths.items():
        if part not in FIELDS or not isinstance(path, (str, os.PathLike)):
            raise ConfigError(
                f"data of a resumed run must be a path, or paths by part ({', '.join(FIELDS)}), to the same images as "
                f"before; got {part}: {type(path).__name__}"
            )
    moved = {FIELDS[part]: str(path) for part, path in paths.items()}
    return with_absolute_data(dataclasses.replace(config, data=dataclasses.replace(config.data, **moved)))


def resumed_config(
    storage: Storage, recorded: RunConfig, *, data: str | Mapping[str, str] | None, epochs: int | None
) -> RunConfig:
    """The configuration of a run that is resumed.

    Args:
        storage: The run's folder, which may have been moved.
        recorded: What the run was begun with.
        data, epochs: As `PopulationRun.resume`.

    Raises:
        RunError: the run is complete, and no longer schedule is given.
        ConfigError: as `with_moved_data` and `with_more_epochs`.
    """
    config = with_moved_data(with_own_data(recorded, storage), data)
    if epochs is not None:
        return with_more_epochs(config, epochs)
    if storage.exists("result.json"):
        raise RunError(
            f"run {config.name} is complete; its result is in {joined(storage.uri, 'result.json')}; train it for more "
            f"epochs by inarch resume {storage.uri} --schedule.epochs N"
        )
    return config


def with_more_epochs(config: RunConfig, epochs: int) -> RunConfig:
    """The configuration with a longer schedule. Raises ConfigError where it is not longer."""
    if epochs <= config.schedule.epochs:
        raise ConfigError(
            f"schedule.epochs must be more than the run's {config.schedule.epochs} to train on, got {epochs}"
        )
    return dataclasses.replace(config, schedule=dataclasses.replace(config.schedule, epochs=epochs))


def check_here(config: RunConfig, factory: ModelFactory | None) -> None:
    """Try the network in this process, where it is defined, before Ray starts. Data that only the cluster can read are
    checked there.

    Raises:
        ConfigError, UserCodeError: the network cannot be trained on images of this shape.
        DataError: the data cannot be used, and the cluster is this machine.
    """
    is_local = config.address in (None, "local") and "RAY_ADDRESS" not in os.environ and not ray.is_initialized()
    try:
        shape = data_shape(config)
    except (DataError, StorageError):
        if is_local:
            raise
        return
    if shape is not None:
        try_network(config, factory, shape)


def with_absolute_data(config: RunConfig) -> RunConfig:
    """The configuration with absolute paths of its data: a cluster that was started elsewhere reads the same files."""
    data = config.data
    paths = {
        field: absolute(path)
        for field in (*FIELDS.values(), "image_folder")
        if (path := getattr(data, field)) is not None and path not in NAMES
    }
    return dataclasses.replace(config, data=dataclasses.replace(data, **paths))


def _written(data: Any, part: str, config: RunConfig, storage: Storage, unreadable: UnreadableImages) -> str:
    """The path of a part that was handed in, written as one Arrow file."""
    if storage.exists(f"data/{part}.arrow"):
        raise ConfigError(
            f"{joined(storage.uri, f'data/{part}.arrow')} exists already; choose another name for the run"
        )
    images = to_images(data, config.data, name=f"data {part}", unreadable=unreadable)
    storage.make("data")
    write_arrow(images, storage.filesystem, storage.path(f"data/{part}.arrow"))
    return joined(storage.uri, f"data/{part}.arrow")
