"""The comparison of how strongly PAPA pulls and WASH shuffles, in the setting of `regime_setting`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from inarch.experiments.comparison.arms import Arm, Comparison
from inarch.experiments.comparison.regime_setting import (
    METHODS,
    MOST,
    SHUFFLED_EPOCHS,
    can_pull,
    in_regime,
    with_papa,
    with_wash,
)
from inarch.population.config import DataConfig, RunConfig

PULLS = {"brief": (2,), "short": (1, 2, 4, 8), "long": (1, 4, 8)}
"""Factors of PAPA's pull in `horizon`, by length of the schedule."""

PULLS_OF_TWO = {"short": (4,)}
"""The same, for two networks."""

SHUFFLES = {"short": (0.1, 1, 3)}
"""Factors of WASH's probability in `devices`, by length of the schedule."""


def strength(data: DataConfig, epochs: int) -> Comparison:
    """Return the comparison of how strongly PAPA pulls and WASH shuffles.

    `horizon` pulls equally in sum at every length. There, the mean of the networks' weights is poor after 120 epochs.

    Args:
        data: Data that the networks train on.
        epochs: Epochs of the longest schedule. The others have a half and a quarter of them.
    """
    lengths = {"brief": max(1, epochs // 4), "short": max(1, epochs // 2), "long": epochs}
    settings = [(length, 4, "four", pulls, SHUFFLES.get(length, ())) for length, pulls in PULLS.items()]
    settings += [(length, 2, "two", pulls, ()) for length, pulls in PULLS_OF_TWO.items()]
    arms: list[Arm] = []
    for length, size, count, pulls, shuffles in settings:
        config = in_regime(data, size=size, epochs=lengths[length])
        prefix = length if size == 4 else f"{length}, {count}"
        arms += [
            Arm(
                name=f"{prefix}, {method}",
                description=f"{count} networks for {lengths[length]} epochs, {description}",
                config=changed,
                against=f"{prefix}, independent",
            )
            for method, description, changed in _methods(config, pulls, shuffles)
        ]
    return Comparison(
        name="strength",
        question="How strongly must PAPA pull, and WASH shuffle, so that the networks gain and their soup works?",
        arms=tuple(arms),
        baseline="short, independent",
        seeds=(0, 1, 2, 3, 4),
        does_equal_work=False,
    )


def _methods(
    config: RunConfig, pulls: Sequence[float], shuffles: Sequence[float]
) -> Iterator[tuple[str, str, RunConfig]]:
    """Yield name, description and configuration of each method. Those whose pull would be cut to MOST are left out."""
    epochs = config.schedule.epochs
    description, independent = METHODS["independent"]
    yield "independent", description, independent(config)
    for factor in pulls:
        if can_pull(factor, epochs):
            yield f"PAPA x {factor}", f"PAPA with {factor} times the pull of horizon", with_papa(config, factor)
    for factor in shuffles:
        if factor <= max(1, MOST * epochs / SHUFFLED_EPOCHS):
            yield f"WASH x {factor}", f"WASH with {factor} times the probability of devices", with_wash(config, factor)
