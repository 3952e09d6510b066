"""The state machine of a population, on a clock that the tests set."""

from __future__ import annotations

import time

import pytest

from inarch.population.config import ExchangeConfig, PopulationConfig, RunConfig, TimeoutsConfig, TopologyConfig
from inarch.population.membership.barrier import KEPT, Barrier
from inarch.population.membership.members import MemberState
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.membership.population_state import JoinPoint, PopulationState
from inarch.population.membership.snapshot_index import PublishedSnapshot
from inarch.population.state.snapshot_info import SnapshotInfo
from tests.conftest import small_config

TRAINING = MemberState.TRAINING


def info(network_id: int, interval: int, *, incarnation: int = 1) -> SnapshotInfo:
    return SnapshotInfo(
        network_id=network_id,
        incarnation=incarnation,
        interval=interval,
        step=3 * interval,
        trained_intervals=float(interval),
        trained_steps=3.0 * interval,
        created_at=float(interval),
        structure="same",
        score=None,
    )


def published(network_id: int, interval: int, *, incarnation: int = 1) -> PublishedSnapshot[str]:
    origin = info(network_id, interval, incarnation=incarnation)
    return PublishedSnapshot(origin=origin, information=(1.0,), payload=f"{network_id}@{interval}")


def population(*states: MemberState, mode: str = "async", **changes) -> PopulationState[str]:
    """A population whose members have these states."""
    config: RunConfig = small_config(mode=mode, **changes)
    state: PopulationState[str] = PopulationState(config)
    for member_state in states:
        network_id = state.members.add(is_initial=True).id
        state.mark_started(network_id, interval=0)
        state.members.set_state(network_id, member_state)
    return state


@pytest.mark.parametrize(
    ("topology", "num_donors", "expected"),
    [("ring", None, 8), ("complete", None, 8), ("torus", None, 4), ("bidirectional_ring", None, 2), ("torus", 1, 1)],
)
@pytest.mark.parametrize("rule", ["papa", "wash"])
def test_topology_decides_from_whom_papa_and_wash_take(
    rule: str, topology: str, num_donors: int | None, expected: int
) -> None:
    config = {"exchange": ExchangeConfig(rule=rule, num_donors=num_donors), "topology": TopologyConfig(name=topology)}
    state = population(*[TRAINING] * 9, **config)
    for network_id in range(9):
        state.publish(published(network_id, 5), now=0.0)
    selected = state.select_donors(info(0, 5))
    assert isinstance(selected, tuple) and len(selected) == expected
    assert len({snapshot.origin.network_id for snapshot in selected} - {0}) == expected


def test_join_in_async_mode_admits_at_once() -> None:
    state = population(TRAINING, TRAINING)
    state.publish(published(0, 7), now=0.0)
    point = state.join(1)
    assert point == JoinPoint(interval=7, parent=published(0, 7))
    assert not state.is_held(1)


def test_join_of_a_fresh_network_names_the_interval_alone() -> None:
    fresh = PopulationConfig(size=2, init_new_networks="fresh")
    state = population(TRAINING, TRAINING, population=fresh)
    state.publish(published(0, 7), now=0.0)
    assert state.join(1) == JoinPoint(interval=7, parent=None)


def test_join_without_snapshots_begins_at_the_furthest_member() -> None:
    state = population(TRAINING, MemberState.DONE, TRAINING)
    state.record_interval(0, 3)
    state.record_interval(1, 9)
    assert state.join(2) == JoinPoint(interval=9)


def test_join_in_lockstep_waits_for_the_next_release() -> None:
    state = population(TRAINING, TRAINING, TRAINING, mode="lockstep")
    state.hold(2)
    assert state.join(2) is None and state.is_joining(2)
    state.publish(published(0, 1), now=0.0)
    assert state.release_barriers(now=0.0).intervals == ()
    state.publish(published(1, 1), now=1.0)
    release = state.release_barriers(now=1.0)
    assert release.intervals == (1,) and release.joins[2].interval == 1
    assert not state.is_held(2) and not state.is_joining(2)


def test_join_after_a_coordinator_restart_delays_no_barrier() -> None:
    """The restarted coordinator does not know that the network was held."""
    state = population(TRAINING, TRAINING, mode="lockstep")
    assert state.join(1) is None
    state.publish(published(0, 3), now=0.0)
    release = state.release_barriers(now=0.0)
    assert release.intervals == (3,) and set(release.joins) == {1}


def test_join_in_lockstep_beside_no_active_member_admits_at_once() -> None:
    state = population(TRAINING, MemberState.DONE, mode="lockstep")
    assert state.join(0) == JoinPoint(interval=0)


@pytest.mark.parametrize("waits", [False, True])
def test_networks_that_replace_all_others_pass_barriers_anew(waits: bool) -> None:
    """The barriers that the former networks passed do not count for those that begin at the start again."""
    state = population(TRAINING, TRAINING, mode="lockstep")
    for interval in (1, 2, 3):
        for network_id in (0, 1):
            state.publish(published(network_id, interval), now=0.0)
        assert state.release_barriers(now=0.0).intervals == (interval,)
    newcomers = [state.members.add(is_initial=False).id for _ in range(2)]
    for network_id in newcomers:
        state.mark_started(network_id, interval=0)
        state.hold(network_id)
        if waits:
            assert state.join(network_id) is None
    for network_id in (0, 1):
        state.forget(network_id)
        state.members.set_state(network_id, MemberState.FAILED)
    joins = state.release_barriers(now=0.0).joins if waits else {2: state.join(2)}
    if not waits:
        assert state.join(3) is None, "network 2 trains by now"
    assert {point.interval for point in joins.values() if point is not None} == {0}
    for network_id in joins:
        state.begin_training(network_id)
        state.publish(published(network_id, 1), now=0.0)
    state.release_barriers(now=0.0)
    assert state.is_released(1) and not state.is_released(2)
    found = state.select_donors(info(2, 1))
    expected = ["3@1"] if waits else []
    assert ([] if isinstance(found, ExchangeOutcome) or found is None else [each.payload for each in found]) == expected


def test_terminated_network_does_not_wait_to_join_any_more() -> None:
    state = population(TRAINING, TRAINING, mode="lockstep")
    assert state.join(1) is None
    state.forget(1)
    assert not state.is_joining(1) and not state.is_held(1)
    state.publish(published(0, 1), now=0.0)
    assert state.release_barriers(now=0.0).joins == {}


def test_barrier_waits_again_for_a_network_whose_process_died() -> None:
    state = population(TRAINING, TRAINING, mode="lockstep")
    state.publish(published(1, 1), now=0.0)
    state.forget(1)
    state.publish(published(0, 1), now=0.0)
    assert state.release_barriers(now=0.0).intervals == ()
    state.publish(published(1, 1, incarnation=2), now=1.0)
    assert state.release_barriers(now=1.0).intervals == (1,)


def test_select_donors_in_lockstep_is_none_until_the_release() -> None:
    state = population(TRAINING, TRAINING, mode="lockstep")
    state.publish(published(0, 1), now=0.0)
    assert state.select_donors(info(0, 1)) is None
    state.publish(published(1, 1), now=0.0)
    state.release_barriers(now=0.0)
    assert state.select_donors(info(0, 1)) == (published(1, 1),)


def test_barriers_of_long_runs_keep_little_and_stay_fast() -> None:
    """WASH may have a barrier after each step. One network is far behind, as after a restart."""
    barrier, members = Barrier(deadline_seconds=60.0), population(TRAINING, TRAINING, TRAINING).members
    expected = (0, 1, 2)
    started = time.process_time()
    for interval in range(1, 20_001):
        for network_id in expected:
            barrier.arrive(network_id, interval, now=float(interval))
            released = barrier.try_release(interval, expected=expected, members=members, now=float(interval))
            assert (released is not None) == (network_id == 2)
            assert barrier.waiting() == ([] if released else [interval])
    assert time.process_time() - started < 5.0  # it took a minute with a search through all barriers
    recent, old = barrier.result(20_000), barrier.result(7)
    assert barrier.result(20_001 - KEPT) is old is not barrier.result(20_002 - KEPT)  # the oldest that is kept
    assert recent is not None and old is not None and old.members is recent.members and not old.is_timed_out
    barrier.arrive(1, 7, now=20_001.0)
    assert barrier.waiting() == [] and barrier.result(20_001) is None
    barrier.reopen(after=19_990)
    assert barrier.result(19_990) is not None and barrier.result(19_991) is None


def test_select_donors_after_a_timed_out_barrier_says_so() -> None:
    state = population(TRAINING, TRAINING, mode="lockstep", timeouts=TimeoutsConfig(barrier_seconds=5.0))
    state.publish(published(0, 1), now=0.0)
    assert state.release_barriers(now=4.9).intervals == ()
    assert state.release_barriers(now=5.0).intervals == (1,)
    assert state.select_donors(info(0, 1)) is ExchangeOutcome.BARRIER_TIMEOUT


def test_contact_admits_only_a_network_that_has_trained() -> None:
    state = population(TRAINING, MemberState.STALLED)
    state.hold(1)
    state.record_contact(1, has_trained=False)
    assert state.is_held(1) and state.members[1].state is TRAINING
    state.record_contact(1, has_trained=True)
    assert not state.is_held(1)


@pytest.mark.parametrize(
    ("held", "state_before", "is_finishing", "state_after"),
    [
        (False, TRAINING, True, MemberState.LEAVING),
        (True, TRAINING, False, MemberState.RETIRED),
        (False, MemberState.STARTING, False, MemberState.RETIRED),
        (False, MemberState.LOST, False, MemberState.RETIRED),
    ],
)
def test_leave_lets_only_a_network_with_work_finish(held, state_before, is_finishing, state_after) -> None:
    state = population(TRAINING, state_before)
    if held:
        state.hold(1)
    assert state.leave(1) is is_finishing
    assert state.members[1].state is state_after


def test_lose_removes_the_snapshots_of_the_network() -> None:
    state = population(TRAINING, TRAINING)
    state.publish(published(1, 2), now=0.0)
    state.lose(1)
    assert state.members[1].state is MemberState.LOST
    assert state.select_donors(info(0, 2)) is ExchangeOutcome.NOTHING_YET


def test_network_donates_between_its_turns_and_not_after_a_loss() -> None:
    state = population(TRAINING, TRAINING)
    state.members.move(0, is_paused=True)
    assert list(state.members.donors) == [0, 1]
    state.mark_started(0, interval=1)
    state.begin_training(0)
    state.lose(0)
    state.members.restart(0)
    assert list(state.members.donors) == [1]


def test_retire_never_started_spares_a_new_population() -> None:
    """As when the coordinator dies while the first networks are built, and those die with it."""
    state: PopulationState[str] = PopulationState(small_config())
    for _ in range(2):
        state.members.add(is_initial=True)
    assert state.retire_never_started() == ()
    assert [member.state for member in state.members] == [MemberState.STARTING] * 2


def test_retire_never_started_retires_beside_finished_members() -> None:
    state = population(MemberState.DONE)
    state.members.add(is_initial=False)
    assert state.retire_never_started() == (1,)
    assert [member.state for member in state.members] == [MemberState.DONE, MemberState.RETIRED]


def test_check_heartbeats_stalls_then_selects_silent_members() -> None:
    state = population(TRAINING, TRAINING, MemberState.LEAVING, MemberState.DONE, MemberState.STARTING)
    silent = state.check_heartbeats({0: 31.0, 1: 91.0, 2: 91.0, 3: 91.0, 4: 1000.0}, lease_seconds=30.0)
    assert silent.hanging == (1, 2) and silent.lost_donors == (3,)
    assert state.members[0].state is MemberState.STALLED and state.members[4].state is MemberState.STARTING


def test_is_starved_only_if_all_active_members_start() -> None:
    assert population(MemberState.STARTING, MemberState.DONE).is_starved()
    assert not population(MemberState.STARTING, TRAINING).is_starved()
    assert not population(MemberState.DONE).is_starved()
