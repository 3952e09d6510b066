"""Size of the population, and the resources of each network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from inarch.population.config.checks import check_types, one_of, require


@dataclass(frozen=True, kw_only=True)
class PopulationConfig:
    """Number of networks, their resources, their initial weights and their restarts."""

    size: int = 4
    """Number of networks, at least 1."""
    min_size: int | None = None
    """Training starts when this many networks are placed, and the others join as nodes appear. In lockstep,
    training waits for all networks. None: population.size."""
    max_size: int | None = None
    """Largest size of the population. None: no limit."""
    scale_to: Literal["size", "resources", "autoscaler"] = "size"
    """What decides the number of networks. size: population.size, or the newest `inarch scale`. resources: the
    population begins with population.size, and grows up to population.max_size while the cluster has room. Networks
    whose node leaves return when there is room. `inarch scale` then sets the largest size. autoscaler: as resources,
    and one further network waits for a place, so that Ray's autoscaler adds a node."""
    cpus: float | None = None
    """CPUs of each network, above 0, also fractions. None: an equal share of the cluster's CPUs."""
    gpus: float | None = None
    """GPUs of each network, from 0 to 1. A value below 1 lets networks share a GPU. None: 1 if there is a GPU for each
    network, a fraction if there are fewer GPUs, 0 if there are none."""
    time_slicing: bool = False
    """Whether networks take turns if they do not all fit into the cluster. A network then pauses at the end of an
    interval, after a checkpoint, and another one continues in its place. The run starts with one place or more. mode
    async only."""
    slice_intervals: int = 1
    """Intervals that a network trains in its turn, at least 1. A turn begins with the start of a process."""
    init_new_networks: Literal["clone", "fresh"] = "clone"
    """Weights of a network that joins later. clone: those of another network in the population. fresh: its own initial
    weights, as at the start of the run."""
    same_initial_weights: bool = False
    """Whether all networks start from the same random weights."""
    max_restarts: int = 3
    """How often a network whose process died restarts from its newest checkpoint before it is marked failed, at
    least 0."""

    @property
    def num_to_begin(self) -> int:
        """Networks that must be placed before training starts in mode async."""
        return self.min_size or (1 if self.time_slicing else self.size)

    @property
    def is_elastic(self) -> bool:
        """Whether the population grows by itself."""
        return self.scale_to != "size"

    def __post_init__(self) -> None:
        check_types(self, "population.")
        require(self.size >= 1, "population.size", "be at least 1", self.size)
        if self.min_size is not None:
            require(
                1 <= self.min_size <= self.size,
                "population.min_size",
                "lie in [1, population.size]",
                self.min_size,
            )
        if self.max_size is not None:
            require(
                self.max_size >= self.size,
                "population.max_size",
                "be at least population.size",
                self.max_size,
            )
        require(self.cpus is None or self.cpus > 0, "population.cpus", "be above 0", self.cpus)
        require(
            self.gpus is None or 0 <= self.gpus <= 1,
            "population.gpus",
            "lie in [0, 1], because a network trains on one GPU",
            self.gpus,
        )
        one_of(self.scale_to, Literal["size", "resources", "autoscaler"], "population.scale_to")
        one_of(self.init_new_networks, Literal["clone", "fresh"], "population.init_new_networks")
        require(self.slice_intervals >= 1, "population.slice_intervals", "be at least 1", self.slice_intervals)
        require(self.max_restarts >= 0, "population.max_restarts", "be at least 0", self.max_restarts)
