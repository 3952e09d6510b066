"""The code that the configuration in a run's folder names, and the check that it may be imported."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Mapping

from inarch.population.config import RunConfig
from inarch.population.errors import InarchError
from inarch.population.extension.trusted_code import check_code_trusted
from inarch.population.persistence.paths import joined
from inarch.population.persistence.storage import Storage
from inarch.population.tasks.run_folder import read_config

EVALUATION_FIELDS = ("task", "model.architecture", "data.train")
"""Fields that name code which an evaluation of the run imports."""

REPLAY_FIELDS = (*EVALUATION_FIELDS, "exchange.rule", "graft.criterion")
"""Fields that name code which a replay of the run imports."""

RUN_FIELDS = (*REPLAY_FIELDS, "topology.name", "callbacks")
"""Fields that name code which a run imports."""


def named_code(config: RunConfig, fields: Iterable[str] = RUN_FIELDS, *, given: Collection[str] = ()) -> dict[str, str]:
    """Return the names that may stand for code of the user, by the field that holds them.

    Args:
        config: The configuration.
        fields: Fields to look at. Each name in a tuple is an entry of its own, such as `callbacks[0]`.
        given: Fields to leave out, because the caller passes their objects.
    """
    names: dict[str, str] = {}
    for field in fields:
        if field in given:
            continue
        value = operator.attrgetter(field)(config)
        if isinstance(value, tuple):
            names |= {f"{field}[{position}]": str(name) for position, name in enumerate(value)}
        else:
            names[field] = str(value)
    return names


def check_config_trusted(names: Mapping[str, str], storage: Storage, *, file: str = "config.json", trust: bool) -> None:
    """Raise UntrustedError if a run's folder names code of the working directory that the user has never named.

    Args:
        names: Names by field, as from `named_code`.
        storage: The run's folder.
        file: File in the folder that holds the names, for the message.
        trust: Whether the caller trusts the folder.

    Raises:
        UntrustedError: The message lists the objects, and the files from which they would be imported.
    """
    if trust:
        return
    check_code_trusted(
        names,
        folder=joined(storage.uri, file),
        remedy="If you trust it, add --trust (in Python: trust=True)",
    )


def check_training_trusted(
    config: RunConfig,
    storage: Storage,
    *,
    fields: Iterable[str] = RUN_FIELDS,
    file: str = "config.json",
    given: Collection[str] = (),
    trust: bool,
) -> None:
    """Raise UntrustedError if training as a run's folder says would import code that the user has never named.

    Args:
        config: A configuration in the folder.
        storage: The run's folder.
        fields: Fields whose code is imported. The models of teachers always are.
        file: File in the folder that holds the configuration, for the message.
        given: Fields whose objects the caller passes in this call. What the folder names there is not imported.
        trust: Whether the caller trusts the folder.

    Raises:
        UntrustedError: As `check_config_trusted`, for the run's folder or for that of a teacher.
    """
    names = named_code(config, fields, given=given)
    check_config_trusted(names, storage, file=file, trust=trust)
    check_teachers_trusted(config, known=names.values(), trust=trust)


def check_teachers_trusted(config: RunConfig, *, known: Collection[str], trust: bool) -> None:
    """Raise UntrustedError if a teacher's folder names a model of the working directory that the user has not named.

    Args:
        config: The configuration of the students, which names the folders.
        known: Names that need no check, because the caller has named them, or because they were checked before.
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
            {"model.architecture": name} if name not in known else {},
            folder=joined(storage.uri, "config.json"),
            remedy=f"If you trust it, train a network with --model.architecture {name} here first, or install the "
            "module; a resume and a replay also take --trust",
        )
