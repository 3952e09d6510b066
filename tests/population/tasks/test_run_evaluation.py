"""The result of a run: a damaged folder, and which weights of a network are used."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Literal

import pytest
import torch

from inarch.population import (
    CheckpointConfig,
    DataConfig,
    ExchangeConfig,
    PopulationConfig,
    ScheduleConfig,
    Simulator,
    Trainer,
)
from inarch.population.evaluation.evaluation_set import evaluation_set
from inarch.population.persistence.checkpoint import CheckpointStore
from inarch.population.persistence.history import read_table
from inarch.population.persistence.storage import Storage
from inarch.population.simulator import Leave
from inarch.population.state.state_dict import load_tensors
from inarch.population.tasks.chosen_weights import chosen_of, chosen_weights, population_of
from inarch.population.tasks.image_classification import ImageClassification
from inarch.population.tasks.image_task import run_splits
from inarch.population.tasks.run_evaluation import evaluate_run, fit_at_end
from inarch.population.tasks.run_spec import RunSpec
from tests.conftest import small_config
from tests.fakes.runtime import FakeRuntime, live
from tests.population.persistence.test_damage import flip


def test_damage_is_in_the_result_and_ends_no_run(tmp_path: Path) -> None:
    config = small_config(
        name="damaged",
        data=DataConfig(train="digits", train_limit=200, test_limit=50, augmentation="none"),
        population=PopulationConfig(size=2),
        schedule=ScheduleConfig(epochs=2, batch_size=64),
        exchange=ExchangeConfig(rule="none"),
    )
    storage = Storage(str(tmp_path))
    store, splits = CheckpointStore(storage), run_splits(config)
    for network_id in (0, 1):
        runtime = FakeRuntime()
        live(Trainer(ImageClassification(config, splits), config, network_id=network_id), runtime)
        for checkpoint in runtime.checkpoints:
            store.commit(checkpoint)
    for folder in (tmp_path / "networks" / "1").iterdir():
        flip(folder / "manifest.json", 5)
    newest = store.list(0)[-1]
    flip(tmp_path / "networks" / "0" / newest.name / "model.safetensors", -1)
    part = sorted((tmp_path / "metrics").iterdir())[0].name
    flip(tmp_path / "metrics" / part, 60)
    event = {"seconds": 0.0, "kind": "storage", "network_id": 0, "detail": {"is_failing": True}}
    record = {"state": "finishing", "members": [], "events": [event, event | {"detail": {"is_failing": False}}]}
    storage.write("members/00000000.json", json.dumps(record).encode())

    spec = RunSpec(name="damaged", folder=storage.uri, config=config, task=None)
    result = evaluate_run(spec, splits, {0: "done", 1: "done", 2: "failed", 3: "done"}, {2: "it broke"}, 1.0)
    rows = {row["network"]: row for row in result["networks"]}
    assert rows[0]["best"] is not None and rows[0]["storage_failures"] == 1
    assert [rows[number]["reason"] for number in (1, 2, 3)] == [
        "none of its checkpoints can be read",
        "it broke",
        "it left no checkpoint",
    ]
    assert f"networks/0/{newest.name}" in result["damaged_files"]
    assert any(name.startswith("networks/1/") for name in result["damaged_files"])


@pytest.mark.parametrize(("policy", "expected"), [("auto", "best"), ("best", "best"), ("last", "last")])
def test_result_and_teacher_use_the_chosen_weights(
    policy: Literal["auto", "best", "last"], expected: str, tmp_path: Path
) -> None:
    """The last weights are spoiled, so that the validation images tell them from the best."""
    config = small_config(
        name="chosen",
        data=DataConfig(train="digits", train_limit=400, test_limit=100, validation=0.25, augmentation="none"),
        population=PopulationConfig(size=1),
        schedule=ScheduleConfig(epochs=4, batch_size=32),
        exchange=ExchangeConfig(rule="none"),
        checkpoint=CheckpointConfig(weights=policy),
    )
    storage = Storage(str(tmp_path))
    store, splits = CheckpointStore(storage), run_splits(config)
    runtime = FakeRuntime()
    live(Trainer(ImageClassification(config, splits), config, network_id=0), runtime)
    *before, final = runtime.checkpoints
    spoiled = {name: torch.zeros_like(value) for name, value in final.model.items()}
    for checkpoint in [*before, dataclasses.replace(final, model=spoiled, best=None)]:
        store.commit(checkpoint)
    by_validation = store.best(0)
    assert by_validation is not None and by_validation[2] < 4

    spec = RunSpec(name="chosen", folder=storage.uri, config=config, task=None)
    result = evaluate_run(spec, splits, {0: "done"}, {}, 1.0)
    (row,) = result["networks"]
    assert row["weights"] == expected and row["best"] == row["last" if expected == "last" else "by_validation"]
    assert row["by_validation"]["accuracy"] > row["last"]["accuracy"] + 0.1
    assert row["best_interval"] == (4 if expected == "last" else by_validation[2])
    assert result["mean"]["accuracy"] == row["best"]["accuracy"]
    chosen = chosen_of(store, 0, result)
    assert chosen is not None
    state = spoiled if expected == "last" else by_validation[0]
    assert all(torch.equal(value, state[name]) for name, value in chosen.state.items())
    without_result = chosen_of(store, 0, None)
    assert without_result is not None and without_result.score == by_validation[1]


def test_networks_that_left_have_no_part_in_mean_and_soup(tmp_path: Path) -> None:
    config = small_config(
        name="left",
        data=DataConfig(train="digits", train_limit=300, test_limit=100, validation=0.25, augmentation="none"),
        population=PopulationConfig(size=3),
        schedule=ScheduleConfig(epochs=4, batch_size=32),
    )
    splits, storage = run_splits(config), Storage(str(tmp_path))
    store = CheckpointStore(storage)
    events = [Leave(seconds=5.0, network_id=1)]
    Simulator(config, lambda: ImageClassification(config, splits), checkpoints=store, events=events).run()
    spec = RunSpec(name="left", folder=storage.uri, config=config, task=None)
    result = evaluate_run(spec, splits, {0: "done", 1: "retired", 2: "done"}, {}, 1.0)
    gone, kept = result["networks"][1], [result["networks"][place] for place in (0, 2)]
    assert gone["interval"] < 4 and all(gone[name] is not None for name in ("best", "last", "by_validation", "weights"))
    for name, mean in (("best", result["mean"]), ("last", result["last"]["mean"])):
        assert mean["accuracy"] == pytest.approx(sum(row[name]["accuracy"] for row in kept) / 2)
        assert gone[name]["accuracy"] < mean["accuracy"] - 0.05
    assert result["train"]["loss"] == pytest.approx(sum(row["train"]["loss"] for row in kept) / 2)
    assert all(1 not in option["networks"] for option in result["deploy"]["options"]) and result["best"] != 1
    soup = evaluate_run(spec, splits, {0: "retired", 1: "done", 2: "retired"}, {}, 1.0)
    assert soup["mean"]["accuracy"] == pytest.approx(gone["best"]["accuracy"]) and soup["agreement"] is None
    everyone = evaluate_run(spec, splits, dict.fromkeys(range(3), "retired"), {}, 1.0)
    assert everyone["deploy"]["options"][1]["networks"] == [0, 1, 2]
    networks = chosen_weights(store, result)
    assert set(networks) == {0, 1, 2} and set(population_of(networks, result)) == {0, 2}
    assert set(population_of(networks, None)) == set(population_of(networks, everyone)) == {0, 1, 2}


def test_validation_scores_are_those_of_the_last_weights(tmp_path: Path) -> None:
    """In lockstep the networks graft once more after their last evaluation."""
    config = small_config(
        name="lockstep",
        mode="lockstep",
        data=DataConfig(train="digits", train_limit=300, test_limit=50, validation=0.3, augmentation="none"),
        population=PopulationConfig(size=2),
        schedule=ScheduleConfig(epochs=2, batch_size=64),
        checkpoint=CheckpointConfig(weights="last"),
    )
    storage, splits = Storage(str(tmp_path)), run_splits(config)
    store = CheckpointStore(storage)
    Simulator(config, lambda: ImageClassification(config, splits), checkpoints=store).run()
    spec = RunSpec(name="lockstep", folder=storage.uri, config=config, task=None)
    result = evaluate_run(spec, splits, {0: "done", 1: "done"}, {}, 1.0)
    validation = evaluation_set(config, splits, "validation", device="cpu")
    module = ImageClassification(config, splits).build(0)
    assert validation is not None
    recorded = []
    for row in result["networks"]:
        newest = store.newest(row["network"])
        assert newest is not None
        load_tensors(module, newest.evaluated_state)
        measured = validation.evaluator.evaluate(module, validation.batches())["accuracy"]
        assert row["last_validation_score"] == row["validation_score"] == pytest.approx(measured)
        chosen = chosen_of(store, row["network"], result)
        assert chosen is not None and chosen.score == pytest.approx(measured)
        recorded.append((newest.training["score"], measured))
    assert any(before != pytest.approx(after) for before, after in recorded)


def test_fit_is_the_mean_over_the_last_epoch(tmp_path: Path) -> None:
    config = small_config(
        data=DataConfig(train="digits", train_limit=200, test_limit=50, validation=0.0, augmentation="none"),
        population=PopulationConfig(size=1),
        schedule=ScheduleConfig(
            epochs=2, batch_size=32, interval_steps=2
        ),  # intervals of 2, 2 and 2 steps, the last of 1
        exchange=ExchangeConfig(rule="none"),
    )
    storage, splits = Storage(str(tmp_path)), run_splits(config)
    store = CheckpointStore(storage)
    Simulator(config, lambda: ImageClassification(config, splits), checkpoints=store).run()
    store.flush_history()
    rows = read_table(storage, "metrics").sort_by("interval").to_pylist()
    last = [row for row in rows if row["epoch"] > 1.0 + 1e-9]
    assert 1 < len(last) < len(rows)
    expected = sum(row["train_loss"] * row["examples"] for row in last) / sum(row["examples"] for row in last)
    assert fit_at_end(storage)[0]["loss"] == pytest.approx(expected)
    assert fit_at_end(storage)[0]["loss"] != pytest.approx(rows[-1]["train_loss"])
