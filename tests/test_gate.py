"""Who waits for whom."""

from __future__ import annotations

import asyncio

from inarch.actors.coordinator.admission import Admission
from inarch.population.membership.members import Members, MemberState


def members(*states: MemberState) -> Members:
    found = Members()
    for state in states:
        found.set_state(found.add(is_initial=True).id, state)
    return found


def gate_of(found: Members, *, is_lockstep: bool = True, deadline_seconds: float = 600.0) -> Admission[int]:
    return Admission(found, is_lockstep=is_lockstep, deadline_seconds=deadline_seconds)


TRAINING = MemberState.TRAINING


def test_where_nobody_waits_a_newcomer_begins_at_once() -> None:
    gate = gate_of(members(TRAINING, TRAINING), is_lockstep=False)
    gate.hold(1)
    assert asyncio.run(gate.join(1, lambda network_id: 10 + network_id)) == 11
    assert not gate.is_outside(1)


def test_in_lockstep_a_newcomer_begins_when_a_barrier_opens_that_does_not_wait_for_it() -> None:
    async def scene() -> tuple[list[int], int]:
        gate = gate_of(members(TRAINING, TRAINING, TRAINING))
        gate.hold(2)
        joining = asyncio.ensure_future(gate.join(2, lambda network_id: 10 + network_id))
        await asyncio.sleep(0)
        gate.arrive(0, 1)
        assert gate.open(lambda network_id: 0) == [] and not joining.done()
        gate.arrive(1, 1)
        return gate.open(lambda network_id: 20 + network_id), await joining

    assert asyncio.run(scene()) == ([1], 22)


def test_a_newcomer_that_asks_a_coordinator_that_came_back_is_not_waited_for() -> None:
    """The coordinator that it waited at has died, and the one that came back does not know that it is outside."""

    async def scene() -> tuple[list[int], int]:
        gate = gate_of(members(TRAINING, TRAINING))
        joining = asyncio.ensure_future(gate.join(1, lambda network_id: 7))
        await asyncio.sleep(0)
        gate.arrive(0, 3)
        return gate.open(lambda network_id: 5), await joining

    assert asyncio.run(scene()) == ([3], 5)


def test_a_newcomer_that_nobody_trains_beside_begins_at_once() -> None:
    gate = gate_of(members(TRAINING, MemberState.DONE))
    assert asyncio.run(gate.join(0, lambda network_id: 3)) == 3


def test_a_network_whose_process_is_gone_is_waited_for_until_it_arrives_again() -> None:
    async def scene() -> list[list[int]]:
        gate, opened = gate_of(members(TRAINING, TRAINING)), []
        gate.arrive(1, 1)
        gate.forget(1)
        gate.arrive(0, 1)
        opened.append(gate.open(lambda network_id: 0))
        gate.arrive(1, 1)
        opened.append(gate.open(lambda network_id: 0))
        return opened

    assert asyncio.run(scene()) == [[], [1]]


def test_who_waits_to_join_and_is_sent_away_waits_no_more() -> None:
    async def scene() -> bool:
        gate = gate_of(members(TRAINING, TRAINING))
        joining = asyncio.ensure_future(gate.join(1, lambda network_id: 0))
        await asyncio.sleep(0)
        gate.forget(1)
        await asyncio.wait([joining], timeout=1.0)
        return joining.cancelled() and not gate.is_outside(1)

    assert asyncio.run(scene())
