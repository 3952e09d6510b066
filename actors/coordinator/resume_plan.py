"""What a run that goes on begins with: which of its members, and each from which checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

from inarch.actors.coordinator.run_metadata import members_of, read_members
from inarch.actors.messages import StartPlan
from inarch.population.errors import RunError
from inarch.population.membership.members import Member, MemberState
from inarch.population.persistence.checkpoint import CheckpointStore
from inarch.population.persistence.storage import Storage


def resumable_members(storage: Storage, *, run: str, num_intervals: int = 0) -> list[Member]:
    """The members of a run that goes on: in a new incarnation, about to start. Finished ones start again too while any
    is unfinished, as donors, and in lockstep with the versions that the others need.

    Args:
        storage: The run's folder.
        run: Its name, for the error.
        num_intervals: Of the schedule as it is now: finished networks that have fewer behind them train on.

    Raises:
        RunError: there is no record of them.
    """
    record = read_members(storage)
    if record is None or not record["members"]:
        raise RunError(f"run {run} has no record of its members; it cannot be resumed")
    members = members_of(record)
    ended = {MemberState.RETIRED}
    is_over = all(member.state in (MemberState.RETIRED, MemberState.DONE) for member in members)
    if is_over and not _trains_on(storage, members, num_intervals):
        ended.add(MemberState.DONE)
    return [
        member
        if member.state in ended
        else dataclasses.replace(member, state=MemberState.STARTING, incarnation=member.incarnation + 1, restarts=0)
        for member in members
    ]


def _trains_on(storage: Storage, members: Sequence[Member], num_intervals: int) -> bool:
    """Whether a finished network has fewer intervals behind it than the schedule has: it became longer."""
    store = CheckpointStore(storage)
    done = [store.list(member.id) for member in members if member.state is MemberState.DONE]
    return any(kept and max(found.interval for found in kept) < num_intervals for kept in done)


def start_plans(storage: Storage, members: Sequence[Member], *, is_lockstep: bool) -> dict[int, StartPlan]:
    """How each member that starts again begins, by id: a founder, and whoever has a checkpoint, where it was; in
    lockstep at most at the interval that they go on from together, unless it has no part in that."""
    store = CheckpointStore(storage)
    kept = {member.id: {found.interval for found in store.list(member.id)} for member in members}
    resumed = {member.id: kept[member.id] for member in members if kept[member.id] or member.is_initial}
    shared = common_resume_interval(resumed) if is_lockstep and resumed else None
    found = dict.fromkeys(kept, StartPlan("joined"))
    for network_id, intervals in resumed.items():
        found[network_id] = StartPlan("resumed", shared if shared in _resume_points(intervals) else None)
    return found


def common_resume_interval(kept: Mapping[int, Collection[int]]) -> int:
    """The interval that networks in lockstep go on from: of the furthest network's newest two, one at least of which
    any that kept pace has, that which most have. Who was left behind must not take the others back to where it is.

    Args:
        kept: Intervals of each network's checkpoints, by id; at least one network. One that has at most one checkpoint
            may begin anew, at 0: the interval before its first.
    """
    beginnings = [_resume_points(intervals) for intervals in kept.values()]
    newest = sorted(max(beginnings, key=max))[-2:]
    return max(newest, key=lambda interval: (sum(interval in one for one in beginnings), interval))


def _resume_points(kept: Collection[int]) -> set[int]:
    return {*kept, 0} if len(kept) < 2 else set(kept)
