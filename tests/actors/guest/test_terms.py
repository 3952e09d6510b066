"""What a loop expects is compared with the run that it joins."""

from __future__ import annotations

from typing import Any

import pytest

from inarch.actors.coordinator.guests import open_info
from inarch.actors.guest.terms import check_terms
from inarch.actors.messages import GuestTerms
from inarch.population.config import ExchangeConfig, OpenConfig
from inarch.population.errors import ConfigError


def terms_of(settings: OpenConfig, *, is_open_run: bool = True) -> GuestTerms:
    info = open_info(settings)
    return GuestTerms(config=settings.run_config("run"), info=info, registrations=(), is_open_run=is_open_run)


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        ({"every": 50}, "every: this loop expects 50, and run run has 100"),
        ({"num_intervals": 9}, "num_intervals: this loop expects 9, and run run has 7"),
        ({"metric": "loss"}, "metric: this loop expects 'loss', and run run has 'f1'"),
        ({"lower_is_better": True}, "lower_is_better: this loop expects True, and run run has False"),
        ({"seed": 3}, "seed: this loop expects 3, and run run has 0"),
        ({"exchange": ExchangeConfig(rule="papa")}, "exchange.rule: this loop expects 'papa', and run run has 'graft'"),
    ],
)
def test_run_that_differs_is_refused(expected: dict[str, Any], message: str) -> None:
    terms = terms_of(OpenConfig(every=100, num_intervals=7, metric="f1"))
    check_terms("run", terms, OpenConfig(every=100, num_intervals=7, metric="f1"))
    check_terms("run", terms, OpenConfig(metric="f1"))
    check_terms("run", terms, None)
    settings: dict[str, Any] = {"metric": "f1", **expected}
    with pytest.raises(ConfigError, match=message):
        check_terms("run", terms, OpenConfig(**settings))


def test_unknown_settings_and_other_tasks_differ_in_nothing() -> None:
    check_terms("run", terms_of(OpenConfig()), OpenConfig(every=50, num_intervals=9))
    check_terms("run", terms_of(OpenConfig(metric="accuracy"), is_open_run=False), OpenConfig())
