"""Comparisons in the papers' regime in small: the networks fit their data, and weight decay acts for long.

The papers train for 200 epochs, to a training loss near 0 and a decay time D of about 12. Here, few images, small
batches and a larger weight decay give similar numbers within minutes. `inarch compare NAME --dry-run` prints them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from inarch.experiments.comparison.arms import NONE, Arm, Comparison, grafted, scion_sources, small
from inarch.population.config import (
    DataConfig,
    ExchangeConfig,
    FusionConfig,
    FusionMode,
    GraftConfig,
    OptimizerConfig,
    PapaConfig,
    PopulationConfig,
    RegularizationConfig,
    RunConfig,
    ScheduleConfig,
    StalenessConfig,
    TopologyConfig,
    WashConfig,
)
from inarch.population.config.per_network import number

IMAGES = 2000
"""Training images, of which a tenth is held out."""

PIXELS, PADDING = 16, 2
"""Height and width of the images, and the padding before the random crop. Images of 32 pixels need four times as long,
and with them a population of four would train for half an hour."""

BATCH = 32

WEIGHT_DECAY = 2.5e-3
"""Five times that of the papers. With the longest schedule D is 8.4, the training loss of a ResNet-8 is about 0.5, and
the first filters are invalid."""

STRONG_WEIGHT_DECAY = 5e-3
"""Ten times that of the papers. With half of the longest schedule D is 8.4, and up to a quarter of the filters have an
l1 norm below 0.1, but the training loss is above 1."""

SHARES = (0.125, 0.25, 0.5, 1.0)
"""Lengths of the schedules, as shares of the longest."""

LONGEST = 120
"""Epochs of the longest schedule."""

SIZES = (2, 4)

PULL_STEPS, PULL = 10, 0.05
"""PAPA pulls each network by 5 % toward the mean every 10 steps: in 60 epochs by a factor of exp(-8.4) in all, because
the pull falls with the learning rate. The paper's 1 % every 10 steps would pull by exp(-1.7), because it is made for
schedules that are 20 times as long."""


SHUFFLED = 0.05
"""Probability with which WASH moves a weight of the first layer, every `PULL_STEPS` steps. A weight changes place some
ten times in 60 epochs. In its paper, with a probability of 0.001 to 0.05 every step, it is a hundred times and more."""


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
    }
    data = dataclasses.replace(data, train_limit=data.train_limit or IMAGES)
    if data.image_size is None:
        data = dataclasses.replace(data, image_size=PIXELS, padding=PADDING)
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


def with_wash(config: RunConfig) -> RunConfig:
    """Return a configuration with WASH in place of its exchange rule, as often as PAPA.

    Args:
        config: The configuration to change.
    """
    return dataclasses.replace(
        config,
        exchange=ExchangeConfig(rule="wash"),
        wash=WashConfig(probability=SHUFFLED),
        topology=TopologyConfig(name="complete"),
        mode="lockstep",
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
        for method, (description, change) in (WITH_SEVERAL if size > 2 else METHODS).items()
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
        optimizer=dataclasses.replace(longer.optimizer, learning_rate=DEVICES * number(longer.optimizer.learning_rate)),
    )
    population = in_regime(data, size=DEVICES, epochs=epochs)
    methods = {
        **WITH_SEVERAL,
        "WASH": (f"with weights that change places between all networks every {PULL_STEPS} steps", with_wash),
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
                Arm(name=f"{DEVICES}, {method}", description=f"{DEVICES} networks: {text}", config=change(population))
                for method, (text, change) in methods.items()
            ),
        ),
        baseline="one, time T",
        seeds=(0, 1, 2, 3, 4),
        does_equal_work=False,
    )


def diversity(data: DataConfig, epochs: int) -> Comparison:
    """Return the comparison of populations with equal hyperparameters and with hyperparameters of their own.

    Args:
        data: Data that the networks train on.
        epochs: Epochs of each network.
    """
    equal = in_regime(data, size=4, epochs=epochs)
    own = dataclasses.replace(
        equal,
        optimizer=OptimizerConfig(
            learning_rate=(0.05, 0.1, 0.1, 0.2),
            weight_decay=f"log_uniform({WEIGHT_DECAY / 3:.2g}, {WEIGHT_DECAY * 2:.2g})",
            label_smoothing="choice(0, 0.05, 0.1)",
        ),
        regularization=RegularizationConfig(
            mixup="uniform(0, 0.4)", cutmix="uniform(0, 1)", mix_probability=0.5, erasing="uniform(0, 0.35)"
        ),
    )
    regularized = dataclasses.replace(
        equal,
        optimizer=OptimizerConfig(learning_rate=0.1, weight_decay=WEIGHT_DECAY, label_smoothing=0.05),
        regularization=RegularizationConfig(mixup=0.2, cutmix=0.5, mix_probability=0.5, erasing=0.175),
    )
    settings = {
        "plain": ("equal hyperparameters, no regularization", equal),
        "equal": ("all with the same regularization", regularized),
        "own": ("each with hyperparameters of its own", own),
    }
    return Comparison(
        name="diversity",
        question="Does exchange gain more between networks whose hyperparameters differ?",
        arms=tuple(
            Arm(
                name=f"{setting}, {method}",
                description=f"{text}; {METHODS[method][0]}",
                config=METHODS[method][1](config),
                against=f"{setting}, independent",
            )
            for setting, (text, config) in settings.items()
            for method in ("independent", "grafting", "averaging", "PAPA")
        ),
        baseline="plain, independent",
        seeds=(0, 1, 2, 3, 4),
    )


def revival(data: DataConfig, epochs: int) -> Comparison:
    """Return the comparison of scion sources where filters are invalid, because weight decay acts for long.

    Args:
        data: Data that the networks train on.
        epochs: Epochs of each network.
    """
    decayed = OptimizerConfig(learning_rate=0.1, weight_decay=STRONG_WEIGHT_DECAY)
    base = in_regime(data, size=2, epochs=epochs, optimizer=decayed)
    alone = METHODS["independent"][1](base)
    return Comparison(
        name="revival",
        question="Where filters are invalid, does it pay to revive them, and from where?",
        arms=(
            Arm(name="none", description="no exchange", config=alone),
            *scion_sources(base, base),
            Arm(name="external, entropy", description="information is the entropy of the weights (eq. 6)", config=base),
            grafted(base, "averaging", "plain averaging: alpha = 0.5 (A = 0), without information", a=0.0),
            Arm(name="PAPA", description=METHODS["PAPA"][0], config=with_papa(base)),
        ),
        baseline="none",
        seeds=(0, 1, 2, 3, 4),
    )


def information(data: DataConfig, epochs: int) -> Comparison:
    """Return the comparison of information measures: is any of them better than plain averaging?

    Args:
        data: Data that the networks train on.
        epochs: Epochs of each network.
    """
    base = in_regime(data, size=4, epochs=epochs)
    return Comparison(
        name="information",
        question="Does the information of a layer help to choose alpha, or is plain averaging as good?",
        arms=(
            grafted(base, "averaging", "plain averaging: alpha = 0.5 (A = 0), without information", a=0.0),
            Arm(name="entropy", description="information is the entropy of the weights (eq. 6)", config=base),
            grafted(base, "l1", "information is the l1 norm of the layer (eq. 3)", criterion="l1"),
            grafted(base, "effective rank", "entropy of the layer's singular values", criterion="effective_rank"),
            grafted(base, "random", "random alphas with the same spread as those from entropy", criterion="random"),
            Arm(
                name="independent",
                description="the networks train without exchange",
                config=METHODS["independent"][1](base),
            ),
        ),
        baseline="averaging",
        seeds=(0, 1, 2, 3, 4, 5, 6, 7),
    )


def fusion(data: DataConfig, epochs: int) -> Comparison:
    """Return the comparison of DCFF with a random half of the filters, alone and with exchange.

    Args:
        data: Data that the networks train on.
        epochs: Epochs of each network.
    """

    def arm(
        name: str, description: str, mode: FusionMode, *, method: str = "independent", is_same: bool = False
    ) -> Arm:
        config = in_regime(
            data,
            size=2,
            epochs=epochs,
            fusion=FusionConfig(mode=mode, rates=(0.5,)),
            population=PopulationConfig(size=2, same_initial_weights=is_same),
        )
        return Arm(name=name, description=description, config=METHODS[method][1](config))

    return Comparison(
        name="fusion",
        question="Where networks fit their data, does fusing filters beat a random half of them, also with exchange?",
        arms=(
            arm("random", "control: a random half of the filters, never mixed", "random"),
            arm("published", "as published: the fused filters are frozen after the first epoch", "published"),
            arm("stable", "each fused filter mixes fewer and fewer filters over the whole schedule", "stable"),
            arm("stable, same beginning", "stable with equal initial weights, no exchange", "stable", is_same=True),
            arm(
                "stable, same beginning, grafting",
                "the same, and the networks graft each other",
                "stable",
                method="grafting",
                is_same=True,
            ),
            arm(
                "stable, same beginning, PAPA",
                "the same with a pull toward the mean",
                "stable",
                method="PAPA",
                is_same=True,
            ),
        ),
        baseline="random",
        seeds=(0, 1, 2),
    )
