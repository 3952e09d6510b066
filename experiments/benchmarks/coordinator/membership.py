"""Measure what the state of a very large population costs its coordinator, without actors and calls."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable

from inarch.experiments.benchmarks.harness import Row
from inarch.population.config import ExchangeConfig, PopulationConfig, RunConfig, TopologyConfig
from inarch.population.membership.members import MemberState
from inarch.population.membership.population_state import PopulationState
from inarch.population.membership.snapshot_index import PublishedSnapshot
from inarch.population.state.snapshot_info import SnapshotInfo

UNITS = 50
"""Graft units of a member, for each of which its snapshot has a number."""

CALLS = 1000
"""Calls in each measurement."""

ALL_DONORS_CALLS = 10
"""Requests in each measurement of a network that takes from all others."""


def membership_rows(size: int, repeats: int) -> list[Row]:
    """Measure a population's state: the CPU time of a post, a request and a change of members, and its memory.

    Args:
        size: Number of members.
        repeats: How often each quantity is measured.
    """
    tracemalloc.start()
    state = _population(size)
    nbytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    everyone = _population(size, topology="complete", num_donors=size)
    interval = iter(range(2, 2 + repeats * CALLS))

    def post(number: int) -> None:
        state.publish(_published(number % size, next(interval)), now=0.0)

    def ask(number: int) -> None:
        state.select_donors(member_info(number % size, 2))

    def ask_everyone(number: int) -> None:
        everyone.select_donors(member_info(number % size, 2))

    def replace(number: int) -> None:
        state.members.set_state(number % size, MemberState.RETIRED)
        joined = state.members.add(is_initial=False).id
        state.mark_started(joined, interval=0)
        state.join(joined)

    what = f"state of {size:,} members"
    return [
        Row(what=f"{what}: post", unit="us", values=_microseconds(post, CALLS, repeats)),
        Row(what=f"{what}: request of one donor on a ring", unit="us", values=_microseconds(ask, CALLS, repeats)),
        Row(
            what=f"{what}: request of all others",
            unit="us",
            values=_microseconds(ask_everyone, ALL_DONORS_CALLS, repeats),
        ),
        Row(
            what=f"{what}: one leaves, and one joins and clones another",
            unit="us",
            values=_microseconds(replace, ALL_DONORS_CALLS, repeats),
        ),
        Row(what=f"{what}: memory", unit="MB", values=(nbytes / 1e6,)),
    ]


def member_info(network_id: int, interval: int, *, incarnation: int = 1, created_at: float = 0.0) -> SnapshotInfo:
    """Return the facts about a snapshot of a member.

    Args:
        network_id: Id of the member.
        interval: Intervals that it has completed, each of one step.
        incarnation: Its incarnation.
        created_at: Time of the snapshot, in seconds since 1970.
    """
    return SnapshotInfo(
        network_id=network_id,
        incarnation=incarnation,
        interval=interval,
        step=interval,
        trained_intervals=float(interval),
        trained_steps=float(interval),
        created_at=created_at,
        structure="bench",
    )


def _population(size: int, *, topology: str = "ring", num_donors: int | None = None) -> PopulationState[list[int]]:
    config = RunConfig(
        population=PopulationConfig(size=size),
        topology=TopologyConfig(name=topology),
        exchange=ExchangeConfig(num_donors=num_donors),
    )
    state: PopulationState[list[int]] = PopulationState(config)
    for _ in range(size):
        network_id = state.members.add(is_initial=True).id
        state.mark_started(network_id, interval=0)
        state.begin_training(network_id)
        state.publish(_published(network_id, 1), now=0.0)
    return state


def _published(network_id: int, interval: int) -> PublishedSnapshot[list[int]]:
    information = tuple(1.5 + unit for unit in range(UNITS))
    return PublishedSnapshot(origin=member_info(network_id, interval), information=information, payload=[network_id])


def _microseconds(call: Callable[[int], None], calls: int, repeats: int) -> tuple[float, ...]:
    values = []
    for _ in range(repeats):
        began = time.thread_time()
        for number in range(calls):
            call(number)
        values.append(1e6 * (time.thread_time() - began) / calls)
    return tuple(values)
