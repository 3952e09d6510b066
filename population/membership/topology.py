"""Topologies: the donors of each network, as pure functions of (members, network, round, seed), for every size from 1.

`neighbors` returns the donors of a network in a round, the preferred donor first. `donors` continues beyond them along
the topology, for a network whose neighbors have no snapshot to offer.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np

from inarch.population.config import TopologyConfig
from inarch.population.extension.registry import Registry


class Topology(Protocol):
    """Chooses the donors of a network."""

    def __call__(self, position: int, size: int, *, round: int, seed: int, config: TopologyConfig) -> Sequence[int]:
        """Return the positions of the donors, the preferred one first.

        Args:
            position: Position of the network among the members sorted by id, counted from 0.
            size: Number of members, at least 2.
            round: Number of the round, at least 0. Donors are rotated by it afterwards.
            seed: Seed of the run.
            config: The topology's configuration.

        Returns:
            Positions, taken modulo the size. The network's own position is ignored.
        """
        ...


TOPOLOGIES: Registry[Topology] = Registry("topology", "topology.name")
"""Topologies by name. `edges` is not among them: its donors are given in the configuration."""


def neighbors(
    config: TopologyConfig, members: Sequence[int], network_id: int, *, round: int, seed: int = 0
) -> tuple[int, ...]:
    """Return the donors of a network in a round, the preferred donor first. A network is never its own donor.

    Args:
        config: The topology.
        members: Ids of all members, in any order, with `network_id` among them.
        network_id: Id of the rootstock.
        round: Number of the round, at least 0. If there are several neighbors, each round prefers another.
        seed: Decides the edges of random_regular.

    Returns:
        Distinct ids. Empty for a population of one, or if explicit edges leave no donor.

    Raises:
        ValueError: `network_id` is not a member.
    """
    return tuple(_neighbors(config, Places(members), network_id, round=round, seed=seed))


def num_neighbors(config: TopologyConfig, places: Places, network_id: int, *, round: int, seed: int) -> int:
    """Return the number of donors of a network in a round, as `neighbors` names them.

    Args:
        config: The topology.
        places: All members, with `network_id` among them.
        network_id: Id of the rootstock.
        round: Number of the round, at least 0.
        seed: Decides the edges of random_regular.

    Raises:
        ValueError: `network_id` is not a member.
    """
    return sum(1 for _ in _neighbors(config, places, network_id, round=round, seed=seed))


class Places:
    """The members in a topology, sorted by id. A member is found, comes and goes without a walk over all others."""

    def __init__(self, members: Iterable[int] = ()) -> None:
        """Create the places of members.

        Args:
            members: Their ids, in any order.
        """
        self.ids = sorted(set(members))
        """Ids in ascending order. They change with the population."""

    def __contains__(self, network_id: object) -> bool:
        return isinstance(network_id, int) and self.position(network_id) is not None

    def __iter__(self) -> Iterator[int]:
        return iter(self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    def position(self, network_id: int) -> int | None:
        """Return the place of a member, counted from 0. None if it is no member."""
        place = bisect.bisect_left(self.ids, network_id)
        return place if place < len(self.ids) and self.ids[place] == network_id else None

    def put(self, network_id: int, *, is_in: bool) -> None:
        """Add or remove a member. Do nothing if that is done already.

        Args:
            network_id: Id of the member.
            is_in: Whether it is to be in.
        """
        place = bisect.bisect_left(self.ids, network_id)
        was_in = place < len(self.ids) and self.ids[place] == network_id
        if is_in and not was_in:
            self.ids.insert(place, network_id)
        elif was_in and not is_in:
            del self.ids[place]


def donors(config: TopologyConfig, places: Places, network_id: int, *, round: int, seed: int = 0) -> Iterator[int]:
    """Yield all members reachable along the topology, nearest first: the neighbors, their neighbors, and so on.

    Donors are found one at a time, so that the first costs the same in every population.

    Args:
        config: The topology.
        places: All members, with `network_id` among them.
        network_id: Id of the rootstock.
        round: Number of the round, at least 0.
        seed: Decides the edges of random_regular.

    Yields:
        Distinct ids, without `network_id`.

    Raises:
        ValueError: `network_id` is not a member.
    """
    seen, frontier = {network_id}, [network_id]
    while frontier:
        reached: list[int] = []
        for member in frontier:
            for donor in _neighbors(config, places, member, round=round, seed=seed):
                if donor not in seen:
                    seen.add(donor)
                    reached.append(donor)
                    yield donor
            if len(seen) == len(places):
                return  # or else a complete topology would be walked once for each of its members
        frontier = reached


def _neighbors(config: TopologyConfig, places: Places, network_id: int, *, round: int, seed: int) -> Iterator[int]:
    """Yield the donors of a network in a round, the preferred donor first."""
    ids, position = places.ids, places.position(network_id)
    if position is None:
        raise ValueError(f"network {network_id} is not a member of {list(ids)}")
    if config.name == "edges":
        given = _edges(config.edges).get(network_id, ())
        yield from _rotated([donor for donor in given if donor in places], round)
    elif len(ids) > 1:
        size = len(ids)
        found = TOPOLOGIES.resolve(config.name)(position, size, round=round, seed=seed, config=config)
        if isinstance(found, range) and _is_distinct(found, position, size):
            # Of a large population, most donors are never asked for.
            yield from (ids[place % size] for place in _rotated(found, round))
            return
        yield from _rotated(
            list(dict.fromkeys(ids[place % size] for place in found if place % size != position)), round
        )


def _is_distinct(places: range, position: int, size: int) -> bool:
    """Return whether consecutive places are those of different members, without the network itself."""
    is_short = abs(places.step) == 1 and len(places) < size
    return is_short and not any(place in places for place in (position - size, position, position + size))


@functools.lru_cache(maxsize=8)
def _edges(edges: tuple[tuple[int, int], ...]) -> dict[int, list[int]]:
    """Return the donors of each rootstock, by explicit edges."""
    donors_of: dict[int, list[int]] = {}
    for donor, rootstock in edges:
        donors_of.setdefault(rootstock, []).append(donor)
    return donors_of


def _rotated(donors: Sequence[int], round: int) -> Iterator[int]:
    """Yield donors, rotated by the round, so that each round prefers another."""
    first = round % len(donors) if donors else 0
    return itertools.chain(donors[first:], donors[:first])


@TOPOLOGIES.register("ring")
def ring(position: int, size: int, *, round: int, seed: int, config: TopologyConfig) -> list[int]:
    """Return the network before this one, as in the paper."""
    return [position - 1]


@TOPOLOGIES.register("bidirectional_ring")
def bidirectional_ring(position: int, size: int, *, round: int, seed: int, config: TopologyConfig) -> list[int]:
    """Return the networks before and after this one."""
    return [position - 1, position + 1]


@TOPOLOGIES.register("complete")
def complete(position: int, size: int, *, round: int, seed: int, config: TopologyConfig) -> range:
    """Return all other networks."""
    return range(position - 1, position - size, -1)


@TOPOLOGIES.register("star")
def star(position: int, size: int, *, round: int, seed: int, config: TopologyConfig) -> range:
    """Return the hub, which is the member with the lowest id. The hub takes from each leaf in turn."""
    return range(1) if position else range(1, size)


@TOPOLOGIES.register("torus")
def torus(position: int, size: int, *, round: int, seed: int, config: TopologyConfig) -> list[int]:
    """Return the four neighbors on a grid that is as square as the size's divisors allow.

    A prime size gives a bidirectional ring of one row.
    """
    rows = max(divisor for divisor in range(1, math.isqrt(size) + 1) if size % divisor == 0)
    columns = size // rows
    row, column = divmod(position, columns)
    return [
        row * columns + (column - 1) % columns,
        (row - 1) % rows * columns + column,
        row * columns + (column + 1) % columns,
        (row + 1) % rows * columns + column,
    ]


@TOPOLOGIES.register("exponential")
def exponential(position: int, size: int, *, round: int, seed: int, config: TopologyConfig) -> list[int]:
    """Return the networks 1, 2, 4, 8 and so on before this one."""
    return [position - 2**power for power in range(_num_powers(size))]


@TOPOLOGIES.register("random_regular")
def random_regular(position: int, size: int, *, round: int, seed: int, config: TopologyConfig) -> list[int]:
    """Return a donor from each of `degree` random rings over all members.

    All members give and take equally often, and every member is reachable.
    """
    return [_random_ring(seed, size, index)[position] for index in range(min(config.degree, size - 1))]


@functools.lru_cache(maxsize=256)
def _random_ring(seed: int, size: int, index: int) -> list[int]:
    """Return the place before each place in a random ring."""
    order = np.random.default_rng([seed, size, index]).permutation(size)
    before = np.empty(size, dtype=np.int64)
    before[order] = np.roll(order, 1)
    return before.tolist()


@TOPOLOGIES.register("one_peer")
def one_peer(position: int, size: int, *, round: int, seed: int, config: TopologyConfig) -> list[int]:
    """Return one neighbor of the exponential graph, another in each round.

    Source: Assran et al. 2019 (arXiv:1811.10792).
    """
    return [position - 2 ** (round % _num_powers(size))]


TOPOLOGIES.close_built_in()


def _num_powers(size: int) -> int:
    return max(1, (size - 1).bit_length())


def check_topology(config: TopologyConfig) -> None:
    """Raise ConfigError if there is no topology of the configured name."""
    if config.name != "edges":
        TOPOLOGIES.resolve(config.name)
