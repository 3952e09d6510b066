"""Arms: whole configurations that are compared, what they are made of, and a comparison of several."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from inarch.population.config import (
    CheckpointConfig,
    DataConfig,
    DeviceConfig,
    ExchangeConfig,
    GraftConfig,
    ModelConfig,
    OptimizerConfig,
    PopulationConfig,
    RunConfig,
    ScheduleConfig,
    StalenessConfig,
    TopologyConfig,
)

ARM = "arm:"
"""Begins a teacher that is another arm of the comparison."""

KEEP_ALL = 10_000
"""Checkpoints: the similarity of networks over time is computed from them afterwards."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to train, run once for each seed."""

    name: str
    description: str
    """What it is, in a line."""
    config: RunConfig
    """Without name, storage and seed; a teacher may be ARM and another arm's name, with the same seed."""
    against: str | None = None
    """The arm that it is compared with; None: the comparison's baseline; itself: none."""

    @property
    def work(self) -> int:
        """Epochs of all networks together: arms of one comparison that are compared have the same."""
        return self.config.population.size * self.config.schedule.epochs


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Arms, and the one that the others are compared with."""

    name: str
    question: str
    arms: tuple[Arm, ...]
    baseline: str
    seeds: tuple[int, ...]
    does_equal_work: bool = True
    """Whether its arms must; published tables have arms of several sizes."""
    may_reuse: bool = True
    """Whether runs of other records count as its own; not where the folder of a run is needed: teachers, densities."""
    is_timed: bool = False
    """Whether the report tells accuracy by wall time; its runs must have the machine for themselves."""

    def baseline_of(self, arm: Arm) -> str:
        """The arm that an arm is compared with; a baseline with itself."""
        return arm.against or (arm.name if any(one.against == arm.name for one in self.arms) else self.baseline)


UNCORRECTED = StalenessConfig(policy="none", rate=0.5, compensation_intervals=0)
"""Old scions are taken as if they were new, as the paper's formula would. It was the default of the first records."""

DISCOUNTED = dataclasses.replace(UNCORRECTED, policy="polynomial", rate=1.5)
COMPENSATED = dataclasses.replace(UNCORRECTED, compensation_intervals=2)
DISCOUNTED_AND_COMPENSATED = dataclasses.replace(DISCOUNTED, compensation_intervals=2)
"""What is now the default, in words that stay."""


def small(data: DataConfig, *, size: int, epochs: int, **changes) -> RunConfig:
    """ResNet-8 networks at the learning rate that the papers begin with, decayed by a cosine.

    Their forward pass is in bfloat16, as on a GPU: on a CPU that has it, it trains twice as many images a second. Old
    scions are taken as they come.
    """
    fields = {
        "model": ModelConfig(architecture="resnet8"),
        "data": data,
        "population": PopulationConfig(size=size),
        "schedule": ScheduleConfig(epochs=epochs, batch_size=128, lr_decay="cosine"),
        "optimizer": OptimizerConfig(learning_rate=0.1, weight_decay=5e-4),
        "checkpoint": CheckpointConfig(keep=KEEP_ALL),
        "device": DeviceConfig(precision="bfloat16"),
        "staleness": UNCORRECTED,
    }
    return RunConfig(**(fields | changes))


NONE = ExchangeConfig(rule="none")


def papa(config: RunConfig) -> RunConfig:
    """The authors' small pull every 10 steps, toward the mean of all; judged and saved once an epoch."""
    return dataclasses.replace(
        config,
        exchange=ExchangeConfig(rule="papa"),
        topology=TopologyConfig(name="complete"),
        schedule=dataclasses.replace(config.schedule, interval_steps=10, eval_every="epoch"),
    )


def varied(base: RunConfig, name: str, description: str, **changes) -> Arm:
    """An arm that differs from a configuration."""
    return Arm(name=name, description=description, config=dataclasses.replace(base, **changes))


def grafted(base: RunConfig, name: str, description: str, **graft) -> Arm:
    """An arm that differs in how it grafts."""
    return varied(base, name, description, graft=GraftConfig(**graft))
