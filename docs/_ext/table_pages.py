"""Markdown for the tables of a run's folder, the exported metrics and the registries, from the code."""

from __future__ import annotations

import ast
import inspect
import itertools
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from config_pages import field_texts, prose

from inarch.actors.driver.callbacks import CALLBACKS
from inarch.population.data.datasets import DATASETS
from inarch.population.exchange import RULES
from inarch.population.extension.registry import Registry
from inarch.population.grafting.criterion_names import CRITERIA, OTHER_CRITERIA
from inarch.population.membership.members import MemberState
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.membership.topology import TOPOLOGIES
from inarch.population.models.model_names import MODELS
from inarch.population.persistence import history_schemas
from inarch.population.tasks.built_in import TASKS
from inarch.population.tasks.run_spec import RunInfo


def tables() -> str:
    """Return the schema of each Parquet table, with the docstring under it."""
    docstrings = _docstrings(ast.parse(inspect.getsource(history_schemas)).body)
    parts: list[str] = []
    for name, schema in history_schemas.TABLES.items():
        parts += [f"### `{name}/`", "", prose(docstrings[name.upper()]), "", "| column | type |", "|---|---|"]
        parts += [f"| `{field.name}` | {field.type} |" for field in schema]
        parts.append("")
    return "\n".join(parts)


def _docstrings(body: Sequence[ast.stmt]) -> dict[str, str]:
    """Return the docstring under each assignment of a module or class."""
    texts: dict[str, str] = {}
    for node, following in itertools.pairwise(body):
        is_text = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and is_text:
            texts[node.targets[0].id] = inspect.cleandoc(str(following.value.value))
    return texts


def registries() -> str:
    """Return a table of the registries: what they hold, the field that names it, and the registered names."""
    listed: tuple[tuple[str, Registry[Any], tuple[str, ...]], ...] = (
        ("TOPOLOGIES", TOPOLOGIES, ("edges",)),
        ("RULES", RULES, ()),
        ("CRITERIA", CRITERIA, OTHER_CRITERIA),
        ("MODELS", MODELS, ()),
        ("DATASETS", DATASETS, ("digits", "cifar10", "cifar100")),
        ("TASKS", TASKS, ()),
        ("CALLBACKS", CALLBACKS, ()),
    )
    rows = ["| registry | kind | field | names |", "|---|---|---|---|"]
    for name, registry, others in listed:
        names = ", ".join(f"`{item}`" for item in (*registry.names(), *others)) or "none"
        rows.append(f"| `{name}` | {registry.kind} | `{registry.field}` | {names} |")
    return "\n".join(rows)


def outcomes() -> str:
    """Return a table of the outcomes of an exchange."""
    return _members(ExchangeOutcome, "outcome")


def states() -> str:
    """Return a table of the states of a member."""
    return _members(MemberState, "state")


def info() -> str:
    """Return a table of the facts that config.json holds under `info`."""
    rows = ["| key of `info` | meaning |", "|---|---|"]
    for name, (text, _) in field_texts(RunInfo).items():
        rows.append(f"| `{name}` | {prose(text)} |")
    return "\n".join(rows)


def _members(kind: type[StrEnum], heading: str) -> str:
    """Return a table of the values of an enumeration, each with the docstring under it."""
    (class_node,) = ast.parse(inspect.getsource(kind)).body
    texts = _docstrings(class_node.body) if isinstance(class_node, ast.ClassDef) else {}
    rows = [f"| {heading} | meaning |", "|---|---|"]
    rows += [
        f"| `{member}` | {prose(texts.get(name, f'The network is {member}.'))} |"
        for name, member in kind.__members__.items()
    ]
    return "\n".join(rows)
