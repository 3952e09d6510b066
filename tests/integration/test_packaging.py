"""The wheel beside folders of the user's own, and the README's program as a job of Ray."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from inarch.population.persistence.checkpoint import CheckpointStore
from inarch.population.persistence.storage import Storage
from tests.integration.runs import rows_in, until
from tests.integration.test_dashboard import free_port
from tests.test_readme import blocks

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]

IGNORED = shutil.ignore_patterns("__pycache__", "*.egg-info")

NETS = """
import inarch
from actors import MINE
from torch import nn

assert MINE and inarch.__file__.startswith({target!r}), inarch.__file__


def net(num_classes):
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.LazyLinear(num_classes))
"""


def build(folder: Path, **environment: str) -> Path:
    """Build a wheel in a folder."""
    source = folder / "source"  # a copy, because the build leaves files beside its source
    source.mkdir()
    for name in (".package", "population", "actors", "experiments"):
        shutil.copytree(
            ROOT / name,
            source / name,
            symlinks=True,
            ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "*.so"),
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(source)]
    subprocess.run(command, check=True, timeout=120, env=os.environ | environment)
    (file,) = folder.glob("inarch-*.whl")
    return file


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("wheel"))


def extensions(wheel: Path) -> list[str]:
    return [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".so")]


def test_wheel_without_a_compiler_grafts_with_torch(wheel: Path, tmp_path: Path) -> None:
    if shutil.which("gcc") or shutil.which("cc"):
        assert extensions(wheel)
    folder, target = tmp_path / "build", tmp_path / "installed"
    folder.mkdir()
    plain = build(folder, CC="/nonexistent/cc")
    assert not extensions(plain)
    install = ["install", "--quiet", "--no-deps", "--target", str(target), str(plain)]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True, timeout=120)
    program = """
import torch
from inarch import graft
from inarch.population.grafting.compiled_loops import path_taken
rootstock, scion = ({"conv.weight": torch.randn(4, 1, 3, 3)} for _ in range(2))
grafted = graft(rootstock, scion)
alpha = grafted.layers[0].alpha
expected = alpha * rootstock["conv.weight"] + (1 - alpha) * scion["conv.weight"]
torch.testing.assert_close(grafted.state["conv.weight"], expected)
print(path_taken())
"""
    environment = os.environ | {"PYTHONPATH": str(target)}
    shown = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert shown.stdout.split()[-1] == "torch"


def test_wheel_has_one_name_and_its_types(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].removesuffix(".dist-info").split("-")[0] for name in names} == {"inarch"}
    for package in ("", "population/", "actors/", "experiments/"):
        assert f"inarch/{package}py.typed" in names
    assert {f"inarch/{package}/__init__.pyi" for package in ("population", "actors", "population/models")} <= set(names)
    metadata = zipfile.ZipFile(wheel).read(next(name for name in names if name.endswith("/METADATA"))).decode()
    assert "License-Expression: Apache-2.0" in metadata and "License-File: LICENSE" in metadata
    needed = re.findall(r"^Requires-Dist: ([\w-]+)[^;]*$", metadata, re.MULTILINE)
    assert {"torchmetrics", "psutil", "matplotlib"}.isdisjoint(needed) and "ray" in needed


@pytest.mark.timeout(300)
def test_wheel_trains_beside_folders_of_its_parts(wheel: Path, tmp_path: Path) -> None:
    target, project = tmp_path / "installed", tmp_path / "project"
    install = ["install", "--quiet", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True, timeout=120)
    for name in ("actors", "experiments", "population"):
        (project / name).mkdir(parents=True)
        (project / name / "__init__.py").write_text("MINE = True\n")
    (project / "experiments" / "nets.py").write_text(NETS.format(target=str(target)))
    environment = {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "PYTHONPATH")}
    environment["PYTHONPATH"] = os.pathsep.join([str(target), str(project)])
    words = ["train", "--model.architecture", "experiments.nets:net", "--schedule.epochs", "2"]
    finished = subprocess.run(
        [str(target / "bin" / "inarch"), *words, "--population.size", "2"],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "trained in" in finished.stdout and list(project.glob("runs/*/result.json"))


@pytest.fixture
def head(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Start a head of Ray with a dashboard, and yield the environment of a user who submits jobs to it."""
    port, web, agent = free_port(), free_port(), free_port()
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    environment |= {"RAY_AUTH_MODE": "token", "PYTHONPATH": str(ROOT / ".package")}
    environment["RAY_AUTH_TOKEN_PATH"] = str(tmp_path / "token")
    environment["RAY_JOB_STOP_WAIT_TIME_S"] = "120"  # as in deploy; after 3 s, Ray's default, the driver is killed
    (tmp_path / "token").write_text("0123456789abcdef0123456789abcdef")
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--num-cpus=2"]
    ports = [f"--port={port}", f"--dashboard-port={web}", f"--dashboard-agent-listen-port={agent}"]
    options = [*ports, "--include-dashboard=true", f"--temp-dir={Path('/tmp') / f'inarch-job-{port}'}"]
    process = subprocess.Popen(
        [*command, *options], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield environment | {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{web}"}
    finally:
        process.terminate()
        process.wait(timeout=60)
        shutil.rmtree(Path("/tmp") / f"inarch-job-{port}", ignore_errors=True)


@pytest.mark.timeout(420)
def test_readme_program_runs_as_a_job(head: dict[str, str], tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "own.py").write_text(blocks(ROOT / "README.md", "python")[0])
    command = [str(Path(sys.executable).parent / "ray"), "job", "submit", "--working-dir", str(project)]
    deadline = time.monotonic() + 90
    while True:  # the dashboard answers some seconds after the head
        finished = subprocess.run(
            [*command, "--", sys.executable, "own.py"], env=head, capture_output=True, text=True, timeout=300
        )
        if finished.returncode == 0 or "succeeded" in finished.stdout or time.monotonic() > deadline:
            break
        time.sleep(3.0)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    accuracies = re.findall(r"^(0\.\d+)$", finished.stdout, re.MULTILINE)
    assert len(accuracies) == 1 and float(accuracies[0]) >= 0.95, finished.stdout


@pytest.mark.timeout(400)
def test_stopped_job_resumes_as_a_job(head: dict[str, str], tmp_path: Path) -> None:
    def job(*words: str) -> str:
        command = [str(Path(sys.executable).parent / "ray"), "job", *words]
        finished = subprocess.run(command, env=head, capture_output=True, text=True, timeout=180)
        return finished.stdout + finished.stderr

    def submit(name: str, *words: str) -> bool:
        command = [sys.executable, "-m", "inarch.experiments.cli", *words]
        return "submitted successfully" in job("submit", "--no-wait", "--submission-id", name, "--", *command)

    path = tmp_path / "stopped"
    options = ["--population.size", "2", "--schedule.epochs", "30", "--debug.straggler.step-seconds", "0.05"]
    train = ["train", "--name", "stopped", "--storage", str(tmp_path), *options]
    until(lambda: submit("first", *train), seconds=120)  # the dashboard answers some seconds after the head
    until(lambda: "interval 3," in job("logs", "first"), seconds=120)
    assert "was stopped" in job("stop", "first")
    log = job("logs", "first")
    assert f"inarch resume {path}" in log and "SIGABRT" not in log and "Traceback" not in log, log
    rows = rows_in(path)
    for network_id in (0, 1):
        newest = CheckpointStore(Storage(str(path))).newest(network_id)
        assert newest is not None and 30 > newest.id.interval >= rows[network_id][-1] >= 2
    assert submit("second", "resume", str(path))
    state = until(
        lambda: (text := job("status", "second").lower()) and re.search("succeeded|failed", text), seconds=200
    )
    assert state.group() == "succeeded", job("logs", "second")
    assert rows_in(path) == {0: list(range(1, 31)), 1: list(range(1, 31))}
