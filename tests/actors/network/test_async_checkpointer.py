"""Training never waits for storage, and nothing is lost while storage hangs, fails or is full."""

from __future__ import annotations

import dataclasses
import functools
import os
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from inarch.actors.network.async_checkpointer import AsyncCheckpointer
from inarch.actors.network.log_file import LogFile
from inarch.population.errors import StorageError
from inarch.population.exchange.delay_compensation import StateHistory
from inarch.population.persistence.checkpoint import Checkpoint, CheckpointId, CheckpointStore
from inarch.population.persistence.history import read_table
from inarch.population.persistence.history_schemas import METRICS
from inarch.population.persistence.storage import Storage
from tests.fakes.origins import origin

BYTES = 1 << 17
"""Bytes of the weights: more than a pipe holds, so that a write into one hangs until it is read."""


def checkpoint(interval: int, *, is_best: bool = False) -> Checkpoint:
    row = dict.fromkeys(METRICS.names) | {"network": 0, "interval": interval, "incarnation": 1, "outcome": "off"}
    return Checkpoint(
        network_id=0,
        id=CheckpointId(incarnation=1, interval=interval),
        model={"weight": torch.full((BYTES // 4,), float(interval))},
        tensors={"optimizer.momentum_buffer.weight": torch.ones(3)},
        training={"interval": interval, "best_score": 0.5, "best_interval": interval, "score": 0.5},
        best={"weight": torch.full((3,), float(interval))} if is_best else None,
        rows={"metrics": [row]},
    )


def checkpointer_of(folder: Path, *, storage_seconds: float = 20.0, deadline: float = 60.0) -> AsyncCheckpointer:
    storage = Storage(str(folder), deadline_seconds=storage_seconds)
    log = LogFile(Storage(str(folder) + "-log"), "network-0")
    return AsyncCheckpointer(CheckpointStore(storage), log, deadline_seconds=deadline, slow_seconds=0.05)


def until(condition, seconds: float = 20.0) -> None:
    """Wait for another thread."""
    end = time.monotonic() + seconds
    event = threading.Event()
    while not condition():
        assert time.monotonic() < end
        event.wait(0.01)


class Hang:
    """A pipe in the place of a checkpoint's weights. A write into it hangs until `end`."""

    def __init__(self, folder: Path, identity: CheckpointId) -> None:
        place = folder / "networks" / "0" / identity.name
        place.mkdir(parents=True)
        self._pipe = place / "model.safetensors"
        os.mkfifo(self._pipe)

    def end(self) -> None:
        """Read what was written until the writer has closed the pipe."""
        with self._pipe.open("rb") as source:
            while source.read(1 << 16):
                pass


@pytest.fixture
def hang(tmp_path: Path) -> Iterator[Hang]:
    yield Hang(tmp_path, CheckpointId(incarnation=1, interval=1))


def test_commit_returns_while_a_write_hangs(tmp_path: Path, hang: Hang) -> None:
    checkpointer = checkpointer_of(tmp_path)
    began = time.monotonic()
    for interval in range(1, 6):
        checkpointer.commit(checkpoint(interval))
    assert time.monotonic() - began < 5.0
    assert not checkpointer.wait(seconds=0.2)
    trouble = checkpointer.trouble()
    assert "000001-001 has been written for" in trouble.reason
    assert 0.2 <= trouble.unwritten_seconds <= time.monotonic() - began
    hang.end()
    assert checkpointer.wait()
    assert checkpointer.trouble().reason == "" and checkpointer.trouble().unwritten_seconds == 0.0
    storage = Storage(str(tmp_path))
    assert [item.interval for item in CheckpointStore(storage).list(0)] == [1, 5]
    assert read_table(storage, "metrics")["interval"].to_pylist() == [1, 2, 3, 4, 5]


def test_passed_over_checkpoint_leaves_its_best_weights(tmp_path: Path, hang: Hang) -> None:
    checkpointer = checkpointer_of(tmp_path)
    for interval in range(1, 5):
        checkpointer.commit(checkpoint(interval, is_best=interval == 3))
    hang.end()
    checkpointer.wait()
    best = CheckpointStore(Storage(str(tmp_path))).best(0)
    assert best is not None and best[0]["weight"].tolist() == [3.0, 3.0, 3.0]


def test_at_most_two_checkpoints_are_kept(tmp_path: Path, hang: Hang) -> None:
    checkpointer, released = checkpointer_of(tmp_path), []
    for interval in range(1, 8):
        item = checkpoint(interval)
        checkpointer.commit(dataclasses.replace(item, release=lambda number=interval: released.append(number)))
    assert released == [2, 3, 4, 5, 6]  # the first is being written, and the last waits
    hang.end()
    checkpointer.wait()
    assert sorted(released) == [1, 2, 3, 4, 5, 6, 7]


def test_write_past_its_deadline_ends_the_network(tmp_path: Path, hang: Hang) -> None:
    checkpointer = checkpointer_of(tmp_path, deadline=0.1)
    checkpointer.commit(checkpoint(1))
    with pytest.raises(StorageError, match=r"was not written within 0\.1 s"):
        checkpointer.wait()
    with pytest.raises(StorageError, match=r"was not written within 0\.1 s"):
        checkpointer.commit(checkpoint(2))
    hang.end()


def test_failed_write_waits_for_the_next_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "networks").mkdir(parents=True)
    (folder / "networks" / "0").write_text("a file in the place of the network's folder")
    checkpointer = checkpointer_of(folder)
    checkpointer.commit(checkpoint(1, is_best=True))
    until(lambda: "networks/0" in checkpointer.trouble().reason)
    assert "networks/0" in checkpointer.trouble().reason
    (folder / "networks" / "0").unlink()
    checkpointer.commit(checkpoint(2))
    assert checkpointer.wait()
    assert checkpointer.trouble().reason == ""
    storage = Storage(str(folder))
    assert [item.interval for item in CheckpointStore(storage).list(0)] == [2]
    assert read_table(storage, "metrics")["interval"].to_pylist() == [1, 2]
    best = CheckpointStore(storage).best(0)
    assert best is not None and best[0]["weight"].tolist() == [1.0, 1.0, 1.0]


def test_failed_write_is_tried_again_without_another_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "networks").mkdir(parents=True)
    (folder / "networks" / "0").write_text("a file in the place of the network's folder")
    storage = Storage(str(folder))
    checkpointer = AsyncCheckpointer(
        CheckpointStore(storage),
        LogFile(Storage(str(folder) + "-log"), "network-0"),
        deadline_seconds=60.0,
        pause_seconds=0.05,
    )
    checkpointer.commit(checkpoint(1))
    until(lambda: "networks/0" in checkpointer.trouble().reason)
    (folder / "networks" / "0").unlink()
    until(lambda: not checkpointer.trouble().reason)
    assert [item.interval for item in CheckpointStore(storage).list(0)] == [1]


def test_lent_states_are_written_as_they_were(tmp_path: Path, hang: Hang) -> None:
    checkpointer, history = checkpointer_of(tmp_path), StateHistory(1)
    weight = torch.zeros(BYTES // 4)
    for interval in range(1, 6):
        weight += 1.0
        own = origin(interval)
        history.append(own, {"weight": weight})
        release, newest = history.lend(), history.newest()
        assert newest is not None
        item = checkpoint(interval)
        checkpointer.commit(dataclasses.replace(item, model=dict(newest.state), release=release))
    weight += 1.0
    history.append(origin(6), {"weight": weight})  # into the memory of state 5, if it were not lent
    hang.end()
    checkpointer.wait()
    store = CheckpointStore(Storage(str(tmp_path)))
    assert store.list(0)[-1].interval == 5
    for identity in store.list(0)[1:]:  # the pipe itself holds nothing to read again
        assert set(store.load(0, identity).model["weight"].tolist()) == {float(identity.interval)}


class SlowCondition(threading.Condition):
    """A condition whose lock a committer leaves slowly, so that other threads get between."""

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)  # pyright: ignore[reportArgumentType] # as given
        if threading.current_thread().name == "committer":
            time.sleep(0.03)


def test_no_checkpoint_is_written_by_two_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = types.SimpleNamespace(Condition=SlowCondition, Thread=threading.Thread)
    monkeypatch.setattr("inarch.actors.network.async_checkpointer.threading", slow)
    checkpointer, released = checkpointer_of(tmp_path), []
    for interval in range(1, 6):
        kept = dataclasses.replace(checkpoint(interval), release=functools.partial(released.append, interval))
        checkpointer.commit(kept)
        until(lambda interval=interval: interval in released)
    assert checkpointer.wait(seconds=20.0)
    time.sleep(0.1)
    assert released == [1, 2, 3, 4, 5]
