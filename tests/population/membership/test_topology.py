"""Laws of the topologies at every size and after every join and leave."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inarch.population import TopologyConfig
from inarch.population.membership.topology import TOPOLOGIES, Places, donors, neighbors

NAMES = TOPOLOGIES.names()

members = st.lists(st.integers(0, 60), min_size=1, max_size=24, unique=True)


def reaches_all_members(config: TopologyConfig, ids: list[int], seed: int) -> bool:
    """Whether the weights of each network reach every other network within 64 rounds."""
    edges = {(donor, i) for r in range(64) for i in ids for donor in neighbors(config, ids, i, round=r, seed=seed)}
    for start in ids:
        reached, frontier = {start}, [start]
        while frontier:
            current = frontier.pop()
            for donor, rootstock in edges:
                if donor == current and rootstock not in reached:
                    reached.add(rootstock)
                    frontier.append(rootstock)
        if reached != set(ids):
            return False
    return True


@pytest.mark.parametrize("name", NAMES)
@given(ids=members, round=st.integers(0, 1000), seed=st.integers(0, 9))
def test_neighbors_are_distinct_members_without_the_network(name, ids: list[int], round: int, seed: int) -> None:
    config = TopologyConfig(name=name, degree=3)
    for network_id in ids:
        neighbor_ids = neighbors(config, ids, network_id, round=round, seed=seed)
        assert network_id not in neighbor_ids
        assert set(neighbor_ids) <= set(ids)
        assert len(neighbor_ids) == len(set(neighbor_ids))
        assert bool(neighbor_ids) == (len(ids) > 1)
        assert neighbor_ids == neighbors(config, list(reversed(ids)), network_id, round=round, seed=seed)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13])
def test_topology_of_any_size_reaches_every_member(name, size: int) -> None:
    assert reaches_all_members(TopologyConfig(name=name), list(range(size)), seed=0)


@pytest.mark.parametrize("name", NAMES)
def test_topology_after_joins_and_leaves_reaches_every_member(name) -> None:
    ids = [0, 1, 2, 3]
    for change in (lambda: ids.append(7), lambda: ids.remove(1), lambda: ids.append(9), lambda: ids.remove(0)):
        change()
        assert reaches_all_members(TopologyConfig(name=name), ids, seed=3)


@given(ids=members, round=st.integers(0, 50))
def test_donors_of_a_ring_are_ordered_nearest_first(ids: list[int], round: int) -> None:
    ordered = sorted(ids)
    donor_ids = donors(TopologyConfig(name="ring"), Places(ids), ordered[0], round=round)
    assert tuple(donor_ids) == tuple(reversed(ordered[1:]))


@pytest.mark.parametrize("name", NAMES)
@given(ids=members, round=st.integers(0, 50))
def test_donors_follow_the_neighbors_ring_by_ring(name, ids: list[int], round: int) -> None:
    config, start = TopologyConfig(name=name, degree=3), ids[0]
    expected: list[int] = []
    frontier = [start]
    while frontier:
        reached: list[int] = []
        for member in frontier:
            for donor in neighbors(config, ids, member, round=round, seed=5):
                if donor != start and donor not in expected and donor not in reached:
                    reached.append(donor)
        expected.extend(reached)
        frontier = reached
    assert list(donors(config, Places(ids), start, round=round, seed=5)) == expected


def test_first_donor_asks_for_the_neighbors_of_one_network() -> None:
    asked: list[int] = []

    def counted_ring(position: int, size: int, *, round: int, seed: int, config: TopologyConfig) -> list[int]:
        asked.append(position)
        return [position - 1]

    TOPOLOGIES.register("counted_ring")(counted_ring)
    try:
        found = donors(TopologyConfig(name="counted_ring"), Places(range(100_000)), 7, round=3)
        assert next(found) == 6 and asked == [7]
    finally:
        TOPOLOGIES.remove("counted_ring")


@given(changes=st.lists(st.tuples(st.integers(0, 20), st.booleans()), max_size=40))
def test_places_hold_the_members_in_order(changes: list[tuple[int, bool]]) -> None:
    places, expected = Places([3]), {3}
    for network_id, is_in in changes:
        places.put(network_id, is_in=is_in)
        expected = expected | {network_id} if is_in else expected - {network_id}
    assert places.ids == sorted(expected)
    assert [places.position(network_id) for network_id in sorted(expected)] == list(range(len(expected)))
    assert 21 not in places and places.position(21) is None


def test_neighbors_of_each_topology_match_values_by_hand() -> None:
    four = [10, 20, 30, 40]
    neighbors_by_name = {
        name: neighbors(TopologyConfig(name=name), four, 20, round=0) for name in NAMES if name != "random_regular"
    }
    assert neighbors_by_name["ring"] == (10,)
    assert neighbors_by_name["bidirectional_ring"] == (10, 30)
    assert neighbors_by_name["complete"] == (10, 40, 30)
    assert neighbors_by_name["star"] == (10,)
    assert neighbors_by_name["exponential"] == (10, 40)
    assert neighbors_by_name["one_peer"] == (10,)
    assert set(neighbors_by_name["torus"]) == {10, 40}
    assert neighbors(TopologyConfig(name="one_peer"), four, 20, round=1) == (40,)
    assert neighbors(TopologyConfig(name="star"), four, 10, round=1) == (30, 40, 20)


def test_neighbors_of_a_regular_graph_have_equal_degrees() -> None:
    ids = list(range(9))
    donor_ids = [
        donor for i in ids for donor in neighbors(TopologyConfig(name="random_regular", degree=1), ids, i, round=0)
    ]
    assert sorted(donor_ids) == ids


def test_neighbors_of_explicit_edges_are_present_members() -> None:
    config = TopologyConfig(name="edges", edges=((0, 1), (2, 1), (1, 0)))
    assert neighbors(config, [0, 1, 2], 1, round=0) == (0, 2)
    assert neighbors(config, [0, 1, 2], 1, round=1) == (2, 0)
    assert neighbors(config, [1, 2], 1, round=1) == (2,)
    assert neighbors(config, [0, 1, 2], 2, round=0) == ()


def test_neighbors_of_an_unknown_network_is_an_error() -> None:
    with pytest.raises(ValueError, match="not a member"):
        neighbors(TopologyConfig(), [0, 1], 5, round=0)


def test_walk_over_a_complete_topology_asks_one_member() -> None:
    asked: list[int] = []

    @TOPOLOGIES.register("everyone")
    def everyone(position: int, size: int, *, round: int, seed: int, config: TopologyConfig) -> range:
        asked.append(position)
        return range(position + 1, position + size)

    try:
        found = list(donors(TopologyConfig(name="everyone"), Places(range(50)), 7, round=0))
    finally:
        TOPOLOGIES.remove("everyone")
    assert sorted(found) == [number for number in range(50) if number != 7] and asked == [7]
