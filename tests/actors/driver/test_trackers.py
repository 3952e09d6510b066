"""Trackers, each read back by its own library, from the folder of a run."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from inarch.actors.driver.callbacks import CallbackDispatcher
from inarch.actors.driver.trackers import TRACKERS, MLflow, TensorBoard, TrackedRun, Tracker, WandB, resolve_trackers
from inarch.actors.driver.trackers.tracked_values import PopulationValues, network_values
from inarch.population.errors import ConfigError
from inarch.population.persistence.history import to_parquet
from inarch.population.persistence.history_reader import HistoryReader, RecordedInterval
from inarch.population.persistence.storage import Storage
from tests.fakes.run_folder import METRIC, run_folder
from tests.fakes.tracker_readers import Points, mlflow_points, mlflow_runs, tensorboard_points, wandb_points

NETWORKS, INTERVALS = 3, 4


class Recorder(Tracker):
    """Keeps what it is given, as a service that survives its tracker."""

    def __init__(self, service: dict[str, Any]) -> None:
        super().__init__()
        self.service = service
        service.setdefault("points", {})
        self.fails_at: tuple[str, int] | None = None

    def begin(self, run: TrackedRun) -> Mapping[str, int]:
        self.service["settings"] = dict(run.settings)
        return self.service.get("sent", {})

    def log(self, key: str, step: int, seconds: float, values: Mapping[str, float]) -> None:
        if (key, step) == self.fails_at:
            raise ConnectionError("no server")
        for name, value in values.items():
            self.service["points"].setdefault(key, {}).setdefault(name, []).append((step, value))

    def record(self, sent: Mapping[str, int]) -> None:
        self.service["sent"] = dict(sent)

    def end(self, *, state: str, artifacts: Path | None) -> None:
        self.service.setdefault("ends", []).append((state, artifacts and sorted(p.name for p in artifacts.iterdir())))


def complete(tracker: Tracker, storage: Storage) -> int:
    tracker.on_start("shown", storage.uri)
    return tracker.complete("finished")


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    return run_folder(tmp_path_factory.mktemp("shown"), networks=NETWORKS, intervals=INTERVALS)


def check_points(points: Points) -> None:
    """Compare what a service holds with the folder that `run_folder` wrote."""
    assert set(points) == {"population", *(f"network-{network}" for network in range(NETWORKS))}
    for network in range(NETWORKS):
        own = points[f"network-{network}"]
        accuracy = {3 * interval: 0.5 + 0.4 * interval / INTERVALS for interval in range(1, INTERVALS + 1)}
        assert dict(own["validation_accuracy"]) == pytest.approx(accuracy)
        assert dict(own["alpha/layer2.weight"]) == pytest.approx(dict.fromkeys(accuracy, 0.6))
        assert len(own["validation_accuracy"]) == len(own["alpha/layer2.weight"]) == INTERVALS
        assert [value for _, value in own["scion"]] == [(network - 1) % NETWORKS] * INTERVALS
    assert [step for step, _ in points["population"]["accuracy/best"]] == list(range(1, INTERVALS + 1))
    ((step, value),) = points["population"]["result/ensemble/accuracy"]
    assert (step, value) == (INTERVALS, pytest.approx(0.8765))
    assert dict(points["population"]["result/decay_time"]) == {INTERVALS: 1.5}
    assert dict(points["population"]["result/train/loss"]) == {INTERVALS: 0.25}
    assert "result/total_pull" not in points["population"]


def test_tracker_gets_each_interval_and_the_result_once(storage: Storage) -> None:
    service: dict[str, Any] = {}
    assert complete(Recorder(service), storage) == NETWORKS * INTERVALS
    assert complete(Recorder(service), storage) == 0
    check_points(service["points"])
    assert service["settings"]["graft.level"] == "layer"
    assert service["ends"] == [("finished", ["config.json", "result.json"]), ("finished", None)]


def test_tracker_that_failed_sends_the_rest_later(storage: Storage) -> None:
    service: dict[str, Any] = {}
    broken = Recorder(service)
    broken.fails_at = ("network-1", 6)
    with pytest.raises(ConnectionError):
        complete(broken, storage)
    assert service["sent"]["network-0"] > service["sent"]["network-1"] == 1
    complete(Recorder(service), storage)
    check_points(service["points"])


def test_tracker_sends_what_failed_before_what_is_new(tmp_path: Path) -> None:
    storage, service = run_folder(tmp_path, networks=2, intervals=4), dict[str, Any]()
    tracker = Recorder(service)
    tracker.on_start("shown", storage.uri)
    tracker.fails_at = ("network-1", 6)
    with pytest.raises(ConnectionError):
        tracker.advance()
    tracker.fails_at = None
    rows = [{"network": network, "interval": 5, "incarnation": 1, "outcome": "skipped"} for network in (0, 1)]
    rows = [row | {"step": 15, "time": 1005.0, "train_loss": 1.0} for row in rows]
    storage.write("metrics/later.parquet", to_parquet(rows, "metrics"))
    tracker.advance()
    for network in (0, 1):
        assert [step for step, _ in service["points"][f"network-{network}"]["train_loss"]] == [3, 6, 9, 12, 15]


def test_tracker_begins_later_if_its_service_is_down(tmp_path: Path) -> None:
    class Down(Recorder):
        is_down = True

        def begin(self, run: TrackedRun) -> Mapping[str, int]:
            if self.is_down:
                raise ConnectionError("no server")
            return super().begin(run)

    storage, service = run_folder(tmp_path, networks=1, intervals=2), dict[str, Any]()
    tracker = Down(service)
    with pytest.raises(ConnectionError):
        tracker.on_start("shown", storage.uri)
    with pytest.raises(ConnectionError):
        tracker.advance()
    tracker.is_down = False
    assert tracker.complete("finished") == 2


def test_result_without_scores_ends_the_tracker(tmp_path: Path) -> None:
    storage, service = run_folder(tmp_path, networks=1, intervals=2), dict[str, Any]()
    storage.replace("result.json", json.dumps({"run": "x", "metrics": [], "networks": [], "seconds": 1.5}).encode())
    for _ in range(2):
        complete(Recorder(service), storage)
    assert service["points"]["population"]["result/seconds"] == [(2, 1.5)]
    assert [state for state, _ in service["ends"]] == ["finished", "finished"]


def test_result_of_a_run_that_failed_before_is_sent(tmp_path: Path) -> None:
    storage, service = run_folder(tmp_path, networks=1, intervals=2), dict[str, Any]()
    failed = Recorder(service)
    failed.on_start("shown", storage.uri)
    failed.complete("failed")
    assert "result/ensemble/accuracy" not in service["points"]["population"]
    complete(Recorder(service), storage)
    assert service["points"]["population"]["result/ensemble/accuracy"] == [(2, 0.8765)]


def test_tracker_that_raises_is_a_warning(storage: Storage, caplog: pytest.LogCaptureFixture) -> None:
    broken = Recorder({})
    broken.fails_at = ("network-0", 3)
    with caplog.at_level(logging.WARNING, logger="inarch"):
        dispatcher = CallbackDispatcher([broken], name="shown", path=storage.uri)
        dispatcher.finish(None)
    assert "callback Recorder raised in on_finish: ConnectionError: no server" in caplog.text


def test_several_donors_give_a_mean_alpha_and_no_scion() -> None:
    graft = {"layer": "a", "own_information": 2.0, "staleness_intervals": 1.0, "alpha": 0.4, "scion": 1}
    other = graft | {"scion": 2, "alpha": 0.8, "staleness_intervals": 3.0}
    row = {"network": 0, "interval": 1, "train_loss": 1.5, "seconds_steps": 2.0, "validation_accuracy": None}
    values = network_values(RecordedInterval(row=row, grafts=(graft, other)))
    assert values == pytest.approx(
        {"train_loss": 1.5, "seconds/steps": 2.0, "alpha/a": 0.6, "information/a": 2.0, "age_intervals": 3.0}
    )


def test_population_step_is_the_median_of_the_intervals() -> None:
    values = PopulationValues(METRIC)
    events = [{"seconds": float(network), "kind": "join", "network_id": network} for network in range(3)]
    events += [{"seconds": 13.0, "kind": "leave", "network_id": 0}]
    steps: list[Any] = []
    for time, (network, interval) in enumerate([(0, 1), (0, 2), (0, 3), (1, 1), (2, 1), (1, 2)], start=7):
        row = {"network": network, "interval": interval, "outcome": "grafted", "time": float(time)}
        row |= {"train_loss": float(interval), "validation_accuracy": 0.1 * interval + network}
        steps.append(values.add(RecordedInterval(row=row, grafts=()), events))
    assert [step and step[0] for step in steps] == [1, 2, 3, None, None, None]
    assert steps[2][1] == pytest.approx(
        {"exchanges/grafted": 3, "losses": 0, "restarts": 0, "size": 3}
        | {f"train_loss/{kind}": 3.0 for kind in ("best", "mean", "worst")}
        | {f"accuracy/{kind}": 0.3 for kind in ("best", "mean", "worst")}
    )
    row = {"network": 2, "interval": 4, "outcome": "skipped", "time": 20.0, "train_loss": float("nan")}
    assert values.add(RecordedInterval(row=row, grafts=()), events) is None, "network 0 has left at interval 3"
    row |= {"network": 1, "interval": 4, "train_loss": 2.0}
    step = values.add(RecordedInterval(row=row, grafts=()), events)
    assert step is not None and step[0] == 4
    assert (step[1]["size"], step[1]["train_loss/best"], step[1]["train_loss/worst"]) == (2, 2.0, 2.0)
    assert (step[1]["accuracy/best"], step[1]["accuracy/worst"]) == pytest.approx((2.1, 1.2))


def test_restarted_network_counts_once() -> None:
    values = PopulationValues(None)
    kinds = ("join", "loss", "restart", "join")
    events = [{"seconds": float(place), "kind": kind, "network_id": 1} for place, kind in enumerate(kinds)]
    events.insert(0, {"seconds": 0.0, "kind": "join", "network_id": 0})
    row = {"network": 0, "interval": 1, "outcome": "skipped", "time": 1.5, "train_loss": 1.0}
    first = values.add(RecordedInterval(row=row, grafts=()), events)
    row |= {"interval": 2, "time": 9.0}
    second = values.add(RecordedInterval(row=row, grafts=()), events)
    assert first is not None and second is not None
    assert [(step["size"], step["losses"], step["restarts"]) for _, step in (first, second)] == [(1, 1, 0), (2, 1, 1)]


def test_names_of_trackers_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [type(tracker) for tracker in resolve_trackers(["tensorboard=logs", "mlflow", "wandb"])] == [
        TensorBoard,
        MLflow,
        WandB,
    ]
    for name in ("tensorbord", "mlflow=", ""):
        with pytest.raises(ConfigError, match="track must consist of tensorboard, mlflow, wandb"):
            resolve_trackers([name])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in TRACKERS:
        with pytest.raises(ConfigError, match=rf"pip install 'inarch\[{name}\]'"):
            resolve_trackers([name])


def test_tensorboard_holds_the_run(storage: Storage, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):
        complete(TensorBoard(str(tmp_path)), storage)
    check_points(tensorboard_points(tmp_path / "shown"))
    texts = EventAccumulator(str(tmp_path / "shown" / "population")).Reload().Tags()["tensors"]
    assert texts == ["settings/text_summary", "result/text_summary"]


def test_tracker_refuses_the_place_of_another_run(storage: Storage, tmp_path: Path) -> None:
    content = json.loads(storage.read("config.json"))
    other = run_folder(tmp_path / "other", networks=1, intervals=1)
    other.replace("config.json", json.dumps(content | {"id": "another"}).encode())
    for make in (lambda: TensorBoard(str(tmp_path)), lambda: WandB(directory=str(tmp_path))):
        complete(make(), storage)
        with pytest.raises(ConfigError, match="another run named shown"):
            make().on_start("shown", other.uri)


@pytest.mark.filterwarnings("ignore")
def test_mlflow_holds_the_run(storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)  # MLflow puts artifacts into the folder mlruns here
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    for _ in range(2):
        complete(MLflow(uri), storage)
    check_points(mlflow_points(uri))
    runs = mlflow_runs(uri)
    parent = runs["population"].info.run_id
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert runs["network-2"].data.tags["mlflow.parentRunId"] == parent
    assert runs["population"].data.params["graft.level"] == "layer"
    assert {file.path for file in MlflowClient(uri).list_artifacts(parent)} == {"config.json", "result.json"}


@pytest.mark.filterwarnings("ignore")
def test_wandb_holds_the_run(storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for _ in range(2):
        complete(WandB(directory=str(tmp_path)), storage)
    check_points(wandb_points(tmp_path, run_name="shown"))


def test_growing_run_is_followed(tmp_path: Path) -> None:
    storage = run_folder(tmp_path, networks=1, intervals=2)
    service: dict[str, Any] = {}
    tracker = Recorder(service)
    tracker.on_start("shown", storage.uri)
    tracker.on_interval({})
    assert service["sent"]["network-0"] == 2
    row = {"network": 0, "interval": 3, "incarnation": 1, "outcome": "skipped", "step": 9, "time": 1003.0}
    storage.write("metrics/0-3-1.parquet", to_parquet([row | {"train_loss": 1.0}], "metrics"))
    tracker.on_interval({})
    assert service["sent"]["network-0"] == 2, "the history is read every few seconds, not at every interval"
    assert tracker.advance() == 1
    assert len(HistoryReader(storage).new_intervals()) == 3
