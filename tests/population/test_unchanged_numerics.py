"""Ledgers and final weights of a few simulated runs, which no refactoring may change.

`python -m tests.population.test_unchanged_numerics` writes the record again. Use it only for an intended change of
numerics, and say so in the commit.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from inarch.population import (
    ExchangeConfig,
    FusionConfig,
    GraftConfig,
    Join,
    PapaConfig,
    PbtConfig,
    PopulationConfig,
    RunConfig,
    ScheduleConfig,
    Simulation,
    Simulator,
    StalenessConfig,
    TopologyConfig,
    WashConfig,
)
from inarch.population.state.state_dict import named_tensors
from tests.conftest import small_config, tiny_splits, tiny_task

RECORD = Path(__file__).resolve().parents[1] / "vectors" / "unchanged_numerics.json"

TOLERANCE = 1e-3
"""Relative, for numbers of another processor or another version of torch."""


def population_of(size: int, **changes: Any) -> RunConfig:
    return small_config(population=PopulationConfig(size=size), **changes)


STRAGGLER = {0: 1.0, 1: 1.3, 2: 2.2}

CASES: dict[str, tuple[RunConfig, dict[str, Any]]] = {
    "async": (
        population_of(3, staleness=StalenessConfig(max_intervals=9)),
        {"step_seconds": STRAGGLER, "post_seconds": 0.7, "events": [Join(seconds=5.5)]},
    ),
    "lockstep": (population_of(3, mode="lockstep"), {}),
    "published": (population_of(2, mode="lockstep", exchange=ExchangeConfig(rule="graft_published")), {}),
    "momentum": (population_of(2, mode="lockstep", graft=GraftConfig(momentum="blend", batch_norm="reset")), {}),
    "donors": (
        population_of(
            3,
            exchange=ExchangeConfig(num_donors=2),
            graft=GraftConfig(multi_donor="best"),
            topology=TopologyConfig(name="complete"),
        ),
        {"step_seconds": STRAGGLER},
    ),
    "filter": (
        population_of(2, graft=GraftConfig(level="filter", criterion="l1", channel_matching="weights")),
        {"step_seconds": STRAGGLER},
    ),
    "internal": (population_of(1, graft=GraftConfig(scion="internal", threshold=50.0)), {}),
    "papa": (
        population_of(
            3,
            exchange=ExchangeConfig(rule="papa"),
            papa=PapaConfig(pull=0.3),
            topology=TopologyConfig(name="complete"),
        ),
        {"step_seconds": STRAGGLER},
    ),
    "wash": (
        population_of(
            3,
            exchange=ExchangeConfig(rule="wash"),
            wash=WashConfig(probability=0.2),
            topology=TopologyConfig(name="complete"),
        ),
        {"step_seconds": STRAGGLER},
    ),
    "pbt": (
        population_of(3, exchange=ExchangeConfig(rule="pbt"), pbt=PbtConfig(factors=(0.7, 1.4))),
        {"step_seconds": STRAGGLER},
    ),
    "dml": (population_of(2, exchange=ExchangeConfig(rule="dml")), {}),
    "dcff-stable": (population_of(2, fusion=FusionConfig(mode="stable", rates=(0.5,))), {}),
    "dcff-published": (
        population_of(
            1, fusion=FusionConfig(mode="published", rates=(0.5,)), schedule=ScheduleConfig(epochs=3, batch_size=32)
        ),
        {},
    ),
}


def machine() -> str:
    """What decides the last bits of a result besides the code."""
    cpu = Path("/proc/cpuinfo")
    model = (
        next((line.split(":")[1].strip() for line in cpu.read_text().splitlines() if "model name" in line), "")
        if cpu.exists()
        else ""
    )
    return f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {model}"


def simulate(case: str) -> Simulation:
    config, options = CASES[case]
    splits = tiny_splits(config)
    return Simulator(config, lambda: tiny_task(config, splits), **options).run()


def record(result: Simulation) -> dict[str, Any]:
    """The ledger, and the final weights as a digest of all bits and as a few numbers."""
    digest, sums = hashlib.sha256(), {}
    for network_id, trainer in sorted(result.trainers.items()):
        tensors = named_tensors(trainer.module)
        for name, tensor in tensors.items():
            digest.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
        sums[str(network_id)] = float(sum(tensor.double().abs().sum() for tensor in tensors.values()))
    ledger = [[str(value) for value in vars(line).values()] for line in result.ledger]
    return {"ledger": ledger, "weights": digest.hexdigest(), "absolute_sums": sums}


@pytest.mark.parametrize("case", CASES)
def test_simulation_gives_the_recorded_ledger_and_weights(case: str) -> None:
    saved = json.loads(RECORD.read_text())
    expected, actual = saved["cases"][case], record(simulate(case))
    assert actual["ledger"] == expected["ledger"]
    if saved["machine"] == machine():
        assert actual["weights"] == expected["weights"]
    for network_id, total in expected["absolute_sums"].items():
        assert actual["absolute_sums"][network_id] == pytest.approx(total, rel=TOLERANCE)


def test_recorded_cases_differ_from_each_other() -> None:
    saved = json.loads(RECORD.read_text())["cases"]
    assert set(saved) == set(CASES)
    assert len({values["weights"] for values in saved.values()}) == len(saved)


if __name__ == "__main__":
    torch.set_num_threads(1)
    cases = {case: record(simulate(case)) for case in CASES}
    RECORD.write_text(json.dumps({"machine": machine(), "cases": cases}, indent=1) + "\n")
