"""Create the convolutions of an architecture in one of three forms: full, fused or compact."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

from inarch.population.errors import ConfigError
from inarch.population.fusion.layer import FusedConv2d

Form = Literal["full", "fused", "compact"]


class ConvFactory:
    """Creates the convolutions of an architecture, so that one definition serves three forms.

    A full model has all filters. A fused model has all filters and mixes them into the kept channels. A compact model
    has only the kept channels. Fused and compact models have the same widths. A place is a position in the
    architecture's sequence of fusion rates.
    """

    def __init__(self, rates: Sequence[float] = (), *, form: Form = "full") -> None:
        """Create the factory.

        Args:
            rates: Share of the filters that fusion removes at each place, each in [0, 1). A single rate applies to all
                places. Without rates, all filters are kept.
            form: Form of the model.
        """
        self.rates, self.form = tuple(rates), form

    def kept(self, place: int, filters: int) -> int:
        """Return the number of channels kept at a place: int(filters * (1 - rate)), as published.

        Call `check` first: it expands a single rate to all places.

        Args:
            place: Index of the rate.
            filters: Filters of the full convolution.

        Raises:
            ConfigError: No channel would remain.
        """
        if self.form == "full" or not self.rates:
            return filters
        channels = int(filters * (1 - self.rates[place]))
        if channels < 1:
            raise ConfigError(
                f"fusion rate {self.rates[place]:g} at place {place} leaves none of {filters} filters; "
                f"it must be at most {1 - 1 / filters:g}"
            )
        return channels

    def check(self, num_places: int, architecture: str) -> None:
        """Expand a single rate to all places, and raise ConfigError if the number of rates does not fit.

        Args:
            num_places: Places of the architecture.
            architecture: Name of the architecture, for the message.

        Raises:
            ConfigError: The number of rates differs from the number of places.
        """
        if len(self.rates) == 1:
            self.rates *= num_places
        if self.rates and len(self.rates) != num_places:
            raise ConfigError(f"{architecture} has {num_places} places for fusion rates, got {len(self.rates)} rates")

    def conv(self, inputs: int, filters: int, kernel: int, *, kept: int, **options: Any) -> nn.Conv2d:
        """Create a convolution with `kept` output channels.

        Args:
            inputs: Input channels.
            filters: Filters of the full convolution.
            kernel: Kernel size.
            kept: Output channels, from `kept`.
            **options: Further arguments of Conv2d.
        """
        if self.form == "fused" and self.rates:
            return FusedConv2d(inputs, filters, kernel, kept=kept, **options)
        return nn.Conv2d(inputs, kept, kernel, **options)
