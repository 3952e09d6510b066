"""Topologies by their laws, at every size and after every join or leave."""

from __future__ import annotations

import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inarch.population import TopologyConfig
from inarch.population.config import TopologyName
from inarch.population.membership.topology import donors, neighbors

NAMES = [name for name in typing.get_args(TopologyName) if name != "edges"]

members = st.lists(st.integers(0, 60), min_size=1, max_size=24, unique=True)


def reached(config: TopologyConfig, ids: list[int], seed: int) -> bool:
    """Whether everyone's weights can come to everyone within enough rounds."""
    edges = {(donor, i) for r in range(64) for i in ids for donor in neighbors(config, ids, i, round=r, seed=seed)}
    for start in ids:
        seen, frontier = {start}, [start]
        while frontier:
            here = frontier.pop()
            for donor, rootstock in edges:
                if donor == here and rootstock not in seen:
                    seen.add(rootstock)
                    frontier.append(rootstock)
        if seen != set(ids):
            return False
    return True


@pytest.mark.parametrize("name", NAMES)
@given(ids=members, round=st.integers(0, 1000), seed=st.integers(0, 9))
def test_nobody_takes_from_itself_and_all_donors_are_members(name, ids: list[int], round: int, seed: int) -> None:
    config = TopologyConfig(name=name, degree=3)
    for network_id in ids:
        found = neighbors(config, ids, network_id, round=round, seed=seed)
        assert network_id not in found
        assert set(found) <= set(ids)
        assert len(found) == len(set(found))
        assert bool(found) == (len(ids) > 1)
        assert found == neighbors(config, list(reversed(ids)), network_id, round=round, seed=seed)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13])
def test_everyone_is_reachable_over_the_rounds_at_every_size(name, size: int) -> None:
    assert reached(TopologyConfig(name=name), list(range(size)), seed=0)


@pytest.mark.parametrize("name", NAMES)
def test_everyone_is_reachable_after_joins_and_leaves(name) -> None:
    ids = [0, 1, 2, 3]
    for change in (lambda: ids.append(7), lambda: ids.remove(1), lambda: ids.append(9), lambda: ids.remove(0)):
        change()
        assert reached(TopologyConfig(name=name), ids, seed=3)


@given(ids=members, round=st.integers(0, 50))
def test_following_a_ring_asks_everyone_nearest_first(ids: list[int], round: int) -> None:
    ordered = sorted(ids)
    found = donors(TopologyConfig(name="ring"), ids, ordered[0], round=round)
    assert found == tuple(reversed(ordered[1:]))


def test_topologies_by_hand() -> None:
    four = [10, 20, 30, 40]
    at = {name: neighbors(TopologyConfig(name=name), four, 20, round=0) for name in NAMES if name != "random_regular"}
    assert at["ring"] == (10,)
    assert at["bidirectional_ring"] == (10, 30)
    assert at["complete"] == (10, 40, 30)
    assert at["star"] == (10,)
    assert at["exponential"] == (10, 40)
    assert at["one_peer"] == (10,)
    assert set(at["torus"]) == {10, 40}
    assert neighbors(TopologyConfig(name="one_peer"), four, 20, round=1) == (40,)
    assert neighbors(TopologyConfig(name="star"), four, 10, round=1) == (30, 40, 20)


def test_regular_graphs_have_equal_in_and_out_degree() -> None:
    ids = list(range(9))
    taken = [
        donor for i in ids for donor in neighbors(TopologyConfig(name="random_regular", degree=1), ids, i, round=0)
    ]
    assert sorted(taken) == ids


def test_explicit_edges_among_those_present() -> None:
    config = TopologyConfig(name="edges", edges=((0, 1), (2, 1), (1, 0)))
    assert neighbors(config, [0, 1, 2], 1, round=0) == (0, 2)
    assert neighbors(config, [0, 1, 2], 1, round=1) == (2, 0)
    assert neighbors(config, [1, 2], 1, round=1) == (2,)
    assert neighbors(config, [0, 1, 2], 2, round=0) == ()


def test_a_stranger_has_no_neighbors() -> None:
    with pytest.raises(ValueError, match="not a member"):
        neighbors(TopologyConfig(), [0, 1], 5, round=0)
