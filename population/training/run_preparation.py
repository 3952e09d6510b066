"""Prepare a run before it trains: load the data, build the model once, and check that they fit."""

from __future__ import annotations

import dataclasses
from typing import Any

from inarch.population.models.usable import ignored_code
from inarch.population.state.hyperparameters import network_config
from inarch.population.state.state_dict import named_tensors
from inarch.population.tasks.built_in import task_of
from inarch.population.tasks.protocol import BoundTask
from inarch.population.tasks.run_spec import RunInfo, RunSpec
from inarch.population.training.regime import regime, sizes_of
from inarch.population.training.trainer import Trainer


def prepare(spec: RunSpec) -> tuple[Any, RunInfo]:
    """Load the data, hold out validation data, build the model once and check that they fit.

    Args:
        spec: The run.

    Returns:
        The data, and the facts about data and model.

    Raises:
        InarchError: The data or the model cannot be used. Nothing was started.
    """
    task = task_of(spec)
    data = task.load_data(spec.config)
    return data, describe_run(task.bind(spec.config, data, model=spec.factory))


def describe_run(task: BoundTask) -> RunInfo:
    """Build the model of a run, try it on the data, and return the facts about both.

    Args:
        task: The run's task, bound to its data on the CPU.

    Raises:
        ConfigError: Model, data, exchange rule and teachers do not fit.
        UserCodeError: The caller's code raised.
    """
    config = task.config  # before the task is configured for the network that is tried
    trainer = try_task(task)
    description = task.describe()
    compact = description.compact
    note = ignored_code(trainer.module)
    return RunInfo(
        metrics=tuple(task.metrics),
        train_examples=description.train_examples,
        data_bytes=description.data_bytes,
        data_fingerprint=description.data_fingerprint,
        structure=trainer.layout.fingerprint,
        snapshot_bytes=trainer.layout.nbytes,
        parameters=description.parameters,
        multiply_adds=description.multiply_adds,
        compact_parameters=None if compact is None else compact.parameters,
        compact_multiply_adds=None if compact is None else compact.multiply_adds,
        num_intervals=trainer.schedule.num_intervals,
        interval_steps=trainer.schedule.interval_steps,
        steps_per_epoch=trainer.schedule.steps_per_epoch,
        regime=regime(
            config,
            steps_per_epoch=trainer.schedule.steps_per_epoch,
            unit_sizes=sizes_of(trainer.units, named_tensors(trainer.module)),
        ),
        description=description.lines if note is None else (*description.lines, note),
        unreadable=description.unreadable,
        facts=description.facts,
    )


def try_task(task: BoundTask, *, num_examples: int | None = None) -> Trainer:
    """Try a run's network on its task, and one exchange of it with a copy.

    Args:
        task: The run's task, bound to its data or to stand-in data, on the CPU.
        num_examples: Number of training examples, if the task is bound to stand-in data. None: those of its data.

    Returns:
        The trainer of the tried network. It must not train.

    Raises:
        ConfigError: Model, data, exchange rule and teachers do not fit.
        UserCodeError: The caller's code raised.
    """
    task.configure(network_config(task.config, 0))
    task.check(num_examples=num_examples)
    device = dataclasses.replace(task.config.device, compile=False)
    trainer = Trainer(task, dataclasses.replace(task.config, device=device), network_id=0)
    trainer.dry_run_exchange()
    return trainer
