"""Numbers of the configuration that may differ between networks: one number, a list, or a distribution.

The type of such a field is `PerNetwork`, and its metadata hold the `NumberRule` that every number must follow. A
distribution is text: `uniform(0, 0.4)`, `log_uniform(1e-4, 1e-2)`, `choice(0, 0.1, 0.2)` or `spread(0.1)`.
`population.state.hyperparameters` gives each network its own number.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from inarch.population.config.checks import require
from inarch.population.errors import ConfigError

PerNetwork = float | tuple[float, ...] | str
"""One number for all networks, a number for each network, or a distribution from which each network draws its own."""

LEARNING_RATE = "optimizer.learning_rate"
"""Field of the initial learning rate. Every network has a value of its own, which an exchange rule may change."""

_RULE = "per_network"
_DISTRIBUTION = re.compile(r"\s*(\w+)\s*\((.*)\)\s*")

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class NumberRule:
    """Which numbers a field may have, and how population based training perturbs them."""

    low: float = 0.0
    """Least number."""
    high: float = math.inf
    """Greatest number."""
    includes_low: bool = True
    """Whether the least number itself is valid."""
    includes_high: bool = False
    """Whether the greatest number itself is valid."""
    perturbs: Literal["value", "distance_to_1"] = "value"
    """What a factor of population based training multiplies. distance_to_1: for momentum, because a step with momentum
    m moves weights as far as one without it and with 1 / (1 - m) times the learning rate."""

    def holds(self, value: float) -> bool:
        """Return whether a number is valid.

        Args:
            value: The number. NaN is not valid.
        """
        is_above = value >= self.low if self.includes_low else value > self.low
        return is_above and (value <= self.high if self.includes_high else value < self.high)

    def perturbed(self, value: float, factor: float) -> float:
        """Return a number after a perturbation. Zero stays zero, and a factor that leads to no valid number is ignored.

        Args:
            value: A valid number.
            factor: Factor of the number, or of its distance to 1, above 0.
        """
        result = value * factor if self.perturbs == "value" else 1.0 - (1.0 - value) * factor
        return result if value > 0 and result > 0 and self.holds(result) else value

    @property
    def text(self) -> str:
        """The rule, as it follows the word `must`."""
        if math.isinf(self.high):
            return f"be at least {self.low:g}" if self.includes_low else f"be above {self.low:g}"
        left, right = "[" if self.includes_low else "(", "]" if self.includes_high else ")"
        return f"lie in {left}{self.low:g}, {self.high:g}{right}"


def per_network(rule: NumberRule) -> dict[str, NumberRule]:
    """Return the metadata of a field of type `PerNetwork`.

    Args:
        rule: Rule that every number of the field must follow.
    """
    return {_RULE: rule}


@dataclass(frozen=True)
class Distribution:
    """A distribution of a number over the networks."""

    name: str
    """Name: uniform, log_uniform, choice or spread."""
    numbers: tuple[float, ...]
    """Its arguments."""

    def __post_init__(self) -> None:
        form = _FORMS.get(self.name)
        if form is None:
            raise ConfigError(f"there is no distribution {self.name!r}; there are {', '.join(_FORMS)}")
        is_valid, rule = form
        if not is_valid(self.numbers):
            raise ConfigError(f"{self.name} takes {rule}")

    @classmethod
    def parse(cls, text: str) -> Distribution:
        """Return the distribution that a text describes.

        Args:
            text: Name and numbers, such as `uniform(0, 0.4)`.

        Raises:
            ConfigError: The text describes no distribution.
        """
        match = _DISTRIBUTION.fullmatch(text)
        if match is None:
            raise ConfigError("a text must be a distribution such as uniform(0, 0.4)")
        try:
            numbers = tuple(float(part) for part in match[2].split(","))
        except ValueError:
            raise ConfigError(f"{match[1]} takes numbers with commas between them") from None
        return cls(match[1], numbers)


_FORMS: dict[str, tuple[Callable[[tuple[float, ...]], bool], str]] = {
    "uniform": (lambda numbers: len(numbers) == 2 and numbers[0] <= numbers[1], "two numbers, the lower first"),
    "log_uniform": (
        lambda numbers: len(numbers) == 2 and 0 < numbers[0] <= numbers[1],
        "two numbers above 0, the lower first",
    ),
    "choice": (lambda numbers: len(numbers) >= 1, "at least one number"),
    "spread": (lambda numbers: len(numbers) == 1 and numbers[0] > 0, "one number above 0, the greatest value"),
}
"""Distributions by name: which arguments they take, as a test and in words."""


@dataclass(frozen=True, kw_only=True)
class NumberField:
    """A field of a configuration that may differ between networks."""

    name: str
    """Name of the field, with its section."""
    rule: NumberRule
    """Rule that its numbers follow."""
    value: PerNetwork
    """Its value in the configuration."""

    def check(self) -> None:
        """Raise ConfigError if a number, an element of a list or an argument of a distribution is not valid."""
        value: Any = self.value
        form = f"{self.rule.text}, as one number, a list or a distribution"
        if isinstance(value, str):
            try:
                numbers: tuple[Any, ...] = Distribution.parse(value).numbers
            except ConfigError as error:
                raise ConfigError(f"{self.name} must {form}, got {value!r}: {error}") from None
        else:
            numbers = value if isinstance(value, tuple) else (value,)
        are_numbers = all(isinstance(item, (int, float)) and not isinstance(item, bool) for item in numbers)
        is_valid = bool(numbers) and are_numbers and all(self.rule.holds(item) for item in numbers)
        require(is_valid, self.name, form if isinstance(value, (str, tuple)) else self.rule.text, value)

    @property
    def is_single(self) -> bool:
        """Whether all networks have the same number."""
        return not isinstance(self.value, (str, tuple))


def number_fields(config: Any, section: str = "") -> Iterator[NumberField]:
    """Yield the fields of a configuration that may differ between networks, in the order of their definition.

    Args:
        config: A configuration, or a section of one.
        section: Name of the section, followed by a dot. Empty for a whole configuration.
    """
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), f"{section}{field.name}"
        if dataclasses.is_dataclass(value):
            yield from number_fields(value, f"{name}.")
        elif _RULE in field.metadata:
            yield NumberField(name=name, rule=field.metadata[_RULE], value=value)


def check_numbers(section: Any, name: str) -> None:
    """Raise ConfigError if a number of a section that may differ between networks is not valid.

    Args:
        section: The section.
        name: Its name.
    """
    for field in number_fields(section, f"{name}."):
        field.check()


def with_numbers(config: T, numbers: Mapping[str, float]) -> T:
    """Return a configuration with other numbers.

    Args:
        config: The configuration.
        numbers: New numbers by the field's name, with its section.
    """
    changes: dict[str, dict[str, float]] = {}
    for name, value in numbers.items():
        section, _, field = name.partition(".")
        changes.setdefault(section, {})[field] = value
    whole: Any = config
    sections = {name: dataclasses.replace(getattr(whole, name), **values) for name, values in changes.items()}
    return dataclasses.replace(whole, **sections)


def number(value: PerNetwork) -> float:
    """Return the number of a field in the configuration of one network (`network_config`).

    Args:
        value: Value of the field.

    Raises:
        TypeError: The value is a list or a distribution, so that the configuration is that of a whole population.
    """
    if isinstance(value, (str, tuple)):
        raise TypeError(f"{value!r} is a number for each network; read it from network_config of the network")
    return value


def is_positive(value: PerNetwork) -> bool:
    """Return whether the number of every network is above 0.

    Args:
        value: Valid value of a field whose numbers are at least 0.
    """
    if isinstance(value, str):
        return min(Distribution.parse(value).numbers) > 0
    return min(value) > 0 if isinstance(value, tuple) else value > 0


def text_of(value: PerNetwork) -> str:
    """Return a value as text, for reports.

    Args:
        value: Value of the field.
    """
    if isinstance(value, str):
        return value
    return ", ".join(f"{item:g}" for item in (value if isinstance(value, tuple) else (value,)))
