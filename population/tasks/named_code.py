"""The code that the configuration in a run's folder names, and the check that it may be imported."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Mapping

from inarch.population.config import RunConfig
from inarch.population.errors import InarchError
from inarch.population.extension.trusted_code import check_code_trusted
from inarch.population.persistence.storage import Storage
from inarch.population.tasks.run_folder import read_config

EVALUATION_FIELDS = ("task", "model.architecture", "data.train")
"""Fields that name code which an evaluation of the run imports."""

RUN_FIELDS = (*EVALUATION_FIELDS, "topology.name", "exchange.rule", "graft.criterion", "callbacks")
"""Fields that name code which a run imports."""


def named_code(config: RunConfig, fields: Iterable[str] = RUN_FIELDS) -> dict[str, str]:
    """Return the names that may stand for code of the user, by the field that holds them.

    Args:
        config: The configuration.
        fields: Fields to look at. Each name in a tuple is an entry of its own, such as `callbacks[0]`.
    """
    names: dict[str, str] = {}
    for field in fields:
        value = operator.attrgetter(field)(config)
        if isinstance(value, tuple):
            names |= {f"{field}[{position}]": str(name) for position, name in enumerate(value)}
        else:
            names[field] = str(value)
    return names


def check_config_trusted(
    names: Mapping[str, str], storage: Storage, *, given: Collection[str] = (), trust: bool
) -> None:
    """Raise UntrustedError if a run's folder names code of the working directory that the user has never named.

    Args:
        names: Names by field, as from `named_code`.
        storage: The run's folder.
        given: Fields whose objects the caller passes in this call. What the folder names there is not imported.
        trust: Whether the caller trusts the folder.

    Raises:
        UntrustedError: The message lists the objects, and the files from which they would be imported.
    """
    if trust:
        return
    check_code_trusted(
        {field: name for field, name in names.items() if field not in given},
        folder=f"{storage.uri}/config.json",
        remedy="If you trust it, add --trust (in Python: trust=True)",
    )


def check_teachers_trusted(config: RunConfig, *, trust: bool) -> None:
    """Raise UntrustedError if a teacher's folder names a model of the working directory that the user has not named.

    Args:
        config: The configuration of the students, which names the folders.
        trust: Whether the caller trusts the folders.

    Raises:
        UntrustedError: As `check_config_trusted`.
    """
    if trust:
        return
    for teacher in config.distillation.teachers:
        storage = Storage(teacher.partition("#")[0])
        try:
            architecture = read_config(storage)["config"]["model"]["architecture"]
        except (InarchError, KeyError, TypeError):  # the networks report a folder that cannot be used
            continue
        name = str(architecture)
        check_code_trusted(
            {"model.architecture": name} if name != config.model.architecture else {},
            folder=f"{storage.uri}/config.json",
            remedy=f"If you trust it, train a network with --model.architecture {name} here first, or install the "
            "module; a resume also takes --trust",
        )
