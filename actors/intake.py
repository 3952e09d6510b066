"""What a caller hands in, made part of a run's configuration: a name, a network, data."""

from __future__ import annotations

import dataclasses
import os
import secrets
import time
from typing import Any

from population.config import RunConfig
from population.data import ImageSet, from_dataset, image_set, write_arrow
from population.errors import ConfigError
from population.networks import NetworkFactory, resolve
from population.storage import Storage, absolute, joined


def with_name(config: RunConfig) -> RunConfig:
    """The configuration with a name: the time and random digits, where it has none."""
    return config if config.name else dataclasses.replace(config, name=new_name("run"))


def new_name(stem: str) -> str:
    """A name for a run: the time, and digits by which two starts in one second differ."""
    return f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def run_storage(config: RunConfig) -> Storage:
    """The folder of a run."""
    return Storage(joined(config.storage, str(config.name)), deadline_seconds=config.patience.storage_seconds)


def with_network(config: RunConfig, network: NetworkFactory | str | None) -> tuple[RunConfig, NetworkFactory | None]:
    """The configuration with the network's name in it, or its callable, and its weights' file as every node sees it; an
    unknown name is an error at once."""
    if network is not None and not isinstance(network, str):
        if not callable(network):
            raise ConfigError(f"network must be module:function or a callable, got {type(network).__name__}")
        return config, network
    if isinstance(network, str):
        config = dataclasses.replace(config, network=dataclasses.replace(config.network, architecture=network))
    weights = config.network.weights
    if weights is not None and os.path.isfile(weights):
        config = dataclasses.replace(config, network=dataclasses.replace(config.network, weights=absolute(weights)))
    resolve(config.network)
    return config, None


def with_teachers(config: RunConfig) -> RunConfig:
    """The configuration with its teachers' folders as every node sees them."""
    paths = [teacher.partition("#") for teacher in config.distillation.teachers]
    teachers = tuple(f"{absolute(folder)}{mark}{chosen}" for folder, mark, chosen in paths)
    return dataclasses.replace(config, distillation=dataclasses.replace(config.distillation, teachers=teachers))


def with_data(config: RunConfig, data: Any, storage: Storage) -> RunConfig:
    """Paths as they are; arrays and Datasets written into the run's folder first."""
    if data is None:
        return config
    is_pair = isinstance(data, tuple) and len(data) == 2 and not _is_arrays(data)
    train, test = data if is_pair else (data, None)
    paths = {
        "train": _as_path(train, "train", storage),
        "test": None if test is None else _as_path(test, "test", storage),
    }
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **paths))


def _is_arrays(data: Any) -> bool:
    """Whether a pair is (images, labels) and not (training, test)."""
    return hasattr(data[0], "shape") and getattr(data[1], "ndim", 0) == 1 and getattr(data[0], "ndim", 0) >= 3


def _as_path(data: Any, part: str, storage: Storage) -> str:
    if isinstance(data, (str, os.PathLike)):
        return absolute(str(data))
    images = data if isinstance(data, ImageSet) else _as_images(data, part)
    storage.make("data")
    write_arrow(images, storage.filesystem, storage.path(f"data/{part}.arrow"))
    return joined(storage.uri, f"data/{part}.arrow")


def _as_images(data: Any, part: str) -> ImageSet:
    if isinstance(data, tuple) and len(data) == 2:
        return image_set(data[0], data[1], name=f"data {part}")
    return from_dataset(data, name=f"data {part}")
