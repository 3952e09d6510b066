"""Claims on the folder of a run: a single start holds the folder at a time."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from inarch.actors import PopulationRun
from inarch.actors.driver import claiming
from inarch.actors.driver.claiming import claim_existing_folder, claim_new_folder
from inarch.actors.driver.inputs import new_name, run_storage
from inarch.actors.termination import TERMINATED_STATUS, Interruptions, Terminated, own_sigterm
from inarch.population import RunConfig
from inarch.population.errors import ConfigError, RunExistsError, UserCodeError
from inarch.population.persistence.checkpoint import Checkpoint, CheckpointId, CheckpointStore
from inarch.population.persistence.claim import Claim, check_holds, claims, holds, withdraw, withdraw_at_end
from inarch.population.persistence.paths import joined
from inarch.population.persistence.storage import Storage
from tests.images import write_classes


def checkpoint() -> Checkpoint:
    return Checkpoint(network_id=0, id=CheckpointId(incarnation=1, interval=1), model={}, tensors={}, training={})


def test_claim_of_folder_in_use_raises_and_names_the_process(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "run"))
    claim = claim_new_folder(storage)
    assert holds(storage, claim.token)
    with pytest.raises(RunExistsError, match=f"in use by process {os.getpid()} on {socket.gethostname()} since"):
        claim_new_folder(storage)
    assert claims(storage) == [claim]
    parent = {"host": socket.gethostname(), "process": os.getppid(), "seconds": 0.0}
    parent["process_started"] = psutil.Process(os.getppid()).create_time()
    storage.write(Claim(generation=2, token="ab").path, json.dumps(parent).encode())
    with pytest.raises(RunExistsError, match=f"in use by process {os.getppid()}"):
        claim_existing_folder(storage)
    storage.write(Claim(generation=2, token="ab").path, json.dumps(parent | {"is_detached": True}).encode())
    assert claim_existing_folder(storage).generation == 3
    assert claim_existing_folder(storage).generation == 4, "a process may resume a run that it started"


def test_failed_start_without_its_claim_deletes_nothing(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "run"))
    later = Claim(generation=2, token="ab")
    with pytest.raises(ConnectionError), claiming.new_folder(storage) as claim:
        for name in ("config.json", "cluster.json", "networks/0/model"):
            storage.write(name, name.encode())
        storage.write(later.path, b"{}")  # another start, which did not wait
        withdraw(storage, claim.token)
        raise ConnectionError
    files = {path.relative_to(tmp_path / "run"): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    expected = {name: name.encode() for name in ("config.json", "cluster.json", "networks/0/model")}
    assert files == {Path(name): content for name, content in (expected | {later.path: b"{}"}).items()}


def test_claim_of_new_folder_ignores_a_half_written_claim(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(claiming, "WRITE_SECONDS", 0.1)
    storage = Storage(str(tmp_path / "run"))
    storage.write(Claim(generation=1, token="ab").path, b"")
    assert claim_new_folder(storage).generation == 2


def test_failed_start_leaves_the_folder_unchanged(tmp_path: Path) -> None:
    train = write_classes(tmp_path / "exp" / "data" / "train", ("cat", "dog"))
    (tmp_path / "exp" / "logs").mkdir()
    (tmp_path / "exp" / "logs" / "mine.txt").write_text("x")
    before = {path: path.read_bytes() for path in (tmp_path / "exp").rglob("*") if path.is_file()}

    def broken(num_classes: int) -> Any:
        raise ValueError("no network here")

    pixels = np.zeros((4, 8, 8), np.uint8)
    for name, data in (("exp", train), ("exp", (pixels, [0, 1, 0, 1])), ("new", train)):
        with pytest.raises(UserCodeError, match="no network here"):
            PopulationRun.start(RunConfig(name=name, storage=str(tmp_path)), model=broken, data=data)
    assert {path: path.read_bytes() for path in (tmp_path / "exp").rglob("*") if path.is_file()} == before
    assert not (tmp_path / "new").exists() and sorted(os.listdir(tmp_path / "exp")) == ["data", "logs"]


def test_claim_of_a_dead_process_does_not_hold_the_folder(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "run"))
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    started = psutil.Process(dead.pid).create_time()
    dead.wait(timeout=60)
    content = {"host": socket.gethostname(), "process": dead.pid, "process_started": started, "seconds": started}
    storage.write(Claim(generation=1, token="ab").path, json.dumps(content).encode())
    assert [claim.generation for claim in claims(storage)] == [1]
    assert claim_new_folder(storage).generation == 2
    reused = content | {"process": os.getpid()}  # another process has this id now
    storage.write(Claim(generation=3, token="cd").path, json.dumps(reused).encode())
    assert claim_existing_folder(storage).generation == 4


def test_remote_claim_blocks_a_new_folder_but_not_resume(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "run"))
    content = {"host": "elsewhere", "process": 1, "process_started": 0.0, "seconds": 0.0}
    storage.write(Claim(generation=1, token="ab").path, json.dumps(content).encode())
    with pytest.raises(RunExistsError, match="process 1 on elsewhere"):
        claim_new_folder(storage)
    assert claim_existing_folder(storage).generation == 2


def test_concurrent_starts_make_at_most_a_single_claim(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(claiming, "WITHDRAW_SECONDS", 3.0)  # a rival on a busy machine may be slow
    for attempt in range(3):
        storage, barrier = Storage(str(tmp_path / str(attempt))), threading.Barrier(4)

        def start(storage=storage, barrier=barrier) -> list[Claim]:
            barrier.wait()
            with contextlib.suppress(RunExistsError):
                return [claim_new_folder(storage)]
            return []

        with ThreadPoolExecutor(4) as pool:
            held = [claim for started in [pool.submit(start) for _ in range(4)] for claim in started.result()]
        assert len(held) <= 1 and claims(storage) == held
        for claim in held:
            storage.delete(claim.path)
        again = claim_new_folder(storage)
        assert claims(storage) == [again], "a free folder can be claimed"


def test_start_respects_a_claim_that_it_did_not_read(tmp_path: Path, monkeypatch) -> None:
    """A start reads the claims of two others. The one that it reads first withdraws meanwhile, the other holds."""
    storage = Storage(str(tmp_path / "run"))
    holder = claim_new_folder(storage)
    loser = Claim(generation=1, token="z" * 16)
    storage.write(loser.path, storage.read(holder.path))
    newcomers: list[Claim] = []

    def withdrawn(self: Storage, path: str) -> bytes:
        if path == loser.path:
            self.delete(path)
        return read(self, path)

    read = Storage.read
    monkeypatch.setattr(Storage, "read", withdrawn)
    with pytest.raises(RunExistsError, match="in use"):
        newcomers.append(claim_new_folder(storage))
    assert claims(storage) == [holder] and not newcomers


def test_start_respects_a_smaller_claim_written_after_its_look(tmp_path: Path, monkeypatch) -> None:
    """A start has seen the claim of a dead process only. Another start claims before this one has written its claim."""
    storage, write = Storage(str(tmp_path / "run")), Storage.write
    content = {"host": socket.gethostname(), "process": os.getpid(), "process_started": 0.0, "seconds": 0.0}
    storage.write(Claim(generation=1, token="ab").path, json.dumps(content).encode())
    rival = Claim(generation=1, token="cd")

    def late(self: Storage, path: str, content: bytes) -> None:
        if path.startswith("claims/0002"):
            write(self, rival.path, content)
        write(self, path, content)

    monkeypatch.setattr(Storage, "write", late)
    with pytest.raises(RunExistsError, match="in use"):
        claim_new_folder(storage)
    assert [claim.token for claim in claims(storage)] == ["ab", "cd"]


def test_store_with_lost_claim_neither_commits_nor_deletes(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "run"))
    first = CheckpointStore(storage, token=claim_new_folder(storage).token)
    assert first.commit(checkpoint())
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    withdraw(storage, claims(storage)[-1].token)
    assert not first.commit(checkpoint())
    with pytest.raises(RunExistsError, match="not this run's folder any more"):
        first.acquire_fence(0, 2)
    assert CheckpointStore(storage, token=claim_existing_folder(storage).token).commit(checkpoint())
    assert not first.commit(checkpoint())
    assert {path for path in before if path.exists() and "claims" not in path.parts} == {
        path for path in before if "claims" not in path.parts
    }
    check_holds(storage, None)


@pytest.mark.parametrize("name", ["a b", "ü", "100%", "a#b", "what?"])
def test_claim_accepts_folders_with_special_characters(tmp_path: Path, name: str) -> None:
    storage = Storage(joined(str(tmp_path / name), "run"))
    claim = claim_new_folder(storage)
    assert CheckpointStore(storage, token=claim.token).commit(checkpoint())
    assert (tmp_path / name / "run" / "networks" / "0").is_dir()


def test_joined_uri_keeps_the_query_string_at_its_end() -> None:
    assert joined("s3://b/runs?region=r&x=1", "first") == "s3://b/runs/first?region=r&x=1"
    assert joined("/a/b/", "c") == "/a/b/c" and joined("/a/what?", "c") == "/a/what?/c"
    config = RunConfig(name="x", storage="s3://b/runs?region=eu-west-1&endpoint_override=http%3A%2F%2F127.0.0.1%3A1")
    storage = run_storage(config)
    assert storage.uri == "s3://b/runs/x?region=eu-west-1&endpoint_override=http%3A%2F%2F127.0.0.1%3A1"
    assert storage.path("config.json") == "b/runs/x/config.json"


def test_new_names_are_unique_and_invalid_names_are_refused() -> None:
    assert len({new_name("run") for _ in range(50)}) == 50
    assert RunConfig(name=new_name("digits")).name
    for name in ("läuft", "名前", "a b", "a/b", ".a", ""):
        with pytest.raises(ConfigError, match="letters a to z"):
            RunConfig(name=name)


def test_own_sigterm_restores_the_previous_handler() -> None:
    def handler(number: int, frame: object) -> None:
        """A handler of the caller. Ray replaces the built-in print by a function of its own."""

    before = signal.getsignal(signal.SIGTERM)
    try:
        signal.signal(signal.SIGTERM, handler)
        with own_sigterm():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGTERM) is handler
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with own_sigterm():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with pytest.raises(Terminated) as raised:
            os.kill(os.getpid(), signal.SIGTERM)
        assert raised.value.code == TERMINATED_STATUS == 143
    finally:
        signal.signal(signal.SIGTERM, before)


def test_interruptions_check_raises_a_suppressed_interrupt() -> None:
    with Interruptions() as interruptions:
        interruptions.check()
        with contextlib.suppress(KeyboardInterrupt):  # a hook of os.fork loses it in the same way
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            interruptions.check()


PARTS = ("config.json.part", "births/0-000001-001-early.parquet.part")
"""What processes leave that are killed before they rename a file."""


def parts_in(storage: Storage) -> list[str]:
    return [part for part in PARTS if storage.exists(part)]


def test_next_start_deletes_parts_and_no_other_file(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    others = ("film.mp4.part", "logs/network-0.log", "births/0-000001-001-early.parquet", "a/b/config.json.part")
    for name in (*PARTS, *others):
        storage.write(name, b"x")
    claim_new_folder(storage)
    assert parts_in(storage) == [] and all(map(storage.exists, others))
    for part in PARTS:
        storage.write(part, b"x")
    with pytest.raises(RunExistsError):
        claim_new_folder(storage)
    assert parts_in(storage) == list(PARTS), "a start that was refused has deleted files of the run"
    withdraw_at_end(storage, claims(storage)[-1].token)
    claim_existing_folder(storage)
    assert parts_in(storage) == []


def test_end_of_a_run_deletes_parts_unless_another_start_came(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    own, later = Claim(generation=1, token="aa"), Claim(generation=2, token="bb")
    for path in (own.path, later.path, *PARTS):
        storage.write(path, b"{}")
    withdraw_at_end(storage, own.token)
    assert parts_in(storage) == list(PARTS) and claims(storage) == [later]
    withdraw_at_end(storage, later.token)
    assert parts_in(storage) == [] and claims(storage) == []


def test_end_of_a_run_leaves_no_claim_of_a_killed_start(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    killed, last, later = (Claim(generation=number, token=token) for number, token in ((1, "aa"), (2, "bb"), (3, "cc")))
    for claim in (killed, last):
        storage.write(claim.path, b"{}")
    withdraw_at_end(storage, "unknown")
    assert claims(storage) == [killed, last]
    withdraw_at_end(storage, last.token)
    assert claims(storage) == [] and not holds(storage, killed.token)
    for claim in (last, later):
        storage.write(claim.path, b"{}")
    withdraw_at_end(storage, last.token)
    assert claims(storage) == [later]
