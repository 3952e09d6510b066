"""Topologies: the donors of each network, as pure functions of (members, network, round, seed), for every size from 1.

`neighbors` returns the donors of a network in a round, the preferred donor first. `donors` continues beyond them along
the topology, for a network whose neighbors have no snapshot to offer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
    ids = sorted(set(members))
    if network_id not in ids:
        raise ValueError(f"network {network_id} is not a member of {ids}")
    if config.name == "edges":
        donor_ids = [donor for donor, rootstock in config.edges if rootstock == network_id and donor in ids]
        return _rotate(donor_ids, round)
    size, position = len(ids), ids.index(network_id)
    if size == 1:
        return ()
    topology = TOPOLOGIES.resolve(config.name)
    positions = topology(position, size, round=round, seed=seed, config=config)
    donor_ids = list(dict.fromkeys(ids[place % size] for place in positions if place % size != position))
    return _rotate(donor_ids, round)


def donors(
    config: TopologyConfig, members: Sequence[int], network_id: int, *, round: int, seed: int = 0
) -> tuple[int, ...]:
    """Return all members reachable along the topology, nearest first: the neighbors, their neighbors, and so on.

    Args:
        config: The topology.
        members: Ids of all members, in any order, with `network_id` among them.
        network_id: Id of the rootstock.
        round: Number of the round, at least 0.
        seed: Decides the edges of random_regular.

    Returns:
        Distinct ids, without `network_id`.

    Raises:
        ValueError: `network_id` is not a member.
    """
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


def _rotate(donor_ids: Sequence[int], round: int) -> tuple[int, ...]:
    """Rotate donors by the round, so that each round prefers another."""
    first = round % len(donor_ids) if donor_ids else 0
    return (*donor_ids[first:], *donor_ids[:first])


@TOPOLOGIES.register("ring")
def ring(position: int, size: int, *, round: int, seed: int, config: TopologyConfig) -> list[int]:
    """Return the network before this one, as in the paper."""
    return [position - 1]


@TOPOLOGIES.register("bidirectional_ring")
def bidirectional_ring(position: int, size: int, *, round: int, seed: int, config: TopologyConfig) -> list[int]:
    """Return the networks before and after this one."""
    return [position - 1, position + 1]


@TOPOLOGIES.register("complete")
def complete(position: int, size: int, *, round: int, seed: int, config: TopologyConfig) -> list[int]:
    """Return all other networks."""
    return [position - step for step in range(1, size)]


@TOPOLOGIES.register("star")
def star(position: int, size: int, *, round: int, seed: int, config: TopologyConfig) -> list[int]:
    """Return the hub, which is the member with the lowest id. The hub takes from each leaf in turn."""
    return [0] if position else list(range(1, size))


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
    positions = []
    for index in range(min(config.degree, size - 1)):
        order = np.random.default_rng([seed, size, index]).permutation(size).tolist()
        positions.append(order[order.index(position) - 1])
    return positions


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
