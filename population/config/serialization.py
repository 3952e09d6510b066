"""Convert a configuration to JSON types and back."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from inarch.population.errors import ConfigError


def to_dict(config: Any) -> dict[str, Any]:
    """Return a configuration as nested dicts of JSON types. Tuples stay tuples, which JSON writes as lists.

    Args:
        config: A configuration dataclass.
    """
    return dataclasses.asdict(config)


def from_dict(kind: type, values: Mapping[str, Any], path: str = "") -> Any:
    """Return a configuration built from JSON types. Fields that are missing get their defaults.

    Args:
        kind: The configuration dataclass.
        values: Values by field name. Sections are nested mappings.
        path: Names of the enclosing sections, each followed by a dot, for error messages.

    Raises:
        ConfigError: A field is unknown, or its value is refused. The message names the field.
    """
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ConfigError(f"{path or 'the configuration'} has no field {unknown[0]!r}; it has {', '.join(hints)}")
    fields = {name: _revive(hints[name], value, f"{path}{name}.") for name, value in values.items()}
    return kind(**fields)


def _revive(hint: Any, value: Any, path: str) -> Any:
    """Convert a JSON value: a mapping to its dataclass, a list to a tuple, an integer to an optional float."""
    if isinstance(value, Mapping):
        kinds = [kind for kind in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(kind)]
        return from_dict(typing.cast(type, kinds[0]), value, path) if kinds else value
    if isinstance(value, list):
        item_hint = typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else None
        return tuple(_revive(item_hint, item, path) for item in typing.cast("list[Any]", value))
    if isinstance(hint, types.UnionType) and isinstance(value, int) and float in typing.get_args(hint):
        return value if int in typing.get_args(hint) or isinstance(value, bool) else float(value)
    return value
