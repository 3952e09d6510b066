"""Comparisons in the papers' regime in small, as `regime_setting` makes it, and of the first command of the readme."""

from __future__ import annotations

import dataclasses

from inarch.experiments import recipes
from inarch.experiments.comparison.arms import FUSIONS, NONE, Arm, Comparison, grafted, scion_sources
from inarch.experiments.comparison.regime_setting import (
    BATCH,
    EXCHANGE_STEPS,
    METHODS,
    STRONG,
    STRONG_WEIGHT_DECAY,
    WEIGHT_DECAY,
    WITH_SEVERAL,
    can_pull,
    in_regime,
    with_papa,
    with_wash,
)
from inarch.population.config import (
    DataConfig,
    FusionConfig,
    FusionMode,
    OptimizerConfig,
    PopulationConfig,
    RegularizationConfig,
    RunConfig,
    WeightAveragingConfig,
)
from inarch.population.config.per_network import number

SHARES = (0.125, 0.25, 0.5, 1.0)
"""Lengths of the schedules, as shares of the longest."""

SIZES = (2, 4)


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
        for length in dict.fromkeys(max(1, round(share * epochs)) for share in SHARES)
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
    about as many steps as one network on one device, and sees as many images as a population. The rest of an epoch that
    fills no batch is left out. Its decay time is larger by the number of devices, as the learning rate is. On CPUs a
    device is one core.

    Args:
        data: Data that the networks train on.
        epochs: Epochs that one device trains in that time.
    """
    alone = PopulationConfig(size=1, cpus=1.0)
    single = in_regime(data, size=1, epochs=epochs, exchange=NONE, population=alone)
    longer = in_regime(data, size=1, epochs=DEVICES * epochs, exchange=NONE, population=alone)
    parallel = dataclasses.replace(
        longer,
        schedule=dataclasses.replace(
            longer.schedule, batch_size=DEVICES * BATCH, warmup_epochs=max(1, epochs // 4), drop_last="on"
        ),
        optimizer=dataclasses.replace(longer.optimizer, learning_rate=DEVICES * number(longer.optimizer.learning_rate)),
    )
    population = in_regime(data, size=DEVICES, epochs=epochs)
    methods = {
        **WITH_SEVERAL,
        "WASH": (f"with weights that change places between all networks every {EXCHANGE_STEPS} steps", with_wash),
    }
    return Comparison(
        name="devices",
        question=f"What are {DEVICES} devices worth for a given time, compared with one?",
        arms=(
            Arm(name="one, time T", description="one network on one device", config=single),
            Arm(
                name="one, time T, EMA",
                description="the same, evaluated with a running mean of its weights (EMA, 0.99 a step)",
                config=dataclasses.replace(single, weight_averaging=WeightAveragingConfig(kind="ema", decay=0.99)),
            ),
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

    The methods are the one that gained most in `horizon`, and PAPA, whose paper trains networks that differ, also with
    the pull that gained most in `strength`.

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
    methods = {name: METHODS[name] for name in ("independent", "grafting, lockstep", "PAPA")}
    if can_pull(STRONG, epochs):
        methods["strong PAPA"] = (f"PAPA with {STRONG} times the pull", lambda config: with_papa(config, STRONG))
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
                description=f"{text}; {description}",
                config=change(config),
                against=f"{setting}, independent",
            )
            for setting, (text, config) in settings.items()
            for method, (description, change) in methods.items()
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
    base = _decayed(data, epochs)
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


def _decayed(data: DataConfig, epochs: int) -> RunConfig:
    """Return the configuration of two networks whose filters become invalid."""
    decayed = OptimizerConfig(learning_rate=0.1, weight_decay=STRONG_WEIGHT_DECAY)
    return in_regime(data, size=2, epochs=epochs, optimizer=decayed)


def information(data: DataConfig, epochs: int) -> Comparison:
    """Return the comparison of information measures: is any of them better than plain averaging?

    The setting is that of `revival`, in which exchange gains most.

    Args:
        data: Data that the networks train on.
        epochs: Epochs of each network.
    """
    base = _decayed(data, epochs)
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
            *(arm(mode, description, mode) for mode, description in FUSIONS.items()),
            arm("stable, grafting", "stable, and the networks graft each other", "stable", method="grafting"),
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


def quickstart(data: DataConfig, epochs: int) -> Comparison:
    """Return the comparison of the default recipe with the same networks without exchange.

    Args:
        data: Data that the networks train on: digits for the recipe as it is.
        epochs: Epochs of each network.
    """
    recipe = recipes.digits()
    config = dataclasses.replace(
        recipe,
        data=dataclasses.replace(recipe.data, train=data.train, test=data.test),
        schedule=dataclasses.replace(recipe.schedule, epochs=epochs),
    )
    return Comparison(
        name="quickstart",
        question="Does exchange pay, or cost accuracy, in the first command that a user gives?",
        arms=(
            Arm(
                name="independent", description="the recipe without exchange", config=METHODS["independent"][1](config)
            ),
            Arm(name="grafting", description="the recipe as `inarch train` runs it", config=config),
        ),
        baseline="independent",
        seeds=(0, 1, 2, 3, 4),
    )
