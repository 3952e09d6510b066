"""Comparisons in the papers' regime in small: the networks fit their data, and weight decay acts for long.

The papers train for 200 epochs, to a training loss near 0 and a decay time D of about 12. Here, few images, small
batches and a larger weight decay give similar numbers within minutes. `inarch compare NAME --dry-run` prints them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from inarch.experiments.comparison.arms import NONE, Arm, Comparison, small
from inarch.population.config import (
    DataConfig,
    ExchangeConfig,
    GraftConfig,
    OptimizerConfig,
    PapaConfig,
    RunConfig,
    ScheduleConfig,
    StalenessConfig,
    TopologyConfig,
)

IMAGES = 2000
"""Training images, of which a tenth is held out."""

BATCH = 64

WEIGHT_DECAY = 5e-3
"""Ten times that of the papers. With the longest schedule, D is 8."""

SHARES = (0.125, 0.25, 0.5, 1.0)
"""Lengths of the schedules, as shares of the longest."""

LONGEST = 120
"""Epochs of the longest schedule."""

SIZES = (2, 4)

PULL_STEPS, PULL = 5, 0.02
"""PAPA pulls each network by 2 % toward the mean every 5 steps: in 60 epochs by a factor of exp(-3.4) in all, because
the pull falls with the learning rate. The paper's 1 % every 10 steps would pull by exp(-0.8), because it is made for
schedules that are 40 times as long."""


def in_regime(data: DataConfig, *, size: int, epochs: int, **changes) -> RunConfig:
    """Return the configuration of networks in this regime, which graft by default.

    Args:
        data: Data that the networks train on. Without a limit, `IMAGES` of the training images are used.
        size: Number of networks.
        epochs: Epochs of each network.
        **changes: Sections of the configuration to replace.
    """
    fields = {
        "schedule": ScheduleConfig(epochs=epochs, batch_size=BATCH, lr_decay="cosine"),
        "optimizer": OptimizerConfig(learning_rate=0.1, weight_decay=WEIGHT_DECAY),
        "staleness": StalenessConfig(),
    }
    data = dataclasses.replace(data, train_limit=data.train_limit or IMAGES)
    return small(data, size=size, epochs=epochs, **(fields | changes))


def with_papa(config: RunConfig) -> RunConfig:
    """Return a configuration with PAPA in place of its exchange rule, pulled often enough for a short schedule.

    Args:
        config: The configuration to change.
    """
    return dataclasses.replace(
        config,
        exchange=ExchangeConfig(rule="papa"),
        papa=PapaConfig(pull=PULL),
        topology=TopologyConfig(name="complete"),
        schedule=dataclasses.replace(config.schedule, interval_steps=PULL_STEPS, eval_every="epoch"),
    )


Change = Callable[[RunConfig], RunConfig]
"""Returns a configuration with another method."""

METHODS: dict[str, tuple[str, Change]] = {
    "independent": ("without exchange", lambda config: dataclasses.replace(config, exchange=NONE)),
    "grafting": ("grafting by entropy, without a barrier, with today's defaults", lambda config: config),
    "grafting, lockstep": (
        "grafting by entropy with the papers' barrier",
        lambda config: dataclasses.replace(config, mode="lockstep"),
    ),
    "averaging": (
        "plain averaging of two networks: alpha = 0.5 (A = 0), without information",
        lambda config: dataclasses.replace(config, graft=GraftConfig(a=0.0)),
    ),
    "PAPA": (f"a pull of {PULL:.0%} toward the mean of all networks every {PULL_STEPS} steps", with_papa),
}
"""Methods that the horizon compares: a description, and the change of the configuration."""


def horizon(data: DataConfig, epochs: int) -> Comparison:
    """Return the comparison of exchange against no exchange by the length of the schedule.

    Args:
        data: Data that the networks train on.
        epochs: Epochs of the longest schedule.
    """
    arms = [
        Arm(
            name=f"{size} x {length}, {method}",
            description=f"{size} networks for {length} epochs, {description}",
            config=change(in_regime(data, size=size, epochs=length)),
            against=f"{size} x {length}, independent",
            series=None if method == "independent" else f"{size} networks, {method}",
        )
        for size in SIZES
        for length in (max(1, round(share * epochs)) for share in SHARES)
        for method, (description, change) in METHODS.items()
    ]
    return Comparison(
        name="horizon",
        question="At which length of the schedule does exchange gain over independent networks?",
        arms=tuple(arms),
        baseline=arms[0].name,
        seeds=(0, 1, 2, 3, 4),
        does_equal_work=False,
    )


DEVICES = 4


def devices(data: DataConfig, epochs: int) -> Comparison:
    """Return the comparison of what several devices can do in the time in which one trains one network.

    Data parallelism is one network with a batch and a learning rate that are larger by the number of devices. It takes
    as many steps as one network on one device, and sees as many images as a population.

    Args:
        data: Data that the networks train on.
        epochs: Epochs that one device trains in that time.
    """
    single = in_regime(data, size=1, epochs=epochs, exchange=NONE)
    longer = in_regime(data, size=1, epochs=DEVICES * epochs, exchange=NONE)
    parallel = dataclasses.replace(
        longer,
        schedule=dataclasses.replace(longer.schedule, batch_size=DEVICES * BATCH, warmup_epochs=max(1, epochs // 4)),
        optimizer=dataclasses.replace(longer.optimizer, learning_rate=DEVICES * longer.optimizer.learning_rate),
    )
    population = in_regime(data, size=DEVICES, epochs=epochs)
    methods = {
        **METHODS,
        "WASH": (
            "weights change places between all networks after each interval",
            lambda config: dataclasses.replace(
                config, exchange=ExchangeConfig(rule="wash"), topology=TopologyConfig(name="complete"), mode="lockstep"
            ),
        ),
    }
    return Comparison(
        name="devices",
        question=f"What are {DEVICES} devices worth for a given time, compared with one?",
        arms=(
            Arm(name="one, time T", description="one network on one device", config=single),
            Arm(name=f"one, time {DEVICES} T", description="one network, for longer", config=longer),
            Arm(
                name=f"one on {DEVICES} devices",
                description=f"data parallelism: batch and learning rate {DEVICES} times as large, for time T",
                config=parallel,
            ),
            *(
                Arm(name=f"{DEVICES}, {method}", description=f"{DEVICES} networks {text}", config=change(population))
                for method, (text, change) in methods.items()
            ),
        ),
        baseline="one, time T",
        seeds=(0, 1, 2, 3, 4),
        does_equal_work=False,
    )
