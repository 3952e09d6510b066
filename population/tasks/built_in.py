"""The tasks by name, and the task that a configuration or a caller names."""

from __future__ import annotations

from collections.abc import Callable

from inarch.population.errors import ConfigError
from inarch.population.extension.registry import Registry
from inarch.population.extension.user_code import user_code
from inarch.population.tasks.protocol import Task
from inarch.population.tasks.run_spec import RunSpec

TASKS: Registry[Task | Callable[[], Task]] = Registry(
    "task",
    "task",
    accepts=lambda target: callable(target) or isinstance(target, Task),
    form="a task, or a class or function that returns one",
)
"""Tasks by name: tasks, or classes or functions that return a task."""

TASKS.add_paths(
    {
        "classification": "inarch.population.tasks.image_task:ImageTask",
        "retrieval": "inarch.population.tasks.image_task:ImageTask",
        "language": "inarch.population.tasks.language_modeling:LanguageModeling",
    }
)


def resolve_task(name: str) -> Task:
    """Return the task that a name stands for.

    Args:
        name: A name in `TASKS`, or `module:object` for a task, class or function of the caller.

    Raises:
        ConfigError: There is no such task, or the object returned no task.
        UserCodeError: The object raised.
    """
    target = TASKS.resolve(name)
    if isinstance(target, Task):
        return target
    with user_code(f"task {name}"):
        return check_task(target(), name)


def check_task(task: object, name: str) -> Task:
    """Return a task, or raise ConfigError if it is something else.

    Args:
        task: The object.
        name: Its name, for the message.
    """
    if not isinstance(task, Task):
        raise ConfigError(
            f"task {name} must be a subclass of inarch.Task, such as inarch.TensorTask, or a function that returns an "
            f"instance; got {type(task).__name__}"
        )
    return task


def task_of(spec: RunSpec) -> Task:
    """Return the task of a run.

    Args:
        spec: The run.

    Raises:
        ConfigError, UserCodeError: As `resolve_task`.
    """
    return spec.task if spec.task is not None else resolve_task(spec.config.task)
