"""Plan how a run resumes: the members that start again, and the checkpoint from which each of them resumes."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

from inarch.actors.messages import StartPlan
from inarch.population.errors import RunError
from inarch.population.membership.members import MemberRecord, MemberState
from inarch.population.persistence.checkpoint import CheckpointStore
from inarch.population.persistence.paths import joined
from inarch.population.persistence.storage import Storage
from inarch.population.tasks.run_folder import members_of, read_members

MAX_NAMED = 3
"""Most networks that one message names."""


def resumable_members(
    storage: Storage, *, run: str, num_intervals: int = 0, is_open: bool = False
) -> list[MemberRecord]:
    """Return the members of a run in the state in which it resumes.

    Members that start again get a new incarnation and lose their count of restarts. Retired members stay retired.
    Finished members start again too, as donors, while any other member is unfinished. In lockstep they publish the
    snapshots that the others need. If all have finished, they start again only if the schedule has become longer.

    Args:
        storage: The run's folder.
        run: Name of the run, for the message.
        num_intervals: Intervals of the schedule, as now configured.
        is_open: Whether the run has no networks of its own.

    A member whose folder has vanished is marked failed, because it must not begin anew. It resumes once its folder is
    back.

    Raises:
        RunError: The run has no record of its members, or the folders of all of them have vanished.
        StorageError: The record cannot be read.
    """
    record = read_members(storage)
    if record is None or not (record["members"] or is_open):
        raise RunError(f"run {run} has no record of its members; it cannot be resumed")
    members, guests = _without_guests(members_of(record))
    vanished = vanished_networks(storage, members)
    if vanished and len(vanished) == sum(member.state is not MemberState.RETIRED for member in members):
        raise RunError(f"run {run} cannot be resumed: {'; '.join(list(vanished.values())[:MAX_NAMED])}")
    final_states = {MemberState.RETIRED}
    is_over = all(member.state in (MemberState.RETIRED, MemberState.DONE) for member in members)
    if is_over and not _trains_on(storage, members, num_intervals):
        final_states.add(MemberState.DONE)
    return guests + [
        dataclasses.replace(member, state=MemberState.FAILED)
        if member.id in vanished
        else member
        if member.state in final_states
        else dataclasses.replace(member, state=MemberState.STARTING, incarnation=member.incarnation + 1, restarts=0)
        for member in members
    ]


def vanished_networks(storage: Storage, members: Sequence[MemberRecord]) -> dict[int, str]:
    """Return the networks that have trained but whose checkpoints are gone, with what is missing.

    A process of a network leaves a mark in the network's folder before it trains, and the rows of each checkpoint are
    in the tables. A network that has neither checkpoint nor mark, or rows but no checkpoint, has lost its folder.

    Args:
        storage: The run's folder.
        members: Members of the run, as they were recorded.

    Raises:
        StorageError: A folder cannot be listed.
    """
    store = CheckpointStore(storage)
    with_rows = {name.partition("-")[0] for name in storage.names("metrics")}
    vanished: dict[int, str] = {}
    for member in members:
        is_wanted = member.ever_started and not member.is_guest and member.state is not MemberState.RETIRED
        if not is_wanted or store.list(member.id):
            continue
        if not store.has_started(member.id) or str(member.id) in with_rows:
            folder = joined(storage.uri, f"networks/{member.id}")
            vanished[member.id] = (
                f"network {member.id} has trained, but its checkpoints are gone from {folder}; restore them from a copy"
            )
    return vanished


def _without_guests(members: Sequence[MemberRecord]) -> tuple[list[MemberRecord], list[MemberRecord]]:
    """Return the run's own networks, and the guests, which are gone until they join again."""
    networks = [member for member in members if not member.is_guest]
    guests = [dataclasses.replace(member, state=MemberState.GONE) for member in members if member.is_guest]
    return networks, guests


def _trains_on(storage: Storage, members: Sequence[MemberRecord], num_intervals: int) -> bool:
    """Return whether the schedule has become longer than the training of a finished network."""
    store = CheckpointStore(storage)
    finished = [store.list(member.id) for member in members if member.state is MemberState.DONE]
    return any(
        checkpoints and max(checkpoint.interval for checkpoint in checkpoints) < num_intervals
        for checkpoints in finished
    )


def start_plans(storage: Storage, members: Sequence[MemberRecord], *, is_lockstep: bool) -> dict[int, StartPlan]:
    """Return how each member starts when the run resumes.

    Initial members, and all members with a checkpoint, resume from their newest checkpoint. The others join again. In
    lockstep, members resume together from one interval. A member that has no checkpoint of that interval was left
    behind, and resumes from its own newest checkpoint.

    Args:
        storage: The run's folder.
        members: The members that start.
        is_lockstep: Whether the run is in lockstep mode.

    Returns:
        A plan for each member, by id.

    Raises:
        StorageError: The checkpoints cannot be listed.
    """
    store = CheckpointStore(storage)
    saved = {member.id: {checkpoint.interval for checkpoint in store.list(member.id)} for member in members}
    resumed = {member.id: saved[member.id] for member in members if saved[member.id] or member.is_initial}
    common = common_resume_interval(resumed) if is_lockstep and resumed else None
    plans = dict.fromkeys(saved, StartPlan("joined"))
    for network_id, intervals in resumed.items():
        plans[network_id] = StartPlan("resumed", common if common in _resume_points(intervals) else None)
    return plans


def common_resume_interval(saved: Mapping[int, Collection[int]]) -> int:
    """Return the interval from which networks in lockstep resume together.

    Only the two newest intervals of the most advanced network qualify, because every network that kept pace has saved
    at least one of them. The result is the one of the two that more networks have saved, or the later if equally many
    have. A network that was left behind therefore cannot set the others back.

    Args:
        saved: Intervals of each network's checkpoints, by id, for at least one network. A network with at most one
            checkpoint can also begin at interval 0, the interval before its first checkpoint.
    """
    resume_points = [_resume_points(intervals) for intervals in saved.values()]
    newest = sorted(max(resume_points, key=max))[-2:]
    return max(newest, key=lambda interval: (sum(interval in points for points in resume_points), interval))


def _resume_points(intervals: Collection[int]) -> set[int]:
    """Return the intervals from which a network can resume."""
    return {*intervals, 0} if len(intervals) < 2 else set(intervals)
