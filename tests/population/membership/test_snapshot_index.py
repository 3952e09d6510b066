"""Members, snapshot index, staleness and barrier."""

from __future__ import annotations

import pytest

from inarch.population import ExchangeOutcome, SnapshotInfo, TopologyConfig
from inarch.population.errors import ConfigError
from inarch.population.membership.barrier import Barrier
from inarch.population.membership.members import Members, MemberState
from inarch.population.membership.snapshot_index import PublishedSnapshot, SnapshotIndex
from inarch.population.membership.staleness import is_too_stale, staleness_of
from inarch.population.membership.topology import Places


def origin(
    network_id: int, interval: int = 1, *, incarnation: int = 1, trained: float | None = None, structure: str = "s"
) -> SnapshotInfo:
    trained_intervals = float(interval) if trained is None else trained
    return SnapshotInfo(
        network_id=network_id,
        incarnation=incarnation,
        interval=interval,
        step=10 * interval,
        trained_intervals=trained_intervals,
        trained_steps=10 * trained_intervals,
        created_at=float(interval),
        structure=structure,
    )


def published(*arguments, **named) -> PublishedSnapshot[str]:
    info = origin(*arguments, **named)
    return PublishedSnapshot(origin=info, information=(1.0,), payload=f"{info.network_id}@{info.interval}")


def select_donor(
    index: SnapshotIndex[str],
    rootstock: SnapshotInfo,
    *,
    ids=(0, 1, 2),
    donors=(0, 1, 2),
    limit: float = 1.0,
    version=None,
):
    selected = index.select_donors(rootstock, members=Places(ids), donors=donors, limit=limit, version=version)
    if isinstance(selected, ExchangeOutcome):
        return selected
    (snapshot,) = selected
    return snapshot


def test_late_snapshot_does_not_replace_a_newer_one() -> None:
    index: SnapshotIndex[str] = SnapshotIndex(TopologyConfig())
    assert index.publish(published(0, 2))
    assert not index.publish(published(0, 1))
    assert not index.publish(published(0, 2))
    newest = index.newest(0)
    assert newest is not None and newest.payload == "0@2"


def test_publish_accepts_a_later_incarnation_and_fences_earlier() -> None:
    index: SnapshotIndex[str] = SnapshotIndex(TopologyConfig(), num_versions=2)
    index.publish(published(0, 2, incarnation=1))
    assert index.publish(published(0, 2, incarnation=2))
    assert not index.publish(published(0, 3, incarnation=1))


def test_select_donors_of_several_skips_stale_ring_members() -> None:
    index: SnapshotIndex[str] = SnapshotIndex(TopologyConfig())
    for network_id, interval in ((1, 5), (2, 1), (3, 5)):
        index.publish(published(network_id, interval))
    candidates = {"members": Places(range(4)), "donors": (0, 1, 2, 3), "limit": 1.0}
    donors = index.select_donors(origin(0, 5), count=3, **candidates)
    assert not isinstance(donors, ExchangeOutcome) and [donor.payload for donor in donors] == ["3@5", "1@5"]
    donors = index.select_donors(origin(0, 5), count=1, **candidates)
    assert not isinstance(donors, ExchangeOutcome) and [donor.payload for donor in donors] == ["3@5"]


def test_select_donors_returns_the_nearest_admissible_snapshot() -> None:
    index: SnapshotIndex[str] = SnapshotIndex(TopologyConfig())
    assert select_donor(index, origin(0)) is ExchangeOutcome.NOTHING_YET
    index.publish(published(1, 5))
    donor = select_donor(index, origin(0, 5))
    assert isinstance(donor, PublishedSnapshot) and donor.payload == "1@5"
    index.publish(published(2, 5))
    donor = select_donor(index, origin(0, 5))
    assert isinstance(donor, PublishedSnapshot) and donor.payload == "2@5"


def test_select_donors_skips_a_neighbor_that_is_too_stale() -> None:
    index: SnapshotIndex[str] = SnapshotIndex(TopologyConfig())
    index.publish(published(2, 5, trained=0.5))
    assert select_donor(index, origin(0, 5)) is ExchangeOutcome.TOO_STALE
    index.publish(published(1, 5))
    donor = select_donor(index, origin(0, 5))
    assert isinstance(donor, PublishedSnapshot) and donor.payload == "1@5"


def test_select_donors_without_a_snapshot_names_the_refusal() -> None:
    index: SnapshotIndex[str] = SnapshotIndex(TopologyConfig())
    assert select_donor(index, origin(0), ids=(0,), donors=(0,)) is ExchangeOutcome.NO_NEIGHBOR
    index.publish(published(1, 1, structure="other"))
    assert select_donor(index, origin(0)) is ExchangeOutcome.STRUCTURE
    assert select_donor(index, origin(0), donors=(0, 2)) is ExchangeOutcome.NOTHING_YET
    index.remove(1)
    assert select_donor(index, origin(0)) is ExchangeOutcome.NOTHING_YET


def test_select_donors_with_a_version_returns_that_version() -> None:
    index: SnapshotIndex[str] = SnapshotIndex(TopologyConfig(), num_versions=2)
    for interval in (1, 2):
        index.publish(published(1, interval))
    donor = select_donor(index, origin(0, 1), ids=(0, 1), donors=(0, 1), version=1)
    assert isinstance(donor, PublishedSnapshot) and donor.payload == "1@1"
    index.drop_before(2)
    assert select_donor(index, origin(0, 1), ids=(0, 1), donors=(0, 1), version=1) is ExchangeOutcome.NOTHING_YET


def test_select_parent_returns_the_most_advanced_snapshot() -> None:
    index: SnapshotIndex[str] = SnapshotIndex(TopologyConfig())
    assert index.select_parent(3, members=Places((0, 1, 3)), donors=(0, 1)) is None
    index.publish(published(0, 4))
    index.publish(published(1, 6))
    parent = index.select_parent(3, members=Places((0, 1, 3)), donors=(0, 1))
    assert parent is not None and parent.payload == "1@6"


def test_staleness_of_a_scion_that_is_ahead_is_zero() -> None:
    ahead, behind = origin(0, 7), origin(1, 4)
    assert staleness_of(behind, ahead, now=9.0).intervals == 0.0
    staleness = staleness_of(ahead, behind, now=9.0)
    assert (staleness.intervals, staleness.steps, staleness.seconds) == (3.0, 30.0, 5.0)
    assert staleness_of(ahead, behind, now=1.0).seconds == 0.0


def try_release(barrier: Barrier, interval: int, expected: tuple[int, ...], now: float, members: Members | None = None):
    return barrier.try_release(interval, expected=expected, members=members or Members(), now=now)


def test_barrier_releases_when_all_members_have_arrived() -> None:
    barrier = Barrier(deadline_seconds=10.0)
    barrier.arrive(0, 1, now=0.0)
    assert try_release(barrier, 1, (0, 1), 1.0) is None
    assert barrier.waiting() == [1]
    barrier.arrive(1, 1, now=2.0)
    result = try_release(barrier, 1, (0, 1), 2.0)
    assert result is not None and not result.is_timed_out and result is barrier.result(1)


def test_barrier_result_keeps_the_members_of_its_release() -> None:
    members, barrier = Members(), Barrier(deadline_seconds=10.0)
    for _ in range(3):
        members.set_state(members.add(is_initial=True).id, MemberState.TRAINING)
        barrier.arrive(len(members) - 1, 1, now=0.0)
    try_release(barrier, 1, (0, 1, 2), 0.0, members)
    members.set_state(2, MemberState.RETIRED)
    result = try_release(barrier, 1, (0, 1), 1.0, members)
    assert result is not None and result.members.ids == result.donors.ids == [0, 1, 2]


def test_barrier_waits_again_for_a_member_that_died() -> None:
    barrier = Barrier(deadline_seconds=10.0)
    barrier.arrive(0, 1, now=0.0)
    barrier.forget(0)
    barrier.arrive(1, 1, now=1.0)
    assert try_release(barrier, 1, (0, 1), 1.0) is None
    assert try_release(barrier, 1, (1,), 1.0) is not None


def test_barrier_at_its_deadline_releases_as_timed_out() -> None:
    barrier = Barrier(deadline_seconds=10.0)
    barrier.arrive(0, 1, now=5.0)
    assert try_release(barrier, 1, (0, 1), 14.9) is None
    result = try_release(barrier, 1, (0, 1), 15.0)
    assert result is not None and result.is_timed_out


def test_barrier_after_a_timeout_waits_for_caught_up_members() -> None:
    barrier = Barrier(deadline_seconds=10.0)
    barrier.arrive(0, 1, now=0.0)
    assert try_release(barrier, 1, (0, 1), 10.0) is not None
    barrier.arrive(0, 2, now=11.0)
    result = try_release(barrier, 2, (0, 1), 11.0)
    assert result is not None and not result.is_timed_out
    barrier.arrive(1, 1, now=12.0)
    barrier.arrive(0, 3, now=13.0)
    assert try_release(barrier, 3, (0, 1), 13.0) is not None, "a member two intervals behind is not waited for"
    barrier.arrive(1, 3, now=14.0)
    barrier.arrive(0, 4, now=15.0)
    assert try_release(barrier, 4, (0, 1), 16.0) is None, "a member that has caught up is waited for"


def test_barrier_after_a_resume_waits_once_for_a_member_behind() -> None:
    barrier = Barrier(deadline_seconds=10.0)
    barrier.arrive(1, 11, now=0.0)
    barrier.arrive(0, 51, now=0.0)
    assert try_release(barrier, 51, (0, 1), 5.0) is None
    timed_out = try_release(barrier, 51, (0, 1), 10.0)
    assert timed_out is not None and timed_out.is_timed_out
    barrier.arrive(1, 30, now=11.0)
    barrier.arrive(0, 52, now=12.0)
    released = try_release(barrier, 52, (0, 1), 12.0)
    assert released is not None and not released.is_timed_out


def test_members_never_reuse_ids_and_ended_members_stay_ended() -> None:
    members = Members()
    first = members.add(is_initial=True)
    members.set_state(first.id, MemberState.RETIRED)
    assert members.set_state(first.id, MemberState.TRAINING).state is MemberState.RETIRED
    assert members.add(is_initial=False).id == 1
    assert members.topology.ids == [1]


def test_members_scaling_counts_only_members_that_stay() -> None:
    members = Members()
    for _ in range(3):
        members.set_state(members.add(is_initial=True).id, MemberState.TRAINING)
    members.set_state(0, MemberState.DONE)
    assert members.num_to_add(5, max_size=None) == 2
    assert members.select_for_removal(1) == (2,)
    members.set_state(2, MemberState.LEAVING)
    assert members.counted() == (0, 1)
    assert members.donors.ids == [0, 1, 2]
    with pytest.raises(ConfigError, match="at least 1"):
        members.num_to_add(0, max_size=None)
    with pytest.raises(ConfigError, match="max_size is 4"):
        members.num_to_add(5, max_size=4)


def test_restarted_member_is_the_next_incarnation() -> None:
    members = Members()
    members.add(is_initial=True)
    members.set_state(0, MemberState.LOST)
    member = members.restart(0)
    assert (member.incarnation, member.restarts, member.state) == (2, 1, MemberState.STARTING)


def test_restart_count_is_reset_only_after_progress() -> None:
    members = Members()
    members.add(is_initial=True)
    members.mark_started(0, interval=0)
    members.restart(0)
    members.mark_started(0, interval=0)
    assert members[0].restarts == 1, "a restart without progress still counts"
    members.restart(0)
    members.mark_started(0, interval=3)
    assert members[0].restarts == 0


def test_select_donors_for_a_straggler_includes_finished_network() -> None:
    index: SnapshotIndex[str] = SnapshotIndex(TopologyConfig())
    index.publish(published(0, 12))
    donor = select_donor(index, origin(1, 8, trained=18.0), ids=(0, 1), donors=(0, 1), limit=2.0)
    assert not isinstance(donor, ExchangeOutcome) and donor.payload == "0@12"
    assert not is_too_stale(origin(1, 14, trained=18.0), donor.origin, limit=2.0)
    assert is_too_stale(origin(1, 15, trained=18.0), donor.origin, limit=2.0)


def test_staleness_at_the_limit_is_not_refused() -> None:
    index: SnapshotIndex[str] = SnapshotIndex(TopologyConfig())
    index.publish(published(0, 10, trained=10.0 - 2**-40))
    donor = select_donor(index, origin(1, 11, trained=11.0 + 2**-40), ids=(0, 1), donors=(0, 1))
    assert not isinstance(donor, ExchangeOutcome) and donor.payload == "0@10"
    assert staleness_of(origin(1, 11, trained=11.0 + 2**-40), donor.origin, now=0.0).intervals == 1.0


def test_barrier_waits_less_for_a_member_without_a_process() -> None:
    """There may be no place for it (found by chaos seed 314)."""
    members, barrier = Members(), Barrier(deadline_seconds=600.0, absence_seconds=30.0)
    for _ in range(3):
        members.set_state(members.add(is_initial=True).id, MemberState.TRAINING)
    for network_id in (0, 1):
        barrier.arrive(network_id, 5, now=100.0)
    assert try_release(barrier, 5, (0, 1, 2), 140.0, members) is None, "network 2 trains"
    members.set_state(2, MemberState.LOST)
    assert try_release(barrier, 5, (0, 1, 2), 141.0, members) is None
    members.set_state(2, MemberState.STARTING)
    assert try_release(barrier, 5, (0, 1, 2), 170.0, members) is None
    result = try_release(barrier, 5, (0, 1, 2), 171.0, members)
    assert result is not None and not result.is_timed_out
    for network_id in (0, 1):
        barrier.arrive(network_id, 6, now=180.0)
    assert try_release(barrier, 6, (0, 1, 2), 180.0, members) is not None, "it is not waited for again"
    members.set_state(2, MemberState.TRAINING)
    barrier.arrive(2, 6, now=190.0)
    barrier.arrive(0, 7, now=190.0)
    barrier.arrive(1, 7, now=190.0)
    assert try_release(barrier, 7, (0, 1, 2), 200.0, members) is None, "it has caught up"
