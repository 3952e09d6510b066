"""Which networks are restarted after a failure."""

from __future__ import annotations

import dataclasses

import pytest

from inarch.population.errors import ConfigError, DataError, NotFiniteError, StorageError, UnreadableImageError
from inarch.population.membership.failure_policy import FailureDecision, NetworkExit, NetworkHistory, decide
from inarch.population.membership.members import MemberState

HISTORY = NetworkHistory(state=MemberState.TRAINING)


@pytest.mark.parametrize("has_worked", [False, True])
@pytest.mark.parametrize(
    ("error", "decision"),
    [
        (None, FailureDecision.RESTART),
        (StorageError("x"), FailureDecision.RESTART),
        (DataError("x"), FailureDecision.RESTART),
        (UnreadableImageError("x"), FailureDecision.FAIL),
        (NotFiniteError("x"), FailureDecision.FAIL),
        (ConfigError("x"), FailureDecision.FAIL),
    ],
)
def test_decide_known_cause_does_not_depend_on_the_past(error, decision, has_worked: bool) -> None:
    history = dataclasses.replace(HISTORY, has_worked=has_worked)
    assert decide(NetworkExit(error=error), history) is decision


def test_decide_user_error_restarts_only_after_progress() -> None:
    exit = NetworkExit(error=RuntimeError("CUDA error"))
    assert decide(exit, dataclasses.replace(HISTORY, has_worked=True)) is FailureDecision.RESTART
    assert decide(exit, HISTORY) is FailureDecision.FAIL


def test_decide_without_progress_fails_after_max_restarts() -> None:
    decisions = [
        decide(NetworkExit(), dataclasses.replace(HISTORY, restarts=count, max_restarts=2)) for count in range(4)
    ]
    assert decisions == [FailureDecision.RESTART] * 2 + [FailureDecision.FAIL] * 2


@pytest.mark.parametrize(
    "changes",
    [
        {"state": MemberState.LEAVING},
        {"is_run_open": False},
        {"is_current": False},
        {"state": MemberState.RETIRED},
    ],
)
def test_decide_ignores_ending_and_replaced_networks(changes) -> None:
    assert decide(NetworkExit(), dataclasses.replace(HISTORY, **changes)) is FailureDecision.IGNORE


def test_decide_permanent_error_while_leaving_is_a_failure() -> None:
    leaving = dataclasses.replace(HISTORY, state=MemberState.LEAVING)
    assert decide(NetworkExit(error=NotFiniteError("x")), leaving) is FailureDecision.FAIL
