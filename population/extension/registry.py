"""Import the objects that a configuration names."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable

from inarch.population.errors import ConfigError, UserCodeError
from inarch.population.extension.user_code import user_code


def import_object(path: str, field: str) -> Callable:
    """Import a callable object from `module:name`. Modules in the working directory are found too.

    Args:
        path: Module and name of the object, separated by a colon.
        field: Field of the configuration that holds the path, for errors.

    Raises:
        ConfigError: The object cannot be imported or is not callable.
        UserCodeError: The module raised another error while it was imported.
    """
    module_name, _, attribute = path.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        with user_code(f"{field}: the module {module_name}"):
            target = getattr(importlib.import_module(module_name), attribute)
    except UserCodeError as error:
        if isinstance(error.__cause__, (ImportError, AttributeError, ValueError)):
            raise ConfigError(f"{field} {path!r} cannot be imported: {error.__cause__}") from error
        raise
    if not callable(target):
        raise ConfigError(f"{field} {path!r} must be callable, got {type(target).__name__}")
    return target
