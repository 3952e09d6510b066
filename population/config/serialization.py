"""A configuration as JSON, and back."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from inarch.population.errors import ConfigError


def to_dict(config: Any) -> dict[str, Any]:
    """The configuration as JSON's types."""
    return dataclasses.asdict(config)


def from_dict(kind: type, values: Mapping[str, Any], path: str = "") -> Any:
    """A configuration from JSON's types.

    Raises:
        ConfigError: an unknown field, or a value that its check refuses; the message names it.
    """
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ConfigError(f"{path or 'the configuration'} has no field {unknown[0]!r}; it has {', '.join(hints)}")
    made = {name: _revive(hints[name], value, f"{path}{name}.") for name, value in values.items()}
    return kind(**made)


def _revive(hint: Any, value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_dict(typing.cast(type, hint), value, path)
    if isinstance(value, list):
        return tuple(_revive(None, item, path) for item in value)
    if isinstance(hint, types.UnionType) and isinstance(value, int) and float in typing.get_args(hint):
        return value if int in typing.get_args(hint) or isinstance(value, bool) else float(value)
    return value
