"""The gossip matrix of a topology: how much the slowest difference between networks shrinks with each exchange.

In round r, each network i takes the weights of its donor d(r, i). With alpha for its own weights, the round is the
matrix W_r = alpha I + (1 - alpha) P_r, where P_r has a one in row i and column d(r, i). The differences between
networks shrink in the long run by the second eigenvalue of the product of all rounds. It is given here for one round.
"""

from __future__ import annotations

import numpy as np

from inarch.population.config import TopologyConfig
from inarch.population.membership.topology import Places, donors

Array = np.ndarray

POWER_ROUNDS = 3000
"""Rounds of the power iteration. The second half gives the eigenvalue."""

POWER_VECTORS = 4
"""Vectors of the power iteration."""


def donor_table(topology: TopologyConfig, size: int, rounds: int, *, seed: int = 0) -> Array:
    """Return the preferred donor of each network in each round, as the coordinator chooses it.

    Args:
        topology: The topology.
        size: Number of networks, at least 2.
        rounds: Number of rounds.
        seed: Seed of random topologies.

    Returns:
        Ids, shape (rounds, size).
    """
    places = Places(range(size))
    table = np.empty((rounds, size), dtype=np.int64)
    for round_number in range(rounds):
        for network in range(size):
            table[round_number, network] = next(donors(topology, places, network, round=round_number, seed=seed))
    return table


def second_eigenvalue(table: Array, alpha: float, *, seed: int = 0) -> tuple[float, Array]:
    """Return the factor by which the slowest difference between networks shrinks in a round, and that difference.

    If all networks take from the same distance in each round, as on a ring, the eigenvalue follows from the discrete
    Fourier transform. Otherwise it is found by power iteration.

    Args:
        table: Donors, shape (rounds, size). The rounds repeat.
        alpha: Weight of a network's own weights, in (0, 1).
        seed: Seed of the power iteration.

    Returns:
        The factor, in [0, 1], and two vectors of the slowest difference, shape (size, 2), with mean 0.
    """
    size = table.shape[1]
    shifts = (np.arange(size) - table) % size
    if (shifts == shifts[:, :1]).all():
        return _of_shifts(shifts[:, 0], size, alpha)
    return _by_power_iteration(table, alpha, seed=seed)


def _of_shifts(shifts: Array, size: int, alpha: float) -> tuple[float, Array]:
    """Return the eigenvalue where each round is a shift, which has the waves over the networks as eigenvectors."""
    waves = np.arange(1, size // 2 + 1)
    rates = np.zeros(len(waves))
    for shift in shifts:
        angle = 2 * np.pi * waves * int(shift) / size
        squared = alpha**2 + (1 - alpha) ** 2 + 2 * alpha * (1 - alpha) * np.cos(angle)
        rates += 0.5 * np.log(np.maximum(squared, 1e-300))
    slowest = int(np.argmax(rates))
    angle = 2 * np.pi * waves[slowest] * np.arange(size) / size
    return float(np.exp(rates[slowest] / len(shifts))), np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _by_power_iteration(table: Array, alpha: float, *, seed: int) -> tuple[float, Array]:
    """Return the eigenvalue from the growth of random differences over many rounds."""
    vectors = np.random.default_rng(seed).standard_normal((table.shape[1], POWER_VECTORS))
    rounds = len(table) * -(-POWER_ROUNDS // len(table))  # whole turns of the table
    half, logs = len(table) * (rounds // len(table) // 2), np.zeros(POWER_VECTORS)
    for number in range(rounds):
        vectors = alpha * vectors + (1 - alpha) * vectors[table[number % len(table)]]
        vectors -= vectors.mean(0)
        norms = np.linalg.norm(vectors, axis=0)
        if not norms.all():
            return 0.0, np.zeros((table.shape[1], 2))
        vectors /= norms
        if number >= half:
            logs += np.log(norms)
    return float(np.exp(logs.max() / (rounds - half))), vectors[:, :2] * np.sqrt(table.shape[1])
