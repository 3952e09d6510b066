"""Each injector injects its fault into a real process or folder, and says so if it could not."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from inarch.experiments.benchmarks.chaos.injectors import (
    LIMIT_BYTES,
    FullStorage,
    SlowWrite,
    freeze,
    kill,
    small_file_system,
    thaw,
)
from inarch.population.errors import StorageError
from inarch.population.persistence.storage import Storage
from tests.fakes.storage_faults import HangingFolder, read_only

COUNTER = "import time\nwhile True:\n    print(1, flush=True)\n    time.sleep(0.01)"


@pytest.fixture
def counter() -> Iterator[subprocess.Popen[bytes]]:
    """A process that prints a line every 10 ms."""
    process = subprocess.Popen([sys.executable, "-c", COUNTER], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline()
    yield process
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    process.wait()
    process.stdout.close()


def test_kill_ends_the_process(counter) -> None:
    assert kill(counter.pid) == ""
    counter.wait(5)
    assert not psutil.pid_exists(counter.pid)


def test_frozen_process_stands_until_it_is_thawed(counter) -> None:
    assert freeze(counter.pid) == ""
    assert psutil.Process(counter.pid).status() == psutil.STATUS_STOPPED
    used = psutil.Process(counter.pid).cpu_times()
    time.sleep(0.1)
    assert psutil.Process(counter.pid).cpu_times() == used
    assert thaw(counter.pid)
    deadline = time.monotonic() + 10
    while psutil.Process(counter.pid).status() == psutil.STATUS_STOPPED:
        assert time.monotonic() < deadline


def test_faults_of_an_ended_process_did_not_happen(counter) -> None:
    counter.kill()
    counter.wait()
    assert "had ended" in kill(counter.pid) and "had ended" in freeze(counter.pid)
    assert not thaw(counter.pid)


def write_error(storage: Storage, size: int) -> str:
    try:
        storage.write("x", bytes(size))
    except StorageError as error:
        return str(error)
    return ""


def test_full_file_system_refuses_every_write(tmp_path: Path) -> None:
    with small_file_system(tmp_path) as is_small:
        if not is_small:
            pytest.skip("this user may not mount a file system")  # only root may, and only on Linux
        storage, full = Storage(str(tmp_path)), FullStorage(tmp_path, is_small=True)
        assert write_error(storage, 100_000) == ""
        storage.delete("x")
        assert full.begin({}) == ""
        assert "No space left on device" in write_error(storage, 1)
        with pytest.raises(StorageError, match="No space left"):
            storage.replace("y", b"new")
        assert not (tmp_path / "y.part").exists(), "a write that failed has left a part"
        full.end()
        assert write_error(storage, 100_000) == ""
    assert list(tmp_path.iterdir()) == []


def test_read_only_folder_refuses_every_write(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    try:
        with read_only(tmp_path):
            assert "Read-only file system" in write_error(storage, 1)
    except PermissionError as error:
        pytest.skip(f"this user may not mount: {error}")  # only root may, and only on Linux
    assert write_error(storage, 1) == "" and storage.read("x") == bytes(1)


def test_files_of_a_hanging_folder_open_at_its_end(tmp_path: Path) -> None:
    folder, storage = HangingFolder(tmp_path), Storage(str(tmp_path))
    try:
        folder.begin()
    except OSError as error:
        pytest.skip(f"files cannot be made to hang: {error}")  # only root may, and only on Linux
    writer = threading.Thread(target=storage.write, args=("x", b"late"))
    try:
        assert folder.num_hanging() == 0
        writer.start()
        writer.join(0.2)
        assert writer.is_alive() and folder.num_hanging() == 1
        assert storage.names("") == ["x"], "the folder can be listed meanwhile"
    finally:
        folder.end()
    writer.join(10.0)
    assert not writer.is_alive() and storage.read("x") == b"late"


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs prlimit")
def test_limited_process_cannot_write_large_files(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys\nfor line in sys.stdin:\n    try:\n        pathlib.Path('x').write_bytes(bytes(9999))\n"
    )
    program += (
        "    except OSError as error:\n        print(error, flush=True)\n    else:\n        print('', flush=True)"
    )
    words = [sys.executable, "-c", program]
    with subprocess.Popen(words, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdin is not None and writer.stdout is not None

        def answer() -> str:
            assert writer.stdin is not None and writer.stdout is not None
            print("write", file=writer.stdin, flush=True)
            return writer.stdout.readline().strip()

        assert answer() == ""
        full = FullStorage(tmp_path, is_small=False)
        assert full.begin({"writer": writer.pid}) == ""
        assert "File too large" in answer() and (tmp_path / "x").stat().st_size <= LIMIT_BYTES
        full.end()
        assert answer() == ""
        writer.stdin.close()
    assert "no process could be limited" in FullStorage(tmp_path, is_small=False).begin({"writer": writer.pid})


CHECKPOINT = "networks/1/000007-002/model.safetensors"


def test_slow_write_ends_with_the_whole_file(tmp_path: Path) -> None:
    slow = SlowWrite(tmp_path, network_id=1, incarnation=2, interval=7)
    assert slow.begin() == ""
    content = os.urandom(300_000)
    writer = threading.Thread(target=Storage(str(tmp_path)).write, args=(CHECKPOINT, content))
    writer.start()
    writer.join(0.2)
    assert writer.is_alive(), "the write did not hang"
    assert slow.end() == ""
    writer.join(10)
    assert not writer.is_alive() and (tmp_path / CHECKPOINT).is_file()
    assert (tmp_path / CHECKPOINT).read_bytes() == content


def test_slow_write_without_a_writer_did_not_happen(tmp_path: Path) -> None:
    slow = SlowWrite(tmp_path, network_id=1, incarnation=2, interval=7)
    assert slow.begin() == ""
    assert "no checkpoint was written" in slow.end()
    assert not (tmp_path / CHECKPOINT).parent.exists()
    assert "deleted before its write" in slow.end()


def test_slow_write_of_a_written_checkpoint_did_not_happen(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).parent.mkdir(parents=True)
    assert "no FIFO could be made" in SlowWrite(tmp_path, network_id=1, incarnation=2, interval=7).begin()
