"""Weights that are no longer finite: found, and told with whose they are and since when."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from inarch.population.errors import NotFiniteError
from inarch.population.grafting import STATISTICS
from inarch.population.layers import check_finite, entries
from torch import nn


@contextlib.contextmanager
def named(network: int, *, interval: int) -> Iterator[None]:
    """Say of a NotFiniteError within whose weights these are, and in which interval."""
    try:
        yield
    except NotFiniteError as error:
        raise NotFiniteError(
            f"network {network} diverged in interval {interval}: {error}; "
            "a lower optimizer.learning_rate or schedule.warmup_epochs may help"
        ) from None


def unwatched(module: nn.Module) -> frozenset[str]:
    """Entries that training does not change: frozen parameters, and buffers other than batch norm's statistics. They
    may hold values that are not finite."""
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    return frozenset(key for key in entries(module) if key not in trained and not key.endswith(STATISTICS))


def check_trained(module: nn.Module) -> None:
    """Raises NotFiniteError at the first entry that training changes and that is not finite."""
    check_finite(entries(module), but=unwatched(module))
