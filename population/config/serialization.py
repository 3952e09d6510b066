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
    values, hints = renewed(values, path), typing.get_type_hints(kind)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ConfigError(f"{path or 'the configuration'} has no field {unknown[0]!r}; it has {', '.join(hints)}")
    fields = {name: _revive(hints[name], value, f"{path}{name}.") for name, value in values.items()}
    return kind(**fields)


def renewed(values: Mapping[str, Any], path: str = "") -> Mapping[str, Any]:
    """Return recorded values with fields that earlier versions had in today's form.

    Args:
        values: Values by field name.
        path: Name of the section, followed by a dot. Empty for a whole configuration.
    """
    if not path and isinstance(values.get("optimizer"), Mapping):
        return {**values, "optimizer": renewed(values["optimizer"], "optimizer.")}
    if path != "optimizer." or "learning_rates" not in values:
        return values
    renamed = {name: value for name, value in values.items() if name != "learning_rates"}
    rates = values["learning_rates"]
    if rates == "spread":
        renamed["learning_rate"] = f"spread({values.get('learning_rate', 0.1)})"
    elif rates != "same":
        renamed["learning_rate"] = rates
    return renamed


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
