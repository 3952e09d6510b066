"""Tasks and extensions of one's own on Ray: from Python, from the command line, killed and resumed."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from inarch.actors import PopulationRun
from inarch.actors.driver.callbacks import CALLBACKS
from inarch.experiments.display import status_table
from inarch.experiments.export import export_network, predict_images
from inarch.experiments.result_display import result_table
from inarch.experiments.saved_runs import evaluate_again
from inarch.population import (
    DataConfig,
    DebugConfig,
    ExchangeConfig,
    GraftConfig,
    ModelConfig,
    OptimizerConfig,
    PopulationConfig,
    RunConfig,
    ScheduleConfig,
    StragglerConfig,
    TextConfig,
    TopologyConfig,
)
from inarch.population.data.datasets import DATASETS
from inarch.population.errors import ConfigError, UserCodeError
from inarch.population.exchange import RULES
from inarch.population.extension.registry import Registry
from inarch.population.grafting.criterion_names import CRITERIA
from inarch.population.membership.topology import TOPOLOGIES
from inarch.population.models.model_names import MODELS
from inarch.population.persistence.history import read_table
from inarch.population.persistence.storage import Storage
from inarch.population.tasks.built_in import TASKS
from tests.conftest import small_config
from tests.fakes import extension
from tests.integration.runs import until
from tests.population.tasks.test_tensor_task import Line, Raising, line_config

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]

ROOT = Path(__file__).resolve().parents[2]


def headings(table: Any) -> list[str]:
    return [str(column.header) for column in table.columns]


def test_own_task_trains_and_shows_its_metrics(tmp_path: Path) -> None:
    config = line_config(name="line", storage=str(tmp_path))
    with PopulationRun.start(config, task=Line()) as run:
        result = run.wait(seconds=90)
        status = run.status()
        events = [event for event in run.events() if event.kind == "interval"]
    assert result.is_complete and result.ensemble is not None and result.mean is not None
    assert result.ensemble.error <= result.mean.error < 1.0
    assert {"validation_error", "validation_within", "train_absolute"} <= set(
        read_table(Storage(run.path), "metrics").schema.names
    )
    assert set(events[-1].detail["validation"]) == {"error", "within"}
    assert headings(status_table(status))[:4] == ["network", "epoch", "loss", "error"]
    table = result.table or {}
    assert headings(result_table(table))[1:4] == ["error", "within 0.1", "last error"]
    best = min(table["networks"], key=lambda row: row["validation_score"])
    assert table["best"] == best["network"] and table["task"] == "callable"
    with pytest.raises(ConfigError, match="task of the caller"):
        evaluate_again(run.path)
    assert evaluate_again(run.path, task=Line())["ensemble"] == pytest.approx(table["ensemble"])
    with pytest.raises(ConfigError, match="predict classifies images"):
        next(predict_images(run.path, ["x.png"]))
    for what in ("best", "soup"):
        assert Path(export_network(run.path, what=what)[0]).exists()


def test_own_task_that_raises_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(UserCodeError, match=r"Raising\.loss raised KeyError: 'labels'"):
        PopulationRun.start(line_config(name="raising", storage=str(tmp_path)), task=Raising)
    assert not (tmp_path / "raising").exists()


@pytest.mark.slow
def test_own_task_survives_a_kill_and_resumes(tmp_path: Path) -> None:
    config = line_config(
        name="killed",
        storage=str(tmp_path),
        schedule=ScheduleConfig(epochs=40, batch_size=16, lr_decay="constant"),
        debug=DebugConfig(straggler=StragglerConfig(step_seconds=0.02)),
    )
    run = PopulationRun.start(config, task=Line)
    network = until(lambda: next((n for n in run.status().networks if n.interval >= 2 and n.process), None))
    os.kill(network.process, signal.SIGKILL)
    until(lambda: any(n.network_id == network.network_id and n.incarnation == 2 for n in run.status().networks))
    run.stop(seconds=60)
    run.close()
    with pytest.raises(ConfigError, match="begun with a task of the caller"):
        PopulationRun.resume(run.path)
    resumed = PopulationRun.resume(run.path, task=Line)
    result = resumed.wait(seconds=120)
    resumed.close()
    assert result.is_complete and [network.interval for network in result.networks] == [40, 40]
    rows = read_table(Storage(run.path), "metrics")
    assert sorted(zip(rows["network"].to_pylist(), rows["interval"].to_pylist(), strict=True)) == [
        (network_id, interval) for network_id in (0, 1) for interval in range(1, 41)
    ]


@pytest.mark.slow
def test_language_run_survives_a_kill(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("networks graft the weights of their neighbors. " * 60)
    config = RunConfig(
        name="text",
        storage=str(tmp_path),
        task="language",
        text=TextConfig(source=str(tmp_path / "text.txt"), context=16, width=16, layers=1, heads=2),
        population=PopulationConfig(size=2),
        schedule=ScheduleConfig(epochs=8, batch_size=16, lr_decay="constant"),
        optimizer=OptimizerConfig(name="adamw", learning_rate=0.01),
        debug=DebugConfig(straggler=StragglerConfig(step_seconds=0.05)),
    )
    run = PopulationRun.start(config)
    network = until(lambda: next((n for n in run.status().networks if n.interval >= 2 and n.process), None))
    os.kill(network.process, signal.SIGKILL)
    result = run.wait(seconds=120)
    run.close()
    assert result.is_complete and result.ensemble is not None and result.soup is not None and result.mean is not None
    assert result.mean.bits_per_character < 3.0
    rows = read_table(Storage(run.path), "metrics")
    assert max(rows["incarnation"].to_pylist()) == 2, "the killed network was started again"
    assert result.best_network is not None and result.best_network.best is not None
    evaluated = evaluate_again(run.path)
    assert evaluated["soup"] == pytest.approx(result.table["soup"] if result.table else None)


@pytest.mark.slow
def test_extensions_given_by_path_train_together(tmp_path: Path) -> None:
    module = extension.__name__
    extension.SEEN.clear()
    config = small_config(
        name="extensions",
        storage=str(tmp_path),
        mode="lockstep",
        task=f"{module}:ImagesAgain",
        model=ModelConfig(architecture=f"{module}:two_layers"),
        data=DataConfig(train=f"{module}:quadrants"),
        topology=TopologyConfig(name=f"{module}:backward_ring"),
        exchange=ExchangeConfig(rule="graft"),
        graft=GraftConfig(criterion=f"{module}:spread"),
        callbacks=(f"{module}:Collector",),
        population=PopulationConfig(size=3),
    )
    with PopulationRun.start(config) as run:
        assert run.wait(seconds=90).is_complete
    grafts = read_table(Storage(run.path), "grafts").to_pylist()
    assert grafts and all(row["scion"] == (row["rootstock"] + 1) % 3 for row in grafts)
    assert len({row["alpha"] for row in grafts}) > 1
    assert {row["network"] for row in extension.SEEN} == {0, 1, 2}


@pytest.fixture
def registered() -> Iterator[Callable[[Registry[Any], str, object], None]]:
    """Return a function that registers objects until the test ends."""
    added: list[tuple[Registry[Any], str]] = []

    def register(registry: Registry[Any], name: str, target: object) -> None:
        registry.add(name, target)
        added.append((registry, name))

    yield register
    for registry, name in added:
        registry.remove(name)


@pytest.mark.slow
def test_objects_registered_in_the_driver_reach_every_process(tmp_path: Path, registered: Any) -> None:
    """What a script registers, instances included, is unknown to other processes until the run sends it."""

    def model(num_classes: int, in_channels: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(in_channels, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(36, num_classes))

    def previous_but_one(position: int, size: int, **rest: Any) -> list[int]:
        return [position - 2]

    def largest(weight: Any, *, bins: int, name: str) -> float:
        return float(weight.abs().max())

    class Task(extension.ImagesAgain):
        pass

    class Callback(extension.Collector):
        pass

    extension.SEEN.clear()
    targets = (model, extension.quadrants, previous_but_one, largest, extension.Halfway(0.25), Task(), Callback())
    registries = (MODELS, DATASETS, TOPOLOGIES, CRITERIA, RULES, TASKS, CALLBACKS)
    for registry, target in zip(registries, targets, strict=True):
        registered(registry, "local", target)
    config = small_config(
        name="local",
        storage=str(tmp_path),
        mode="lockstep",
        task="local",
        model=ModelConfig(architecture="local"),
        data=DataConfig(train="local"),
        topology=TopologyConfig(name="local"),
        exchange=ExchangeConfig(rule="local"),
        graft=GraftConfig(criterion="local"),
        callbacks=("local",),
        population=PopulationConfig(size=3),
    )
    with PopulationRun.start(config) as run:
        assert run.wait(seconds=90).is_complete
    grafts = read_table(Storage(run.path), "grafts").to_pylist()
    assert grafts and all(row["scion"] == (row["rootstock"] + 1) % 3 and row["alpha"] == 0.75 for row in grafts)
    assert {row["network"] for row in extension.SEEN} == {0, 1, 2}

    lock = threading.Lock()
    registry_error = "exchange.rule 'locked' cannot be sent to the cluster"
    locked = extension.Halfway(0.5)
    locked.__dict__["lock"] = lock
    registered(RULES, "locked", locked)
    with pytest.raises(ConfigError, match=registry_error):
        PopulationRun.start(dataclasses.replace(config, name="locked", exchange=ExchangeConfig(rule="locked")))
    assert not (tmp_path / "locked").exists()


def test_registered_object_of_a_missing_module_is_named(
    tmp_path: Path, registered: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_here.py").write_text("def topology(position, size, **rest):\n    return [position - 1]\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("only_here")
    registered(TOPOLOGIES, "only-here", module.topology)
    config = line_config(name="line", storage=str(tmp_path / "runs"), topology=TopologyConfig(name="only-here"))
    message = r"topology\.name 'only-here' cannot be loaded on this node: ModuleNotFoundError: .*only_here"
    with pytest.raises(ConfigError, match=message):
        PopulationRun.start(config, task=Line())
    assert not (tmp_path / "runs" / "line").exists()


def test_installed_extensions_are_in_the_help(tmp_path: Path) -> None:
    environment = os.environ | {"INARCH_EXTENSIONS": extension.__name__, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    command = [sys.executable, "-m", "inarch.experiments.cli", "train", "--help"]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    for name in ("two-layers", "quadrants", "backward_ring", "spread", "halfway", "images-again", "collector"):
        assert re.search(rf"^--[\w.]+: .*\b{name}\b", shown, re.MULTILINE), name


def program_of_the_page() -> str:
    """The first program of the page on tasks of one's own."""
    page = (ROOT / "docs" / "how-to" / "own-task.md").read_text()
    return re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)[0]


def check_result(folder: Path) -> None:
    result = json.loads((folder / "result.json").read_text())
    assert result["ensemble"]["r2"] > 0.3 and result["ensemble"]["rmse"] <= result["mean"]["rmse"]


@pytest.mark.slow
def test_documented_task_trains_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    program = program_of_the_page()
    assert len(program.split('if __name__ == "__main__"')[0].splitlines()) < 50
    monkeypatch.chdir(tmp_path)
    assert "size=4" in program
    program = program.replace("size=4", "size=2")  # half the actors to start
    exec(compile(program, "patients.py", "exec"), {"__name__": "__main__"})
    assert re.search(r"networks 0\.\d+, ensemble 0\.\d+, soup \d\.\d+", capsys.readouterr().out)
    check_result(next((tmp_path / "runs").iterdir()))


@pytest.mark.slow
def test_documented_task_trains_from_the_command_line(cluster: str, tmp_path: Path) -> None:
    (tmp_path / "patients.py").write_text(program_of_the_page())
    environment = os.environ | {"RAY_ADDRESS": cluster, "PYTHONPATH": f"{tmp_path}:{ROOT / '.package'}"}
    fields = {"task": "patients:Diabetes", "name": "patients", "population.size": "2", "schedule.epochs": "20"}
    fields |= {"schedule.batch-size": "32", "optimizer.learning-rate": "0.02"}
    options = [part for name, value in fields.items() for part in (f"--{name}", value)]
    command = [sys.executable, "-m", "inarch.experiments.cli", "train", *options]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "rmse" in ended.stdout
    check_result(tmp_path / "runs" / "patients")
