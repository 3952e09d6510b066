"""Names in a configuration become objects."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable

from inarch.population.errors import ConfigError, UserCodeError
from inarch.population.extension.user_code import user_code


def import_object(path: str, field: str) -> Callable:
    """The object at `module:name`; the working directory counts as a place to import from.

    Raises:
        ConfigError: it cannot be imported or called.
    """
    module_name, _, attribute = path.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        with user_code(f"{field}: the module {module_name}"):
            found = getattr(importlib.import_module(module_name), attribute)
    except UserCodeError as error:
        if isinstance(error.__cause__, (ImportError, AttributeError, ValueError)):
            raise ConfigError(f"{field} {path!r} cannot be imported: {error.__cause__}") from error
        raise
    if not callable(found):
        raise ConfigError(f"{field} {path!r} must be callable, got {type(found).__name__}")
    return found
