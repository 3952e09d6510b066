"""Select the tensors of a network that its snapshots hold, and group them into units that share an alpha."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from inarch.population.config import RunConfig
from inarch.population.errors import ConfigError
from inarch.population.grafting.reference import published_units
from inarch.population.grafting.units import GraftUnit, graft_units
from inarch.population.state.optimizer import moment_buffers
from inarch.population.state.state_dict import constant_buffers, named_tensors

WHOLE = "network"
"""Name of the single unit of a network without weight matrices."""


class SharedState:
    """The tensors of a network that are exchanged: its state dict without constant buffers.

    With graft.momentum=blend they include the optimizer's running averages, which are then blended too.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer | None,
        config: RunConfig,
        *,
        slots: tuple[str, ...] | None = None,
    ) -> None:
        """Create the view of one network. It holds references and no copies.

        Args:
            module: The network.
            optimizer: Its optimizer. None if it is not known. No running average is exchanged then.
            config: The run's configuration.
            slots: Running averages that the optimizer holds for each parameter. None: those in its state.
        """
        self.module, self._optimizer, self._config, self._slots = module, optimizer, config, slots
        self._names = {id(parameter): name for name, parameter in module.named_parameters()}
        self._constants = constant_buffers(module)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that a snapshot holds, by key. They are the network's own, not copies."""
        tensors = {name: tensor for name, tensor in named_tensors(self.module).items() if name not in self._constants}
        return tensors | {f"{slot}.{name}": tensor for slot, name, tensor in self._averages()}

    def units(self) -> tuple[GraftUnit, ...]:
        """Return the groups of tensors that share an alpha. A running average belongs to the unit of its weight.

        Without an exchange rule there are no units. Rules other than grafting accept any network. They use its graft
        units in order, or a single unit for a network without weight matrices.

        Raises:
            ConfigError: The rule is graft or graft_published, and no tensor opens a unit.
        """
        settings, rule = self._config.graft, self._config.exchange.rule
        if rule == "none":
            return ()
        if rule not in ("graft", "graft_published"):
            return self._without_constants(self._units_in_order())
        if rule == "graft_published" and settings.level == "layer":
            units = published_units(named_tensors(self.module))
        else:
            units = graft_units(self.module, "convolutions" if settings.level == "filter" else settings.units)
        units = self._without_constants(units)
        averages = [(f"{slot}.{name}", name) for slot, name, _ in self._averages()]
        return tuple(
            dataclasses.replace(unit, keys=(*unit.keys, *(key for key, name in averages if name in unit.keys)))
            for unit in units
        )

    def _units_in_order(self) -> tuple[GraftUnit, ...]:
        """Units of a network from its first layer to its last, or a single unit."""
        try:
            return graft_units(self.module)
        except ConfigError:
            return (GraftUnit(name=WHOLE, keys=tuple(named_tensors(self.module))),)

    def _without_constants(self, units: tuple[GraftUnit, ...]) -> tuple[GraftUnit, ...]:
        return tuple(
            dataclasses.replace(unit, keys=tuple(key for key in unit.keys if key not in self._constants))
            for unit in units
        )

    def _averages(self) -> Iterator[tuple[str, str, Tensor]]:
        if self._optimizer is not None and blends_momentum(self._config):
            yield from moment_buffers(self._optimizer, self._names, self._slots)


def blends_momentum(config: RunConfig) -> bool:
    """Return whether snapshots hold the optimizer's running averages, because they are blended too.

    Args:
        config: The run's configuration.
    """
    return config.exchange.rule == "graft" and config.graft.momentum == "blend"
