"""Complete a run's configuration with the name, the task and the model that the caller passes."""

from __future__ import annotations

import dataclasses
import os
import secrets
import sys
import time
from collections.abc import Callable, Collection, Mapping

import ray

from inarch.actors.pickling import check_sendable
from inarch.population.config import RunConfig
from inarch.population.errors import ConfigError, DataError, RunError, StorageError, UntrustedError
from inarch.population.exchange.rules import check_rule
from inarch.population.extension.trusted_code import is_remembered, remember, remember_code
from inarch.population.extension.user_code import user_code
from inarch.population.grafting.criterion_names import check_criterion
from inarch.population.membership.topology import check_topology
from inarch.population.models.model_names import ModelFactory, check_factory
from inarch.population.persistence.paths import absolute, joined
from inarch.population.persistence.storage import Storage
from inarch.population.tasks.built_in import check_task, resolve_task
from inarch.population.tasks.named_code import check_training_trusted, named_code
from inarch.population.tasks.protocol import Task
from inarch.population.tasks.run_folder import read_info, read_result, with_moved_data, with_own_data
from inarch.population.training.schedule import Schedule

OWN_TASK = "callable"
"""Name in the configuration of a task that the caller passed as an object."""


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
    return f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"


def run_storage(config: RunConfig) -> Storage:
    """Return the folder of a run.

    Args:
        config: The run's configuration, which names the run.
    """
    return Storage(joined(config.storage, str(config.name)), deadline_seconds=config.timeouts.storage_seconds)


def with_task(config: RunConfig, task: Task | Callable[[], Task] | str | None) -> tuple[RunConfig, Task, bool]:
    """Return a configuration that names the caller's task, and the task.

    Args:
        config: The run's configuration.
        task: Name of a task, `module:object`, a task, or a class or function that returns one. None: the task that the
            configuration names.

    Returns:
        The configuration, the task, and whether the caller passed the task itself. The configuration then names it
        `callable`.

    Raises:
        ConfigError: There is no such task, or it cannot be sent to other processes.
        UserCodeError: The caller's class or function raised.
    """
    if task is None or isinstance(task, str):
        config = dataclasses.replace(config, task=task or config.task)
        return config, resolve_task(config.task), False
    name = getattr(task, "__qualname__", type(task).__name__)
    if not isinstance(task, Task) and callable(task):
        with user_code(f"task {name}"):
            task = task()
    own_task = check_task(task, name)
    check_sendable(own_task, f"the task {name}")
    return dataclasses.replace(config, task=OWN_TASK), own_task, True


def with_network(
    config: RunConfig, task: Task, model: ModelFactory | str | None
) -> tuple[RunConfig, ModelFactory | None]:
    """Return a configuration with the caller's model, and the caller's model factory.

    The path of a file of weights is made absolute, so that every node reads the same file.

    Args:
        config: The run's configuration.
        task: The run's task, which checks the configuration.
        model: Name of an architecture, or a model factory. None: the configuration's own architecture.

    Returns:
        The configuration, and the model factory. The factory is None if the configuration names the architecture.

    Raises:
        ConfigError: The task cannot use the configuration, the architecture is unknown, or the factory is not callable
            or cannot be sent to other processes.
    """
    factory = None
    if isinstance(model, str):
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, architecture=model))
    elif model is not None:
        check_factory(model)
        check_sendable(model, f"the network function {getattr(model, '__qualname__', type(model).__name__)}")
        factory = model
    weights = config.model.weights
    if weights is not None and os.path.isfile(weights):
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, weights=absolute(weights)))
    task.check_config(config, has_model=factory is not None)
    return config, factory


def with_teachers(config: RunConfig) -> RunConfig:
    """Return a configuration with absolute paths of its teachers, so that every node finds them.

    Args:
        config: The run's configuration.
    """
    parts = [teacher.partition("#") for teacher in config.distillation.teachers]
    teachers = tuple(f"{absolute(folder)}{mark}{network}" for folder, mark, network in parts)
    return dataclasses.replace(config, distillation=dataclasses.replace(config.distillation, teachers=teachers))


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
        return with_more_epochs(config, epochs, steps_per_epoch=read_info(storage).steps_per_epoch)
    if read_result(storage) is not None:
        raise RunError(
            f"run {config.name} is complete; its result is in {joined(storage.uri, 'result.json')}; train it for more "
            f"epochs by inarch resume {storage.uri} --schedule.epochs N"
        )
    return config


def with_more_epochs(config: RunConfig, epochs: int, *, steps_per_epoch: int) -> RunConfig:
    """Return a configuration with a longer schedule.

    Args:
        config: The run's configuration.
        epochs: Epochs of the whole schedule, more than before.
        steps_per_epoch: Training steps of one epoch, at least 1.

    Raises:
        ConfigError: The schedule is not longer, or has no further interval.
    """
    if epochs <= config.schedule.epochs:
        raise ConfigError(f"schedule.epochs of a resumed run must be above {config.schedule.epochs}, got {epochs}")
    before = Schedule(config=config.schedule, steps_per_epoch=steps_per_epoch)
    longer = dataclasses.replace(before, config=dataclasses.replace(config.schedule, epochs=epochs))
    if longer.num_intervals == before.num_intervals:
        covered = before.num_intervals * before.interval_steps // steps_per_epoch
        field = "interval_steps" if config.schedule.interval_steps else "interval_epochs"
        raise ConfigError(
            f"schedule.epochs of this run must be above {covered}, got {epochs}: with schedule.{field} "
            f"{getattr(config.schedule, field)}, no interval would follow those of the {config.schedule.epochs} epochs "
            "before"
        )
    return dataclasses.replace(config, schedule=longer.config)


def check_resumed_trusted(config: RunConfig, storage: Storage, *, given: Collection[str], trust: bool) -> None:
    """Raise UntrustedError if a run's folder names code or trackers that the user has never named.

    Args:
        config: The configuration in the folder.
        storage: The run's folder.
        given: Fields whose objects the caller passes: `task`, `model.architecture`.
        trust: Whether the caller trusts the folder.

    Raises:
        UntrustedError: A module would be imported from the working directory, or a tracker has a target that the user
            has never named on this machine.
    """
    check_training_trusted(config, storage, given=given, trust=trust)
    targets = [tracker for tracker in config.track if "=" in tracker and not is_remembered(tracker)]
    if targets and not trust:
        raise UntrustedError(
            f"{joined(storage.uri, 'config.json')} names the trackers {', '.join(targets)}, which you have "
            "never named on this machine; nothing was sent there. If you trust them, add --trust (in Python: "
            "trust=True)"
        )


def remember_named(config: RunConfig) -> None:
    """Remember the code and the trackers that the caller has named. Folders may name them from then on.

    Args:
        config: Configuration of a run that the caller starts.
    """
    remember_code(named_code(config).values())
    for tracker in config.track:
        if "=" in tracker:
            remember(tracker)


def check_here(config: RunConfig, task: Task, model: ModelFactory | None, *, has_own_code: bool) -> None:
    """Check data and model in this process, where the caller's code is defined, before Ray starts.

    The model is tried if the run uses code of the caller, or if this process has imported torch already. Otherwise only
    the cluster tries it, because importing torch takes seconds. The cluster also checks data that only it can read.

    Args:
        config: The run's configuration.
        task: The run's task.
        model: The caller's model factory. None: the configuration's architecture.
        has_own_code: Whether the run uses objects of the caller.

    Raises:
        ConfigError: There is no such topology, criterion or exchange rule.
        ConfigError, UserCodeError: The model cannot be trained on such data.
        DataError, StorageError: The data cannot be used, and the run starts a cluster on this machine.
    """
    check_names(config)
    is_local = config.address in (None, "local") and "RAY_ADDRESS" not in os.environ and not ray.is_initialized()
    try:
        trial = task.trial(config, model)
        if trial is not None and (has_own_code or "torch" in sys.modules):
            from inarch.population.training.run_preparation import try_task

            try_task(trial.bind(), num_examples=trial.num_examples)
    except (DataError, StorageError):
        if is_local:
            raise


def names_own_code(config: RunConfig) -> bool:
    """Return whether a configuration names an object as module:object.

    Args:
        config: The run's configuration.
    """
    names = (config.task, config.model.architecture, config.topology.name, config.exchange.rule, config.graft.criterion)
    return any(":" in name for name in names)


def check_names(config: RunConfig) -> None:
    """Raise ConfigError if a configuration names an unknown topology, criterion or exchange rule.

    Args:
        config: The run's configuration.
    """
    check_topology(config.topology)
    check_criterion(config.graft.criterion)
    check_rule(config.exchange.rule)
