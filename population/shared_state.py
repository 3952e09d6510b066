"""What of a network others may take, and which of it shares an alpha."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from population.config import RunConfig
from population.layers import GraftUnit, entries, graft_units, reference_units
from population.optimization import running_averages


class SharedState:
    """A network's state dict, and with graft.momentum=blend its optimizer's running averages: both are blended."""

    def __init__(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, names: Mapping[int, str], config: RunConfig
    ) -> None:
        """Args: the network; its optimizer; its parameters' names, by id; the run's configuration."""
        self._module, self._optimizer, self._names, self._config = module, optimizer, names, config
        self._has_averages = config.exchange.rule == "graft" and config.graft.momentum == "blend"

    def entries(self) -> dict[str, Tensor]:
        """By name, as they stand: what a snapshot holds."""
        return entries(self._module) | {f"{slot}.{name}": tensor for slot, name, tensor in self._averages()}

    def units(self) -> tuple[GraftUnit, ...]:
        """What shares an alpha: running averages with their weight; none without an exchange.

        Raises:
            ConfigError: nothing opens a unit.
        """
        settings = self._config.graft
        if self._config.exchange.rule == "none":
            return ()
        if settings.reference and settings.level == "layer" and settings.scion == "external":
            units = reference_units(entries(self._module))
        else:
            units = graft_units(self._module, settings.units)
        averages = [(f"{slot}.{name}", name) for slot, name, _ in self._averages()]
        return tuple(
            dataclasses.replace(unit, keys=(*unit.keys, *(key for key, name in averages if name in unit.keys)))
            for unit in units
        )

    def _averages(self) -> Iterator[tuple[str, str, Tensor]]:
        if self._has_averages:
            yield from running_averages(self._optimizer, self._names, self._config.optimizer)
