"""Comparisons: statistics by hand-made values, arms of equal work, and a small one run for real, twice."""

from __future__ import annotations

import dataclasses
import gc
import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

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
    run_comparison,
    trial,
    usual_data,
)
from inarch.experiments.comparison.arms import NONE, papa, small
from inarch.experiments.comparison.report import SHOWN
from inarch.experiments.comparison.results_store import code_version, comparable_config, is_same_config, read_rows
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
from inarch.population.persistence.history import THRESHOLDS
from inarch.population.state.state_dict import named_tensors
from inarch.population.tasks.image_classification import run_splits
from tests.population.data.test_loading import png, write_parquet

DIGITS = DataConfig(train="digits", augmentation="crop", padding=1)


def test_interval_is_students() -> None:
    found = interval([1.0, 2.0, 3.0, 4.0])
    assert (found.mean, found.count) == (2.5, 4)
    assert found.half == pytest.approx(3.18245 * math.sqrt(5 / 3) / 2, rel=1e-4)
    assert found.excludes_zero and not interval([-1.0, 2.0]).excludes_zero
    assert math.isinf(interval([1.0]).half) and not interval([1.0]).excludes_zero
    with pytest.raises(ValueError, match="at least one"):
        interval([])


def test_paired_differences_leave_out_what_only_one_has_and_widen_with_comparisons() -> None:
    one, other = {0: 2.0, 1: 3.0, 2: 4.5, 7: 99.0}, {0: 1.0, 1: 2.0, 2: 3.0}
    found = paired(one, other)
    assert found.mean == pytest.approx(3.5 / 3) and found.count == 3
    assert paired(one, other, num_comparisons=5).half > found.half
    with pytest.raises(ValueError, match="at least one"):
        paired({0: 1.0}, {1: 1.0})


@pytest.mark.parametrize("name", COMPARISONS)
def test_arms_of_a_comparison_do_equal_work_and_differ(name: str) -> None:
    found = comparison(name, DIGITS, epochs=4)
    assert len({arm.work for arm in found.arms}) == 1
    assert (
        len({comparable_config(arm.config) for arm in found.arms})
        == len(found.arms)
        == len({a.name for a in found.arms})
    )
    assert found.baseline in {arm.name for arm in found.arms}
    assert len(found.seeds) >= 3


@pytest.mark.parametrize("name", PAPER_TABLES)
def test_published_tables_compare_what_is_there_and_teachers_come_first(name: str) -> None:
    found = comparison(name, DataConfig(train="cifar100"))
    names = [arm.name for arm in found.arms]
    assert len({comparable_config(arm.config) for arm in found.arms}) == len(names) == len(set(names))
    for place, arm in enumerate(found.arms):
        against = found.arms[names.index(found.baseline_of(arm))]
        assert found.baseline_of(arm) in names[: place + 1] and arm.config.mode == "lockstep"
        if name != "paper-table-teachers":
            assert against.config.model.architecture == arm.config.model.architecture
            assert against.config.population.size == arm.config.population.size
        for teacher in arm.config.distillation.teachers:
            taught_by = found.arms[names.index(teacher.removeprefix("arm:").partition("#")[0])]
            number = int(teacher.partition("#")[2])
            assert names.index(taught_by.name) < place and number < taught_by.config.population.size
    shorter = comparison(name, DataConfig(train="cifar100"), epochs=3)
    assert {arm.config.schedule.epochs for arm in shorter.arms} == {3}
    falls = {arm.config.schedule.step_epochs for arm in shorter.arms if arm.config.schedule.lr_decay == "step"}
    assert falls <= {1}


def test_published_settings_are_the_papers() -> None:
    table = comparison("paper-table-criteria", DataConfig(train="cifar10"))
    config = {arm.name: arm.config for arm in table.arms}["resnet56: entropy"]
    assert (config.schedule.epochs, config.schedule.batch_size, config.schedule.step_epochs) == (200, 256, 60)
    assert (config.graft.a, config.graft.c, config.graft.criterion) == (0.4, 500.0, "entropy")
    persons = comparison("paper-table-persons", DataConfig(train="a", test="b", query="c")).arms[0].config
    assert (persons.task, persons.data.image_size, persons.model.weights) == ("retrieval", (256, 128), "DEFAULT")
    rates = [arm.config.optimizer for arm in comparison("paper-table-dcff-imagenet", DataConfig()).arms]
    assert {(found.learning_rate, found.momentum) for found in rates} == {(0.1, 0.9), (0.01, 0.99)}


def test_costs_are_those_of_the_networks(tmp_path: Path) -> None:
    table = comparison("paper-table-dcff-cifar10", DataConfig(train="cifar10"))
    kept = [arm for arm in table.arms if "vgg16" in arm.name and not arm.name.endswith(("random", "published"))]
    shown, description = costs(dataclasses.replace(table, arms=tuple(kept), seeds=(0, 1)))
    parameters, multiply_adds, images = (list(shown.columns[index].cells) for index in (3, 4, 5))
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
def test_costs_are_told_without_the_data(name: str, arm: str, multiply_adds: int, images: int) -> None:
    table = comparison(name, usual_data(name, train=None, test=None, query=None))
    kept = next(one for one in table.arms if arm in one.name)
    shown, _ = costs(dataclasses.replace(table, arms=(kept,)))
    assert [list(shown.columns[index].cells) for index in (4, 5)] == [[f"{multiply_adds:,}"], [f"{images:,}"]]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_published_table_is_tried_with_its_teachers(cluster: str, tmp_path: Path) -> None:
    asked = trial(comparison("paper-table-density", DIGITS))
    with open(tmp_path / "said", "w") as said:
        record = run(asked, tmp_path, Console(file=said, width=200))
    rows = {row["arm"]: row for row in record.rows("scores")}
    assert len(rows) == 5 and {row["images"] for row in rows.values()} == {16, 32}
    assert all(row["invalid_filters"] is not None for row in rows.values())
    report = (record.folder / "README.md").read_text()
    assert "Differences to *resnet56 from resnet56: baseline*" in report
    assert "arms do not do equal work" in report


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", PAPER_TABLES)
def test_every_arm_of_a_published_table_trains_two_steps_and_exchanges(name: str, tmp_path: Path) -> None:
    """On virtual time in one process, without the teachers that other arms would be."""
    labels = [index % 10 for index in range(40)]
    random = np.random.default_rng(0)
    pictures = [png(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in labels]
    images = write_parquet(tmp_path / "images.parquet", pictures, labels)
    asks = images if name == "paper-table-persons" else None
    table = trial(comparison(name, DataConfig(train=images, test=images, query=asks)))
    assert len(table.arms) >= 4
    for arm in table.arms:
        data = dataclasses.replace(arm.config.data, workers=min(1, arm.config.data.workers))
        config = dataclasses.replace(arm.config, data=data, distillation=DistillationConfig())
        gc.collect()  # a population's networks are held in circles: the last arm's would stay
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


def test_papa_pulls_every_ten_steps_and_is_evaluated_once_an_epoch() -> None:
    config = papa(small(DIGITS, size=2, epochs=3))
    assert (config.schedule.interval_steps, config.schedule.eval_every) == (10, "epoch")


def tiny(seeds: tuple[int, ...] = (0, 1)) -> Comparison:
    base = small(DIGITS, size=2, epochs=2)
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


def run(asked: Comparison, folder: Path, console: Console, **options) -> ResultsStore:
    return run_comparison(
        asked, command="inarch compare tiny", storage=f"{folder}/runs", out=f"{folder}/out", console=console, **options
    )


@pytest.mark.ray
@pytest.mark.slow
def test_a_comparison_runs_goes_on_where_it_was_and_tells_what_it_found(cluster: str, tmp_path: Path) -> None:
    with open(tmp_path / "said", "w") as said:
        record = run(tiny((0,)), tmp_path, Console(file=said, width=200))
        record = run(tiny((0, 1)), tmp_path, Console(file=said, width=200), arms=("independent",))
    description = (tmp_path / "said").read_text()
    assert "2 runs to do, 8 epochs of one network" in description and "1 runs to do, 4 epochs" in description
    scores = record.rows("scores")
    assert {(row["arm"], row["seed"]) for row in scores} == {("independent", 0), ("averaging", 0), ("independent", 1)}
    by_arm = {row["arm"]: row for row in scores if row["seed"] == 0}
    assert by_arm["independent"]["exchanges"] == 0 and by_arm["averaging"]["exchanges"] > 0
    assert by_arm["independent"]["images"] == by_arm["averaging"]["images"] > 0
    assert all(0.05 < row["mean_accuracy"] <= 1 and 0 <= row["mean_calibration_error"] <= 1 for row in scores)
    assert {row["interval"] for row in record.rows("similarity")} == {2}
    assert {row["alpha"] for row in record.rows("alphas")} == {0.5}
    assert {row["arm"] for row in record.rows("filters")} == {"independent", "averaging"}
    layers = record.rows("layers")
    assert len(layers) == 3 * 2 * 7 and all(0 <= row["invalid_0_1"] <= row["invalid_1"] <= 1 for row in layers)
    firsts = [row["time"] for row in record.rows("curves") if row["epoch"] == 1.0]
    assert all(0 < seconds < 60 for seconds in firsts), "counted from the beginning of the first interval"
    report = (record.folder / "README.md").read_text()
    assert f"Made by these versions of the code: **{code_version()}**" in report
    assert "| independent | 2 |" in report and "Not run: averaging seed 1." in report
    assert all((record.folder / f"{name}.png").stat().st_size > 5_000 for name in ("accuracy", "filters", "similarity"))


def test_the_report_is_made_from_the_record_alone(tmp_path: Path) -> None:
    asked = dataclasses.replace(tiny((0, 1, 2)), is_timed=True)
    record = ResultsStore(tmp_path, asked)
    for seed in (0, 1, 2):
        for index, arm in enumerate(asked.arms):
            scores = {f"{kind}_accuracy": 0.5 + 0.01 * seed + 0.1 * index for kind in SHOWN}
            beside = ("mean_loss", "mean_calibration_error", "ensemble_calibration_error", "agreement", "cosine")
            counted = {"images": 1000, "exchanges": 4 * index, "refusals": 0, "train_seconds": 1.5}
            row = {
                "config": comparable_config(arm.config),
                "code": f"version {min(seed, 1)}",
                "taken_from": "",
                **scores,
                **dict.fromkeys(beside, 0.25),
                **counted,
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
            found = {"scores": [row], "curves": [curve, later], "filters": filters, "layers": layers}
            record.add(arm.name, seed, found | {"fusion": fused if index else []})
    assert record.has("independent", 2) and not record.has("independent", 3)
    make_report(asked, record, command="inarch compare tiny")
    description = (tmp_path / "README.md").read_text()
    assert "| independent | 3 | 51.00 ± 2.48 |" in description
    assert "| averaging | **+10.00 ± 0.00** |" in description and "Not run" not in description
    assert "| averaging | filters mixed into a fused one | 5.00 | 1.00 |" in description
    assert "| averaging | gradient to filters not kept, % |  | 50.00 |" in description
    assert (
        "| averaging | kept and not kept before, % |  | 25.00 |" in description
        and "| independent | filters" not in description
    )
    assert (
        "| arm | below 1, first interval, % | below 1, half way, % | below 1, at the end, % | below 0.1, first"
        in description
    )
    assert "| averaging | 0.000 ± 0.000 | 25.00 ± 0.00 | 51.00 ± 2.48 | 0.000 ± 0.000 |" in description
    assert "| averaging | 30.00 ± 0.00 | 2.000 ± 0.000 | 4.500 ± 0.000 | 0.500 ± 0.000 |" in description
    assert (tmp_path / "layers.png").stat().st_size > 5_000 and "![layers](layers.png)" in description
    assert "| arm | at 1 s, % | at 2 s, % | at 3 s, % | at 4 s, % | first" in description
    assert "| averaging | 50.00 ± 0.00 | 50.00 ± 0.00 | 50.00 ± 0.00 | 50.00 ± 0.00 | 8.000 ± 0.000 |" in description
    assert (
        "| arm | at 1 s | at 2 s | at 3 s | at 4 s |" in description
        and "Differences to *independent* at these times" in description
    )
    assert "| averaging | +0.00 ± 0.00 | +0.00 ± 0.00 | +0.00 ± 0.00 | +0.00 ± 0.00 |" in description
    assert "Made by these versions of the code: **version 0**: independent seed 0; averaging seed 0; " in description
    assert "**version 1**: independent seeds 1, 2; averaging seeds 1, 2." in description
    assert (tmp_path / "time.png").stat().st_size > 5_000
    assert (tmp_path / "fusion.png").stat().st_size > 5_000 and "![fusion](fusion.png)" in description
    assert (tmp_path / "accuracy.png").stat().st_size > 5_000 and not (tmp_path / "alpha.png").exists()


def test_a_run_of_the_same_configuration_and_data_is_taken_from_the_record_beside(tmp_path: Path) -> None:
    asked = tiny()
    arm = asked.arms[0]
    scores = {"config": comparable_config(arm.config), "code": "earlier", "taken_from": "", "mean_accuracy": 0.5}
    found = {"scores": [scores], "curves": [{"epoch": 1.0}, {"epoch": 2.0}]}
    ResultsStore(tmp_path / "one", asked).add("another name", 1, found)
    other = ResultsStore(tmp_path / "other", asked)
    assert not other.reuse("independent", 0) and not other.reuse("averaging", 1) and other.rows("scores") == []
    elsewhere = dataclasses.replace(arm.config, data=dataclasses.replace(DIGITS, train="x/digits.parquet", test="y"))
    there = dataclasses.replace(asked, arms=(dataclasses.replace(arm, config=elsewhere),))
    assert not ResultsStore(tmp_path / "other", there).reuse("independent", 1)
    assert other.reuse("independent", 1) and other.has("independent", 1)
    (row,) = other.rows("scores")
    assert (row["arm"], row["taken_from"], row["mean_accuracy"]) == ("independent", "one", 0.5)
    assert [line["epoch"] for line in other.rows("curves")] == [1.0, 2.0]
    third = ResultsStore(tmp_path / "third", asked)
    assert third.reuse("independent", 1) and third.rows("scores")[0]["taken_from"] == "one"


ROOT = Path(__file__).resolve().parents[2]


def test_recorded_configuration_without_a_newer_field_equals_that_with_its_default() -> None:
    current = comparable_config(tiny().arms[0].config)
    older, other, unknown = (json.loads(current) for _ in range(3))
    del older["graft"]["weight_alpha"]
    other["graft"]["a"] = 0.25
    unknown["graft"]["removed_field"] = 1
    assert is_same_config(current, current) and is_same_config(json.dumps(older), current)
    assert not any(is_same_config(json.dumps(config), current) for config in (other, unknown))
    assert not is_same_config(None, current)


def test_committed_results_belong_to_the_arms_as_they_are_configured_now() -> None:
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


def test_rows_of_other_configurations_are_kept_and_not_shown(tmp_path: Path) -> None:
    """A run that is made anew leaves no row of the earlier one, and a score that is new loses no older run."""
    asked = tiny()
    shorter = dataclasses.replace(asked.arms[0], config=small(DIGITS, size=2, epochs=1))
    later = dataclasses.replace(asked, arms=(shorter, asked.arms[1]))
    first, second = ResultsStore(tmp_path, asked), ResultsStore(tmp_path, later)
    for seed in (0, 1):
        scores = {"config": comparable_config(asked.arms[0].config), "taken_from": "", "mean_accuracy": 0.5}
        first.add("independent", seed, {"scores": [scores], "fusion": [{"epoch": 0}]})
    assert first.has("independent", 1) and not second.has("independent", 1) and second.rows("scores") == []
    scores = {"config": comparable_config(shorter.config), "taken_from": "", "mean_mean_average_precision": 0.3}
    second.add("independent", 0, {"scores": [scores]})
    (row,) = second.rows("scores")
    assert row["mean_mean_average_precision"] == 0.3 and second.rows("fusion") == []
    assert [(row["seed"], row["mean_accuracy"]) for row in first.rows("scores")] == [(1, 0.5)]
    assert [row["seed"] for row in first.rows("fusion")] == [1]


def test_files_of_one_name_and_other_content_are_other_data(tmp_path: Path) -> None:
    found = set()
    for folder, content in (("a", b"12"), ("b", b"123"), ("c", b"12")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "train.parquet").write_bytes(content)
        found.add(comparable_config(small(DataConfig(train=f"{tmp_path}/{folder}/train.parquet"), size=2, epochs=3)))
    assert len(found) == 2


def test_an_arm_needs_its_teacher_and_a_trial_its_test_images() -> None:
    table = comparison("paper-table-density", DIGITS)
    with pytest.raises(ConfigError, match="is taught by '1 resnet56 to teach'"):
        narrowed(table, arms=("resnet56 from resnet56: teaching",))
    with pytest.raises(ConfigError, match="give --test"):
        trial(comparison("paper-table-criteria", DataConfig(train="x/train.parquet")))
    with pytest.raises(ConfigError, match=r"schedule\.epochs"):
        comparison("two-networks", DIGITS, epochs=0)
    assert usual_data("paper-table-teachers", train=None, test=None, query=None).train == "cifar100"
    assert usual_data("paper-table-persons", train="a", test="b", query="c").query == "c"


def test_unequal_work_and_unknown_names_are_refused(tmp_path: Path) -> None:
    arms = tiny()
    longer = dataclasses.replace(arms.arms[1], config=small(DIGITS, size=2, epochs=5))
    with pytest.raises(ConfigError, match="equal work"):
        run(dataclasses.replace(arms, arms=(arms.arms[0], longer)), tmp_path, Console(quiet=True))
    with pytest.raises(ConfigError, match="no arm 'other'"):
        run(arms, tmp_path, Console(quiet=True), arms=("other",))
    with pytest.raises(ConfigError, match="no comparison"):
        comparison("none", DIGITS)
