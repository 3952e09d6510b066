"""How many networks a population gains when its cluster has room: pure decisions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inarch.population.membership.elasticity import (
    MIN_INTERVALS,
    NodeCapacity,
    PopulationSize,
    SettledRoom,
    num_to_start,
    room_for,
)


def node(total: dict[str, float], used: dict[str, float] | None = None, **changes: bool) -> NodeCapacity:
    free = {name: amount - (used or {}).get(name, 0.0) for name, amount in total.items()}
    return NodeCapacity(node_id="node", total=total, free=free, **changes)


@pytest.mark.parametrize(
    ("request_", "nodes", "room"),
    [
        ({"CPU": 1.0}, [node({"CPU": 2.0}), node({"CPU": 3.0}, {"CPU": 1.0})], 4),
        ({"CPU": 2.0}, [node({"CPU": 1.0}), node({"CPU": 1.0})], 0),  # 2 CPUs, but not on one node
        ({"CPU": 1.0, "GPU": 1.0}, [node({"CPU": 8.0}), node({"CPU": 1.0, "GPU": 4.0})], 1),
        ({"CPU": 0.1}, [node({"CPU": 1.0}, {"CPU": 0.7})], 3),
        ({"GPU": 0.4}, [node({"GPU": 2.0})], 4),  # two on each GPU, and not five on the sum
        ({"GPU": 0.4}, [node({"GPU": 2.0}, {"GPU": 0.8})], 2),
        ({"GPU": 1.0}, [node({"GPU": 2.0}, {"GPU": 0.5})], 1),
        ({"CPU": 1.0, "memory": 4e9}, [node({"CPU": 4.0, "memory": 1e10})], 2),
        ({"CPU": 1.0, "tpu": 1.0}, [node({"CPU": 4.0})], 0),
        ({"CPU": 1.0}, [node({"CPU": 4.0}, is_draining=True), node({"CPU": 1.0})], 1),
        ({"CPU": 0.0, "GPU": 0.0}, [node({"CPU": 4.0})], 0),
        ({"CPU": 1.0}, [], 0),
    ],
)
def test_room_is_what_fits_on_single_nodes(request_, nodes, room: int) -> None:
    assert room_for(request_, nodes) == room


@given(
    amount=st.integers(1, 100).map(lambda value: value / 100),
    gpus=st.integers(1, 8),
    placed=st.integers(0, 8),
)
def test_room_on_gpus_holds_each_network_on_one_gpu(amount: float, gpus: int, placed: int) -> None:
    most = gpus * int(1 / amount + 1e-6)
    placed = min(placed, most)
    capacity = node({"GPU": float(gpus)}, {"GPU": placed * amount})
    assert room_for({"GPU": amount}, [capacity]) == most - placed


@pytest.mark.parametrize(
    ("room", "size", "count"),
    [
        (4, PopulationSize(num_counted=2, limit=6), 4),
        (4, PopulationSize(num_counted=2, limit=3), 1),
        (4, PopulationSize(num_counted=2), 4),
        (4, PopulationSize(num_counted=6, num_waiting=4, limit=9), 0),  # the room is theirs
        (4, PopulationSize(num_counted=6, num_waiting=3, limit=9), 1),
        (4, PopulationSize(num_counted=5, limit=3), 0),
        (2, PopulationSize(num_counted=2, num_failed=1, limit=6), 1),
        (4, PopulationSize(num_counted=5, num_failed=1, limit=6), 0),
        (4, PopulationSize(num_counted=2, intervals_left=MIN_INTERVALS - 1), 0),
        (0, PopulationSize(num_counted=2, limit=6), 0),
        (0, PopulationSize(num_counted=2, num_spare=1, limit=6), 1),
        (0, PopulationSize(num_counted=3, num_waiting=1, num_spare=1, limit=6), 0),
        (3, PopulationSize(num_counted=3, num_waiting=1, num_spare=1, limit=6), 3),
        (0, PopulationSize(num_counted=6, num_spare=1, limit=6), 0),
    ],
)
def test_growth_stays_within_room_and_limit(room: int, size: PopulationSize, count: int) -> None:
    assert num_to_start(room, size) == count


def test_room_counts_once_it_has_lasted() -> None:
    settled = SettledRoom(seconds=5.0)
    assert [settled.observe(2, now=now) for now in (0.0, 2.0, 4.0, 5.0)] == [0, 0, 0, 2]
    assert settled.observe(4, now=6.0) == 2
    assert settled.observe(1, now=7.0) == 1, "less room counts at once"
    assert [settled.observe(4, now=now) for now in (9.0, 11.0, 12.0)] == [1, 1, 1]
    assert [settled.observe(4, now=now) for now in (14.0, 17.0)] == [4, 4]


@given(rooms=st.lists(st.integers(0, 6), min_size=1, max_size=40), delay=st.integers(1, 10))
def test_growth_never_starts_more_than_the_room(rooms: list[int], delay: int) -> None:
    """Networks that start become visible in the room only after `delay` observations. None is started twice."""
    settled, placed_at = SettledRoom(seconds=2.0), []
    for now, capacity in enumerate(rooms):
        placed = sum(at <= now for at in placed_at)
        room = max(0, capacity - placed)
        size = PopulationSize(num_counted=len(placed_at), num_waiting=len(placed_at) - placed)
        started = num_to_start(settled.observe(room, now=float(now)), size)
        placed_at += [now + delay] * started
        assert len(placed_at) <= max(rooms[: now + 1])
