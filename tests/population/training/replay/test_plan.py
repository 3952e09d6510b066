"""Plans of replays: what must be repeated, and what cannot be."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from inarch.population.errors import RunError
from inarch.population.persistence.checkpoint import CheckpointId
from inarch.population.training.birth import Birth, Environment, StartPoint
from inarch.population.training.replay.plan import plan_replay
from inarch.population.training.replay.record import Life, RecordedExchange, RecordedScion, RunRecord, Version

ENVIRONMENT = Environment(threads=1, device="cpu", processor="x", torch="2", code="c", config="d")

FIRST, SECOND, THIRD = Life(0, 1), Life(1, 1), Life(2, 1)


def born(start: StartPoint | None = None) -> Birth:
    return Birth(start=start or StartPoint.initial(), environment=ENVIRONMENT, time=0.0)


def exchange(*versions: Version) -> RecordedExchange:
    scions = tuple(RecordedScion(version=version, time=0.0) for version in versions)
    return RecordedExchange(outcome="grafted" if scions else "nothing_yet", scions=scions, weights=b"", time=0.0)


def record_of(
    births: Mapping[Life, Birth],
    exchanges: Mapping[Life, Mapping[int, RecordedExchange]],
    guests: Mapping[int, str] | None = None,
) -> RunRecord:
    return RunRecord(births=births, exchanges=exchanges, checkpoints={}, guests=guests or {})


def test_plan_holds_only_what_led_to_a_checkpoint() -> None:
    record = record_of(
        dict.fromkeys((FIRST, SECOND, THIRD), born()),
        {
            FIRST: {1: exchange(), 2: exchange(Version(SECOND, 3)), 3: exchange(Version(THIRD, 1))},
            SECOND: {number: exchange() for number in range(1, 9)},
            THIRD: {1: exchange()},
        },
    )
    plan = plan_replay(record, [(0, CheckpointId(incarnation=1, interval=2))])
    assert set(plan.lives) == {FIRST, SECOND}
    assert (plan.lives[FIRST].last, plan.lives[SECOND].last, plan.num_intervals) == (2, 3, 5)
    assert plan.uses == {Version(SECOND, 3): 1}


def test_plan_follows_restarts_and_clones() -> None:
    within = CheckpointId(incarnation=1, interval=4, step=14)
    restarted = born(StartPoint.resumed(0, within))
    clone = born(StartPoint(began="cloned", interval=3, parent=0, parent_version=3, parent_incarnation=1))
    numbered = {number: exchange() for number in range(1, 10)}
    record = record_of(
        {FIRST: born(), Life(0, 2): restarted, SECOND: clone}, {FIRST: numbered, Life(0, 2): numbered, SECOND: numbered}
    )
    plan = plan_replay(
        record, [(0, CheckpointId(incarnation=2, interval=6)), (1, CheckpointId(incarnation=1, interval=5))]
    )
    assert plan.restarts == [(0, within)]
    assert plan.lives[FIRST].last == 5 and plan.lives[FIRST].stop_step(4) == 14
    assert plan.uses == {Version(FIRST, 3): 1} and plan.num_intervals == 5 + 2 + 2


@pytest.mark.parametrize(
    ("births", "guests", "message"),
    [
        ({FIRST: born()}, {1: "alice"}, r"guest 'alice' \(network 1\) gave network 0 a scion in interval 1"),
        ({FIRST: born()}, {}, "incarnation 1 of network 1 gave network 0 a scion in interval 1, and no row of births/"),
        ({FIRST: born(), SECOND: born()}, {}, "exchange 1 of incarnation 1 of network 1 is not recorded"),
    ],
)
def test_plan_refuses_what_is_not_recorded(births, guests, message) -> None:
    record = record_of(births, {FIRST: {1: exchange(Version(SECOND, 2))}}, guests)
    with pytest.raises(RunError, match=message):
        plan_replay(record, [(0, CheckpointId(incarnation=1, interval=1))])
