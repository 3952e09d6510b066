"""Who may take from whom: pure functions of (members, network, round, seed), for every size from 1.

`neighbors` gives the donors that a network may take from in a round, the preferred one first. `donors` follows them
outward, so that a network whose neighbors have nothing to give asks the next one along the topology.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from inarch.population.config import TopologyConfig


def neighbors(
    config: TopologyConfig, members: Sequence[int], network_id: int, *, round: int, seed: int = 0
) -> tuple[int, ...]:
    """Donors of a network in a round, preferred first, never itself.

    Args:
        config: Which topology.
        members: Ids of all members, in any order; must hold `network_id`.
        network_id: The id that asks.
        round: At least 0; topologies with several neighbors prefer another one each round.
        seed: Decides random_regular.

    Returns:
        Distinct ids; empty for a population of one, or where explicit edges leave none.

    Raises:
        ValueError: `network_id` is no member.
    """
    ids = sorted(set(members))
    if network_id not in ids:
        raise ValueError(f"network {network_id} is not a member of {ids}")
    if config.name == "edges":
        found = [donor for donor, rootstock in config.edges if rootstock == network_id and donor in ids]
        return _turn(found, round)
    size, here = len(ids), ids.index(network_id)
    if size == 1:
        return ()
    places = _PLACES[config.name](here, size, round, config, seed)
    found = list(dict.fromkeys(ids[place % size] for place in places if place % size != here))
    return tuple(found) if config.name in _FIXED else _turn(found, round)


def donors(
    config: TopologyConfig, members: Sequence[int], network_id: int, *, round: int, seed: int = 0
) -> tuple[int, ...]:
    """All members reachable along the topology, nearest first: the neighbors, their neighbors, and so on."""
    order: list[int] = []
    frontier = [network_id]
    while frontier:
        reached: list[int] = []
        for member in frontier:
            for donor in neighbors(config, members, member, round=round, seed=seed):
                if donor != network_id and donor not in order and donor not in reached:
                    reached.append(donor)
        order.extend(reached)
        frontier = reached
    return tuple(order)


_FIXED = frozenset({"ring", "one_peer"})
"""Topologies whose round leaves one neighbor at most, or whose order is the round's already."""


def _turn(found: Sequence[int], round: int) -> tuple[int, ...]:
    first = round % len(found) if found else 0
    return (*found[first:], *found[:first])


def _ring(here: int, size: int, round: int, config: TopologyConfig, seed: int) -> list[int]:
    return [here - 1]


def _bidirectional_ring(here: int, size: int, round: int, config: TopologyConfig, seed: int) -> list[int]:
    return [here - 1, here + 1]


def _complete(here: int, size: int, round: int, config: TopologyConfig, seed: int) -> list[int]:
    return [here - step for step in range(1, size)]


def _star(here: int, size: int, round: int, config: TopologyConfig, seed: int) -> list[int]:
    """The member with the lowest id is the hub; leaves take from it, it takes from each leaf in turn."""
    return [0] if here else list(range(1, size))


def _torus(here: int, size: int, round: int, config: TopologyConfig, seed: int) -> list[int]:
    """Rows by columns, as square as the size divides; a prime size is a ring of one row."""
    rows = max(divisor for divisor in range(1, math.isqrt(size) + 1) if size % divisor == 0)
    columns = size // rows
    row, column = divmod(here, columns)
    return [
        row * columns + (column - 1) % columns,
        (row - 1) % rows * columns + column,
        row * columns + (column + 1) % columns,
        (row + 1) % rows * columns + column,
    ]


def _exponential(here: int, size: int, round: int, config: TopologyConfig, seed: int) -> list[int]:
    return [here - 2**power for power in range(_powers(size))]


def _one_peer(here: int, size: int, round: int, config: TopologyConfig, seed: int) -> list[int]:
    """One of the exponential graph's neighbors each round. Source: Assran et al. 2019 (arXiv:1811.10792)."""
    return [here - 2 ** (round % _powers(size))]


def _random_regular(here: int, size: int, round: int, config: TopologyConfig, seed: int) -> list[int]:
    """The union of `degree` random rings over all members: everyone donates and takes as often, all are reachable."""
    places = []
    for index in range(min(config.degree, size - 1)):
        order = np.random.default_rng([seed, size, index]).permutation(size).tolist()
        places.append(order[order.index(here) - 1])
    return places


def _powers(size: int) -> int:
    return max(1, (size - 1).bit_length())


_PLACES = {
    "ring": _ring,
    "bidirectional_ring": _bidirectional_ring,
    "complete": _complete,
    "star": _star,
    "torus": _torus,
    "exponential": _exponential,
    "random_regular": _random_regular,
    "one_peer": _one_peer,
}
