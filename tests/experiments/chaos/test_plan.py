"""A plan follows from its seed, and plans have all kinds of faults that a setting can have."""

from __future__ import annotations

import collections
import itertools

import pytest

from inarch.experiments.benchmarks.chaos.command import seed_range
from inarch.experiments.benchmarks.chaos.plan import DURATIONS, GAPS, ChaosSetting, FaultKind, kinds_of, plan
from inarch.population.errors import ConfigError


def test_equal_settings_give_equal_plans() -> None:
    assert plan(ChaosSetting(seed=4)) == plan(ChaosSetting(seed=4))
    assert plan(ChaosSetting(seed=4)) != plan(ChaosSetting(seed=5))


@pytest.mark.parametrize("cluster", ["own", "separate"])
@pytest.mark.parametrize("mode", ["async", "lockstep"])
def test_every_kind_appears_over_forty_seeds(cluster, mode) -> None:
    settings = [ChaosSetting(seed=seed, cluster=cluster, mode=mode) for seed in range(40)]
    drawn = {fault.kind for setting in settings for fault in plan(setting)}
    assert drawn == set(kinds_of(settings[0]))
    assert (FaultKind.NODE in drawn, FaultKind.GUEST in drawn) == (cluster == "separate", mode == "async")


def test_faults_lie_within_the_minutes() -> None:
    for seed in range(20):
        faults = plan(ChaosSetting(seed=seed, minutes=2.0))
        seconds = list(itertools.accumulate(fault.gap_seconds for fault in faults))
        assert seconds[-1] <= 120.0 and len(faults) >= 120 // GAPS[1]
        assert all((fault.duration_seconds > 0) == (fault.kind in DURATIONS) for fault in faults)


def test_shortest_plan_has_one_fault() -> None:
    assert len(plan(ChaosSetting(seed=0, minutes=0.01))) == 1


def test_victims_are_spread_evenly() -> None:
    choices = [fault.choice for seed in range(100) for fault in plan(ChaosSetting(seed=seed))]
    victims = collections.Counter(int(3 * choice) for choice in choices)
    assert set(victims) == {0, 1, 2} and min(victims.values()) > len(choices) / 4


@pytest.mark.parametrize("values", [{"seed": -1}, {"seed": 0, "minutes": 0.0}, {"seed": 0, "population": 1}])
def test_setting_out_of_range_is_refused(values) -> None:
    with pytest.raises(ConfigError, match="must be"):
        ChaosSetting(**values)


def test_seed_range_excludes_its_end() -> None:
    assert list(seed_range(0, "3:6")) == [3, 4, 5]
    assert list(seed_range(8, None)) == [8]
    for wrong in ("3", "6:3", "3:3", "a:b", "-1:4"):
        with pytest.raises(ConfigError, match="FIRST:END"):
            seed_range(0, wrong)
