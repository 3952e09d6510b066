"""Complete a run's configuration with the name, the model and the data that the caller passes."""

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
from inarch.population.grafting.criteria import check_criterion
from inarch.population.membership.topology import check_topology
from inarch.population.models import ModelFactory, check_factory, resolve
from inarch.population.persistence.storage import Storage, absolute, joined
from inarch.population.tasks.run_folder import FIELDS, with_own_data
from inarch.population.training.model_check import data_shape, try_network


def with_name(config: RunConfig) -> RunConfig:
    """Return a configuration that names the run. A run without a name gets one from `new_name`.

    Args:
        config: The run's configuration.
    """
    return config if config.name else dataclasses.replace(config, name=new_name("run"))


def new_name(stem: str) -> str:
    """Return a new name for a run: stem, time, and random digits that distinguish two starts in the same second.

    Args:
        stem: Beginning of the name.
    """
    return f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def run_storage(config: RunConfig) -> Storage:
    """Return the folder of a run.

    Args:
        config: The run's configuration, which names the run.
    """
    return Storage(joined(config.storage, str(config.name)), deadline_seconds=config.timeouts.storage_seconds)


def with_network(config: RunConfig, model: ModelFactory | str | None) -> tuple[RunConfig, ModelFactory | None]:
    """Return a configuration with the caller's model, and the caller's model factory.

    The path of a file of weights is made absolute, so that every node reads the same file.

    Args:
        config: The run's configuration.
        model: Name of an architecture, or a model factory. None: the configuration's own architecture.

    Returns:
        The configuration, and the model factory. The factory is None if the configuration names the architecture.

    Raises:
        ConfigError: The architecture is unknown, or the factory is not callable or cannot be sent to other processes.
    """
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
    """Raise ConfigError if a model factory cannot be sent to other processes.

    Args:
        factory: The model factory. The message names those of its variables that cannot be pickled.
    """
    error = _pickle_error(factory)
    if error is None:
        return
    unpicklable: list[str] = []
    with contextlib.suppress(TypeError):
        variables = inspect.getclosurevars(factory)
        captured = {**variables.nonlocals, **variables.globals}
        unpicklable = [name for name, value in captured.items() if _pickle_error(value) is not None]
    reason = f" because of {', '.join(map(repr, unpicklable))}" if unpicklable else ""
    name = getattr(factory, "__qualname__", type(factory).__name__)
    raise ConfigError(
        f"the network function {name} cannot be sent to the cluster{reason}: {error}; create such objects inside "
        "the function"
    )


def _pickle_error(value: Any) -> Exception | None:
    """Return the error that pickling a value raises. None if the value can be pickled."""
    cloudpickle: Any = importlib.import_module("ray.cloudpickle")  # Ray's copy, which Ray's type stubs do not export
    try:
        cloudpickle.dumps(value)
    except Exception as error:  # each kind of object raises its own error
        return error
    return None


def with_teachers(config: RunConfig) -> RunConfig:
    """Return a configuration with absolute paths of its teachers, so that every node finds them.

    Args:
        config: The run's configuration.
    """
    parts = [teacher.partition("#") for teacher in config.distillation.teachers]
    teachers = tuple(f"{absolute(folder)}{mark}{network}" for folder, mark, network in parts)
    return dataclasses.replace(config, distillation=dataclasses.replace(config.distillation, teachers=teachers))


def with_data(config: RunConfig, data: Any, storage: Storage) -> RunConfig:
    """Return a configuration with the caller's data, at paths that every node can read.

    Paths are made absolute. Data that are passed as Python objects are first written into the run's folder.

    Args:
        config: The run's configuration.
        data: As in `PopulationRun.start`. None: the configuration's own paths.
        storage: The run's folder, which this start has claimed.

    Raises:
        ConfigError: The folder holds data of another start.
        DataError: The data cannot be used.
        UserCodeError: A Dataset raised.
    """
    if data is None:
        return with_absolute_data(config)
    parts = parts_of(data)
    unreadable = UnreadableImages(config.data.skip_unreadable)
    paths = {}
    for part, source in parts.items():
        paths[FIELDS[part]] = str(source) if is_path(source) else _written(source, part, config, storage, unreadable)
    changes = {"test": None, "validation_set": None} | paths
    return with_absolute_data(dataclasses.replace(config, data=dataclasses.replace(config.data, **changes)))


def with_moved_data(config: RunConfig, data: str | Mapping[str, str] | None) -> RunConfig:
    """Return a configuration with new paths of its data.

    Args:
        config: The run's configuration.
        data: Path of the training images, or paths by part (the keys of `FIELDS`). None: nothing was moved.

    Raises:
        ConfigError: A part is unknown, or a value is not a path.
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
    moved_paths = {FIELDS[part]: str(path) for part, path in paths.items()}
    return with_absolute_data(dataclasses.replace(config, data=dataclasses.replace(config.data, **moved_paths)))


def resumed_config(
    storage: Storage, recorded: RunConfig, *, data: str | Mapping[str, str] | None, epochs: int | None
) -> RunConfig:
    """Return the configuration of a run that is resumed.

    Args:
        storage: The run's folder, which may have been moved.
        recorded: The recorded configuration of the run.
        data: New paths of the data, as in `with_moved_data`. None: nothing was moved.
        epochs: Epochs of a longer schedule, as in `with_more_epochs`. None: the recorded schedule.

    Raises:
        RunError: The run is complete, and `epochs` is None.
        ConfigError: `with_moved_data` or `with_more_epochs` raised it.
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
    """Return a configuration with a longer schedule.

    Args:
        config: The run's configuration.
        epochs: Epochs of the whole schedule, more than before.

    Raises:
        ConfigError: The schedule is not longer.
    """
    if epochs <= config.schedule.epochs:
        raise ConfigError(f"schedule.epochs of a resumed run must be above {config.schedule.epochs}, got {epochs}")
    return dataclasses.replace(config, schedule=dataclasses.replace(config.schedule, epochs=epochs))


def check_here(config: RunConfig, factory: ModelFactory | None) -> None:
    """Try the model in this process, where it is defined, before Ray starts.

    The model is not tried if the shape of the images is unknown here, for example because only the cluster can read the
    data. The cluster then checks data and model.

    Args:
        config: The run's configuration.
        factory: The caller's model factory. None: the configuration's architecture.

    Raises:
        ConfigError: There is no such topology or criterion.
        ConfigError, UserCodeError: The model cannot be trained on images of this shape.
        DataError, StorageError: The data cannot be used, and the run starts a cluster on this machine.
    """
    check_topology(config.topology)
    check_criterion(config.graft.criterion)
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


def _written(data: Any, part: str, config: RunConfig, storage: Storage, unreadable: UnreadableImages) -> str:
    """Write a part of the data as one Arrow file into the run's folder, and return its path."""
    if storage.exists(f"data/{part}.arrow"):
        raise ConfigError(
            f"{joined(storage.uri, f'data/{part}.arrow')} exists already; choose another name for the run"
        )
    images = to_images(data, config.data, name=f"data {part}", unreadable=unreadable)
    storage.make("data")
    write_arrow(images, storage.filesystem, storage.path(f"data/{part}.arrow"))
    return joined(storage.uri, f"data/{part}.arrow")
