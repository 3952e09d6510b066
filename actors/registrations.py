"""The registries of a run, and the objects that a driver registered on their way to the run's other processes.

A name that a script or a notebook registers is known only in the driver's process. The driver therefore sends the
objects that the configuration names, and each process registers them before it reads the configuration.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

from inarch.actors.pickling import check_sendable, dumps, loads
from inarch.population.config import RunConfig
from inarch.population.data.datasets import DATASETS
from inarch.population.errors import ConfigError
from inarch.population.exchange import RULES
from inarch.population.extension.registry import Registration, Registry, load_extensions
from inarch.population.grafting.criterion_names import CRITERIA
from inarch.population.membership.topology import TOPOLOGIES
from inarch.population.models.model_names import MODELS
from inarch.population.tasks.built_in import TASKS

REGISTRIES: tuple[Registry[Any], ...] = (TASKS, MODELS, DATASETS, TOPOLOGIES, RULES, CRITERIA)
"""Registries whose objects a run's processes use."""


def registrations_of(config: RunConfig) -> tuple[Registration, ...]:
    """Return the registered objects that a configuration names. The library's own are not among them.

    Args:
        config: The run's configuration.

    Raises:
        ConfigError: An object cannot be sent to other processes.
    """
    load_extensions()
    found: list[Registration] = []
    for registry in REGISTRIES:
        name = operator.attrgetter(registry.field)(config)
        if name in registry.names() and name not in registry.built_in():
            target = registry.resolve(name)
            check_sendable(target, f"{registry.field} {name!r}")
            found.append(Registration(field=registry.field, name=name, content=dumps(target)))
    return tuple(found)


def register_all(registrations: Iterable[Registration]) -> None:
    """Register objects of the driver in this process.

    Args:
        registrations: As from `registrations_of`.

    Raises:
        ConfigError: An object cannot be read here, for example because its module is missing on this machine.
    """
    registries = {registry.field: registry for registry in REGISTRIES}
    for registration in registrations:
        try:
            target = loads(registration.content)
        except Exception as error:  # importing the object's module may raise anything
            raise ConfigError(
                f"{registration.field} {registration.name!r} cannot be loaded on this node: "
                f"{type(error).__name__}: {error}; install its module on every node"
            ) from error
        registries[registration.field].replace(registration.name, target)
