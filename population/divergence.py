"""Weights that are no longer finite: found, and told with whose they are and since when."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator

from torch import nn

from population.errors import NotFiniteError
from population.grafting import STATISTICS
from population.layers import check_finite, entries


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


def check_trained(module: nn.Module, trained: Collection[str]) -> None:
    """Look at weights that nobody takes; buffers other than batch norm's may hold what they like.

    Args:
        module: The network.
        trained: Names of its trained parameters.

    Raises:
        NotFiniteError: names the first entry that is not finite.
    """
    state = entries(module)
    check_finite(state, but={key for key in state if key not in trained and not key.endswith(STATISTICS)})
