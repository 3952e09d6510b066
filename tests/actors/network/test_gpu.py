"""The share of a GPU's memory that a network takes."""

from __future__ import annotations

import pytest

from inarch.actors.network.gpu import CONTEXT_BYTES, memory_share
from inarch.population.errors import ConfigError

GIB = 2**30


@pytest.mark.parametrize(("gpus", "total"), [(0.25, 80 * GIB), (0.5, 16 * GIB), (1 / 3, 24 * GIB)])
def test_shares_of_a_gpu_leave_room_for_each_context(gpus: float, total: int) -> None:
    num_networks = round(1 / gpus)
    share = memory_share(gpus, total)
    assert num_networks * (share + CONTEXT_BYTES) <= total and share > 0.7 * gpus * total


def test_share_without_room_for_tensors_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"population.gpus 0.1 of a GPU with 8.0 GiB leaves nothing"):
        memory_share(0.1, 8 * GIB)
