"""The comparisons that a laptop can run, by name: small networks, few epochs, arms that do equal work."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

from inarch.experiments.comparison.arms import (
    COMPENSATED,
    DISCOUNTED,
    DISCOUNTED_AND_COMPENSATED,
    NONE,
    Arm,
    Comparison,
    grafted,
    papa,
    small,
    varied,
)
from inarch.population.config import (
    DataConfig,
    DebugConfig,
    ExchangeConfig,
    FusionConfig,
    FusionMode,
    GraftConfig,
    PopulationConfig,
    RunConfig,
    StalenessConfig,
    StragglerConfig,
    TopologyConfig,
    WeightAveragingConfig,
)


def _side_by_side_to_papa(grafting: RunConfig) -> tuple[Arm, Arm, Arm, Arm]:
    """Table 1's arms for any number of networks: no exchange, the papers' barrier, asynchronous grafting, PAPA."""
    return (
        varied(grafting, "independent", "the networks side by side, no exchange", exchange=NONE),
        varied(
            grafting, "grafting-lockstep", "entropy (eq. 6), A = 0.4, c = 500, the papers' barrier", mode="lockstep"
        ),
        Arm(name="grafting-async", description="the same without a barrier; old scions as they come", config=grafting),
        Arm(
            name="papa-async",
            description="a pull of 1 % toward the mean of all every 10 steps, falling with the learning rate",
            config=papa(grafting),
        ),
    )


def two_networks(data: DataConfig, epochs: int) -> Comparison:
    """Table 1: what grafting gains over training side by side, and how much of it is plain averaging."""
    grafting = small(data, size=2, epochs=epochs)
    *first, last = _side_by_side_to_papa(grafting)
    return Comparison(
        name="two-networks",
        question="What does grafting gain over independent networks, and what over plain averaging?",
        arms=(
            *first,
            grafted(grafting, "averaging-async", "alpha = 0.5 (A = 0): no information is asked", a=0.0),
            grafted(grafting, "random-alpha-async", "random alpha, as spread as with entropy", criterion="random"),
            last,
        ),
        baseline="independent",
        seeds=(0, 1, 2, 3, 4),
    )


def four_networks(data: DataConfig, epochs: int) -> Comparison:
    """Table 1, four networks."""
    grafting = small(data, size=4, epochs=epochs)
    *first, last = _side_by_side_to_papa(grafting)
    return Comparison(
        name="four-networks",
        question="The same with four networks on the paper's ring.",
        arms=(
            *first,
            varied(
                grafting,
                "grafting-async, compensated, aged",
                "the same; old scions brought forward, and counting for less",
                staleness=DISCOUNTED_AND_COMPENSATED,
            ),
            varied(
                grafting,
                "grafting-async, compensated, aged, all to all",
                "the same from all three others at once: the mean of the blends",
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
    """Table 2: one network trained as long as two together."""
    pair = small(data, size=2, epochs=epochs, exchange=NONE)
    return Comparison(
        name="equal-work",
        question="Is a population better than one network that is trained as long as all of it together?",
        arms=(
            Arm(name="two independent", description="two networks side by side", config=pair),
            Arm(
                name="two grafting-async",
                description="two networks that graft; old scions as they come",
                config=small(data, size=2, epochs=epochs),
            ),
            Arm(
                name="two grafting-async, compensated, aged",
                description="the same; old scions brought forward, and counting for less",
                config=small(data, size=2, epochs=epochs, staleness=DISCOUNTED_AND_COMPENSATED),
            ),
            Arm(
                name="one, twice as long",
                description="one network, twice the epochs",
                config=small(data, size=1, epochs=2 * epochs, exchange=NONE),
            ),
            Arm(
                name="one, twice as long, EMA",
                description="the same, judged by an exponential mean of its weights (0.99 a step)",
                config=small(
                    data, size=1, epochs=2 * epochs, exchange=NONE, weight_averaging=WeightAveragingConfig(kind="ema")
                ),
            ),
            Arm(
                name="one, twice as long, SWA",
                description="the same, judged by the mean of its weights at the ends of the last quarter's epochs",
                config=small(
                    data, size=1, epochs=2 * epochs, exchange=NONE, weight_averaging=WeightAveragingConfig(kind="swa")
                ),
            ),
        ),
        baseline="two independent",
        seeds=(0, 1, 2),
    )


def staleness(data: DataConfig, epochs: int) -> Comparison:
    """Table 3: one of four networks is slowed four times. A step takes 0.12 s of a core; each is padded to 0.25 s, the
    slow one's to 1 s, so that the four need 1.6 of 2 cores and the padding decides the pace."""
    slow = StragglerConfig(step_seconds=0.25, slowdowns=(4.0,))
    async_ = small(data, size=4, epochs=epochs, debug=DebugConfig(straggler=slow))
    return Comparison(
        name="staleness",
        question="What does a network that is four times slower cost the others, and does age weighting help?",
        arms=(
            varied(async_, "lockstep", "the barrier", mode="lockstep"),
            Arm(name="async", description="nobody waits; age policy none", config=async_),
            varied(
                async_,
                "async, compensated, aged",
                "scions brought forward by own training since, age policy polynomial with rate 1.5",
                staleness=DISCOUNTED_AND_COMPENSATED,
            ),
            varied(
                async_,
                "async, aged",
                "age policy polynomial with rate 1.5, and as they come",
                staleness=DISCOUNTED,
            ),
        ),
        baseline="lockstep",
        seeds=(0, 1, 2),
        is_timed=True,
    )


def delay(data: DataConfig, epochs: int) -> Comparison:
    """What an old scion does, and what helps. Three of its arms are table 1's."""
    arms = {arm.name: arm for arm in two_networks(data, epochs).arms}
    async_ = arms["grafting-async"].config
    arm = partial(varied, async_)
    same = PopulationConfig(size=2, same_initial_weights=True)
    return Comparison(
        name="delay",
        question="What does grafting lose by scions that come late, and what helps: less of them, or newer ones?",
        arms=(
            arms["independent"],
            arms["grafting-lockstep"],
            arms["grafting-async"],
            arm("async, compensated", "old scions brought forward by own training since", staleness=COMPENSATED),
            arm("async, aged", "a scion's part is (1 - alpha) (1 + age)^-1.5", staleness=DISCOUNTED),
            arm("async, compensated, aged", "both", staleness=DISCOUNTED_AND_COMPENSATED),
            arm(
                "async, reaching back by one",
                "both, by one interval at most",
                staleness=StalenessConfig(compensation_intervals=1),
            ),
            arm(
                "averaging, compensated, aged",
                "both, and alpha = 0.5 (A = 0)",
                staleness=DISCOUNTED_AND_COMPENSATED,
                graft=GraftConfig(a=0.0),
            ),
            arm(
                "random alpha, compensated, aged",
                "both, and alpha by chance, as spread as with entropy",
                staleness=DISCOUNTED_AND_COMPENSATED,
                graft=GraftConfig(criterion="random"),
            ),
            arm(
                "async, same beginning, compensated",
                "brought forward, and equal initial weights",
                staleness=COMPENSATED,
                population=same,
            ),
        ),
        baseline="grafting-async",
        seeds=(0, 1, 2, 3, 4),
    )


def scions(data: DataConfig, epochs: int) -> Comparison:
    """Table 5: the paper's scion sources and criteria, in small."""
    alone = small(data, size=2, epochs=epochs)
    base = dataclasses.replace(alone, staleness=DISCOUNTED_AND_COMPENSATED)
    return Comparison(
        name="scions",
        question="Where should a scion come from, and by what is it judged?",
        arms=(
            Arm(name="baseline", description="no graft", config=dataclasses.replace(alone, exchange=NONE)),
            grafted(alone, "noise", "sigma = 0.975^epoch into filters below 0.1", scion="noise"),
            grafted(
                alone,
                "internal",
                "the most informative filters onto the least, below 0.1",
                scion="internal",
                criterion="l1",
            ),
            grafted(base, "external, l1", "l1 norm of the layer", criterion="l1"),
            grafted(base, "external, entropy", "eq. 6"),
            grafted(base, "external, summed entropy", "eq. 5", criterion="summed_entropy"),
            grafted(
                base, "external, differential entropy", "robust cells, knows scale", criterion="differential_entropy"
            ),
        ),
        baseline="baseline",
        seeds=(0, 1, 2),
    )


def compact(data: DataConfig, epochs: int) -> Comparison:
    """Table 4: DCFF as published, stable, its control, and stable with grafting, at equal multiply-adds."""

    def arm(name: str, description: str, mode: FusionMode, **changes) -> Arm:
        fields = {"exchange": NONE, "fusion": FusionConfig(mode=mode, rates=(0.5,))} | changes
        return Arm(name=name, description=description, config=small(data, size=2, epochs=epochs, **fields))

    same = PopulationConfig(size=2, same_initial_weights=True)
    grafting = {"exchange": ExchangeConfig(), "staleness": DISCOUNTED_AND_COMPENSATED}
    return Comparison(
        name="compact",
        question="What does fusing filters add to a network that is narrow from the start?",
        arms=(
            arm("random", "half of the filters, chosen by chance and never mixed", "random"),
            arm("published", "as published: frozen after the first epoch", "published"),
            arm("stable", "mixtures that narrow over the whole schedule", "stable"),
            arm("mean distance", "the same, ranked by mean distance", "mean_distance"),
            arm("stable, grafting", "stable, and the networks graft each other", "stable", **grafting),
            arm(
                "stable, grafting, same beginning",
                "the same from equal initial weights, so that they keep the same filters",
                "stable",
                population=same,
                **grafting,
            ),
            arm("stable, same beginning", "equal initial weights, and no graft", "stable", population=same),
        ),
        baseline="random",
        seeds=(0, 1, 2),
    )


def levels(data: DataConfig, epochs: int) -> Comparison:
    """Filter level and alignment: which rule for a weight between two filters, and do unrelated channels matter?"""
    alone = small(data, size=2, epochs=epochs)
    base = dataclasses.replace(alone, staleness=DISCOUNTED_AND_COMPENSATED)
    filters = {"level": "filter", "criterion": "batch_norm"}
    return Comparison(
        name="levels",
        question="Layers or filters, and should a scion's channels first be brought into one's own order?",
        arms=(
            Arm(name="independent", description="no graft", config=dataclasses.replace(alone, exchange=NONE)),
            grafted(base, "layer", "eq. 2, entropy"),
            grafted(base, "layer, aligned", "the same after weight matching", channel_matching="weights"),
            grafted(base, "filter, product", "by batch norm's scale; both alphas multiplied, as published", **filters),
            grafted(base, "filter, mean", "both alphas' mean", weight_alpha="mean", **filters),
            grafted(
                base,
                "filter, output",
                "the alpha of the filter that a weight belongs to",
                weight_alpha="output",
                **filters,
            ),
            grafted(
                base,
                "filter, aligned",
                "their mean after weight matching",
                weight_alpha="mean",
                channel_matching="weights",
                **filters,
            ),
            Arm(
                name="same beginning",
                description="layers, entropy, and equal initial weights: channels are related from the start",
                config=dataclasses.replace(
                    base, population=dataclasses.replace(base.population, same_initial_weights=True)
                ),
            ),
        ),
        baseline="independent",
        seeds=(0, 1, 2),
    )


COMPARISONS: dict[str, tuple[str, Callable[[DataConfig, int], Comparison], int]] = {
    "two-networks": ("grafting, averaging, random alpha, PAPA", two_networks, 12),
    "four-networks": ("the same, four networks", four_networks, 12),
    "equal-work": ("one network trained as long as all together", equal_work, 12),
    "staleness": ("a straggler: lockstep, async, aged", staleness, 12),
    "delay": ("old scions: less of them, brought forward", delay, 12),
    "compact": ("DCFF: published, stable, controls, with grafting", compact, 12),
    "levels": ("layers, filters, alignment, equal beginnings", levels, 12),
    "scions": ("noise, internal, external; criteria", scions, 12),
}
"""Name: what it is, the function that makes it, epochs."""
