"""Compare what a training loop expects with the run that it joins."""

from __future__ import annotations

from inarch.actors.messages import GuestTerms
from inarch.population.config import OpenConfig, first_difference
from inarch.population.errors import ConfigError


def check_terms(run: str, terms: GuestTerms, config: OpenConfig | None) -> None:
    """Raise ConfigError if a loop expects another exchange than that of the run.

    Args:
        run: Name of the run.
        terms: Its terms.
        config: What the loop expects. None: whatever the run has.
    """
    difference = None if config is None else first_difference(config, terms.config) or _other_terms(config, terms)
    if difference is not None:
        field, own, others = difference
        raise ConfigError(
            f"{field}: this loop expects {own!r}, and run {run} has {others!r}; leave config out to accept the run's"
        )


def _other_terms(config: OpenConfig, terms: GuestTerms) -> tuple[str, object, object] | None:
    """Return the first other setting of a run that differs: its intervals, and the metric of an open run."""
    info, metric = terms.info, terms.info.metrics[0]
    pairs: dict[str, tuple[object, object]] = {
        "every": (config.every, info.interval_steps or None),
        "num_intervals": (config.num_intervals, info.num_intervals or None),
    }
    known = {name: pair for name, pair in pairs.items() if None not in pair}
    if terms.is_open_run:
        known |= {"metric": (config.metric, metric.name)}
        known |= {"lower_is_better": (config.lower_is_better, not metric.higher_is_better)}
    return next(((name, *pair) for name, pair in known.items() if pair[0] != pair[1]), None)
