"""Short chaos runs: real drivers under faults that are drawn from a seed."""

from __future__ import annotations

import pytest

from inarch.experiments.benchmarks.chaos.command import run_chaos
from inarch.experiments.benchmarks.chaos.plan import ChaosSetting, FaultKind, plan

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

MINUTES = 0.4

SETTINGS = {
    "own Ray": ChaosSetting(seed=735, minutes=MINUTES),
    "separate cluster": ChaosSetting(seed=1427, minutes=MINUTES, cluster="separate"),
    "lockstep, text": ChaosSetting(seed=208, minutes=MINUTES, mode="lockstep", task="text"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_short_chaos_run_loses_nothing(name: str) -> None:
    outcome = run_chaos(SETTINGS[name], grace=240.0, keep=False, say=print)
    assert outcome.problems == ()
    assert outcome.has_passed and outcome.rows > 0
    assert outcome.drivers == 1 + sum(
        injection.has_happened and injection.kind in (FaultKind.STOP, FaultKind.TERMINATE_DRIVER, FaultKind.KILL_DRIVER)
        for injection in outcome.injections
    )
    assert len(outcome.injections) == len(plan(SETTINGS[name]))
