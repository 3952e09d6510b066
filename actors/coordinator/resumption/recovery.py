"""Restores a coordinator that Ray has restarted from the record in the run's folder."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

from inarch.actors.coordinator.lifecycle import NetworkLifecycle
from inarch.actors.coordinator.run_context import RunContext
from inarch.actors.coordinator.run_metadata import placement_of
from inarch.actors.retry import retry
from inarch.population.errors import StorageError
from inarch.population.membership.members import ACTIVE, DONORS, MemberRecord
from inarch.population.tasks.run_folder import failure_reasons, members_of, read_info, read_members
from inarch.population.tasks.run_folder import read_result as folder_result


async def restore_run(context: RunContext) -> bool:
    """Restore phase, members and what is known of data and model.

    Args:
        context: The parts of the run. They are changed.

    Returns:
        Whether the run continues. False if it was over, or had not begun.

    Raises:
        StorageError: Storage failed for timeouts.start_seconds.
    """
    storage, state, population = context.storage, context.state, context.population
    seconds = context.config.timeouts.start_seconds
    record = await asyncio.to_thread(retry, lambda: read_members(storage), seconds=seconds)
    if record is None:
        state.fail("the coordinator died before the run had begun")
        return False
    state.info = await asyncio.to_thread(retry, lambda: read_info(storage), seconds=seconds)
    population.num_intervals = state.info.num_intervals
    state.resources = placement_of(record)
    state.message = record["message"]
    state.limit = record["limit"]
    context.monitor.restore_life_events(record.get("events", ()))
    state.reasons |= failure_reasons(record)
    state.began_seconds = time.monotonic() - (time.time() - record["began"])
    for member in members_of(record):
        population.members.restore(member)
    state.has_begun = True
    state.wanted = len(population.members.counted())
    if record["state"] == "finished":
        state.end("finished")
        return False
    if record["state"] == "failed":  # its end is recorded again, in case this process died meanwhile
        state.fail(record["message"])
        return False
    state.is_stopped = record["state"] == "stopping"
    state.phase = "stopping" if state.is_stopped else "training"
    return True


def find_networks(context: RunContext, lifecycle: NetworkLifecycle) -> list[MemberRecord]:
    """Take over the living networks by their names, and end the processes of members that had left.

    Args:
        context: The run.
        lifecycle: Lifecycle of its networks.

    Returns:
        The members that are active or donate, as they were recorded.
    """
    networks = [member for member in context.population.members if not member.is_guest]
    known = [member for member in networks if member.state in ACTIVE | DONORS]
    for member in known:
        lifecycle.find(member)
    lifecycle.terminate_orphans()
    return known


async def read_result(context: RunContext) -> dict[str, Any] | None:
    """Return the result of a finished run, or None if it cannot be read."""
    with contextlib.suppress(StorageError):
        return await asyncio.to_thread(folder_result, context.storage)
    return None
