"""Comparisons that a laptop can run: small networks, few epochs, arms that do equal work.

Longer than 300 lines: each comparison is a table of its arms, and they are read side by side.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

from inarch.experiments.comparison.arms import (
    COMPENSATED,
    DISCOUNTED,
    DISCOUNTED_AND_COMPENSATED,
    FUSIONS,
    NONE,
    Arm,
    Comparison,
    grafted,
    papa,
    scion_sources,
    small,
    varied,
)
from inarch.experiments.comparison.regime_comparisons import (
    devices,
    diversity,
    fusion,
    horizon,
    information,
    quickstart,
    revival,
)
from inarch.experiments.comparison.regime_setting import LONGEST
from inarch.experiments.comparison.strength_comparison import strength
from inarch.population.config import (
    DataConfig,
    DebugConfig,
    DeviceConfig,
    ExchangeConfig,
    FusionConfig,
    FusionMode,
    GraftConfig,
    PopulationConfig,
    RunConfig,
    SnapshotPrecision,
    StalenessConfig,
    StragglerConfig,
    TopologyConfig,
    WeightAveragingConfig,
)


def _side_by_side_to_papa(grafting: RunConfig) -> tuple[Arm, Arm, Arm, Arm]:
    """Arms of table 1 for any number of networks: no exchange, grafting with and without a barrier, and PAPA."""
    return (
        varied(grafting, "independent", "the networks train side by side without exchange", exchange=NONE),
        varied(
            grafting,
            "grafting-lockstep",
            "grafting by entropy (eq. 6) with A = 0.4, c = 500 and the papers' barrier",
            mode="lockstep",
        ),
        Arm(
            name="grafting-async",
            description="the same without a barrier; stale scions are grafted as if they were fresh",
            config=grafting,
        ),
        Arm(
            name="papa-async",
            description="a pull of 1 % toward the mean of all networks every 10 steps; the pull falls with the "
            "learning rate",
            config=papa(grafting),
        ),
    )


def two_networks(data: DataConfig, epochs: int) -> Comparison:
    """Return table 1: what grafting gains over independent training, and how much of that is plain averaging.

    Args:
        data: Data that the networks train on.
        epochs: Epochs of each network.
    """
    grafting = small(data, size=2, epochs=epochs)
    *first, last = _side_by_side_to_papa(grafting)
    return Comparison(
        name="two-networks",
        question="How much does grafting gain over independent networks, and over plain averaging?",
        arms=(
            *first,
            grafted(grafting, "averaging-async", "plain averaging: alpha = 0.5 (A = 0), without information", a=0.0),
            grafted(
                grafting,
                "random-alpha-async",
                "random alphas with the same spread as those from entropy",
                criterion="random",
            ),
            last,
        ),
        baseline="independent",
        seeds=(0, 1, 2, 3, 4),
    )


def four_networks(data: DataConfig, epochs: int) -> Comparison:
    """Return table 1 for four networks.

    Args:
        data: Data that the networks train on.
        epochs: Epochs of each network.
    """
    grafting = small(data, size=4, epochs=epochs)
    *first, last = _side_by_side_to_papa(grafting)
    return Comparison(
        name="four-networks",
        question="How much does grafting gain with four networks on the paper's ring?",
        arms=(
            *first,
            varied(
                grafting,
                "grafting-async, compensated, aged",
                "the same with delay compensation and the staleness discount",
                staleness=DISCOUNTED_AND_COMPENSATED,
            ),
            varied(
                grafting,
                "grafting-async, compensated, aged, all to all",
                "the same, but each network grafts from all three others at once: the mean of the three blends",
                staleness=DISCOUNTED_AND_COMPENSATED,
                topology=TopologyConfig(name="complete"),
                exchange=ExchangeConfig(num_donors=3),
            ),
            last,
        ),
        baseline="independent",
        seeds=(0, 1, 2),
    )


def equal_work(data: DataConfig, epochs: int) -> Comparison:
    """Return table 2: one network that trains as long as two together.

    Args:
        data: Data that the networks train on.
        epochs: Epochs of each of two networks. The single network trains twice as many.
    """
    pair = small(data, size=2, epochs=epochs, exchange=NONE)
    return Comparison(
        name="equal-work",
        question="Is a population better than a single network that trains as long as the whole population?",
        arms=(
            Arm(name="two independent", description="two networks side by side, without exchange", config=pair),
            Arm(
                name="two grafting-async",
                description="two networks that graft; stale scions are grafted as if they were fresh",
                config=small(data, size=2, epochs=epochs),
            ),
            Arm(
                name="two grafting-async, compensated, aged",
                description="the same with delay compensation and the staleness discount",
                config=small(data, size=2, epochs=epochs, staleness=DISCOUNTED_AND_COMPENSATED),
            ),
            Arm(
                name="one, twice as long",
                description="one network for twice as many epochs",
                config=small(data, size=1, epochs=2 * epochs, exchange=NONE),
            ),
            Arm(
                name="one, twice as long, EMA",
                description="the same, evaluated with an exponential moving average of its weights (0.99 per step)",
                config=small(
                    data, size=1, epochs=2 * epochs, exchange=NONE, weight_averaging=WeightAveragingConfig(kind="ema")
                ),
            ),
            Arm(
                name="one, twice as long, SWA",
                description="the same, evaluated with the mean of its weights at the ends of the last quarter's epochs",
                config=small(
                    data, size=1, epochs=2 * epochs, exchange=NONE, weight_averaging=WeightAveragingConfig(kind="swa")
                ),
            ),
        ),
        baseline="two independent",
        seeds=(0, 1, 2),
    )


def staleness(data: DataConfig, epochs: int) -> Comparison:
    """Return table 3: one of four networks is four times slower than the others.

    A step takes 0.12 s of a core. Each step is padded to 0.25 s, those of the slow network to 1 s. The four networks
    then need 1.6 of 2 cores, and the padding decides the pace.

    Args:
        data: Data that the networks train on.
        epochs: Epochs of each network.
    """
    slow = StragglerConfig(step_seconds=0.25, slowdowns=(4.0,))
    async_ = small(data, size=4, epochs=epochs, debug=DebugConfig(straggler=slow))
    return Comparison(
        name="staleness",
        question="What does a network that is four times slower cost the others, and does a staleness discount help?",
        arms=(
            varied(async_, "lockstep", "all networks wait at the barrier", mode="lockstep"),
            Arm(name="async", description="no network waits; staleness policy none", config=async_),
            varied(
                async_,
                "async, compensated, aged",
                "delay compensation, and staleness policy polynomial with rate 1.5",
                staleness=DISCOUNTED_AND_COMPENSATED,
            ),
            varied(
                async_,
                "async, aged",
                "staleness policy polynomial with rate 1.5, without delay compensation",
                staleness=DISCOUNTED,
            ),
        ),
        baseline="lockstep",
        seeds=(0, 1, 2),
        is_timed=True,
    )


def delay(data: DataConfig, epochs: int) -> Comparison:
    """Return the comparison of remedies for stale scions. Three of its arms are those of table 1.

    Args:
        data: Data that the networks train on.
        epochs: Epochs of each network.
    """
    arms = {arm.name: arm for arm in two_networks(data, epochs).arms}
    async_ = arms["grafting-async"].config
    arm = partial(varied, async_)
    same = PopulationConfig(size=2, same_initial_weights=True)
    return Comparison(
        name="delay",
        question="What does grafting lose by stale scions, and what helps: less weight or delay compensation?",
        arms=(
            arms["independent"],
            arms["grafting-lockstep"],
            arms["grafting-async"],
            arm(
                "async, compensated",
                "delay compensation: the rootstock's own updates since the scion was published are added to the scion",
                staleness=COMPENSATED,
            ),
            arm(
                "async, aged",
                "staleness discount: the scion's weight is (1 - alpha) (1 + staleness)^-1.5",
                staleness=DISCOUNTED,
            ),
            arm(
                "async, compensated, aged",
                "delay compensation, and weights discounted by staleness",
                staleness=DISCOUNTED_AND_COMPENSATED,
            ),
            arm(
                "async, reaching back by one",
                "both, with compensation over one interval at most",
                staleness=StalenessConfig(compensation_intervals=1),
            ),
            arm(
                "averaging, compensated, aged",
                "both, with plain averaging: alpha = 0.5 (A = 0)",
                staleness=DISCOUNTED_AND_COMPENSATED,
                graft=GraftConfig(a=0.0),
            ),
            arm(
                "random alpha, compensated, aged",
                "both, with random alphas of the same spread as those from entropy",
                staleness=DISCOUNTED_AND_COMPENSATED,
                graft=GraftConfig(criterion="random"),
            ),
            arm(
                "async, same beginning, compensated",
                "delay compensation, and equal initial weights",
                staleness=COMPENSATED,
                population=same,
            ),
        ),
        baseline="grafting-async",
        seeds=(0, 1, 2, 3, 4),
    )


def scions(data: DataConfig, epochs: int) -> Comparison:
    """Return table 5: the paper's scion sources and criteria, with small networks.

    Args:
        data: Data that the networks train on.
        epochs: Epochs of each network.
    """
    alone = small(data, size=2, epochs=epochs)
    base = dataclasses.replace(alone, staleness=DISCOUNTED_AND_COMPENSATED)
    return Comparison(
        name="scions",
        question="Where should a scion come from, and which criterion should measure its information?",
        arms=(
            Arm(name="baseline", description="no exchange", config=dataclasses.replace(alone, exchange=NONE)),
            *scion_sources(alone, base),
            grafted(base, "external, entropy", "information is the entropy of the layer's weights (eq. 6)"),
            grafted(
                base,
                "external, summed entropy",
                "information is the summed entropy of the layer's filters (eq. 5)",
                criterion="summed_entropy",
            ),
            grafted(
                base,
                "external, differential entropy",
                "information is an entropy with robust cells that depends on the scale of the weights",
                criterion="differential_entropy",
            ),
        ),
        baseline="baseline",
        seeds=(0, 1, 2),
    )


def compact(data: DataConfig, epochs: int) -> Comparison:
    """Return table 4: DCFF as published and stable, its controls, and with grafting, at equal multiply-adds.

    Args:
        data: Data that the networks train on.
        epochs: Epochs of each network.
    """

    def arm(name: str, description: str, mode: FusionMode, **changes) -> Arm:
        fields = {"exchange": NONE, "fusion": FusionConfig(mode=mode, rates=(0.5,))} | changes
        return Arm(name=name, description=description, config=small(data, size=2, epochs=epochs, **fields))

    same = PopulationConfig(size=2, same_initial_weights=True)
    grafting = {"exchange": ExchangeConfig(), "staleness": DISCOUNTED_AND_COMPENSATED}
    return Comparison(
        name="compact",
        question="What does fusing filters add to a network that is narrow from the start?",
        arms=(
            *(arm(mode, description, mode) for mode, description in FUSIONS.items()),
            arm("mean distance", "the same, with filters ranked by mean distance", "mean_distance"),
            arm("stable, grafting", "stable, and the networks graft each other", "stable", **grafting),
            arm(
                "stable, grafting, same beginning",
                "the same from equal initial weights, so that all networks keep the same filters",
                "stable",
                population=same,
                **grafting,
            ),
            arm("stable, same beginning", "stable with equal initial weights, no exchange", "stable", population=same),
        ),
        baseline="random",
        seeds=(0, 1, 2),
    )


def levels(data: DataConfig, epochs: int) -> Comparison:
    """Return the comparison of graft levels, of rules for a weight between two filters, and of channel matching.

    Args:
        data: Data that the networks train on.
        epochs: Epochs of each network.
    """
    alone = small(data, size=2, epochs=epochs)
    base = dataclasses.replace(alone, staleness=DISCOUNTED_AND_COMPENSATED)
    filters = {"level": "filter", "criterion": "batch_norm"}
    return Comparison(
        name="levels",
        question="Should whole layers or single filters be grafted, and should the scion's channels be matched first?",
        arms=(
            Arm(name="independent", description="no exchange", config=dataclasses.replace(alone, exchange=NONE)),
            grafted(base, "layer", "whole layers by entropy (eq. 2)"),
            grafted(base, "layer, aligned", "the same after channel matching by weights", channel_matching="weights"),
            grafted(
                base,
                "filter, product",
                "single filters by batch norm's scale; a weight between two filters has the product of both alphas, as "
                "published",
                **filters,
            ),
            grafted(
                base,
                "filter, mean",
                "the same, but a weight has the mean of both alphas",
                weight_alpha="mean",
                **filters,
            ),
            grafted(
                base,
                "filter, output",
                "the same, but a weight has the alpha of its output filter",
                weight_alpha="output",
                **filters,
            ),
            grafted(
                base,
                "filter, aligned",
                "the mean of both alphas, after channel matching by weights",
                weight_alpha="mean",
                channel_matching="weights",
                **filters,
            ),
            Arm(
                name="same beginning",
                description="whole layers by entropy from equal initial weights: channels correspond from the start",
                config=dataclasses.replace(
                    base, population=dataclasses.replace(base.population, same_initial_weights=True)
                ),
            ),
        ),
        baseline="independent",
        seeds=(0, 1, 2),
    )


def precision(data: DataConfig, epochs: int) -> Comparison:
    """Return the comparison of precisions and memory formats of the forward pass on a CPU.

    Args:
        data: Data that the networks train on. 4,000 images of it are used, so that networks learn them well.
        epochs: Epochs of each network.
    """
    few = dataclasses.replace(data, train_limit=4000)

    def arm(name: str, description: str, **device) -> Arm:
        config = small(few, size=2, epochs=epochs, exchange=NONE, device=DeviceConfig(**device))
        return Arm(name=name, description=description, config=config)

    return Comparison(
        name="precision",
        question="Does a forward pass in bfloat16, or the channels-last memory format, cost accuracy on a CPU?",
        arms=(
            arm("float32", "float32, channels first", precision="float32", channels_last="off"),
            arm("float32, channels last", "float32, channels last", precision="float32", channels_last="on"),
            arm("bfloat16", "bfloat16, channels last", precision="bfloat16", channels_last="on"),
        ),
        baseline="float32",
        seeds=(0, 1, 2, 3, 4),
    )


def snapshot_precision(data: DataConfig, epochs: int) -> Comparison:
    """Return the comparison of snapshots in less precision than float32, in lockstep and with delay compensation.

    Args:
        data: Data that the networks train on.
        epochs: Epochs of each network.
    """
    base = small(data, size=2, epochs=epochs, mode="lockstep")

    async_ = dataclasses.replace(base, mode="async", staleness=DISCOUNTED_AND_COMPENSATED)

    def arm(value: SnapshotPrecision, description: str) -> Arm:
        return varied(base, value, description, exchange=ExchangeConfig(precision=value))

    def arm_async(value: SnapshotPrecision, description: str) -> Arm:
        changed = varied(async_, f"{value}, async", description, exchange=ExchangeConfig(precision=value))
        return dataclasses.replace(changed, against="float32, async")

    return Comparison(
        name="snapshot-precision",
        question="Does it cost accuracy if snapshots hold their weights in half precision, or in 8 bits?",
        arms=(
            arm("float32", "snapshots hold the weights as they are"),
            arm("float16", "the weights of convolutions and matrices in float16"),
            arm("int8", "the same in 8 bits, with one scale for each 1,024 weights"),
            varied(base, "independent", "the networks train side by side without exchange", exchange=NONE),
            arm_async("float32", "without a barrier, with delay compensation and the staleness discount"),
            arm_async("int8", "the same in 8 bits"),
        ),
        baseline="float32",
        seeds=(0, 1, 2, 3, 4),
    )


COMPARISONS: dict[str, tuple[str, Callable[[DataConfig, int], Comparison], int]] = {
    "two-networks": ("two networks: grafting, averaging, random alpha, PAPA", two_networks, 12),
    "four-networks": ("four networks on a ring: grafting and PAPA", four_networks, 12),
    "equal-work": ("two networks against one that trains as long as both together", equal_work, 12),
    "staleness": ("one slow network: lockstep, asynchronous, staleness discount", staleness, 12),
    "delay": ("stale scions: staleness discount, delay compensation", delay, 12),
    "compact": ("DCFF: published, stable, controls, with grafting", compact, 12),
    "levels": ("layers or filters, channel matching, equal initial weights", levels, 12),
    "scions": ("scions from noise, the network itself or others; criteria", scions, 12),
    "precision": ("float32 and bfloat16, channels first and last", precision, 30),
    "horizon": ("exchange against none by the length of the schedule, in the papers' regime", horizon, LONGEST),
    "devices": ("one network on one or four devices, and populations of four, in the same time", devices, LONGEST // 2),
    "diversity": ("exchange between networks with equal and with own hyperparameters", diversity, LONGEST // 2),
    "strength": ("stronger and weaker PAPA and WASH with four networks", strength, LONGEST),
    "revival": ("scions from noise, the network itself or others, where filters are invalid", revival, LONGEST // 2),
    "information": (
        "entropy, l1, rank, random and plain averaging, where filters are invalid",
        information,
        LONGEST // 2,
    ),
    "fusion": ("DCFF and a random half of the filters, in the papers' regime", fusion, LONGEST // 2),
    "quickstart": ("the default recipe with and without exchange", quickstart, 30),
    "snapshot-precision": ("snapshots in float32, float16 and int8", snapshot_precision, 12),
}
"""Comparisons by name: a description, the function that makes the comparison, and its epochs."""
