"""Checks of configuration fields. Each error names the field, the rule and the value."""

from __future__ import annotations

import math
import typing
from typing import Any

from inarch.population.errors import ConfigError


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
