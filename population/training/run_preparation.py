"""Prepare a run before it trains: read the data, build the model once, and check that they fit."""

from __future__ import annotations

import dataclasses
from typing import Any

from inarch.population.config import FusionConfig, RunConfig
from inarch.population.data import MemorySplits, Splits
from inarch.population.models import ModelFactory
from inarch.population.models.complexity import complexity_of
from inarch.population.tasks.image_classification import ImageClassification, run_splits
from inarch.population.tasks.run_spec import RunInfo, RunSpec
from inarch.population.training.model_check import check_network
from inarch.population.training.trainer import Trainer


def prepare(spec: RunSpec) -> tuple[Splits, RunInfo]:
    """Read the data, hold out validation images, build the model once and check that they fit.

    Args:
        spec: The run.

    Returns:
        The data, and the facts about data and model.

    Raises:
        InarchError: The data or the model cannot be used. Nothing was started.
    """
    splits = run_splits(spec.config)
    return splits, describe_run(spec.config, splits, spec.factory)


def describe_run(config: RunConfig, splits: Splits, factory: ModelFactory | None) -> RunInfo:
    """Build the model of a run, try it on the data, and return the facts about both.

    Args:
        config: Configuration of the run.
        splits: Data of the run.
        factory: Model factory. None: the model of config.model.

    Raises:
        ConfigError: Model, data, exchange rule and teachers do not fit.
        UserCodeError: The caller's model raised.
    """
    task = ImageClassification(config, splits, factory=factory)
    train = splits.batches("train", "cpu")
    check_network(task, num_images=0 if train is None else len(train))
    trainer = Trainer(
        task, dataclasses.replace(config, device=dataclasses.replace(config.device, compile=False)), network_id=0
    )
    task.check()
    trainer.dry_run_exchange()
    model = factory or config.model
    size: dict[str, Any] = {"num_classes": splits.num_classes, "image_shape": splits.image_shape}
    cost = complexity_of(model, FusionConfig(), **size)
    compact = complexity_of(model, config.fusion, **size) if config.fusion.mode != "off" else None
    return RunInfo(
        num_classes=splits.num_classes,
        image_shape=splits.image_shape,
        train_images=0 if train is None else len(train),
        data_bytes=splits.nbytes if isinstance(splits, MemorySplits) else 0,
        data_fingerprint=splits.fingerprint,
        data=splits.report,
        structure=trainer.layout.fingerprint,
        snapshot_bytes=trainer.layout.nbytes,
        parameters=cost.parameters,
        multiply_adds=cost.multiply_adds,
        compact_parameters=None if compact is None else compact.parameters,
        compact_multiply_adds=None if compact is None else compact.multiply_adds,
        num_intervals=trainer.schedule.num_intervals,
        steps_per_epoch=trainer.schedule.steps_per_epoch,
    )
