"""Checks of a configuration's fields: the error names the field, the rule and the value."""

from __future__ import annotations

import math
import typing
from typing import Any

from inarch.population.errors import ConfigError


def require(claim: bool, name: str, rule: str, value: object) -> None:
    """Raises ConfigError where a claim about a field does not hold."""
    if not claim:
        raise ConfigError(f"{name} must {rule}, got {value!r}")


def one_of(value: str, options: Any, name: str) -> None:
    """Raises ConfigError where a value is none of a Literal's."""
    allowed = typing.get_args(options)
    require(value in allowed, name, f"be one of {', '.join(allowed)}", value)


def finite(value: float, name: str) -> None:
    """Raises ConfigError where a number is NaN or infinite."""
    require(math.isfinite(value), name, "be a finite number", value)
