"""Names in a configuration become objects: built-in names, `module:object` paths, or objects themselves."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Generic, TypeVar, cast

from inarch.population.errors import ConfigError, UserCodeError
from inarch.population.extension.trusted_code import add_working_directory
from inarch.population.extension.user_code import user_code

T = TypeVar("T")
Decorated = TypeVar("Decorated")

EXTENSION_GROUP = "inarch.extensions"
"""Group of the entry points by which an installed package names its extension modules."""

EXTENSION_VARIABLE = "INARCH_EXTENSIONS"
"""Environment variable that names extension modules, separated by commas."""


@dataclass(frozen=True, kw_only=True)
class Registration:
    """A registered object on its way to another process."""

    field: str
    """Field of the configuration that names the object. It tells the registry."""
    name: str
    """Name of the object."""
    content: bytes
    """The pickled object."""


class Registry(Generic[T]):
    """Objects of one kind by name.

    A new object needs one file: `@TOPOLOGIES.register("name")` above a function, in an extension module or in the
    driver's script, or the path `module:function` in the configuration. A run sends the objects that its driver
    registered to its other processes.
    """

    def __init__(
        self,
        kind: str,
        field: str,
        *,
        others: str = "module:object",
        accepts: Callable[[object], bool] = callable,
        form: str = "callable",
    ) -> None:
        """Create an empty registry.

        Args:
            kind: What the objects are, for errors: topology, criterion.
            field: Field of the configuration that names them, with its section: topology.name.
            others: Forms of the field that are not registered names, for errors.
            accepts: Returns whether an object is of the kind.
            form: What `accepts` accepts, as it follows the words `must be` in an error.
        """
        self.kind, self.field, self.others = kind, field, others
        self._accepts, self._form = accepts, form
        self._objects: dict[str, T] = {}
        self._imported: dict[str, T] = {}
        self._built_in: frozenset[str] = frozenset()
        self._paths: dict[str, str] = {}

    def register(self, name: str) -> Callable[[Decorated], Decorated]:
        """Return a decorator that registers an object under a name, and leaves it as it is.

        Args:
            name: The name, without a colon.

        Raises:
            ConfigError: As `add`.
        """

        def decorate(target: Decorated) -> Decorated:
            self.add(name, cast("T", target))
            return target

        return decorate

    def add(self, name: str, target: T) -> None:
        """Register an object under a name.

        A new definition replaces an earlier one from the same place, as when a cell of a notebook runs again.

        Args:
            name: The name, without a colon.
            target: The object.

        Raises:
            ConfigError: Another object has the name, the name has a colon, or the object is of another kind.
        """
        if ":" in name:
            raise ConfigError(f"{self.field}: the name {name!r} of a {self.kind} must not have a colon")
        self._check(name, target)
        known = self._objects.get(name, target)
        is_own = name in self.built_in()
        if (known is not target or name in self._paths) and (is_own or _origin(known) != _origin(target)):
            raise ConfigError(f"{self.field}: there is a {self.kind} named {name!r} already")
        self._objects[name] = target

    def check(self, name: str) -> None:
        """Raise ConfigError if there is no such object. The library's own objects are not imported.

        Args:
            name: A registered name, or `module:object`.
        """
        if name not in self._paths:
            self.resolve(name)

    def add_paths(self, paths: Mapping[str, str]) -> None:
        """Register the library's own objects. Each is imported when it is resolved first.

        Args:
            paths: `module:object` by name.
        """
        self._paths |= paths

    def _check(self, name: str, target: object) -> None:
        """Raise ConfigError if an object is of another kind."""
        if not self._accepts(target):
            raise ConfigError(f"{self.field} {name!r} must be {self._form}, got {type(target).__name__}")

    def replace(self, name: str, target: T) -> None:
        """Register an object that another process registered. It replaces an earlier one of the name.

        Args:
            name: The name.
            target: The object.
        """
        self._objects[name] = target

    def remove(self, name: str) -> None:
        """Forget a registered object.

        Args:
            name: A registered name.
        """
        del self._objects[name]

    def close_built_in(self) -> None:
        """Declare that the objects registered so far are the library's own."""
        self._built_in = frozenset(self._objects)

    def names(self) -> tuple[str, ...]:
        """Return the registered names, in the order of registration. `load_extensions` adds those of extensions."""
        return (*self._paths, *self._objects)

    def built_in(self) -> frozenset[str]:
        """Return the names of the library's own objects."""
        return self._built_in | self._paths.keys()

    def resolve(self, name: str) -> T:
        """Return the object behind a name or a path.

        Args:
            name: A registered name, or `module:object`.

        Raises:
            ConfigError: There is no such object. The message lists the registered names.
        """
        if name not in self.names() and ":" not in name:
            load_extensions()
        if name in self._objects:
            return self._objects[name]
        if name in self._paths or ":" in name:
            if name not in self._imported:
                target = import_object(self._paths.get(name, name), self.field)
                self._check(name, target)
                self._imported[name] = cast("T", target)
            return self._imported[name]
        known = ", ".join(self.names())
        raise ConfigError(
            f"{self.field} {name!r} is unknown; there are {known}, else {self.others}, or a name that a "
            f"module in {EXTENSION_VARIABLE} registers"
        )


@functools.cache
def load_extensions() -> tuple[str, ...]:
    """Import the installed extensions once, so that they register their objects.

    An extension is a module that an installed package names as an entry point of the group `inarch.extensions`, or that
    the environment variable INARCH_EXTENSIONS names. That variable holds modules separated by commas. The driver
    sends the objects that its run uses to the other nodes, which need the modules but not the variable.

    Returns:
        Names of the imported modules.

    Raises:
        ConfigError: A module cannot be imported.
        UserCodeError: A module raised another error while it was imported.
    """
    installed = [point.value for point in importlib.metadata.entry_points(group=EXTENSION_GROUP)]
    listed = [name.strip() for name in os.environ.get(EXTENSION_VARIABLE, "").split(",") if name.strip()]
    for name in installed:
        _import_module(name, f"extension {name}")
    for name in listed:
        add_working_directory(name)
        _import_module(name, f"extension {name}")
    return (*installed, *listed)


def _import_module(name: str, what: str) -> ModuleType:
    """Import a module of the caller."""
    try:
        with user_code(f"{what}: the module {name}"):
            return importlib.import_module(name)
    except UserCodeError as error:
        if isinstance(error.__cause__, (ImportError, ValueError)):
            raise ConfigError(f"{what} cannot be imported: {error.__cause__}") from error
        raise


def _origin(target: object) -> tuple[str, str]:
    """Return module and qualified name of a function or class, or of an object's class."""
    definition = target if hasattr(target, "__qualname__") else type(target)
    return definition.__module__, getattr(definition, "__qualname__", "")


def import_object(path: str, field: str) -> Any:
    """Import an object from `module:name`. Modules in the working directory are found too.

    The import runs the module. If the path is from a run's folder and not from the user, call
    `trusted_code.check_code_trusted` first.

    Args:
        path: Module and name of the object, separated by a colon.
        field: Field of the configuration that holds the path, for errors.

    Raises:
        ConfigError: The object cannot be imported, or the path has another form. `check_code_trusted` leaves out names
            of another form, so none of them is imported.
        UserCodeError: The module raised another error while it was imported.
    """
    module_name, _, attribute = path.partition(":")
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise ConfigError(f"{field} {path!r} cannot be imported: {module_name!r} is not the name of a module")
    add_working_directory(module_name)
    module = _import_module(module_name, f"{field} {path!r}")
    target = getattr(module, attribute, None)
    if target is None:
        raise ConfigError(f"{field} {path!r} cannot be imported: module {module_name!r} has no attribute {attribute!r}")
    return target
