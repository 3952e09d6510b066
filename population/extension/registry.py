"""Names in a configuration become objects: built-in names, `module:object` paths, or objects themselves."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

from inarch.population.errors import ConfigError, UserCodeError
from inarch.population.extension.user_code import user_code

T = TypeVar("T")


class Registry(Generic[T]):
    """Objects of one kind by name.

    A new object needs one file: `@TOPOLOGIES.register("name")` above a function, in a module that is imported, or the
    path `module:function` in the configuration.
    """

    def __init__(self, kind: str, field: str) -> None:
        """Create an empty registry.

        Args:
            kind: What the objects are, for errors: topology, criterion.
            field: Field of the configuration that names them, for errors.
        """
        self.kind, self.field = kind, field
        self._objects: dict[str, T] = {}
        self._imported: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers an object under a name.

        Args:
            name: The name, without a colon.

        Raises:
            ConfigError: Another object has the name, or the name has a colon.
        """

        def decorate(target: T) -> T:
            if ":" in name:
                raise ConfigError(f"{self.field}: the name {name!r} of a {self.kind} must not have a colon")
            if self._objects.get(name, target) is not target:
                raise ConfigError(f"{self.field}: there is a {self.kind} named {name!r} already")
            self._objects[name] = target
            return target

        return decorate

    def names(self) -> tuple[str, ...]:
        """Return the registered names, in the order of registration."""
        return tuple(self._objects)

    def resolve(self, name: str) -> T:
        """Return the object behind a name or a path.

        Args:
            name: A registered name, or `module:object`.

        Raises:
            ConfigError: There is no such object. The message lists the registered names.
        """
        if name in self._objects:
            return self._objects[name]
        if ":" in name:
            if name not in self._imported:
                self._imported[name] = cast("T", import_object(name, self.field))
            return self._imported[name]
        known = ", ".join(self._objects)
        raise ConfigError(f"{self.field} {name!r} is unknown; there are {known}, else module:object")


def import_object(path: str, field: str) -> Callable[..., Any]:
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
