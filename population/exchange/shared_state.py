"""What of a network others may take, and which of it shares an alpha."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from inarch.population.config import RunConfig
from inarch.population.errors import ConfigError
from inarch.population.grafting.reference import published_units
from inarch.population.grafting.units import GraftUnit, graft_units
from inarch.population.state.optimizer import moment_buffers
from inarch.population.state.state_dict import constant_buffers, named_tensors

WHOLE = "network"
"""Name of the one unit of a network without weight matrices."""


class SharedState:
    """A network's state dict, and with graft.momentum=blend its optimizer's running averages: both are blended."""

    def __init__(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, names: Mapping[int, str], config: RunConfig
    ) -> None:
        """Args: the network; its optimizer; its parameters' names, by id; the run's configuration."""
        self._module, self._optimizer, self._names, self._config = module, optimizer, names, config
        self._constants = constant_buffers(module)
        self._has_averages = config.exchange.rule == "graft" and config.graft.momentum == "blend"

    def tensors(self) -> dict[str, Tensor]:
        """By name, as they stand: what a snapshot holds."""
        own = {name: tensor for name, tensor in named_tensors(self._module).items() if name not in self._constants}
        return own | {f"{slot}.{name}": tensor for slot, name, tensor in self._averages()}

    def units(self) -> tuple[GraftUnit, ...]:
        """What shares an alpha: running averages with their weight; none without an exchange. Rules that graft nothing
        take any network: its weight matrices in order, or all of it as one.

        Raises:
            ConfigError: rule graft, and nothing opens a unit.
        """
        settings, rule = self._config.graft, self._config.exchange.rule
        if rule == "none":
            return ()
        if rule not in ("graft", "graft_published"):
            return self._without_constants(self._units_in_order())
        if rule == "graft_published" and settings.level == "layer":
            units = published_units(named_tensors(self._module))
        else:
            units = graft_units(self._module, "convolutions" if settings.level == "filter" else settings.units)
        units = self._without_constants(units)
        averages = [(f"{slot}.{name}", name) for slot, name, _ in self._averages()]
        return tuple(
            dataclasses.replace(unit, keys=(*unit.keys, *(key for key, name in averages if name in unit.keys)))
            for unit in units
        )

    def _units_in_order(self) -> tuple[GraftUnit, ...]:
        """Parts of a network from its first layer to its last."""
        try:
            return graft_units(self._module)
        except ConfigError:
            return (GraftUnit(name=WHOLE, keys=tuple(named_tensors(self._module))),)

    def _without_constants(self, units: tuple[GraftUnit, ...]) -> tuple[GraftUnit, ...]:
        return tuple(
            dataclasses.replace(unit, keys=tuple(key for key in unit.keys if key not in self._constants))
            for unit in units
        )

    def _averages(self) -> Iterator[tuple[str, str, Tensor]]:
        if self._has_averages:
            yield from moment_buffers(self._optimizer, self._names, self._config.optimizer)
