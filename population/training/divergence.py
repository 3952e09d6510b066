"""Detect weights that are not finite, and name their network and interval in the error."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

from torch import nn

from inarch.population.errors import NotFiniteError
from inarch.population.state.state_dict import check_finite, named_tensors, untrained_keys

MAX_NONFINITE_STEPS = 20
"""Consecutive steps in which the loss may be NaN or infinite with float16, which skips such steps. In schedules with
shorter epochs, an epoch."""


@contextlib.contextmanager
def annotate_divergence(network_id: int, *, interval: int) -> Generator[None]:
    """Add the network and the interval to the message of a NotFiniteError raised inside the block.

    Args:
        network_id: Id of the network.
        interval: Number of the interval in which its weights diverged, from 1.

    Raises:
        NotFiniteError: The block raised it. The new message also gives a remedy.
    """
    try:
        yield
    except NotFiniteError as error:
        raise NotFiniteError(
            f"network {network_id} diverged in interval {interval}: {error}; "
            "lower optimizer.learning_rate, or raise schedule.warmup_epochs"
        ) from None


def check_trained(module: nn.Module) -> None:
    """Raise NotFiniteError if an entry that training changes holds NaN or infinity.

    Args:
        module: The network.

    Raises:
        NotFiniteError: The message names the first such entry.
    """
    check_finite(named_tensors(module), but=untrained_keys(module))
