"""What a run needs of Ray's object stores."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from inarch.actors.driver.object_store import MIB, store_use
from inarch.population.config import ExchangeConfig, PopulationConfig, RunConfig
from inarch.population.tasks.run_spec import RunInfo

INFO = RunInfo(
    metrics=(),
    train_examples=100,
    data_bytes=150 * MIB,
    data_fingerprint="d",
    structure="s",
    snapshot_bytes=10 * MIB,
    parameters=1,
    num_intervals=4,
    steps_per_epoch=1,
)


def nodes(*stores: int) -> list[dict[str, Any]]:
    return [{"Alive": True, "Resources": {"object_store_memory": store * float(MIB), "CPU": 4.0}} for store in stores]


@pytest.mark.parametrize(
    ("config", "stores", "snapshots"),
    [
        (RunConfig(population=PopulationConfig(size=3)), (400,), 2 * 3),
        (RunConfig(population=PopulationConfig(size=2, max_size=5)), (400,), 2 * 5),
        (RunConfig(population=PopulationConfig(size=4)), (400, 900), 2 * 2 + 2),
        (RunConfig(population=PopulationConfig(size=8), exchange=ExchangeConfig(num_donors=7)), (400, 900), 2 * 4 + 4),
        (RunConfig(population=PopulationConfig(size=8)), (400, 900, 500, 400), 2 * 2 + 2),
    ],
)
def test_store_holds_data_and_snapshots(config: RunConfig, stores: tuple[int, ...], snapshots: int) -> None:
    use = store_use(INFO, config, nodes(*stores))
    assert use.snapshot_bytes == snapshots * 10 * MIB
    assert use.share == pytest.approx((150 + 10 * snapshots) / 400)


def test_dead_and_unknown_stores_are_left_out() -> None:
    dead = {"Alive": False, "Resources": {}}
    head = {"Alive": True, "Resources": {"object_store_memory": 50.0 * MIB}}  # a head without CPUs
    use = store_use(INFO, RunConfig(population=PopulationConfig(size=1)), [dead, head, *nodes(300)])
    assert use.store_bytes == 300 * MIB and use.snapshot_bytes == 2 * 10 * MIB
    assert store_use(INFO, RunConfig(), [{"Alive": True, "Resources": {"CPU": 1.0}}]).share == 0.0


def test_text_has_all_numbers() -> None:
    use = store_use(dataclasses.replace(INFO, data_bytes=2048 * MIB), RunConfig(), nodes(900))
    assert "900 MiB" in str(use) and "2,048 MiB" in str(use) and f"{use.snapshot_bytes // MIB} MiB" in str(use)
