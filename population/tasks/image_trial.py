"""Stand-in data for trying a network before a run starts: random images of the shape that the run's images have."""

from __future__ import annotations

import dataclasses

import numpy as np

from inarch.population.config import RunConfig
from inarch.population.data import image_set, memory_splits
from inarch.population.models import ModelFactory
from inarch.population.tasks.image_classification import ImageClassification
from inarch.population.tasks.image_shape import DataShape


def stand_in_task(config: RunConfig, factory: ModelFactory | None, shape: DataShape) -> ImageClassification:
    """Return a run's task, bound to random images on the CPU.

    Args:
        config: Configuration of the run.
        factory: Model factory. None: the model of config.model.
        shape: Number and shape of the training images.

    Raises:
        ConfigError, UserCodeError: As `ImageClassification`.
    """
    num_random = min(shape.num_images, config.schedule.batch_size + 1)
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (max(2, num_random), *shape.image_shape), dtype=np.uint8)
    labels = np.arange(len(pixels)) % shape.num_classes
    plain = dataclasses.replace(config.data, augmentation="none", validation=0.0, validation_set=None, channels="auto")
    names = [str(number) for number in range(shape.num_classes)]
    splits = memory_splits(image_set(pixels, labels, class_names=names), None, plain, seed=0)
    device = dataclasses.replace(config.device, compile=False)
    data = dataclasses.replace(plain, validation=config.data.validation, query=None)
    plain_config = dataclasses.replace(config, data=data, device=device, task="classification")
    return ImageClassification(plain_config, splits, factory=factory, begins_trained=False)
