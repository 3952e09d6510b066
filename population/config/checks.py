"""Checks of configuration fields. Each error names the field, the rule and the value."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import types
import typing
from collections.abc import KeysView, Sequence, ValuesView
from typing import Any

from inarch.population.errors import ConfigError

_OTHER = object()
"""What `_plain` returns for a value of another type."""

_NAMES = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("True or False", "True or False"),
    str: ("text", "texts"),
    types.NoneType: ("None", "None"),
}
"""Names of types, one and several."""


def check_types(config: Any, section: str = "") -> None:
    """Raise ConfigError if a field has a value of another type than declared, and make the values plain.

    Paths become text, numbers and arrays of NumPy and PyTorch become those of Python, and lists and ranges become
    tuples. Where a whole number is declared, 100.0 becomes 100, and where True or False is, 1 becomes True.

    Args:
        config: A configuration dataclass. It is changed.
        section: Name of its section, followed by a dot, for the message. Empty for the whole configuration.
    """
    for name, hint in _hints(type(config)).items():
        value = getattr(config, name)
        plain = _plain(value, hint)
        if plain is _OTHER:
            raise ConfigError(f"{section}{name} must be {_described(hint)}, got {value!r}")
        if plain is not value:
            object.__setattr__(config, name, plain)


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(next(base for base in kind.__mro__ if base.__module__.startswith("inarch.")))


def _plain(value: Any, hint: Any) -> Any:
    """Return a value in plain types, or _OTHER if it is not of the declared type. `one_of` checks literals."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return next((plain for arm in typing.get_args(hint) if (plain := _plain(value, arm)) is not _OTHER), _OTHER)
    if callable(getattr(value, "tolist", None)):
        value = value.tolist()
    if hint in (int, float):
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if hint is int and isinstance(value, float):
            return int(value) if value.is_integer() else _OTHER
        return value if is_number else _OTHER
    if hint is bool:
        return bool(value) if isinstance(value, int) and value in (0, 1) else _OTHER
    if hint is str:
        value = os.fspath(value) if isinstance(value, os.PathLike) else value
        return value if isinstance(value, str) else _OTHER
    if typing.get_origin(hint) is tuple:
        return _plain_items(value, typing.get_args(hint))
    if isinstance(hint, type) and (hint in _NAMES or dataclasses.is_dataclass(hint)):
        return value if isinstance(value, hint) else _OTHER
    return value


def _plain_items(values: Any, hints: tuple[Any, ...]) -> Any:
    """Return a list or tuple as a tuple of plain items, or _OTHER."""
    if isinstance(values, (str, bytes)) or not isinstance(values, (Sequence, KeysView, ValuesView)):
        return _OTHER
    given: tuple[Any, ...] = tuple(typing.cast("Sequence[Any]", values))
    hints = (hints[0],) * len(given) if hints[-1] is Ellipsis else hints
    if len(given) != len(hints):
        return _OTHER
    items = tuple(_plain(item, hint) for item, hint in zip(given, hints, strict=True))
    if any(item is _OTHER for item in items):
        return _OTHER
    is_same = isinstance(values, tuple) and all(new is old for new, old in zip(items, given, strict=True))
    return values if is_same else items


def _described(hint: Any, *, many: bool = False) -> str:
    """Return a declared type as it follows `must be`, in the plural for the items of a list."""
    arms = typing.get_args(hint)
    if hint == (float | tuple[float, ...] | str):
        return "a number, a list of numbers, or a distribution such as uniform(0, 0.4)"
    if typing.get_origin(hint) is tuple:
        count = "" if arms[-1] is Ellipsis else f"{len(arms)} "
        return f"{'lists' if many else 'a list'} of {count}{_described(arms[0], many=True)}"
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return " or ".join(_described(arm) for arm in arms)
    return _NAMES[hint][many] if hint in _NAMES else f"a {hint.__name__}"


def require(claim: bool, name: str, rule: str, value: object) -> None:
    """Raise ConfigError if a claim about a field is false.

    Args:
        claim: Whether the field is valid.
        name: Name of the field, with its section: `graft.a`.
        rule: The rule, as it follows the word `must` in the message: `lie in [0, 1]`.
        value: Value of the field.
    """
    if not claim:
        raise ConfigError(f"{name} must {rule}, got {value!r}")


def one_of(value: str, options: Any, name: str) -> None:
    """Raise ConfigError if a value is not among the options.

    Args:
        value: Value of the field.
        options: A `Literal` type that lists the allowed values.
        name: Name of the field, with its section.
    """
    allowed = typing.get_args(options)
    require(value in allowed, name, f"be one of {', '.join(allowed)}", value)


def finite(value: float, name: str) -> None:
    """Raise ConfigError if a number is NaN or infinite.

    Args:
        value: Value of the field.
        name: Name of the field, with its section.
    """
    require(math.isfinite(value), name, "be a finite number", value)
