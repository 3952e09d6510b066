"""Size of the population, and what each network gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from inarch.population.config.checks import one_of, require


@dataclass(frozen=True, kw_only=True)
class PopulationConfig:
    """How many networks there are, and what each of them gets."""

    size: int = 4
    """Networks wanted, at least 1."""
    min_size: int | None = None
    """The run starts when this many are placed and grows as nodes appear; None: `size`."""
    max_size: int | None = None
    """The most that `scale` may ask for; None: no limit."""
    cpus: float | None = None
    """CPUs of each network, fractions too; None: an equal share of the cluster's."""
    gpus: float | None = None
    """GPUs of each network, fractions too; None: one where the cluster has GPUs, else none."""
    init_new_networks: Literal["clone", "fresh"] = "clone"
    """What a network that joins later begins with: a living network's weights, or weights of its own."""
    same_initial_weights: bool = False
    """Whether all networks begin with the same weights."""
    max_restarts: int = 3
    """How often one network that died is brought back from its newest checkpoint before it is given up."""

    def __post_init__(self) -> None:
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
        require(self.gpus is None or self.gpus >= 0, "population.gpus", "be at least 0", self.gpus)
        if self.gpus is not None and self.gpus > 1:
            require(float(self.gpus).is_integer(), "population.gpus", "be whole above 1", self.gpus)
        one_of(self.init_new_networks, Literal["clone", "fresh"], "population.init_new_networks")
        require(self.max_restarts >= 0, "population.max_restarts", "be at least 0", self.max_restarts)
