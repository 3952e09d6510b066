"""What the same configuration has meant: each edition of the code trains or judges some configurations otherwise."""

from __future__ import annotations

from collections.abc import Callable

from inarch.population.config import RunConfig


def _nobody_waits(config: RunConfig) -> bool:
    return config.mode == "async" and config.exchange.rule != "none"


CHANGES: tuple[Callable[[RunConfig], bool], ...] = (
    # Of equal scores the latest is the best, not the first; no exchange after the last interval where nobody waits.
    lambda config: True,
    # A straggler's age has an end; of an averaged network the mean is judged at the end too.
    lambda config: _nobody_waits(config) or config.weight_averaging.kind != "none",
    # staleness.compensation_intervals None is 2 instead of 1.
    lambda config: _nobody_waits(config) and config.staleness.compensation_intervals is None,
    # Resets happen where something was taken in; random filters' alphas are spread as random layers' are; what stands
    # for a network of averaged weights without validation images, and as a teacher, is the mean.
    lambda config: (
        "reset" in (config.graft.momentum, config.graft.batch_norm)
        or (config.graft.level, config.graft.criterion) == ("filter", "random")
        or (config.weight_averaging.kind != "none" and config.data.validation == 0)
        or bool(config.distillation.teachers)
    ),
)
"""Which configurations editions 1, 2, ... concern. Rows that note no edition are of edition 0."""

EDITION = len(CHANGES)
"""The code's own."""


def means_the_same(config: RunConfig, *, edition: int) -> bool:
    """Whether a configuration would now be trained and judged as by the code of an edition."""
    return not any(concerns(config) for concerns in CHANGES[edition:])
