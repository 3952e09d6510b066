"""The papers' regime in small: the networks fit their data, and weight decay acts for long. And the methods in it.

The papers train for 200 epochs, to a training loss near 0 and a decay time D of about 12. Here, few images, small
batches and a larger weight decay come near that within minutes. `inarch compare NAME --dry-run` prints the numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from inarch.experiments.comparison.arms import KEEP_ALL, NONE, small
from inarch.population.config import (
    CheckpointConfig,
    DataConfig,
    ExchangeConfig,
    GraftConfig,
    OptimizerConfig,
    PapaConfig,
    RunConfig,
    ScheduleConfig,
    StalenessConfig,
    TopologyConfig,
    WashConfig,
)

IMAGES = 2000
"""Training images, of which a tenth is held out."""

PIXELS, PADDING = 16, 2
"""Height and width of the images, and the padding before the random crop. A step on images of 32 pixels takes more than
three times as long."""

BATCH = 32

WEIGHT_DECAY = 2.5e-3
"""Five times that of the papers. With the longest schedule D is 8.6. In a pilot with 2e-3, a ResNet-8 ended at a
training loss of 0.48, with 1 % of its filters below an l1 norm of 0.1."""

STRONG_WEIGHT_DECAY = 5e-3
"""Ten times that of the papers. With half of the longest schedule D is 8.6. In a pilot on half of the images and twice
the epochs, a quarter of the filters had an l1 norm below 0.1, and the training loss was 1.06."""

LONGEST = 120
"""Epochs of the longest schedule."""

EXCHANGE_STEPS = 10
"""Steps between two exchanges of PAPA, as in its paper, and of WASH."""

PULLED_EPOCHS = 3.0
"""PAPA pulls each network toward the mean of all by this share of its schedule's epochs: by 5 % each time in 60 epochs,
by 10 % in 30. The pull falls with the learning rate, so that all pulls together are by exp(-8.5), after which the
networks are alike. The paper's 1 % would be exp(-1.7) in 60 epochs, because it is made for
schedules that are 20 times as long."""

STRONG = 4
"""Factor of PAPA's pull with which four networks gained most in `strength`: it is then 20 % in 60 epochs."""

SHUFFLED_EPOCHS = 9.0
"""WASH moves a weight of the first layer with this share of its schedule's epochs as probability: 15 % in 60 epochs. In
a ResNet-8 a weight then changes place eight times in the mean. The last unit, which has half of the weights, is never
moved."""

MOST = 0.5
"""Greatest pull and greatest probability, for schedules of a few epochs."""


def in_regime(data: DataConfig, *, size: int, epochs: int, **changes) -> RunConfig:
    """Return the configuration of networks in this regime, which graft by default.

    Args:
        data: Data that the networks train on. Without a limit, `IMAGES` of the training images are used. Without a
            size, images are scaled to `PIXELS`.
        size: Number of networks.
        epochs: Epochs of each network.
        **changes: Sections of the configuration to replace.
    """
    fields = {
        "schedule": ScheduleConfig(epochs=epochs, batch_size=BATCH, lr_decay="cosine"),
        "optimizer": OptimizerConfig(learning_rate=0.1, weight_decay=WEIGHT_DECAY),
        "staleness": StalenessConfig(),
        "checkpoint": CheckpointConfig(keep=KEEP_ALL),
    }
    data = dataclasses.replace(data, train_limit=data.train_limit or IMAGES)
    if data.image_size is None:
        data = dataclasses.replace(data, image_size=PIXELS, padding=PADDING)
    return small(data, size=size, epochs=epochs, **(fields | changes))


def with_papa(config: RunConfig, strength: float = 1.0) -> RunConfig:
    """Return a configuration with PAPA in place of its exchange rule, pulled as much in all whatever the schedule.

    Args:
        config: The configuration to change.
        strength: Factor of the pull.
    """
    pull = min(MOST, strength * PULLED_EPOCHS / config.schedule.epochs)
    return _with_all_often(config, exchange=ExchangeConfig(rule="papa"), papa=PapaConfig(pull=pull))


def can_pull(strength: float, epochs: int) -> bool:
    """Return whether `with_papa` can pull by this factor, without a cut to `MOST`.

    Args:
        strength: Factor of the pull. 1 counts as possible.
        epochs: Epochs of the schedule.
    """
    return strength <= max(1, MOST * epochs / PULLED_EPOCHS)


def with_wash(config: RunConfig, strength: float = 1.0) -> RunConfig:
    """Return a configuration with WASH in place of its exchange rule, with as many moves whatever the schedule.

    Args:
        config: The configuration to change.
        strength: Factor of the probability that a weight moves.
    """
    wash = WashConfig(probability=min(MOST, strength * SHUFFLED_EPOCHS / config.schedule.epochs))
    return _with_all_often(config, exchange=ExchangeConfig(rule="wash"), wash=wash, mode="lockstep")


def _with_all_often(config: RunConfig, **changes) -> RunConfig:
    """Return a configuration in which each network exchanges with all others every `EXCHANGE_STEPS` steps."""
    schedule = dataclasses.replace(config.schedule, interval_steps=EXCHANGE_STEPS, eval_every="epoch")
    return dataclasses.replace(config, topology=TopologyConfig(name="complete"), schedule=schedule, **changes)


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
    "PAPA": (f"a pull toward the mean of all networks every {EXCHANGE_STEPS} steps", with_papa),
}
"""Methods that the horizon compares: a description, and the change of the configuration."""


def from_all(config: RunConfig) -> RunConfig:
    """Return a configuration in which each network grafts from all others at once.

    Args:
        config: The configuration to change.
    """
    return dataclasses.replace(
        config,
        exchange=ExchangeConfig(num_donors=config.population.size - 1),
        topology=TopologyConfig(name="complete"),
    )


WITH_SEVERAL: dict[str, tuple[str, Change]] = {
    **METHODS,
    "grafting from all": ("the same, from the mean of the blends with all others", from_all),
}
"""Methods for more than two networks."""
