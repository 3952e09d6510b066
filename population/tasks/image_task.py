"""The image tasks before they are bound to data: classification and retrieval."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from inarch.population.config import RunConfig
from inarch.population.data.datasets import is_dataset, load_dataset
from inarch.population.errors import ConfigError
from inarch.population.models.model_names import ModelFactory, check_architecture, resolve
from inarch.population.persistence.paths import joined
from inarch.population.persistence.storage import Storage
from inarch.population.tasks.protocol import Task, Trial
from inarch.population.tasks.run_folder import FIELDS, with_absolute_data

if TYPE_CHECKING:  # a driver reads this file without torch
    import torch

    from inarch.population.data import Splits, UnreadableImages
    from inarch.population.tasks.image_classification import ImageClassification


class ImageTask(Task):
    """Classification of images, or retrieval of images of the same class. The name in `RunConfig.task` decides."""

    def check_config(self, config: RunConfig, *, has_model: bool) -> None:
        """Raise ConfigError if the architecture is unknown, as `Task.check_config`."""
        if not has_model:
            check_architecture(config.model)
            if ":" in config.model.architecture:
                resolve(config.model)

    def complete_config(self, config: RunConfig, data: Any, storage: Storage) -> RunConfig:
        """Return the configuration with the caller's images, as `with_data`."""
        return with_data(config, data, storage)

    def trial(self, config: RunConfig, model: ModelFactory | None) -> Trial | None:
        """Return the task bound to random images, or None if their shape cannot be known without reading all images."""
        from inarch.population.tasks.image_shape import data_shape

        shape = data_shape(config)
        if shape is None:
            return None

        def bind() -> ImageClassification:
            from inarch.population.tasks.image_trial import stand_in_task

            return stand_in_task(config, model, shape)

        return Trial(bind=bind, num_examples=shape.num_images)

    def load_data(self, config: RunConfig) -> Splits:
        """Read the images of a run, as `run_splits`."""
        return run_splits(config)

    def bind(
        self,
        config: RunConfig,
        data: Splits,
        *,
        model: ModelFactory | None = None,
        device: torch.device | str = "cpu",
        begins_trained: bool = True,
    ) -> ImageClassification:
        """Return the task bound to images, as `Task.bind`."""
        from inarch.population.tasks.image_classification import ImageClassification

        return ImageClassification(config, data, factory=model, device=device, begins_trained=begins_trained)


def run_splits(config: RunConfig) -> Splits:
    """Read the images of a run. In retrieval the test images may be of other classes than the training images.

    Args:
        config: Configuration of the run.

    Raises:
        DataError: As `load_splits`.
    """
    from inarch.population.data import load_splits

    return load_splits(config.data, seed=config.seed, same_classes=config.task != "retrieval")


def with_data(config: RunConfig, data: Any, storage: Storage) -> RunConfig:
    """Return a configuration with the caller's images, at paths that every node can read.

    Paths are made absolute. Images that are passed as Python objects are first written into the run's folder. What the
    caller passes replaces data.test and data.validation_set. What a function returns that data.train names does not.

    Args:
        config: The run's configuration.
        data: As in `PopulationRun.start`. None: the configuration's own paths.
        storage: The run's folder, which this start has claimed.

    Raises:
        ConfigError: The folder holds data of another start. Another field than data.train names a function. Or such a
            function returns a part that a path names too.
        DataError: The data cannot be used.
        UserCodeError: A Dataset raised.
    """
    paths: dict[str, str | None] = {"test": None, "validation_set": None}
    if data is None:
        for field in ("test", "validation_set", "query"):
            value = getattr(config.data, field)
            if value is not None and is_dataset(value):
                raise ConfigError(
                    f"data.{field} {value!r} names a function; only data.train may, for all parts together"
                )
        if not is_dataset(config.data.train):
            return with_absolute_data(config)
        data, paths = load_dataset(config.data.train), {}
    from inarch.population.data import UnreadableImages, is_path, parts_of

    parts = parts_of(data)
    unreadable = UnreadableImages(config.data.skip_unreadable)
    repeated = (
        [] if paths else [FIELDS[part] for part in parts if part != "train" and getattr(config.data, FIELDS[part])]
    )
    if repeated:
        raise ConfigError(
            f"data.{repeated[0]} is set, and {config.data.train} returns such images too; give one of them"
        )
    for part, source in parts.items():
        paths[FIELDS[part]] = str(source) if is_path(source) else _written(source, part, config, storage, unreadable)
    return with_absolute_data(dataclasses.replace(config, data=dataclasses.replace(config.data, **paths)))


def _written(data: Any, part: str, config: RunConfig, storage: Storage, unreadable: UnreadableImages) -> str:
    """Write a part of the data as one Arrow file into the run's folder, and return its path."""
    if storage.exists(f"data/{part}.arrow"):
        raise ConfigError(
            f"{joined(storage.uri, f'data/{part}.arrow')} exists already; choose another name for the run"
        )
    from inarch.population.data import to_images, write_arrow

    images = to_images(data, config.data, name=f"data {part}", unreadable=unreadable, is_training=part == "train")
    storage.make("data")
    write_arrow(images, storage.filesystem, storage.path(f"data/{part}.arrow"))
    return joined(storage.uri, f"data/{part}.arrow")
