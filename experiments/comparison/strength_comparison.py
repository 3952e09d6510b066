"""The comparison of how strongly PAPA pulls and WASH shuffles, in the setting of `regime_setting`."""

from __future__ import annotations

from inarch.experiments.comparison.arms import Arm, Comparison
from inarch.experiments.comparison.regime_setting import (
    METHODS,
    MOST,
    PULLED_EPOCHS,
    SHUFFLED_EPOCHS,
    in_regime,
    with_papa,
    with_wash,
)
from inarch.population.config import DataConfig, RunConfig

PULLS = {"short": (1, 2, 4, 8), "long": (1, 4, 8)}
"""Factors of PAPA's pull in `horizon`, by length of the schedule."""

SHUFFLES = {"short": (0.1, 1, 3), "long": ()}
"""Factors of WASH's probability in `devices`, by length of the schedule."""


def strength(data: DataConfig, epochs: int) -> Comparison:
    """Return the comparison of how strongly PAPA pulls and WASH shuffles.

    `horizon` pulls equally in sum at every length. There, the mean of the networks' weights is poor after 120 epochs.

    Args:
        data: Data that the networks train on.
        epochs: Epochs of the longer schedule. The shorter one has half of them.
    """
    lengths = {"short": max(1, epochs // 2), "long": epochs}
    return Comparison(
        name="strength",
        question="How strongly must PAPA pull, and WASH shuffle, so that the networks gain and their soup works?",
        arms=tuple(
            Arm(
                name=f"{length}, {method}",
                description=f"four networks for {number} epochs, {description}",
                config=config,
                against=f"{length}, independent",
            )
            for length, number in lengths.items()
            for method, description, config in _methods(length, in_regime(data, size=4, epochs=number))
        ),
        baseline="short, independent",
        seeds=(0, 1, 2, 3, 4),
        does_equal_work=False,
    )


def _methods(length: str, config: RunConfig) -> list[tuple[str, str, RunConfig]]:
    """Return name, description and configuration of each method. Those whose pull would be cut to MOST are left out."""
    most = MOST * config.schedule.epochs
    description, independent = METHODS["independent"]
    return [
        ("independent", description, independent(config)),
        *(
            (f"PAPA x {factor}", f"PAPA with {factor} times the pull of horizon", with_papa(config, factor))
            for factor in PULLS[length]
            if factor <= max(1, most / PULLED_EPOCHS)
        ),
        *(
            (f"WASH x {factor}", f"WASH with {factor} times the probability of devices", with_wash(config, factor))
            for factor in SHUFFLES[length]
            if factor <= max(1, most / SHUFFLED_EPOCHS)
        ),
    ]
