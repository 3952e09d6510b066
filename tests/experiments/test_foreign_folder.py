"""The commands that read a run's folder, in the folder of a run that someone else made."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from inarch.actors import PopulationRun
from inarch.actors.driver.callbacks import CALLBACKS
from inarch.actors.registrations import REGISTRIES
from inarch.experiments.cli import main
from inarch.experiments.replaying import prepare_replay
from inarch.population import (
    DataConfig,
    DistillationConfig,
    ExchangeConfig,
    GraftConfig,
    ModelConfig,
    ScheduleConfig,
    TopologyConfig,
    Trainer,
)
from inarch.population.config import to_dict
from inarch.population.errors import UntrustedError, UserCodeError
from inarch.population.extension.trusted_code import remember_code
from inarch.population.persistence.checkpoint import CheckpointStore
from inarch.population.persistence.history import read_table
from inarch.population.persistence.storage import Storage
from inarch.population.tasks.image_classification import ImageClassification
from inarch.population.tasks.image_task import run_splits
from inarch.population.tasks.named_code import RUN_FIELDS
from inarch.population.training.birth import StartPoint
from tests.conftest import ROOT, small_config
from tests.fakes.runtime import FakeRuntime, live

MODULE = "open('was_run', 'w').close()\ndef make(*_, **__):\n    raise RuntimeError('the foreign code ran')\n"

SECTIONS: dict[str, Any] = {
    "data": DataConfig(train="digits", train_limit=100, test_limit=50, augmentation="none"),
    "schedule": ScheduleConfig(epochs=1, batch_size=50),
}
"""Configuration of the run, besides its model."""


@pytest.fixture(scope="session")
def run_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a stopped run of one network whose configuration names foreign_code:make as the model."""
    folder = tmp_path_factory.mktemp("foreign") / "run"
    config = small_config(name="foreign", **SECTIONS)
    store, runtime = CheckpointStore(Storage(str(folder))), FakeRuntime()
    task = ImageClassification(config, run_splits(config))
    trainer = Trainer(task, config, network_id=0)
    trainer.record_birth(StartPoint.initial(), now=0.0)
    live(trainer, runtime)
    assert store.commit(runtime.checkpoints[-1])
    content = to_dict(config)
    content["model"]["architecture"] = "foreign_code:make"
    description = task.describe()
    info: dict[str, Any] = {"facts": dict(description.facts), "metrics": [{"name": "accuracy"}]}
    info["data_fingerprint"] = description.data_fingerprint
    (folder / "config.json").write_text(json.dumps({"config": content, "model": "foreign_code:make", "info": info}))
    (folder / "foreign_code.py").write_text(MODULE)
    Image.new("L", (8, 8)).save(folder / "image.png")
    return folder


@pytest.fixture
def foreign(run_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory: the run's folder, with nothing remembered."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.delitem(sys.modules, "foreign_code", raising=False)
    monkeypatch.chdir(run_files)
    yield run_files
    (run_files / "was_run").unlink(missing_ok=True)


COMMANDS = {
    "evaluate": ["evaluate", "."],
    "export": ["export", ".", "--what", "soup"],
    "predict": ["predict", ".", "image.png"],
    "replay": ["replay", "."],
    "resume": ["resume", ".", "--schedule.epochs", "9"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_run_no_code_of_a_foreign_folder(
    foreign: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(COMMANDS[command])
    error = capsys.readouterr().err
    assert (ended.value.code, (foreign / "was_run").exists()) == (2, False)
    assert f"model.architecture 'foreign_code:make' from {foreign}/foreign_code.py" in error and "--trust" in error


@pytest.mark.parametrize("command", ["evaluate", "export", "predict", "replay"])
@pytest.mark.parametrize("way", ["--trust", "remembered"])
def test_commands_run_code_that_the_user_trusts(
    foreign: Path, command: str, way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = COMMANDS[command] + (["--trust"] if way == "--trust" else [])
    if way == "remembered":
        remember_code(["foreign_code:make"])
    with pytest.raises(SystemExit):
        main(words)
    assert "the foreign code ran" in capsys.readouterr().err


def test_model_named_in_the_call_needs_no_trust(foreign: Path) -> None:
    with pytest.raises(UserCodeError, match="the foreign code ran"):
        main(["--debug", "predict", ".", "image.png", "--model", "foreign_code:make"])
    assert "foreign_code" in (Path(os.environ["XDG_STATE_HOME"]) / "inarch" / "named.jsonl").read_text()


def test_command_of_a_new_process_runs_no_foreign_code(foreign: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT / ".package")}
    command = [sys.executable, "-m", "inarch.experiments.cli", "predict", ".", "image.png"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 2 and "nothing was imported" in ended.stderr
    assert not (foreign / "was_run").exists()


def changed(folder: Path, target: Path, **sections: Any) -> str:
    """Copy a folder, with another configuration. Return the path of the copy."""
    recorded = json.loads((folder / "config.json").read_text())
    recorded["config"] |= to_dict(small_config(name="other", **(SECTIONS | sections)))
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("foreign_code.py", "was_run"))
    (target / "config.json").write_text(json.dumps(recorded))
    return str(target)


def test_resume_needs_trust_for_every_kind_of_code(foreign: Path, tmp_path: Path) -> None:
    kinds: dict[str, dict[str, Any]] = {
        "topology.name": {"topology": TopologyConfig(name="foreign_code:make")},
        "callbacks[0]": {"callbacks": ("foreign_code:make",)},
        "task": {"task": "foreign_code:make"},
    }
    for number, (field, sections) in enumerate(kinds.items()):
        folder = changed(foreign, tmp_path / str(number), **sections)
        with pytest.raises(UntrustedError) as error:
            PopulationRun.resume(folder, quiet=True)
        assert f"{field} 'foreign_code:make'" in str(error.value)
    folder = changed(foreign, tmp_path / "tracked", track=("mlflow=http://203.0.113.7:5000",))
    with pytest.raises(UntrustedError, match=r"names the trackers mlflow=http://203\.0\.113\.7"):
        PopulationRun.resume(folder, quiet=True)


def test_resume_with_own_model_needs_trust_for_teachers(foreign: Path, tmp_path: Path) -> None:
    own = ModelConfig(architecture="foreign_code:make")  # not used, because the caller passes a model
    teachers = DistillationConfig(teachers=(str(foreign),))
    folder = changed(foreign, tmp_path / "taught", model=own, distillation=teachers)
    with pytest.raises(UntrustedError, match=f"{foreign}/config.json names code .*foreign_code:make"):
        PopulationRun.resume(folder, model=own_network, quiet=True)


def own_network(num_classes: int) -> torch.nn.Module:
    return torch.nn.Linear(64, num_classes)


def named_by(kind: str, foreign: Path, target: Path) -> str:
    """Copy a run's folder, with foreign code in one place of it. Return the path of the copy."""
    name = "foreign_code:make"
    sections: dict[str, dict[str, Any]] = {
        "task": {"task": name},
        "exchange.rule": {"exchange": ExchangeConfig(rule=name)},
        "graft.criterion": {"graft": GraftConfig(criterion=name)},
        "topology.name": {"topology": TopologyConfig(name=name)},
        "teacher": {"distillation": DistillationConfig(teachers=(str(foreign),))},
    }
    folder = changed(foreign, target, **sections.get(kind, {}))
    if kind == "earlier rule":
        (birth,) = read_table(Storage(folder), "births").to_pylist()
        content = to_dict(small_config(name="foreign", **SECTIONS, exchange=ExchangeConfig(rule=name)))
        (target / "configs").mkdir()
        (target / "configs" / f"{birth['config']}.json").write_text(json.dumps({"config": content}))
    return folder


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("task", "{run}/config.json names code .*: task "),
        ("exchange.rule", "{run}/config.json names code .*: exchange.rule "),
        ("graft.criterion", "{run}/config.json names code .*: graft.criterion "),
        ("teacher", "{foreign}/config.json names code .*: model.architecture "),
        ("earlier rule", "{run}/configs/.*.json names code .*: exchange.rule "),
    ],
)
def test_replay_needs_trust_for_what_it_imports(foreign: Path, tmp_path: Path, kind: str, place: str) -> None:
    folder = named_by(kind, foreign, tmp_path / "copy")
    with pytest.raises(UntrustedError, match=place.format(run=folder, foreign=foreign)):
        prepare_replay(folder)
    assert not (foreign / "was_run").exists()
    with pytest.raises((UserCodeError, RuntimeError), match="the foreign code ran"):
        prepare_replay(folder, trust=True).run()


def test_replay_imports_no_topology(foreign: Path, tmp_path: Path) -> None:
    replay = prepare_replay(named_by("topology.name", foreign, tmp_path / "copy")).run()
    assert replay.difference is None and replay.num_intervals == 1
    assert not (foreign / "was_run").exists()


def test_code_of_a_teacher_needs_trust(foreign: Path) -> None:
    teachers = DistillationConfig(teachers=(str(foreign),))
    with pytest.raises(UntrustedError, match="foreign_code:make"):
        PopulationRun.start(small_config(name="student", distillation=teachers), quiet=True)
    assert not (foreign / "runs").exists()


def test_every_registry_is_among_the_fields_that_name_code() -> None:
    assert {registry.field for registry in (*REGISTRIES, CALLBACKS)} == set(RUN_FIELDS)
