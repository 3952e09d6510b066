"""Networks of a node compile one after another."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from inarch.actors.network.compile_lock import CompileLock
from tests.conftest import ROOT

COMPILER = """
import json, logging, sys, time
from pathlib import Path
from inarch.actors.network.compile_lock import CompileLock

lock = CompileLock(logging.getLogger("test"), path=Path(sys.argv[1]), wait_seconds=30.0)
with lock.held():
    began = time.monotonic()
    cache = Path(sys.argv[2])
    found = cache.exists()
    if not found:
        time.sleep(0.5)  # a slow compilation
        cache.write_text("compiled")
    print(json.dumps({"found": found, "began": began, "ended": time.monotonic()}), flush=True)
"""

HOLDER = """
import logging, sys, time
from pathlib import Path
from inarch.actors.network.compile_lock import CompileLock

with CompileLock(logging.getLogger("test"), path=Path(sys.argv[1])).held():
    print("held", flush=True)
    time.sleep(60)
"""


def start(program: str, *words: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT / ".package")}
    command = [sys.executable, "-c", program, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=words[0].parent)


def test_two_networks_compile_one_after_another(tmp_path: Path) -> None:
    lock, cache = tmp_path / "compile.lock", tmp_path / "cache"
    processes = [start(COMPILER, lock, cache) for _ in range(2)]
    shown = [json.loads(process.communicate(timeout=60)[0]) for process in processes]
    first, second = sorted(shown, key=lambda times: times["began"])
    assert (first["found"], second["found"]) == (False, True)
    assert second["began"] >= first["ended"]


def test_lock_is_free_again_when_its_holder_is_killed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "compile.lock"
    holder = start(HOLDER, path)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    logger = logging.getLogger("test")
    with CompileLock(logger, path=path, wait_seconds=0.2).held():
        assert "at the same time as another network" in caplog.text
    caplog.clear()
    holder.send_signal(signal.SIGKILL)
    holder.communicate(timeout=30)
    with CompileLock(logger, path=path, wait_seconds=30.0).held():
        assert caplog.text == ""


def test_lock_lies_in_the_cache_folder_of_the_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    with CompileLock(logging.getLogger("test")).held():
        assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]
