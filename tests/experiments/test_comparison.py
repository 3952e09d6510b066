"""Comparisons: statistics against hand-computed values, arms of equal work, and a small comparison run twice."""

from __future__ import annotations

import dataclasses
import functools
import gc
import json
import math
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from inarch.actors.coordinator.run_metadata import write_config
from inarch.experiments.comparison import (
    COMPARISONS,
    PAPER_TABLES,
    Arm,
    Comparison,
    ResultsStore,
    comparison,
    costs,
    interval,
    make_report,
    narrowed,
    paired,
    power_text,
    regimes,
    results_store,
    run_comparison,
    trial,
    usual_data,
)
from inarch.experiments.comparison.arms import NONE, papa, small
from inarch.experiments.comparison.compute_budget import planned_regime
from inarch.experiments.comparison.plots import by_epoch, gains
from inarch.experiments.comparison.report import SHOWN, write_report
from inarch.experiments.comparison.results_store import (
    code_version,
    comparable_config,
    differing_fields,
    is_same_config,
    read_rows,
)
from inarch.experiments.comparison.run_summary import SESSIONS, note_session, summarize
from inarch.experiments.comparison.statistics import detectable
from inarch.population import (
    DataConfig,
    DistillationConfig,
    GraftConfig,
    ImageClassification,
    PapaConfig,
    PopulationConfig,
    RunConfig,
    Simulator,
)
from inarch.population.config import from_dict
from inarch.population.errors import ConfigError
from inarch.population.persistence.checkpoint import CheckpointStore
from inarch.population.persistence.history import read_table
from inarch.population.persistence.history_schemas import THRESHOLDS
from inarch.population.persistence.storage import Storage
from inarch.population.state.state_dict import named_tensors
from inarch.population.tasks.image_task import run_splits
from inarch.population.tasks.run_evaluation import evaluate_run
from inarch.population.tasks.run_folder import read_config
from inarch.population.tasks.run_spec import RunSpec
from inarch.population.training.run_preparation import describe_run
from tests.images import write_classes
from tests.population.data.test_loading import png, write_parquet

DIGITS = DataConfig(train="digits", augmentation="crop", padding=1)


def test_interval_equals_students_t_interval() -> None:
    estimate = interval([1.0, 2.0, 3.0, 4.0])
    assert (estimate.mean, estimate.count) == (2.5, 4)
    assert estimate.half == pytest.approx(3.18245 * math.sqrt(5 / 3) / 2, rel=1e-4)
    assert estimate.excludes_zero and not interval([-1.0, 2.0]).excludes_zero
    assert math.isinf(interval([1.0]).half) and not interval([1.0]).excludes_zero
    for value in (math.nan, math.inf):
        unknown = interval([value, 1.0, 2.0])
        assert math.isnan(unknown.mean) and unknown.count == 3 and not unknown.excludes_zero
    with pytest.raises(ValueError, match="at least one"):
        interval([])


def test_paired_uses_common_seeds_and_widens_with_comparisons() -> None:
    scores, baseline = {0: 2.0, 1: 3.0, 2: 4.5, 7: 99.0}, {0: 1.0, 1: 2.0, 2: 3.0}
    difference = paired(scores, baseline)
    assert difference.mean == pytest.approx(3.5 / 3) and difference.count == 3
    assert paired(scores, baseline, num_comparisons=5).half > difference.half
    with pytest.raises(ValueError, match="at least one"):
        paired({0: 1.0}, {1: 1.0})


@pytest.mark.parametrize("name", COMPARISONS)
def test_comparison_arms_differ_but_do_equal_work(name: str) -> None:
    definition = comparison(name, DIGITS, epochs=8)
    by_name = {arm.name: arm for arm in definition.arms}
    if name != "devices":  # it compares equal times
        assert all(arm.work == by_name[definition.baseline_of(arm)].work for arm in definition.arms)
    assert definition.does_equal_work == (len({arm.work for arm in definition.arms}) == 1)
    assert (
        len({comparable_config(arm.config) for arm in definition.arms})
        == len(definition.arms)
        == len({a.name for a in definition.arms})
    )
    assert definition.baseline in {arm.name for arm in definition.arms}
    assert len(definition.seeds) >= 3


def test_gains_are_paired_with_the_baseline_of_their_regime() -> None:
    definition = comparison("horizon", DIGITS, epochs=8)
    losses, accuracies = {"2 x 1": 2.0, "2 x 8": 0.5}, {"independent": (0.5, 0.6), "PAPA": (0.52, 0.64)}
    rows = [
        {"arm": f"{regime}, {method}", "seed": seed, "train_loss": loss, "decay_time": 9.0 - loss}
        | {"last_mean_accuracy": accuracy}
        for regime, loss in losses.items()
        for method, values in accuracies.items()
        for seed, accuracy in enumerate(values)
    ]
    old = {"arm": "2 x 8, grafting", "seed": 0, "last_mean_accuracy": 0.5}  # an old record has no such columns
    (series,) = gains(definition, [*rows, old]).items()
    name, points = series
    assert name == "2 networks, PAPA"
    assert [(point.train_loss, point.decay_time) for point in points] == [(2.0, 7.0), (0.5, 8.5)]
    assert all(point.estimate.mean == pytest.approx(3.0) and point.estimate.count == 2 for point in points)


def test_pictures_have_one_unit_for_arms_of_any_interval() -> None:
    definition = comparison("horizon", DIGITS, epochs=8)
    arms = ("2 x 8, independent", "2 x 8, PAPA")  # a network exchanges every epoch, or every ten steps
    scores = [{"arm": arm, "seed": 0, "steps": 8 * 25} for arm in arms] + [{"arm": "2 x 4, grafting", "seed": 1}]
    rows = [{"arm": arm, "seed": 0, "interval": interval} for arm in arms for interval in (1, 8)]
    old = {"arm": "2 x 4, grafting", "seed": 1, "interval": 3}  # an old record has no steps
    assert [row["epoch"] for row in by_epoch(definition, [*rows, old], scores)] == [1.0, 8.0, 0.4, 3.2, 3.0]


def test_papa_pulls_equally_at_every_length_of_schedule() -> None:
    definition = comparison("horizon", DIGITS, epochs=120)
    pulls = [planned_regime(arm, {}).total_pull for arm in definition.arms if arm.name.endswith("PAPA")]
    assert len(pulls) == 8 and pulls == pytest.approx([pulls[-1]] * 8, rel=0.02)
    brief = comparison("horizon", DIGITS, epochs=4)  # epochs 1, 1, 2 and 4
    assert {arm.config.papa.pull for arm in brief.arms if arm.name.endswith("PAPA")} == {0.5}
    assert len({arm.name for arm in brief.arms}) == len(brief.arms) == 3 * 11
    assert narrowed(brief, seeds=(1, 1, 0)).seeds == (1, 0)


def test_strengths_are_multiples_of_those_of_other_comparisons() -> None:
    arms = {arm.name: comparable_config(arm.config) for arm in comparison("strength", DIGITS, epochs=120).arms}
    others = {
        arm.name: comparable_config(arm.config)
        for name, epochs in (("horizon", 120), ("devices", 60))
        for arm in comparison(name, DIGITS, epochs=epochs).arms
    }
    assert arms["short, independent"] == others["4 x 60, independent"]
    assert arms["short, PAPA x 1"] == others["4 x 60, PAPA"]
    assert arms["long, PAPA x 1"] == others["4 x 120, PAPA"]
    assert arms["short, WASH x 1"] == others["4, WASH"]
    configs = {arm.name: arm.config for arm in comparison("strength", DIGITS, epochs=120).arms}
    assert configs["long, PAPA x 4"].papa.pull == pytest.approx(0.1)
    assert configs["short, WASH x 0.1"].wash.probability == pytest.approx(0.015)


@pytest.mark.parametrize("name", PAPER_TABLES)
def test_published_tables_order_teachers_and_baselines_first(name: str) -> None:
    table = comparison(name, DataConfig(train="cifar100"))
    names = [arm.name for arm in table.arms]
    assert len({comparable_config(arm.config) for arm in table.arms}) == len(names) == len(set(names))
    for index, arm in enumerate(table.arms):
        baseline = table.arms[names.index(table.baseline_of(arm))]
        assert table.baseline_of(arm) in names[: index + 1] and arm.config.mode == "lockstep"
        if name != "paper-table-teachers":
            assert baseline.config.model.architecture == arm.config.model.architecture
            assert baseline.config.population.size == arm.config.population.size
        for teacher in arm.config.distillation.teachers:
            teacher_arm = table.arms[names.index(teacher.removeprefix("arm:").partition("#")[0])]
            network_id = int(teacher.partition("#")[2])
            assert names.index(teacher_arm.name) < index and network_id < teacher_arm.config.population.size
    shorter = comparison(name, DataConfig(train="cifar100"), epochs=3)
    assert {arm.config.schedule.epochs for arm in shorter.arms} == {3}
    step_epochs = {arm.config.schedule.step_epochs for arm in shorter.arms if arm.config.schedule.lr_decay == "step"}
    assert step_epochs <= {1}


def test_published_tables_have_the_settings_of_the_papers() -> None:
    table = comparison("paper-table-criteria", DataConfig(train="cifar10"))
    config = {arm.name: arm.config for arm in table.arms}["resnet56: entropy"]
    assert (config.schedule.epochs, config.schedule.batch_size, config.schedule.step_epochs) == (200, 256, 60)
    assert (config.graft.a, config.graft.c, config.graft.criterion) == (0.4, 500.0, "entropy")
    persons = comparison("paper-table-persons", DataConfig(train="a", test="b", query="c")).arms[0].config
    assert (persons.task, persons.data.image_size, persons.model.weights) == ("retrieval", (256, 128), "DEFAULT")
    optimizers = [arm.config.optimizer for arm in comparison("paper-table-dcff-imagenet", DataConfig()).arms]
    assert {(optimizer.learning_rate, optimizer.momentum) for optimizer in optimizers} == {(0.1, 0.9), (0.01, 0.99)}


def test_costs_equal_those_of_the_networks(tmp_path: Path) -> None:
    table = comparison("paper-table-dcff-cifar10", DataConfig(train="cifar10"))
    arms = [arm for arm in table.arms if "vgg16" in arm.name and not arm.name.endswith(("random", "published"))]
    cost_table, description = costs(dataclasses.replace(table, arms=tuple(arms), seeds=(0, 1)))
    parameters, multiply_adds, images = (list(cost_table.columns[index].cells) for index in (3, 4, 5))
    assert parameters == ["14,728,266", "1,071,248"] and multiply_adds == ["313,201,664", "72,349,240"]
    assert images == ["13,500,000"] * 2
    operations = 2 * 13_500_000 * 6 * (313_201_664 + 72_349_240)
    assert f"{operations:.2e} floating-point" in description and f"{operations / 1e13 / 3600:,.1f} hours" in description


@pytest.mark.parametrize(
    ("name", "arm", "multiply_adds", "images"),
    [
        ("paper-table-imagenet", "resnet18", 1_814_073_344, 2 * 90 * 1_268_355),
        ("paper-table-persons", "resnet50", 2_670_688_256, 2 * 60 * 11_642),
    ],
)
def test_costs_are_known_without_the_data(name: str, arm: str, multiply_adds: int, images: int) -> None:
    table = comparison(name, usual_data(name, train=None, test=None, query=None))
    selected = next(candidate for candidate in table.arms if arm in candidate.name)
    cost_table, _ = costs(dataclasses.replace(table, arms=(selected,)))
    assert [list(cost_table.columns[index].cells) for index in (4, 5)] == [[f"{multiply_adds:,}"], [f"{images:,}"]]


def test_detectable_difference_is_found_as_often_as_it_says() -> None:
    """The least difference of one comparison with 5 seeds, and of the corrected interval, in 4,000 drawn samples."""
    random = np.random.default_rng(0)
    for count, comparisons in ((5, 1), (8, 4)):
        least = detectable(count, num_comparisons=comparisons)
        found = sum(
            paired(
                dict(enumerate(random.normal(least, 1.0, count))),
                dict.fromkeys(range(count), 0.0),
                num_comparisons=comparisons,
            ).excludes_zero
            for _ in range(4000)
        )
        assert found / 4000 == pytest.approx(0.8, abs=0.02)
    with pytest.raises(ValueError, match="at least 2 seeds"):
        detectable(1)


def test_power_of_a_design_is_said_before_it_runs() -> None:
    definition = comparison("equal-work", DIGITS, epochs=4)
    single, together = (detectable(5, num_comparisons=number) for number in (1, len(definition.arms) - 1))
    text = power_text(dataclasses.replace(definition, seeds=(0, 1, 2, 3, 4)))
    assert f"if it is {single:.1f} times" in text and f"and {together:.1f} times" in text
    assert "its noise is not known" in power_text(dataclasses.replace(definition, seeds=(0,)))
    few = narrowed(definition, arms=[arm.name for arm in definition.arms[1:3]], seeds=(0, 1))
    assert "there is no difference to find" in power_text(few)


def test_reported_power_is_that_of_the_usual_number_of_seeds(tmp_path: Path) -> None:
    definition = dataclasses.replace(tiny((0, 1, 2, 3)), arms=(*tiny().arms, papa_arm()))
    store = ResultsStore(tmp_path, definition)
    for index, arm in enumerate(definition.arms):
        for seed in (0, 1) if index == 2 else (0, 1, 2, 3):
            scores = {"mean_accuracy": 0.5 + 0.01 * seed * index, "mean_loss": math.nan if index else 1.0}
            scores |= {"images": 1000, "taken_from": "", "train_seconds": None, "exchanges": 0, "refusals": 0}
            store.add(arm.name, seed, {"scores": [{"config": comparable_config(arm.config), "code": "x", **scores}]})
    make_report(definition, store, command="inarch compare tiny", pictures=False)
    report = (tmp_path / "README.md").read_text()
    assert "With 4 seeds, a true difference of" in report and "1 of the 2 differences have fewer seeds." in report
    assert "| averaging |" in report and " nan |" in report


def test_regimes_of_arms_are_known_before_they_train(tmp_path: Path) -> None:
    definition = comparison("equal-work", DIGITS, epochs=4)
    record = ResultsStore(tmp_path, definition)
    assert set(regimes(definition, record).columns[3].cells) == {"not recorded"}
    losses = {definition.baseline: (0.25, 0.75), definition.arms[-1].name: (0.125,)}
    for arm in definition.arms:
        for seed, loss in enumerate(losses.get(arm.name, ())):
            record.add(arm.name, seed, {"scores": [{"config": comparable_config(arm.config), "train_loss": loss}]})
    table = regimes(definition, record)
    assert list(table.columns[3].cells) == ["0.50"] * (len(definition.arms) - 1) + ["0.12"]
    rows = {cells[0]: cells[1:] for cells in zip(*(list(column.cells) for column in table.columns), strict=True)}
    assert list(rows) == [arm.name for arm in definition.arms]
    for arm in definition.arms:
        steps, decay, _, exchanges, text = rows[arm.name]
        assert steps == f"{11 * arm.config.schedule.epochs:,}"  # 1,294 images in batches of 128
        assert float(decay) == pytest.approx(0.1 * 5e-4 / 0.1 * (11 * arm.config.schedule.epochs + 1) / 2, rel=0.01)
        assert (exchanges == "0") == (text == "none") == (arm.config.exchange.rule == "none")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", PAPER_TABLES)
def test_published_table_arms_train_two_steps_and_exchange(name: str, tmp_path: Path) -> None:
    """The simulator runs each arm in one process, on virtual time and without distillation from other arms."""
    labels = [index % 10 for index in range(40)]
    random = np.random.default_rng(0)
    pictures = [png(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in labels]
    images = write_parquet(tmp_path / "images.parquet", pictures, labels)
    queries = images if name == "paper-table-persons" else None
    table = trial(comparison(name, DataConfig(train=images, test=images, query=queries)))
    assert len(table.arms) >= 4
    for arm in table.arms:
        data = dataclasses.replace(arm.config.data, workers=min(1, arm.config.data.workers))
        config = dataclasses.replace(arm.config, data=data, distillation=DistillationConfig())
        gc.collect()  # reference cycles would keep the networks of the previous arm in memory
        result = Simulator(config, partial(ImageClassification, config, run_splits(config))).run()
        assert len(result.ledger) == len(result.trainers) == config.population.size, arm.name
        expected = "off" if config.exchange.rule == "none" else "grafted"
        assert {line.outcome for line in result.ledger} == {expected}, arm.name
        for trainer in result.trainers.values():
            assert trainer.step == 2, arm.name
            assert all(bool(t.isfinite().all()) for t in named_tensors(trainer.module).values()), arm.name


def test_comparable_config_ignores_name_folder_and_seed() -> None:
    base = small(DIGITS, size=2, epochs=3)
    assert comparable_config(base) == comparable_config(dataclasses.replace(base, name="x", storage="/else", seed=5))
    there, elsewhere = (small(DataConfig(train=f"{at}/a.parquet", test="t.parquet"), size=2, epochs=3) for at in "xy")
    assert comparable_config(there) == comparable_config(elsewhere) != comparable_config(base)
    assert comparable_config(base) != comparable_config(dataclasses.replace(base, papa=PapaConfig(pull=0.5)))


def test_papa_arm_pulls_every_ten_steps_and_evaluates_by_epoch() -> None:
    config = papa(small(DIGITS, size=2, epochs=3))
    assert (config.schedule.interval_steps, config.schedule.eval_every) == (10, "epoch")


def tiny(seeds: tuple[int, ...] = (0, 1), *, epochs: int = 2) -> Comparison:
    base = small(DIGITS, size=2, epochs=epochs)
    schedule = dataclasses.replace(base.schedule, batch_size=256)
    base = dataclasses.replace(base, schedule=schedule, population=PopulationConfig(size=2, cpus=1.0))
    return Comparison(
        name="tiny",
        question="Does it run?",
        arms=(
            Arm(name="independent", description="alone", config=dataclasses.replace(base, exchange=NONE)),
            Arm(name="averaging", description="A = 0", config=dataclasses.replace(base, graft=GraftConfig(a=0.0))),
        ),
        baseline="independent",
        seeds=seeds,
    )


def papa_arm() -> Arm:
    return Arm(name="papa", description="a pull to the mean", config=papa(tiny().arms[0].config))


def run(definition: Comparison, folder: Path, console: Console, **options) -> ResultsStore:
    return run_comparison(
        definition,
        command="inarch compare tiny",
        storage=f"{folder}/runs",
        out=f"{folder}/out",
        console=console,
        **options,
    )


def test_make_report_needs_only_the_results_store(tmp_path: Path) -> None:
    definition = dataclasses.replace(tiny((0, 1, 2)), is_timed=True)
    store = ResultsStore(tmp_path, definition)
    for seed in (0, 1, 2):
        for index, arm in enumerate(definition.arms):
            scores = {f"{kind}_accuracy": 0.5 + 0.01 * seed + 0.1 * index for kind in SHOWN}
            constant_columns = (
                "mean_loss",
                "mean_calibration_error",
                "ensemble_calibration_error",
                "agreement",
                "cosine",
            )
            totals = {"images": 1000, "exchanges": 4 * index, "refusals": 0, "train_seconds": 1.5}
            row = {
                "config": comparable_config(arm.config),
                "code": f"version {min(seed, 1)}",
                "taken_from": "",
                **scores,
                **dict.fromkeys(constant_columns, 0.25),
                **totals,
            }
            curve = {
                "network": 0,
                "epoch": 1.0,
                "images": 500,
                "train_loss": 1.0,
                "validation_accuracy": 0.5,
                "time": 1.0,
            }
            fused = [
                {"network": 0, "epoch": epoch, "layer": layer, "filters": 8, "kept": 4, "temperature": 1.0}
                | {"effective": 5.0 - 4 * epoch, "changed": epoch, "discarded_gradient": 0.5 if epoch else None}
                for epoch in (0, 1)
                for layer in ("a", "b")
            ]
            invalid = [
                {"interval": interval, **dict.fromkeys(THRESHOLDS, share)}
                for interval, share in ((1, 0.0), (2, 0.25), (3, 0.5 * index + 0.01 * seed))
            ]
            filters = [line | {"network": network_id, "entropy": 1.5} for line in invalid for network_id in (0, 1)]
            layers = [line | {"layer": f"{layer}.weight"} for line in invalid for layer in ("one", "two")]
            row |= {"valid_filters": 30.0, "invalid_filters": 2.0, "valid_l1": 4.5, "invalid_l1": 0.5 * index}
            later = curve | {"epoch": 2.0, "validation_accuracy": 0.5 + 0.1 * index, "time": 4.0 + 4.0 * index}
            tables = {"scores": [row], "curves": [curve, later], "filters": filters, "layers": layers}
            store.add(arm.name, seed, tables | {"fusion": fused if index else []})
    assert store.has("independent", 2) and not store.has("independent", 3)
    make_report(definition, store, command="inarch compare tiny")
    report = (tmp_path / "README.md").read_text()
    assert "| independent | 3 | 51.00 ± 2.48 |" in report
    assert "| averaging | **+10.00 ± 0.00** |" in report and "Not run" not in report
    assert "| averaging | filters mixed into a fused one | 5.00 | 1.00 |" in report
    assert "| averaging | gradient to filters not kept, % |  | 50.00 |" in report
    assert (
        "| averaging | kept and not kept before, % |  | 25.00 |" in report and "| independent | filters" not in report
    )
    assert (
        "| arm | below 1, first interval, % | below 1, half way, % | below 1, at the end, % | below 0.1, first"
        in report
    )
    assert "| averaging | 0.000 ± 0.000 | 25.00 ± 0.00 | 51.00 ± 2.48 | 0.000 ± 0.000 |" in report
    assert "| averaging | 30.00 ± 0.00 | 2.000 ± 0.000 | 4.500 ± 0.000 | 0.500 ± 0.000 |" in report
    assert (tmp_path / "layers.png").stat().st_size > 5_000 and "![layers](layers.png)" in report
    assert "| arm | at 1 s, % | at 2 s, % | at 3 s, % | at 4 s, % | first" in report
    assert "| averaging | 50.00 ± 0.00 | 50.00 ± 0.00 | 50.00 ± 0.00 | 50.00 ± 0.00 | 8.000 ± 0.000 |" in report
    assert (
        "| arm | at 1 s | at 2 s | at 3 s | at 4 s |" in report
        and "Differences to *independent* at these times" in report
    )
    assert "| averaging | +0.00 ± 0.00 | +0.00 ± 0.00 | +0.00 ± 0.00 | +0.00 ± 0.00 |" in report
    assert "Made by these versions of the code: **version 0**: independent seed 0; averaging seed 0; " in report
    assert "**version 1**: independent seeds 1, 2; averaging seeds 1, 2." in report
    assert (tmp_path / "time.png").stat().st_size > 5_000
    assert (tmp_path / "fusion.png").stat().st_size > 5_000 and "![fusion](fusion.png)" in report
    assert (tmp_path / "accuracy.png").stat().st_size > 5_000 and not (tmp_path / "alpha.png").exists()


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_runs_that_were_begun_are_refused_at_once(scheme: str, tmp_path: Path) -> None:
    definition = tiny(epochs=3)
    arm = definition.arms[1]
    storage = Storage(f"{tmp_path}/runs/{definition.name}-{arm.name}-1")
    spec = RunSpec(name=storage.uri.rpartition("/")[2], folder=storage.uri, config=arm.config)
    write_config(storage, spec, describe_run(ImageClassification(arm.config, run_splits(arm.config))))
    storage_uri, out, console = f"{scheme}{tmp_path}/runs", f"{tmp_path}/out", Console(quiet=True)
    start = partial(run_comparison, command="", storage=storage_uri, out=out, console=console)
    with pytest.raises(ConfigError, match=f"{arm.name}-1 has another configuration \\(seed\\)"):
        start(definition, seeds=(0, 1), reuse=True)
    spec = dataclasses.replace(spec, config=dataclasses.replace(arm.config, seed=1, address="10.0.0.1:1", name="x"))
    write_config(storage, spec, describe_run(ImageClassification(arm.config, run_splits(arm.config))))
    with pytest.raises(ConfigError, match=f"{arm.name}-1 was begun already; use it with --reuse"):
        start(definition, seeds=(0, 1))
    note_session(storage, spec.config, is_resumed=False)
    content = json.loads(storage.read(SESSIONS))
    storage.replace(SESSIONS, json.dumps(content | {"data": {"train": "digits, of another day"}}).encode())
    with pytest.raises(ConfigError, match=r"-1 has another configuration \(data\.train\)"):
        start(definition, seeds=(1,), reuse=True)
    other = tiny(epochs=4)
    with pytest.raises(ConfigError, match=r"-1 has another configuration \(schedule\.epochs, data\.train\)"):
        start(other, seeds=(1,), reuse=True)
    assert not Path(out).exists() and [path.name for path in (tmp_path / "runs").iterdir()] == [spec.name]


def test_recorded_runs_are_replaced_only_if_the_user_says_so(tmp_path: Path) -> None:
    definition, longer = tiny(), tiny(epochs=3)
    arm = definition.arms[0]
    store = ResultsStore(tmp_path / "out", definition)
    store.add(arm.name, 1, {"scores": [{"config": comparable_config(arm.config), "taken_from": "", "code": "x"}]})
    assert store.has(arm.name, 1) and not store.has_other(arm.name, 1)
    assert ResultsStore(tmp_path / "out", longer).has_other(arm.name, 1)
    for asked, reuse, message in (
        (definition, False, "out already holds 1 of these 4 runs; keep them with --reuse"),
        (longer, False, "holds 1 of these 4 runs with another configuration or other data"),
        (longer, True, r"\(independent seed 1, for example\); replace them with --overwrite"),
    ):
        with pytest.raises(ConfigError, match=message):
            run(asked, tmp_path, Console(quiet=True), reuse=reuse)
    with pytest.raises(ConfigError, match="out: the results are written into a local folder"):
        run_comparison(definition, command="", out="s3://bucket/results", console=Console(quiet=True))
    assert store.has(arm.name, 1)


ADDING = """
import sys
from pathlib import Path
from tests.experiments.test_comparison import ResultsStore, comparable_config, tiny

definition = tiny()
arm = definition.arms[int(sys.argv[2])]
for seed in range(8):
    scores = {"config": comparable_config(arm.config), "taken_from": "", "code": "x", "mean_accuracy": seed / 8}
    ResultsStore(Path(sys.argv[1]), definition).add(arm.name, seed, {"scores": [scores]})
"""


def test_two_processes_add_to_one_folder_and_lose_nothing(tmp_path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", ADDING, str(tmp_path), str(arm)], cwd=ROOT) for arm in (0, 1)]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0]
    definition = tiny()
    rows = ResultsStore(tmp_path, definition).rows("scores")
    assert {(row["arm"], row["seed"]): row["mean_accuracy"] for row in rows} == {
        (arm.name, seed): seed / 8 for arm in definition.arms for seed in range(8)
    }
    assert [path.name for path in tmp_path.iterdir()] == ["scores.parquet"]


def test_summary_records_fit_decay_and_exchanges(tmp_path: Path) -> None:
    definition = tiny(epochs=3)
    config = definition.arms[1].config
    data = dataclasses.replace(DIGITS, train_limit=400, test_limit=60)
    config = dataclasses.replace(config, name="tiny", data=data)
    splits, storage = run_splits(config), Storage(str(tmp_path))
    spec = RunSpec(name="tiny", folder=storage.uri, config=config)
    write_config(storage, spec, describe_run(ImageClassification(config, splits)))
    Simulator(config, lambda: ImageClassification(config, splits), checkpoints=CheckpointStore(storage)).run()
    result = evaluate_run(spec, splits, {0: "done", 1: "done"}, {}, 1.0)
    rows = summarize(
        dataclasses.replace(definition.arms[1], config=config), result, str(tmp_path), baseline=Storage(f"{tmp_path}/x")
    )
    (row,) = rows["scores"]
    last = [line for line in read_table(storage, "metrics").to_pylist() if line["interval"] == 3]
    for name in ("train_loss", "train_accuracy"):
        assert row[name] == pytest.approx(sum(line[name] for line in last) / 2)
    assert row["last_validation_accuracy"] == pytest.approx(sum(line["validation_accuracy"] for line in last) / 2)
    assert row["validation_accuracy"] >= row["last_validation_accuracy"]
    assert row["validation_soup_accuracy"] == result["validation"]["soup"]["accuracy"]
    assert (row["steps"], row["planned_exchanges"], row["total_pull"]) == (6, 2, 1.0)
    assert row["decay_time"] == pytest.approx(0.1 * 5e-4 / 0.1 * 3.5)
    assert row["train_seconds"] == 1.0 and row["code"] == read_config(storage)["versions"]["inarch"]
    assert all(line["time"] > 0 for line in rows["curves"])
    note_session(storage, definition.arms[1].config, is_resumed=True)
    rows = summarize(definition.arms[1], result, str(tmp_path), baseline=Storage(f"{tmp_path}/x"))
    assert rows["scores"][0]["code"] == f"{row['code']}, then {code_version()}"
    assert rows["scores"][0]["train_seconds"] is None and {line["time"] for line in rows["curves"]} == {None}


def test_reports_of_earlier_records_have_empty_cells(tmp_path: Path) -> None:
    folder = tmp_path / "delay"
    shutil.copytree(ROOT / "experiments" / "results" / "delay", folder)
    table = pq.read_table(folder / "scores.parquet")
    assert "train_accuracy" not in table.schema.names
    arm, config = table["arm"][0].as_py(), from_dict(RunConfig, json.loads(table["config"][0].as_py()))
    arms = (Arm(name=arm, description="as recorded", config=config),)
    definition = Comparison(name="delay", question="?", arms=arms, baseline=arm, seeds=(0,))
    assert not is_same_config(table["config"][0].as_py(), comparable_config(config))  # weights are chosen otherwise now
    config = dataclasses.replace(config, checkpoint=dataclasses.replace(config.checkpoint, weights="best"))
    arms = (dataclasses.replace(arms[0], config=config),)
    definition = dataclasses.replace(definition, arms=arms)
    assert is_same_config(table["config"][0].as_py(), comparable_config(config))
    write_report(definition, ResultsStore(folder, definition), command="inarch compare delay")
    (line,) = (row for row in (folder / "README.md").read_text().splitlines() if row.startswith(f"| {arm} |  |  |  |"))
    assert line.count("|") > 8, "steps, D and training loss are empty, and the rest is not"


def test_reuse_copies_rows_of_the_same_config_and_data(tmp_path: Path) -> None:
    definition = tiny()
    arm = definition.arms[0]
    scores = {"config": comparable_config(arm.config), "code": "earlier", "taken_from": "", "mean_accuracy": 0.5}
    scores |= {"invalid_filters_1": 3.0, "valid_l1": 7.0}  # by the baseline of the other comparison
    tables = {"scores": [scores], "curves": [{"epoch": 1.0}, {"epoch": 2.0}]}
    ResultsStore(tmp_path / "one", definition).add("another name", 1, tables)
    second = ResultsStore(tmp_path / "other", definition)
    assert not second.reuse("independent", 0) and not second.reuse("averaging", 1) and second.rows("scores") == []
    other_config = dataclasses.replace(arm.config, data=dataclasses.replace(DIGITS, train="x/digits.parquet", test="y"))
    other_definition = dataclasses.replace(definition, arms=(dataclasses.replace(arm, config=other_config),))
    assert not ResultsStore(tmp_path / "other", other_definition).reuse("independent", 1)
    assert second.reuse("independent", 1) and second.has("independent", 1)
    (row,) = second.rows("scores")
    assert (row["arm"], row["taken_from"], row["mean_accuracy"]) == ("independent", "one", 0.5)
    assert row["invalid_filters_1"] is row["valid_l1"] is None
    assert [line["epoch"] for line in second.rows("curves")] == [1.0, 2.0]
    third = ResultsStore(tmp_path / "third", definition)
    assert third.reuse("independent", 1) and third.rows("scores")[0]["taken_from"] == "one"


ROOT = Path(__file__).resolve().parents[2]


def test_is_same_config_fills_a_missing_field_with_its_default() -> None:
    current = comparable_config(tiny().arms[0].config)
    older, other, unknown = (json.loads(current) for _ in range(3))
    del older["graft"]["weight_alpha"]
    other["graft"]["a"] = 0.25
    unknown["graft"]["removed_field"] = 1
    assert is_same_config(current, current) and is_same_config(json.dumps(older), current)
    assert not any(is_same_config(json.dumps(config), current) for config in (other, unknown))
    assert not is_same_config(None, current)


def test_committed_results_have_loadable_configurations() -> None:
    folders = sorted(path.parent for path in (ROOT / "experiments" / "results").glob("*/scores.parquet"))
    assert len(folders) >= 8
    for folder in folders:
        rows = read_rows(folder, "scores")
        assert all(row["code"] for row in rows) and any(row["config"] for row in rows), folder.name
        for row in rows:
            if row["config"] is not None:
                config = json.loads(row["config"])
                from_dict(RunConfig, config)
                assert config["schedule"]["epochs"] > 0


def test_results_store_hides_rows_of_other_configurations(tmp_path: Path) -> None:
    """A repeated run replaces all rows of the earlier run. A new score column does not remove the older runs."""
    definition = tiny()
    shorter = dataclasses.replace(definition.arms[0], config=small(DIGITS, size=2, epochs=1))
    later = dataclasses.replace(definition, arms=(shorter, definition.arms[1]))
    first, second = ResultsStore(tmp_path, definition), ResultsStore(tmp_path, later)
    for seed in (0, 1):
        scores = {"config": comparable_config(definition.arms[0].config), "taken_from": "", "mean_accuracy": 0.5}
        first.add("independent", seed, {"scores": [scores], "fusion": [{"epoch": 0}]})
    assert first.has("independent", 1) and not second.has("independent", 1) and second.rows("scores") == []
    scores = {"config": comparable_config(shorter.config), "taken_from": "", "mean_mean_average_precision": 0.3}
    second.add("independent", 0, {"scores": [scores]})
    (row,) = second.rows("scores")
    assert row["mean_mean_average_precision"] == 0.3 and second.rows("fusion") == []
    assert [(row["seed"], row["mean_accuracy"]) for row in first.rows("scores")] == [(1, 0.5)]
    assert [row["seed"] for row in first.rows("fusion")] == [1]


def test_other_buckets_and_patterns_are_other_data(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    names = (
        "s3://b/flowers/train",
        "s3://b/cars/train",
        f"{tmp_path}/a/*.parquet",
        f"{tmp_path}/b/*.parquet",
        "cifar10",
    )
    configs = [comparable_config(small(DataConfig(train=name), size=2, epochs=3)) for name in (*names, "cifar100")]
    assert len(set(configs)) == 6
    moved = comparable_config(small(DataConfig(train="gone/train.parquet"), size=2, epochs=3))
    assert moved == comparable_config(small(DataConfig(train="other/train.parquet"), size=2, epochs=3))


def test_comparable_config_differs_for_other_file_content(tmp_path: Path) -> None:
    configs = set()
    for folder, content in (("a", b"12"), ("b", b"123"), ("c", b"12")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "train.parquet").write_bytes(content)
        configs.add(comparable_config(small(DataConfig(train=f"{tmp_path}/{folder}/train.parquet"), size=2, epochs=3)))
    assert len(configs) == 2
    for field in ("train", "validation_set", "test", "query"):
        fields: dict[str, Any] = {"test": "t.parquet"}
        paths = ({**fields, field: f"{tmp_path}/{folder}/train.parquet"} for folder in "cd")
        same, other = (DataConfig(**changes) for changes in paths)
        (tmp_path / "d").mkdir(exist_ok=True)
        (tmp_path / "d" / "train.parquet").write_bytes(b"13")  # of equal size
        configs_of = functools.partial(small, size=2, epochs=3, **({"task": "retrieval"} if field == "query" else {}))
        pair = [comparable_config(configs_of(data)) for data in (same, other)]
        assert differing_fields(*pair) == [f"data.{field}"]
    recorded = json.loads(comparable_config(small(DataConfig(train=f"{tmp_path}/a/train.parquet"), size=2, epochs=3)))
    current = json.dumps(recorded)
    recorded["data"]["train"] = "train.parquet, 2 bytes"  # as it was recorded before
    assert is_same_config(json.dumps(recorded), current)


def test_folders_of_equal_names_are_other_data(tmp_path: Path) -> None:
    configs: list[str] = []
    for place, classes in (("a", "xy"), ("b", "xz"), ("c", "xy")):
        folder = write_classes(tmp_path / place / "images" / "train", classes)
        configs.append(comparable_config(small(DataConfig(train=folder), size=2, epochs=3)))
    assert configs[0] == configs[2] != configs[1]
    (tmp_path / "a" / "images" / "train" / "gone.png").symlink_to(tmp_path / "nowhere")
    assert comparable_config(small(DataConfig(train=f"{tmp_path}/a/images/train"), size=2, epochs=3)) == configs[0]
    definition = dataclasses.replace(tiny(), arms=tiny().arms[:1])

    def store(name: str, place: str) -> ResultsStore:
        data = DataConfig(train=f"{tmp_path}/{place}/images/train")
        config = dataclasses.replace(definition.arms[0].config, data=data)
        arm = dataclasses.replace(definition.arms[0], config=config)
        return ResultsStore(tmp_path / name, dataclasses.replace(definition, arms=(arm,)))

    config = dataclasses.replace(definition.arms[0].config, data=DataConfig(train=f"{tmp_path}/a/images/train"))
    row = {"config": comparable_config(config), "code": "x", "taken_from": "", "mean_accuracy": 0.5}
    store("one", "a").add("independent", 0, {"scores": [row]})
    assert store("one", "c").has("independent", 0) and store("two", "c").reuse("independent", 0)
    assert not store("one", "b").has("independent", 0) and not store("three", "b").reuse("independent", 0)


def test_commit_of_another_repository_is_not_recorded(tmp_path: Path) -> None:
    """An environment often lies within the repository of the project that uses it."""
    package = tmp_path / "inarch"
    package.mkdir()
    shutil.copy(results_store.__file__, package / "results_store.py")
    script = (
        f"import sys; sys.path.insert(0, {str(package)!r}); import results_store; print(results_store.code_version())"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@x", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    for is_tracked in (False, True):
        if is_tracked:
            subprocess.run([*git, "add", "."], check=True)
        found = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )
        assert ("+" in found.stdout) == is_tracked, found.stdout


def test_comparison_without_teacher_or_test_images_is_refused() -> None:
    table = comparison("paper-table-density", DIGITS)
    with pytest.raises(ConfigError, match="is taught by '1 resnet56 to teach'"):
        narrowed(table, arms=("resnet56 from resnet56: teaching",))
    with pytest.raises(ConfigError, match="give --test"):
        trial(comparison("paper-table-criteria", DataConfig(train="x/train.parquet")))
    with pytest.raises(ConfigError, match="epochs must be at least 1"):
        comparison("two-networks", DIGITS, epochs=0)
    for name in ("horizon", "paper-table-scions"):
        with pytest.raises(ConfigError, match="epochs must be at least 1, got -5"):
            comparison(name, DIGITS, epochs=-5)
    assert usual_data("paper-table-teachers", train=None, test=None, query=None).train == "cifar100"
    assert usual_data("paper-table-persons", train="a", test="b", query="c").query == "c"
    assert usual_data("quickstart", train=None, test=None, query=None).train == "digits"


def test_comparison_with_unequal_work_or_bad_name_is_refused(tmp_path: Path) -> None:
    definition = tiny()
    longer = dataclasses.replace(definition.arms[1], config=small(DIGITS, size=2, epochs=5))
    with pytest.raises(ConfigError, match="equal work"):
        run(dataclasses.replace(definition, arms=(definition.arms[0], longer)), tmp_path, Console(quiet=True))
    with pytest.raises(ConfigError, match="no arm 'other'"):
        run(definition, tmp_path, Console(quiet=True), arms=("other",))
    with pytest.raises(ConfigError, match="no comparison"):
        comparison("none", DIGITS)
