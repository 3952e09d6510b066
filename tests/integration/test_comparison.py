"""Comparisons that train their arms on Ray."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from inarch.experiments.comparison import (
    comparison,
    trial,
)
from inarch.experiments.comparison.results_store import code_version
from tests.experiments.test_comparison import DIGITS, run, tiny

pytestmark = [pytest.mark.ray]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_trial_of_a_published_table_trains_its_teachers(cluster: str, tmp_path: Path) -> None:
    table = trial(comparison("paper-table-density", DIGITS))
    with open(tmp_path / "said", "w") as sink:
        store = run(table, tmp_path, Console(file=sink, width=200))
    rows = {row["arm"]: row for row in store.rows("scores")}
    assert len(rows) == 5 and {row["images"] for row in rows.values()} == {16, 32}
    assert all(row["invalid_filters"] is not None for row in rows.values())
    report = (store.folder / "README.md").read_text()
    assert "Differences to *resnet56 from resnet56: baseline*" in report
    assert "arms do not do equal work" in report


@pytest.mark.slow
def test_run_comparison_resumes_and_writes_its_report(cluster: str, tmp_path: Path) -> None:
    with open(tmp_path / "said", "w") as sink:
        store = run(tiny((0,), epochs=3), tmp_path, Console(file=sink, width=200))
        store = run(tiny((0, 1), epochs=3), tmp_path, Console(file=sink, width=200), arms=("independent",), reuse=True)
    output = (tmp_path / "said").read_text()
    assert "2 runs to do, 12 epochs of one network" in output and "1 runs to do, 6 epochs" in output
    scores = store.rows("scores")
    assert {(row["arm"], row["seed"]) for row in scores} == {("independent", 0), ("averaging", 0), ("independent", 1)}
    by_arm = {row["arm"]: row for row in scores if row["seed"] == 0}
    assert by_arm["independent"]["exchanges"] == 0 and by_arm["averaging"]["exchanges"] > 0
    assert by_arm["independent"]["images"] == by_arm["averaging"]["images"] > 0
    assert all(0.05 < row["mean_accuracy"] <= 1 and 0 <= row["mean_calibration_error"] <= 1 for row in scores)
    assert max(row["interval"] for row in store.rows("similarity")) == 3
    assert {row["alpha"] for row in store.rows("alphas")} == {0.5}
    assert {row["arm"] for row in store.rows("filters")} == {"independent", "averaging"}
    layers = store.rows("layers")
    assert len(layers) == 3 * 3 * 7 and all(0 <= row["invalid_0_1"] <= row["invalid_1"] <= 1 for row in layers)
    firsts = [row["time"] for row in store.rows("curves") if row["epoch"] == 1.0]
    assert all(0 < seconds < 60 for seconds in firsts), "time is counted from the start of the first interval"
    report = (store.folder / "README.md").read_text()
    assert f"Made by these versions of the code: **{code_version()}**" in report
    assert "| independent | 2 |" in report and "Not run: averaging seed 1." in report
    assert all((store.folder / f"{name}.png").stat().st_size > 5_000 for name in ("accuracy", "filters", "similarity"))
