"""A run that feeds TensorBoard, MLflow and Weights & Biases while its coordinator is killed."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path

import pytest

from inarch import MLflow, PopulationConfig, PopulationRun, TensorBoard, WandB
from inarch.experiments.cli import main
from inarch.population.persistence.history import read_table
from inarch.population.persistence.storage import Storage
from tests.conftest import small_config
from tests.fakes.tracker_readers import Points, mlflow_points, tensorboard_points, wandb_points
from tests.integration.runs import ARRAYS, intervals, own_network, paced, until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def check_points(points: Points, path: str) -> None:
    """Compare the values of a tracker with the history of the run."""
    storage = Storage(path)
    rows, grafts = read_table(storage, "metrics").to_pylist(), read_table(storage, "grafts").to_pylist()
    layer = grafts[0]["layer"]
    for network in range(2):
        own, key = points[f"network-{network}"], f"network-{network}"
        expected = {row["step"]: row["validation_accuracy"] for row in rows if row["network"] == network}
        assert [step for step, _ in own["train_loss"]] == sorted(expected), key
        accuracy = {step: value for step, value in expected.items() if value is not None}
        assert dict(own["validation_accuracy"]) == pytest.approx(accuracy), key
        alphas = [row["alpha"] for row in grafts if row["rootstock"] == network and row["layer"] == layer]
        assert [value for _, value in own[f"alpha/{layer}"]] == pytest.approx(alphas), key
    assert len(points["population"]["result/mean/accuracy"]) == 1
    steps = [step for step, _ in points["population"]["accuracy/mean"]]
    assert steps == sorted(set(steps))


def test_trackers_hold_each_row_once_after_a_coordinator_kill(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # MLflow puts artifacts into the folder mlruns here
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    trackers = [TensorBoard(str(tmp_path / "live")), MLflow(uri), WandB(directory=str(tmp_path))]
    config = small_config(name="tracked", storage=str(tmp_path), population=PopulationConfig(size=2), **paced(40, 0.12))
    run = PopulationRun.start(config, model=own_network, data=ARRAYS, callbacks=trackers, quiet=True)
    until(lambda: min(intervals(run.status()).values(), default=0) >= 4)
    coordinator = run.status().coordinator_process
    os.kill(coordinator, signal.SIGKILL)
    until(lambda: run.status().coordinator_process != coordinator, seconds=40)
    assert run.wait(seconds=120).is_complete
    run.close()
    for points in (
        tensorboard_points(tmp_path / "live" / "tracked"),
        mlflow_points(uri),
        wandb_points(tmp_path, run_name="tracked"),
    ):
        check_points(points, run.path)


def test_track_command_follows_a_live_run(cluster: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = small_config(name="live", storage=str(tmp_path), population=PopulationConfig(size=2), **paced(12, 0.1))
    config = dataclasses.replace(config, track=(f"tensorboard={tmp_path}/own",))
    run = PopulationRun.start(config, model=own_network, data=ARRAYS, quiet=True)
    for _ in range(2):
        with pytest.raises(SystemExit) as exit_status:
            main(["track", run.path, "--to", f"tensorboard={tmp_path}/other", "--live"])
        assert exit_status.value.code == 0
    sent, again = capsys.readouterr().out.split("\n")[:2]
    assert sent.endswith(": 24 intervals sent") and again.endswith(": 0 intervals sent")
    run.wait(seconds=60)
    run.close()
    for folder in ("own", "other"):
        check_points(tensorboard_points(tmp_path / folder / "live"), run.path)
