"""What a run leaves behind is found: processes by their environment, shared memory, temporary files."""

from __future__ import annotations

import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from inarch.experiments.benchmarks.processes import leftovers


def test_left_process_is_named_and_ended(tmp_path: Path) -> None:
    token = uuid.uuid4().hex
    environment = leftovers.environment(token, tmp_path, {})
    child = "import time; time.sleep(100)"
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}])"
    subprocess.run([sys.executable, "-c", parent], env=environment, check=True)
    (line,) = leftovers.remaining_processes(token, seconds=0.0)
    assert "time.sleep(100)" in line
    assert leftovers.remaining_processes(token, seconds=10.0) == []


def test_process_that_ends_in_time_is_not_left(tmp_path: Path) -> None:
    token = uuid.uuid4().hex
    words = [sys.executable, "-c", "input()"]
    with subprocess.Popen(words, env=leftovers.environment(token, tmp_path, {}), stdin=subprocess.PIPE) as process:
        assert [marked.pid for marked in leftovers.marked_processes(token)] == [process.pid]
        assert process.stdin is not None
        process.stdin.close()
        assert leftovers.remaining_processes(token, seconds=10.0) == []


def test_environment_names_no_other_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    environment = leftovers.environment("t", tmp_path, {"A": "b"})
    assert "RAY_ADDRESS" not in environment and environment["A"] == "b"


def test_new_shared_memory_without_a_holder_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "SHARED_MEMORY", tmp_path)
    (tmp_path / "old").touch()
    before = leftovers.shared_memory()
    (tmp_path / "new").touch()
    with (tmp_path / "held").open("w"):
        (line,) = leftovers.remaining_shared_memory(before)
    assert line.endswith("/new")


def test_temporary_file_is_left_and_those_of_ray_are_not(tmp_path: Path) -> None:
    (tmp_path / "tmp" / "pymp-x").mkdir(parents=True)
    assert leftovers.remaining_files(tmp_path) == []
    (tmp_path / "tmp" / "data.arrow").touch()
    assert leftovers.remaining_files(tmp_path) == ["a temporary file was left behind: data.arrow"]
