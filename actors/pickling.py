"""Pickle objects of the caller for other processes, functions and classes of a script included."""

from __future__ import annotations

import contextlib
import importlib
import inspect
from typing import Any, cast

from inarch.population.errors import ConfigError


def dumps(value: object) -> bytes:
    """Return a pickled object. Any error that pickling raises is passed on.

    Args:
        value: The object. What a script or a notebook defines is pickled with its code.
    """
    return _cloudpickle().dumps(value)


def loads(content: bytes) -> Any:
    """Return the object that `dumps` pickled. Any error that unpickling raises is passed on.

    Args:
        content: As from `dumps`.
    """
    return _cloudpickle().loads(content)


def check_sendable(value: object, name: str) -> None:
    """Raise ConfigError if an object of the caller cannot be sent to other processes.

    Args:
        value: The object. The message names those of a function's variables that cannot be pickled.
        name: What it is, for the message.
    """
    error = _pickle_error(value)
    if error is None:
        return
    unpicklable: list[str] = []
    with contextlib.suppress(TypeError):
        variables = inspect.getclosurevars(cast("Any", value))
        captured = {**variables.nonlocals, **variables.globals}
        unpicklable = [name for name, value in captured.items() if _pickle_error(value) is not None]
    reason = f" because of {', '.join(map(repr, unpicklable))}" if unpicklable else ""
    remedy = "create such objects inside the function" if inspect.isfunction(value) else "create such objects later"
    raise ConfigError(f"{name} cannot be sent to the cluster{reason}: {error}; {remedy}")


def _pickle_error(value: Any) -> Exception | None:
    """Return the error that pickling a value raises. None if the value can be pickled."""
    try:
        dumps(value)
    except Exception as error:  # each kind of object raises its own error
        return error
    return None


def _cloudpickle() -> Any:
    return importlib.import_module("ray.cloudpickle")  # Ray's copy, which Ray's type stubs do not export
