"""Names in a configuration become objects: built-in names, `module:object` paths, or objects themselves."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, Generic, TypeVar, cast

from inarch.population.errors import ConfigError, UserCodeError
from inarch.population.extension.user_code import user_code

T = TypeVar("T")

EXTENSION_GROUP = "inarch.extensions"
"""Group of the entry points by which an installed package names its extension modules."""

EXTENSION_VARIABLE = "INARCH_EXTENSIONS"
"""Environment variable that names extension modules, separated by commas."""


class Registry(Generic[T]):
    """Objects of one kind by name.

    A new object needs one file: `@TOPOLOGIES.register("name")` above a function, in an extension module, or the
    path `module:function` in the configuration.
    """

    def __init__(self, kind: str, field: str, *, others: str = "module:object") -> None:
        """Create an empty registry.

        Args:
            kind: What the objects are, for errors: topology, criterion.
            field: Field of the configuration that names them, for errors.
            others: Forms of the field that are not registered names, for errors.
        """
        self.kind, self.field, self.others = kind, field, others
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
        """Return the registered names, in the order of registration. `load_extensions` adds those of extensions."""
        return tuple(self._objects)

    def resolve(self, name: str) -> T:
        """Return the object behind a name or a path.

        Args:
            name: A registered name, or `module:object`.

        Raises:
            ConfigError: There is no such object. The message lists the registered names.
        """
        if name not in self._objects and ":" not in name:
            load_extensions()
        if name in self._objects:
            return self._objects[name]
        if ":" in name:
            if name not in self._imported:
                self._imported[name] = cast("T", import_object(name, self.field))
            return self._imported[name]
        known = ", ".join(self._objects)
        raise ConfigError(f"{self.field} {name!r} is unknown; there are {known}, else {self.others}")


@functools.cache
def load_extensions() -> tuple[str, ...]:
    """Import the installed extensions once, so that they register their objects.

    An extension is a module that an installed package names as an entry point of the group `inarch.extensions`, or that
    the environment variable INARCH_EXTENSIONS names. That variable holds modules separated by commas. Ray's processes
    on the driver's machine inherit it. Processes on other nodes need it in their environment.

    Returns:
        Names of the imported modules.

    Raises:
        ConfigError: A module cannot be imported.
        UserCodeError: A module raised another error while it was imported.
    """
    points = importlib.metadata.entry_points(group=EXTENSION_GROUP)
    listed = os.environ.get(EXTENSION_VARIABLE, "").split(",")
    modules = [*(point.value for point in points), *(name.strip() for name in listed if name.strip())]
    for name in modules:
        _import_module(name, f"extension {name}")
    return tuple(modules)


def _import_module(name: str, what: str) -> ModuleType:
    """Import a module of the caller. Modules in the working directory are found too."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        with user_code(f"{what}: the module {name}"):
            return importlib.import_module(name)
    except UserCodeError as error:
        if isinstance(error.__cause__, (ImportError, ValueError)):
            raise ConfigError(f"{what} cannot be imported: {error.__cause__}") from error
        raise


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
    module = _import_module(module_name, f"{field} {path!r}")
    target = getattr(module, attribute, None)
    if target is None:
        raise ConfigError(f"{field} {path!r} cannot be imported: module {module_name!r} has no attribute {attribute!r}")
    if not callable(target):
        raise ConfigError(f"{field} {path!r} must be callable, got {type(target).__name__}")
    return target
