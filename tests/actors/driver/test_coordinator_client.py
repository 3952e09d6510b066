"""What a client does while the coordinator does not answer."""

from __future__ import annotations

import pytest

from inarch.actors.driver.coordinator_client import CALL_SECONDS, NextStep, next_step


@pytest.mark.parametrize("is_announced", [False, True])
def test_client_with_a_limit_retries_until_its_time_is_over(is_announced: bool) -> None:
    def step(seconds: float) -> NextStep:
        return next_step(seconds, limit_seconds=CALL_SECONDS, is_cluster_up=True, is_announced=is_announced)

    assert [step(0.0), step(CALL_SECONDS - 0.1)] == [NextStep.RETRY] * 2
    assert [step(CALL_SECONDS), step(1e6)] == [NextStep.TIME_OUT] * 2


def test_follower_waits_as_long_as_the_cluster_answers() -> None:
    def step(seconds: float, *, is_announced: bool) -> NextStep:
        return next_step(seconds, limit_seconds=None, is_cluster_up=True, is_announced=is_announced)

    assert step(CALL_SECONDS - 0.1, is_announced=False) is NextStep.RETRY
    assert step(CALL_SECONDS, is_announced=False) is NextStep.ANNOUNCE
    assert step(1e6, is_announced=True) is NextStep.RETRY


@pytest.mark.parametrize("seconds", [0.0, CALL_SECONDS, 1e6])
def test_follower_gives_up_when_the_cluster_is_gone(seconds: float) -> None:
    step = next_step(seconds, limit_seconds=None, is_cluster_up=False, is_announced=False)
    assert step is NextStep.GIVE_UP


def test_time_is_over_even_if_the_cluster_is_gone() -> None:
    assert next_step(5.0, limit_seconds=5.0, is_cluster_up=False, is_announced=False) is NextStep.TIME_OUT
