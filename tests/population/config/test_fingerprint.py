"""The fingerprint of a configuration: equal for equal numbers, wherever the run and its data are."""

from __future__ import annotations

import json
from typing import Any

from inarch.population.config import DataConfig, PopulationConfig, RunConfig, ScheduleConfig, from_dict, to_dict
from inarch.population.config.fingerprint import config_fingerprint


def fingerprint(**changes: Any) -> str:
    return config_fingerprint(to_dict(RunConfig(**changes)))


def test_fingerprint_survives_json() -> None:
    config = RunConfig(population=PopulationConfig(size=3, cpus=1))  # 1 for 1.0
    text = json.dumps(to_dict(config))
    revived: RunConfig = from_dict(RunConfig, json.loads(text))
    prints = {config_fingerprint(values) for values in (to_dict(config), json.loads(text), to_dict(revived))}
    assert len(prints) == 1


def test_fingerprint_ignores_places_and_sees_numbers() -> None:
    assert fingerprint() == fingerprint(name="other", storage="elsewhere", data=DataConfig(train="/moved"))
    prints = {fingerprint(), fingerprint(seed=1), fingerprint(schedule=ScheduleConfig(epochs=7))}
    assert len(prints) == 3
