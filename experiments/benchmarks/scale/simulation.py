"""Asynchronous exchange between up to 10,000 networks in one process: gossip alone, or training on a quadratic.

A network is a vector of a few weights. Its intervals have lengths of its own. At the end of each one it trains,
publishes its weights, and takes those of its nearest admissible donor, by inarch's topologies and rules of staleness.
Networks whose intervals end one after another are computed together as long as none of them ends a second interval.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from inarch.population.config import StalenessConfig, TopologyConfig
from inarch.population.membership.staleness import staleness_discount, staleness_limit
from inarch.population.membership.topology import Places, donors

Array = np.ndarray

MOST_WALKED = 64
"""Donors that are tried for a network whose preferred donor has nothing to give. The coordinator tries all."""


@dataclass(frozen=True, kw_only=True)
class Quadratic:
    """Training of a network: steps of SGD on a quadratic with its optimum at 0, under noise of its own."""

    dimensions: int = 16
    """Weights of a network. The curvatures lie between 0.1 and 1, evenly on a logarithmic scale."""
    steps: int = 10
    """Steps in an interval."""
    learning_rate: float = 0.03
    noise: float = 1.0
    """Standard deviation of each entry of a gradient."""

    @property
    def curvatures(self) -> Array:
        """Curvature of each weight, shape (dimensions,)."""
        return np.logspace(-1, 0, self.dimensions)

    def loss(self, weights: Array) -> Array:
        """Return the loss above the optimum's, shape (...), of weights, shape (..., dimensions)."""
        return 0.5 * (self.curvatures * weights**2).sum(-1)

    @property
    def variances_alone(self) -> Array:
        """Variance of each weight of networks that train for a long time without exchange, shape (dimensions,)."""
        factor = 1 - self.learning_rate * self.curvatures
        return (self.learning_rate * self.noise) ** 2 / (1 - factor**2)

    @property
    def loss_alone(self) -> float:
        """Mean loss of networks that train for a long time without exchange."""
        return float(0.5 * (self.curvatures * self.variances_alone).sum())

    @property
    def distance_alone(self) -> float:
        """Consensus distance of many networks that train for a long time without exchange."""
        return float(np.sqrt(self.variances_alone.sum()))

    def trained(self, weights: Array, random: np.random.Generator) -> Array:
        """Return weights after the steps of an interval.

        Args:
            weights: Shape (networks, dimensions).
            random: Source of the noise.
        """
        factor = 1 - self.learning_rate * self.curvatures
        kept = factor**self.steps
        variance = self.variances_alone * (1 - kept**2)
        return kept * weights + np.sqrt(variance) * random.standard_normal(weights.shape)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A population of the simulation."""

    topology: TopologyConfig
    size: int
    intervals: int
    """Intervals of each network."""
    alpha: float = 0.5
    """Weight of a network's own weights where the scion is fresh."""
    is_lockstep: bool = False
    """Whether all networks publish before any of them takes, as in the mode lockstep."""
    spread: float = 0.2
    """Networks differ in pace: their mean intervals lie within 1 - spread and 1 + spread, and each interval lies within
    5 % of its network's mean. Not for lockstep."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What happened in a simulation."""

    times: Array
    """Times at which the population was measured, in mean intervals, ascending."""
    distance: Array
    """Consensus distance at each time: root mean square, over the networks, of the distance to the mean network."""
    loss: Array
    """Mean loss of the networks at each time. 0 without training."""
    mean_loss: Array
    """Loss of the mean network at each time. 0 without training."""
    staleness: Array
    """Staleness of each scion, in intervals."""
    exchanges: int
    """Exchanges, with those that found no scion."""


def simulate(setting: Setting, table: Array, weights: Array, *, training: Quadratic | None = None) -> Trace:
    """Run the population to the end of its intervals.

    Args:
        setting: The population.
        table: Preferred donors, as from `donor_table`, shape (intervals, size).
        weights: Weights at the start, shape (size, dimensions). Not changed.
        training: How an interval changes the weights. None: not at all, so that only exchanges change them.
    """
    random = np.random.default_rng([setting.seed, 1])  # other numbers than those of the weights
    population = _Population(setting, table, weights.astype(float))
    measured: list[tuple[float, float, float, float]] = []
    for networks, rounds, until in turns(interval_ends(setting, random)):
        before = population.weights[networks]
        population.exchange(networks, rounds, before if training is None else training.trained(before, random))
        measured.append((until, *_measured(population.weights, training)))
    times, distance, loss, mean_loss = (np.array(column) for column in zip(*measured, strict=True))
    return Trace(
        times=times,
        distance=distance,
        loss=loss,
        mean_loss=mean_loss,
        staleness=np.concatenate(population.staleness),
        exchanges=setting.size * setting.intervals,
    )


def _measured(weights: Array, training: Quadratic | None) -> tuple[float, float, float]:
    """Return consensus distance, mean loss and loss of the mean network."""
    mean = weights.mean(0)
    distance = float(np.sqrt(((weights - mean) ** 2).sum(1).mean()))
    if training is None:
        return distance, 0.0, 0.0
    return distance, float(training.loss(weights).mean()), float(training.loss(mean))


def interval_ends(setting: Setting, random: np.random.Generator) -> Array:
    """Return when each interval of each network ends. A mean interval lasts 1.

    Args:
        setting: The population.
        random: Source of the paces.

    Returns:
        Times, shape (intervals, size).
    """
    shape = setting.intervals, setting.size
    if setting.is_lockstep:
        return np.broadcast_to(np.arange(1.0, setting.intervals + 1)[:, None], shape)
    pace = random.uniform(1 - setting.spread, 1 + setting.spread, setting.size)
    return np.cumsum(pace * random.uniform(0.95, 1.05, shape), axis=0) + random.uniform(0, 1, setting.size)


def turns(ends: Array) -> Iterator[tuple[Array, Array, float]]:
    """Yield networks whose intervals end one after another, each at most once in a turn.

    Args:
        ends: When each interval of each network ends, shape (intervals, size).

    Yields:
        Networks in the order of their ends, the number of the interval of each (the first is 1), and the last time.
    """
    size = ends.shape[1]
    order = np.argsort(ends, axis=None, kind="stable")
    rounds, networks = np.divmod(order, size)
    times = ends.reshape(-1)[order]
    previous, last = np.full(len(order), -1), np.full(size, -1)
    for place, network in enumerate(networks):
        previous[place], last[network] = last[network], place
    furthest = np.maximum.accumulate(previous)  # of the ends so far, the last that a network has repeated
    start = 0
    while start < len(order):
        stop = int(np.searchsorted(furthest, start))
        yield networks[start:stop], rounds[start:stop] + 1, float(times[stop - 1])
        start = stop


class _Population:
    """Weights and newest snapshots of all networks."""

    def __init__(self, setting: Setting, table: Array, weights: Array) -> None:
        self.weights = weights
        self.staleness: list[Array] = []
        self._setting, self._table = setting, table
        self._config = StalenessConfig()
        self._limit = staleness_limit(self._config, num_intervals=setting.intervals)
        self._places = Places(range(setting.size))
        self._snapshots = np.zeros_like(weights)
        self._is_published = np.zeros(setting.size, dtype=bool)
        self._trained = np.zeros(setting.size)
        self._snapshot_trained = np.zeros(setting.size)

    def exchange(self, networks: Array, rounds: Array, trained: Array) -> None:
        """Publish the trained weights of networks, one after another, and let each graft its donor's.

        Args:
            networks: Ids in the order of their ends, each once.
            rounds: Number of the interval that each has ended.
            trained: Their weights, shape (networks, dimensions).
        """
        size, count = self._setting.size, len(networks)
        order = np.full(count, count) if self._setting.is_lockstep else np.arange(count)
        trained_intervals = self._trained[networks] + 1
        place = np.full(size, len(networks))
        place[networks] = np.arange(count)
        scions = self._table[rounds - 1, networks]
        is_admissible = self._is_admissible(scions, place, order, rounds, trained_intervals, trained_intervals)
        for index in np.flatnonzero(~is_admissible):
            only = slice(index, index + 1)
            asking = order[only], rounds[only], trained_intervals[only]
            scions[index] = -1
            for donor in self._further_donors(int(networks[index]), int(rounds[index])):
                if self._is_admissible(np.array([donor]), place, *asking, trained_intervals)[0]:
                    scions[index] = donor
                    break
        is_grafted = scions >= 0
        is_new = is_grafted & (place[scions] < order)  # published earlier in this turn
        taken = self._snapshots[scions]
        taken[is_new] = trained[place[scions[is_new]]]
        taken_intervals = self._snapshot_trained[scions]
        taken_intervals[is_new] = trained_intervals[place[scions[is_new]]]
        staleness = np.maximum(0.0, trained_intervals - taken_intervals)
        discounts = [staleness_discount(float(value), self._config) for value in staleness]
        weight = np.where(is_grafted, (1 - self._setting.alpha) * np.array(discounts), 0.0)
        self.staleness.append(staleness[is_grafted])
        self.weights[networks] = trained + weight[:, None] * (taken - trained)
        self._trained[networks] = trained_intervals + weight * (taken_intervals - trained_intervals)
        self._snapshots[networks], self._snapshot_trained[networks] = trained, trained_intervals
        self._is_published[networks] = True

    def _is_admissible(
        self, donor_ids: Array, place: Array, order: Array, rounds: Array, own: Array, trained_intervals: Array
    ) -> Array:
        """Return which donors have a snapshot that is not too stale.

        Args:
            donor_ids: A donor of each network that asks.
            place: Place in this turn of each network, or the length of the turn.
            order: Place up to which each network that asks sees the others.
            rounds: Number of the interval of each network that asks.
            own: Trained intervals of each network that asks.
            trained_intervals: Trained intervals of each network of the turn.
        """
        is_new = place[donor_ids] < order
        theirs = self._snapshot_trained[donor_ids]
        theirs[is_new] = trained_intervals[place[donor_ids[is_new]]]
        is_fresh = np.round(np.minimum(own, rounds) - theirs, 6) <= self._limit
        return (self._is_published[donor_ids] | is_new) & is_fresh

    def _further_donors(self, network: int, round_number: int) -> Iterator[int]:
        """Return the donors of a network in the order of its topology, nearest first."""
        setting = self._setting
        walk = donors(setting.topology, self._places, network, round=round_number - 1, seed=setting.seed)
        return itertools.islice(walk, MOST_WALKED)
