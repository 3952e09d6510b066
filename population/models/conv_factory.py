"""How wide each convolution of an architecture is, and what stands in its place: one definition, three forms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from inarch.population.errors import ConfigError
from inarch.population.fusion.layer import FusedConv2d

Form = Literal["full", "fused", "compact"]


class ConvFactory:
    """Makes an architecture's convolutions. Full: all filters. Fused: all filters, mixed into those kept. Compact:
    those kept alone. Fused and compact networks have the same widths."""

    def __init__(self, rates: Sequence[float] = (), *, form: Form = "full") -> None:
        """Args: the part of the filters that goes, for each of the architecture's places in its order; the form."""
        self.rates, self.form = tuple(rates), form

    def kept(self, place: int, filters: int) -> int:
        """Filters kept at a place: int(filters * (1 - rate)), as published.

        Raises:
            ConfigError: none would be left.
        """
        if self.form == "full" or not self.rates:
            return filters
        left = int(filters * (1 - self.rates[place]))
        if left < 1:
            raise ConfigError(
                f"fusion rate {self.rates[place]:g} at place {place} leaves none of {filters} filters; "
                f"it must be at most {1 - 1 / filters:g}"
            )
        return left

    def check(self, num_places: int, architecture: str) -> None:
        """Raises ConfigError unless there are as many rates as places; one rate stands for all."""
        if len(self.rates) == 1:
            self.rates *= num_places
        if self.rates and len(self.rates) != num_places:
            raise ConfigError(f"{architecture} has {num_places} places for fusion rates, got {len(self.rates)} rates")

    def conv(self, inputs: int, filters: int, kernel: int, *, kept: int, **options) -> nn.Conv2d:
        """A convolution with `kept` outputs."""
        if self.form == "fused" and self.rates:
            return FusedConv2d(inputs, filters, kernel, kept=kept, **options)
        return nn.Conv2d(inputs, kept, kernel, **options)
