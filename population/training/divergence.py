"""Weights that are no longer finite: found, and told with whose they are and since when."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn

from inarch.population.errors import NotFiniteError
from inarch.population.state.state_dict import check_finite, named_tensors, untrained_keys


@contextlib.contextmanager
def annotate_divergence(network_id: int, *, interval: int) -> Iterator[None]:
    """Say of a NotFiniteError within whose weights these are, and in which interval."""
    try:
        yield
    except NotFiniteError as error:
        raise NotFiniteError(
            f"network {network_id} diverged in interval {interval}: {error}; "
            "a lower optimizer.learning_rate or schedule.warmup_epochs may help"
        ) from None


def check_trained(module: nn.Module) -> None:
    """Raises NotFiniteError at the first entry that training changes and that is not finite."""
    check_finite(named_tensors(module), but=untrained_keys(module))
