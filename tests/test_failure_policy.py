"""Which failures a network is restarted after."""

from __future__ import annotations

import pytest
from ray.exceptions import ActorDiedError

from inarch.actors.coordinator.failure_policy import is_worth_a_restart
from inarch.population.errors import ConfigError, DataError, NotFiniteError, StorageError, UnreadableImageError


@pytest.mark.parametrize("has_worked", [False, True])
@pytest.mark.parametrize(
    ("error", "is_restarted"),
    [
        (ActorDiedError(), True),
        (StorageError("x"), True),
        (DataError("x"), True),
        (UnreadableImageError("x"), False),
        (NotFiniteError("x"), False),
        (ConfigError("x"), False),
    ],
)
def test_failures_with_a_known_cause_do_not_depend_on_the_past(error, is_restarted: bool, has_worked: bool) -> None:
    assert is_worth_a_restart(error, has_worked=has_worked) is is_restarted


def test_the_networks_own_code_gets_another_chance_only_where_it_has_worked() -> None:
    assert is_worth_a_restart(RuntimeError("CUDA error"), has_worked=True)
    assert not is_worth_a_restart(TypeError("forward"), has_worked=False)
