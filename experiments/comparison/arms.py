"""Arms and comparisons. An arm is one whole configuration. A comparison trains several arms over several seeds."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from inarch.population.config import (
    CheckpointConfig,
    DataConfig,
    DeviceConfig,
    ExchangeConfig,
    FusionMode,
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
"""Prefix of a teacher that is another arm of the comparison: `arm:NAME`."""

KEEP_ALL = 10_000
"""Value of checkpoint.keep. All checkpoints are kept, because the similarity over time is computed from them later."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One method of a comparison, trained once per seed."""

    name: str
    description: str
    """What the arm does, in one line."""
    config: RunConfig
    """The configuration, without name, storage and seed. A teacher may be ARM followed by the name of another arm. Its
    run with the same seed is then the teacher."""
    against: str | None = None
    """Name of the arm that this arm is compared with. None: the comparison's baseline. Its own name: no arm."""
    series: str | None = None
    """Line in the picture of gains on which the arm is a point. None: it is not in that picture."""

    @property
    def work(self) -> int:
        """Epochs of all networks together. Arms that do equal work have the same number."""
        return self.config.population.size * self.config.schedule.epochs


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Several arms, and the baseline that the others are compared with."""

    name: str
    question: str
    """The question that the comparison answers, printed at the top of its report."""
    arms: tuple[Arm, ...]
    baseline: str
    """Name of the arm that the others are compared with, unless they name another arm."""
    seeds: tuple[int, ...]
    does_equal_work: bool = True
    """Whether all arms must do equal work. Published tables have arms of several sizes."""
    may_reuse: bool = True
    """Whether runs of other comparisons with equal configuration may be copied. False if later steps need the folder of
    a run: its networks are teachers, or the density of their filters is measured."""
    is_published: bool = False
    """Whether this is a table of a paper, with the paper's networks and settings."""
    is_timed: bool = False
    """Whether the report shows accuracy by wall time. No other process may then use the machine during a run."""

    def baseline_of(self, arm: Arm) -> str:
        """Return the name of the arm that an arm is compared with. A baseline is compared with itself.

        Args:
            arm: An arm of this comparison.
        """
        return arm.against or (arm.name if any(other.against == arm.name for other in self.arms) else self.baseline)


UNCORRECTED = StalenessConfig(policy="none", rate=0.5, compensation_intervals=0)
"""Stale scions are grafted as if they were fresh, as in the paper's formula. The first results had this default."""

DISCOUNTED = dataclasses.replace(UNCORRECTED, policy="polynomial", rate=1.5)
COMPENSATED = dataclasses.replace(UNCORRECTED, compensation_intervals=2)
DISCOUNTED_AND_COMPENSATED = dataclasses.replace(DISCOUNTED, compensation_intervals=2)
"""Today's default, written out, so that the arms stay the same if the default changes."""


def small(data: DataConfig, *, size: int, epochs: int, **changes) -> RunConfig:
    """Return a configuration of small networks: ResNet-8, the papers' initial learning rate, cosine decay.

    The forward pass is in bfloat16, as on a GPU. A CPU with bfloat16 trains twice as many images per second with it.
    Stale scions are grafted as if they were fresh. The best weights by validation are used.

    Args:
        data: Data that the networks train on.
        size: Number of networks.
        epochs: Epochs of each network.
        **changes: Sections of the configuration to replace.
    """
    fields = {
        "model": ModelConfig(architecture="resnet8"),
        "data": data,
        "population": PopulationConfig(size=size),
        "schedule": ScheduleConfig(epochs=epochs, batch_size=128, lr_decay="cosine"),
        "optimizer": OptimizerConfig(learning_rate=0.1, weight_decay=5e-4),
        "checkpoint": CheckpointConfig(keep=KEEP_ALL, weights="best"),
        "device": DeviceConfig(precision="bfloat16"),
        "staleness": UNCORRECTED,
    }
    return RunConfig(**(fields | changes))


NONE = ExchangeConfig(rule="none")

FUSIONS: dict[FusionMode, str] = {
    "random": "control: a random half of the filters, never mixed",
    "published": "as published: the fused filters are frozen after the first epoch",
    "stable": "each fused filter mixes fewer and fewer filters over the whole schedule",
}
"""Modes of fusion that comparisons have as arms, with their descriptions."""


def papa(config: RunConfig) -> RunConfig:
    """Return a configuration with PAPA in place of its exchange rule.

    As in the authors' code, each network is pulled slightly toward the mean of all networks every 10 steps. Networks
    are evaluated and saved once per epoch.

    Args:
        config: The configuration to change.
    """
    return dataclasses.replace(
        config,
        exchange=ExchangeConfig(rule="papa"),
        topology=TopologyConfig(name="complete"),
        schedule=dataclasses.replace(config.schedule, interval_steps=10, eval_every="epoch"),
    )


def varied(base: RunConfig, name: str, description: str, **changes) -> Arm:
    """Return an arm whose configuration differs from a base configuration.

    Args:
        base: The base configuration.
        name: Name of the arm.
        description: What the arm does, in one line.
        **changes: Sections and fields of the configuration to replace.
    """
    return Arm(name=name, description=description, config=dataclasses.replace(base, **changes))


def grafted(base: RunConfig, name: str, description: str, **graft) -> Arm:
    """Return an arm whose section `graft` differs from a base configuration.

    Args:
        base: The base configuration.
        name: Name of the arm.
        description: What the arm does, in one line.
        **graft: Fields of the section `graft`. The others have their defaults.
    """
    return varied(base, name, description, graft=GraftConfig(**graft))


def scion_sources(alone: RunConfig, exchanging: RunConfig) -> tuple[Arm, Arm, Arm]:
    """Return the arms of the paper's scion sources: noise, the network itself, and others by l1 norm.

    Args:
        alone: Base configuration of the two arms without other networks.
        exchanging: Base configuration of the arm that takes scions from other networks.
    """
    return (
        grafted(
            alone,
            "noise",
            "filters with an l1 norm below 0.1 are grafted with noise of standard deviation 0.975^epoch",
            scion="noise",
        ),
        grafted(
            alone,
            "internal",
            "filters with an l1 norm below 0.1 are grafted with the network's most informative filters",
            scion="internal",
            criterion="l1",
        ),
        grafted(exchanging, "external, l1", "information is the l1 norm of the layer (eq. 3)", criterion="l1"),
    )
