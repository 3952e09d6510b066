"""Members, board and barrier: who may take what."""

from __future__ import annotations

import pytest

from inarch.population import ExchangeOutcome, SnapshotInfo, TopologyConfig
from inarch.population.errors import ConfigError
from inarch.population.membership.barrier import Barrier
from inarch.population.membership.members import Members, MemberState
from inarch.population.membership.snapshot_index import PublishedSnapshot, SnapshotIndex
from inarch.population.membership.staleness import is_too_stale, staleness_of


def origin(
    network_id: int, interval: int = 1, *, incarnation: int = 1, trained: float | None = None, structure: str = "s"
) -> SnapshotInfo:
    done = float(interval) if trained is None else trained
    return SnapshotInfo(
        network_id=network_id,
        incarnation=incarnation,
        interval=interval,
        step=10 * interval,
        trained_intervals=done,
        trained_steps=10 * done,
        created_at=float(interval),
        structure=structure,
    )


def posting(*arguments, **named) -> PublishedSnapshot[str]:
    made = origin(*arguments, **named)
    return PublishedSnapshot(origin=made, information=(1.0,), payload=f"{made.network_id}@{made.interval}")


def offer(
    index: SnapshotIndex[str], asker: SnapshotInfo, *, ids=(0, 1, 2), donors=(0, 1, 2), limit: float = 1.0, version=None
):
    found = index.select_donors(asker, members=ids, donors=donors, limit=limit, version=version)
    if isinstance(found, ExchangeOutcome):
        return found
    (one,) = found
    return one


def test_late_snapshot_does_not_replace_a_newer_one() -> None:
    index: SnapshotIndex[str] = SnapshotIndex(TopologyConfig())
    assert index.publish(posting(0, 2))
    assert not index.publish(posting(0, 1))
    assert not index.publish(posting(0, 2))
    found = index.newest(0)
    assert found is not None and found.payload == "0@2"


def test_earlier_incarnation_is_fenced_and_a_later_one_replaces_what_it_redoes() -> None:
    index: SnapshotIndex[str] = SnapshotIndex(TopologyConfig(), num_versions=2)
    index.publish(posting(0, 2, incarnation=1))
    assert index.publish(posting(0, 2, incarnation=2))
    assert not index.publish(posting(0, 3, incarnation=1))


def test_offer_of_several_follows_the_ring_and_leaves_out_what_is_not_admissible() -> None:
    index: SnapshotIndex[str] = SnapshotIndex(TopologyConfig())
    for network_id, interval in ((1, 5), (2, 1), (3, 5)):
        index.publish(posting(network_id, interval))
    everybody = {"members": (0, 1, 2, 3), "donors": (0, 1, 2, 3), "limit": 1.0}
    found = index.select_donors(origin(0, 5), count=3, **everybody)
    assert not isinstance(found, ExchangeOutcome) and [one.payload for one in found] == ["3@5", "1@5"]
    found = index.select_donors(origin(0, 5), count=1, **everybody)
    assert not isinstance(found, ExchangeOutcome) and [one.payload for one in found] == ["3@5"]


def test_offer_is_the_nearest_admissible_snapshot_along_the_ring() -> None:
    index: SnapshotIndex[str] = SnapshotIndex(TopologyConfig())
    assert offer(index, origin(0)) is ExchangeOutcome.NOTHING_YET
    index.publish(posting(1, 5))
    found = offer(index, origin(0, 5))
    assert isinstance(found, PublishedSnapshot) and found.payload == "1@5"
    index.publish(posting(2, 5))
    found = offer(index, origin(0, 5))
    assert isinstance(found, PublishedSnapshot) and found.payload == "2@5"


def test_neighbor_that_trails_too_far_is_passed_over_and_counted_as_too_old() -> None:
    index: SnapshotIndex[str] = SnapshotIndex(TopologyConfig())
    index.publish(posting(2, 5, trained=0.5))
    assert offer(index, origin(0, 5)) is ExchangeOutcome.TOO_STALE
    index.publish(posting(1, 5))
    found = offer(index, origin(0, 5))
    assert isinstance(found, PublishedSnapshot) and found.payload == "1@5"


def test_refusals_have_names() -> None:
    index: SnapshotIndex[str] = SnapshotIndex(TopologyConfig())
    assert offer(index, origin(0), ids=(0,), donors=(0,)) is ExchangeOutcome.NO_NEIGHBOR
    index.publish(posting(1, 1, structure="other"))
    assert offer(index, origin(0)) is ExchangeOutcome.STRUCTURE
    assert offer(index, origin(0), donors=(0, 2)) is ExchangeOutcome.NOTHING_YET
    index.remove(1)
    assert offer(index, origin(0)) is ExchangeOutcome.NOTHING_YET


def test_lockstep_gives_the_version_that_all_have() -> None:
    index: SnapshotIndex[str] = SnapshotIndex(TopologyConfig(), num_versions=2)
    for interval in (1, 2):
        index.publish(posting(1, interval))
    found = offer(index, origin(0, 1), ids=(0, 1), donors=(0, 1), version=1)
    assert isinstance(found, PublishedSnapshot) and found.payload == "1@1"
    index.drop_before(2)
    assert offer(index, origin(0, 1), ids=(0, 1), donors=(0, 1), version=1) is ExchangeOutcome.NOTHING_YET


def test_parent_of_a_newcomer_is_the_furthest() -> None:
    index: SnapshotIndex[str] = SnapshotIndex(TopologyConfig())
    assert index.select_parent(3, members=(0, 1, 3), donors=(0, 1)) is None
    index.publish(posting(0, 4))
    index.publish(posting(1, 6))
    found = index.select_parent(3, members=(0, 1, 3), donors=(0, 1))
    assert found is not None and found.payload == "1@6"


def test_age_is_zero_for_a_scion_that_is_ahead() -> None:
    ahead, behind = origin(0, 7), origin(1, 4)
    assert staleness_of(behind, ahead, now=9.0).intervals == 0.0
    age = staleness_of(ahead, behind, now=9.0)
    assert (age.intervals, age.steps, age.seconds) == (3.0, 30.0, 5.0)
    assert staleness_of(ahead, behind, now=1.0).seconds == 0.0


def opening(barrier: Barrier, interval: int, expected: tuple[int, ...], now: float, members: Members | None = None):
    return barrier.try_release(interval, expected=expected, members=members or Members(), now=now)


def test_barrier_opens_when_all_have_arrived() -> None:
    barrier = Barrier(deadline_seconds=10.0)
    barrier.arrive(0, 1, now=0.0)
    assert opening(barrier, 1, (0, 1), 1.0) is None
    assert barrier.waiting() == [1]
    barrier.arrive(1, 1, now=2.0)
    found = opening(barrier, 1, (0, 1), 2.0)
    assert found is not None and not found.is_timed_out and found is barrier.result(1)


def test_all_who_pass_a_barrier_see_the_members_that_were_there_when_it_opened() -> None:
    members, barrier = Members(), Barrier(deadline_seconds=10.0)
    for _ in range(3):
        members.set_state(members.add(is_initial=True).id, MemberState.TRAINING)
        barrier.arrive(len(members) - 1, 1, now=0.0)
    opening(barrier, 1, (0, 1, 2), 0.0, members)
    members.set_state(2, MemberState.RETIRED)
    found = opening(barrier, 1, (0, 1), 1.0, members)
    assert found is not None and found.members == found.donors == (0, 1, 2)


def test_barrier_waits_again_for_a_member_that_died() -> None:
    barrier = Barrier(deadline_seconds=10.0)
    barrier.arrive(0, 1, now=0.0)
    barrier.forget(0)
    barrier.arrive(1, 1, now=1.0)
    assert opening(barrier, 1, (0, 1), 1.0) is None
    assert opening(barrier, 1, (1,), 1.0) is not None


def test_barrier_opens_at_its_deadline_with_a_named_outcome() -> None:
    barrier = Barrier(deadline_seconds=10.0)
    barrier.arrive(0, 1, now=5.0)
    assert opening(barrier, 1, (0, 1), 14.9) is None
    found = opening(barrier, 1, (0, 1), 15.0)
    assert found is not None and found.is_timed_out


def test_who_was_missing_at_a_deadline_is_waited_for_again_only_when_it_keeps_pace() -> None:
    barrier = Barrier(deadline_seconds=10.0)
    barrier.arrive(0, 1, now=0.0)
    assert opening(barrier, 1, (0, 1), 10.0) is not None
    barrier.arrive(0, 2, now=11.0)
    at_once = opening(barrier, 2, (0, 1), 11.0)
    assert at_once is not None and not at_once.is_timed_out
    barrier.arrive(1, 1, now=12.0)
    barrier.arrive(0, 3, now=13.0)
    assert opening(barrier, 3, (0, 1), 13.0) is not None, "two intervals behind it still trails"
    barrier.arrive(1, 3, now=14.0)
    barrier.arrive(0, 4, now=15.0)
    assert opening(barrier, 4, (0, 1), 16.0) is None, "it has caught up"


def test_who_was_left_behind_before_a_resume_is_waited_for_once() -> None:
    barrier = Barrier(deadline_seconds=10.0)
    barrier.arrive(1, 11, now=0.0)
    barrier.arrive(0, 51, now=0.0)
    assert opening(barrier, 51, (0, 1), 5.0) is None
    found = opening(barrier, 51, (0, 1), 10.0)
    assert found is not None and found.is_timed_out
    barrier.arrive(1, 30, now=11.0)
    barrier.arrive(0, 52, now=12.0)
    at_once = opening(barrier, 52, (0, 1), 12.0)
    assert at_once is not None and not at_once.is_timed_out


def test_ids_are_never_reused_and_ended_members_stay_ended() -> None:
    members = Members()
    first = members.add(is_initial=True)
    members.set_state(first.id, MemberState.RETIRED)
    assert members.set_state(first.id, MemberState.TRAINING).state is MemberState.RETIRED
    assert members.add(is_initial=False).id == 1
    assert members.in_topology() == (1,)


def test_growth_and_shrinking_count_those_who_stay() -> None:
    members = Members()
    for _ in range(3):
        members.set_state(members.add(is_initial=True).id, MemberState.TRAINING)
    members.set_state(0, MemberState.DONE)
    assert members.num_to_add(5, max_size=None) == 2
    assert members.select_for_removal(1) == (2,)
    members.set_state(2, MemberState.LEAVING)
    assert members.counted() == (0, 1)
    assert members.donors() == (0, 1, 2)
    with pytest.raises(ConfigError, match="at least 1"):
        members.num_to_add(0, max_size=None)
    with pytest.raises(ConfigError, match="max_size is 4"):
        members.num_to_add(5, max_size=4)


def test_revived_member_is_the_next_incarnation() -> None:
    members = Members()
    members.add(is_initial=True)
    members.set_state(0, MemberState.LOST)
    member = members.restart(0)
    assert (member.incarnation, member.restarts, member.state) == (2, 1, MemberState.STARTING)


def test_deaths_are_forgiven_only_to_a_member_that_begins_further_than_before() -> None:
    members = Members()
    members.add(is_initial=True)
    members.mark_started(0, interval=0)
    members.restart(0)
    members.mark_started(0, interval=0)
    assert members[0].restarts == 1, "what it had trained is lost again"
    members.restart(0)
    members.mark_started(0, interval=3)
    assert members[0].restarts == 0


def test_a_straggler_that_took_in_more_than_its_place_still_grafts_from_those_who_have_finished() -> None:
    index: SnapshotIndex[str] = SnapshotIndex(TopologyConfig())
    index.publish(posting(0, 12))
    found = offer(index, origin(1, 8, trained=18.0), ids=(0, 1), donors=(0, 1), limit=2.0)
    assert not isinstance(found, ExchangeOutcome) and found.payload == "0@12"
    assert not is_too_stale(origin(1, 14, trained=18.0), found.origin, limit=2.0)
    assert is_too_stale(origin(1, 15, trained=18.0), found.origin, limit=2.0)


def test_the_last_bit_of_a_sum_makes_nothing_too_old() -> None:
    index: SnapshotIndex[str] = SnapshotIndex(TopologyConfig())
    index.publish(posting(0, 10, trained=10.0 - 2**-40))
    found = offer(index, origin(1, 11, trained=11.0 + 2**-40), ids=(0, 1), donors=(0, 1))
    assert not isinstance(found, ExchangeOutcome) and found.payload == "0@10"
    assert staleness_of(origin(1, 11, trained=11.0 + 2**-40), found.origin, now=0.0).intervals == 1.0
