"""A manifest commits each checkpoint, even on file systems without atomic rename. Rows are counted once."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.fs as pafs
import pytest
import safetensors.torch
import torch

from inarch.population.errors import CheckpointError, StorageError
from inarch.population.persistence.checkpoint import Checkpoint, CheckpointId, CheckpointStore
from inarch.population.persistence.history import read_table
from inarch.population.persistence.history_schemas import FUSION, METRICS
from inarch.population.persistence.storage import Storage
from inarch.population.persistence.tensor_files import PART_BYTES, parts_of, read_tensors


class Bucket(pafs.FileSystemHandler):
    """A file system that behaves like an object store: no rename, and a file appears when its stream is closed."""

    def __init__(self, inner: pafs.FileSystem) -> None:
        self._inner = inner
        self.fails = False
        self.delay_seconds = 0.0

    def open_output_stream(self, path: str, metadata: Any) -> Any:
        time.sleep(self.delay_seconds)
        if self.fails:
            raise OSError("the bucket is away")
        return self._inner.open_output_stream(path)

    def move(self, src: str, dest: str) -> None:
        raise OSError("a bucket cannot rename")

    def get_file_info(self, paths: list[str]) -> Any:
        return self._inner.get_file_info(paths)

    def get_file_info_selector(self, selector: Any) -> Any:
        return self._inner.get_file_info(selector)

    def open_input_file(self, path: str) -> Any:
        return self._inner.open_input_file(path)

    def open_input_stream(self, path: str) -> Any:
        return self._inner.open_input_stream(path)

    def create_dir(self, path: str, recursive: bool) -> None:
        self._inner.create_dir(path, recursive=recursive)

    def delete_dir(self, path: str) -> None:
        self._inner.delete_dir(path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        self._inner.delete_dir_contents(path, missing_dir_ok=missing_dir_ok)

    def delete_root_dir_contents(self) -> None:
        raise OSError("not here")

    def delete_file(self, path: str) -> None:
        self._inner.delete_file(path)

    def copy_file(self, src: str, dest: str) -> None:
        self._inner.copy_file(src, dest)

    def get_type_name(self) -> str:
        return "bucket"

    def normalize_path(self, path: str) -> str:
        return path

    def open_append_stream(self, path: str, metadata: Any) -> Any:
        raise OSError("a bucket cannot append")


@pytest.fixture(params=["local", "bucket"])
def storage(request, tmp_path) -> Storage:
    if request.param == "local":
        return Storage(str(tmp_path / "run"))
    return Storage(str(tmp_path / "run"), filesystem=pafs.PyFileSystem(Bucket(pafs.LocalFileSystem())))


def checkpoint(interval: int, *, incarnation: int = 1, step: int = 0, score: float | None = None) -> Checkpoint:
    row = dict.fromkeys(METRICS.names) | {
        "network": 0,
        "interval": interval,
        "incarnation": incarnation,
        "outcome": "off",
    }
    return Checkpoint(
        network_id=0,
        id=CheckpointId(incarnation=incarnation, interval=interval, step=step),
        model={"weight": torch.full((3,), float(interval)), "count": torch.tensor(interval)},
        tensors={"optimizer.momentum_buffer.weight": torch.ones(3)},
        training={"interval": interval, "best_score": score, "best_interval": interval, "score": score},
        best={"weight": torch.full((3,), 100.0 + interval), "count": torch.tensor(0)} if score is not None else None,
        rows={"metrics": [row]},
    )


def test_best_without_validation_returns_averaged_weights(storage: Storage) -> None:
    store = CheckpointStore(storage)
    plain = checkpoint(1)
    mean = {"average.weight": torch.full((3,), 7.0), "average.count": torch.tensor(1)}
    for count in (0, 4):
        tensors = {**plain.tensors, **mean, "average_count": torch.tensor(count)}
        store.commit(dataclasses.replace(plain, id=dataclasses.replace(plain.id, interval=count + 1), tensors=tensors))
        best = store.best(0)
        assert best is not None
        assert best[0]["weight"].tolist() == [7.0 if count else 1.0] * 3


def test_newest_returns_the_committed_checkpoint(storage: Storage) -> None:
    store = CheckpointStore(storage)
    assert store.newest(0) is None
    assert store.commit(checkpoint(1))
    newest = store.newest(0)
    assert newest is not None
    assert newest.model["weight"].tolist() == [1.0, 1.0, 1.0]
    assert newest.model["count"].dtype == torch.int64
    assert newest.tensors["optimizer.momentum_buffer.weight"].tolist() == [1.0, 1.0, 1.0]
    assert newest.training["interval"] == 1


def test_store_keeps_the_last_checkpoints_and_the_best(storage: Storage) -> None:
    store = CheckpointStore(storage, keep=2)
    for interval, score in ((1, 0.5), (2, 0.9), (3, None), (4, None), (5, None)):
        store.commit(checkpoint(interval, score=score))
    assert [checkpoint_id.interval for checkpoint_id in store.list(0)] == [2, 4, 5]
    best = store.best(0)
    assert best is not None
    assert (best[0]["weight"].tolist(), best[1], best[2]) == ([102.0] * 3, 0.9, 2)


def test_best_without_validation_is_the_newest(storage: Storage) -> None:
    store = CheckpointStore(storage)
    store.commit(checkpoint(1))
    store.commit(checkpoint(2))
    best = store.best(0)
    assert best is not None and best[2] == 2


def test_checkpoint_without_manifest_is_ignored(storage: Storage) -> None:
    store = CheckpointStore(storage)
    store.commit(checkpoint(1))
    store.commit(checkpoint(2))
    storage.delete("networks/0/000002-001/manifest.json")
    newest = store.newest(0)
    assert newest is not None and newest.id.interval == 1


def test_failed_read_is_not_a_damaged_checkpoint(tmp_path: Path) -> None:
    store = CheckpointStore(Storage(str(tmp_path / "run")))
    store.commit(checkpoint(1))
    (tmp_path / "run/networks/0/000001-001/model.safetensors").unlink()
    (tmp_path / "run/networks/0/000001-001/model.safetensors").mkdir()
    with pytest.raises(StorageError) as failure:
        store.newest(0)
    assert not isinstance(failure.value, CheckpointError), "a failed read must not be handled as damage"


@pytest.mark.parametrize("damage", [b"", b"something else"])
def test_damaged_checkpoint_is_skipped(storage: Storage, damage: bytes) -> None:
    store = CheckpointStore(storage)
    store.commit(checkpoint(1))
    store.commit(checkpoint(2))
    storage.write("networks/0/000002-001/model.safetensors", damage)
    newest = store.newest(0)
    assert newest is not None and newest.id.interval == 1
    with pytest.raises(CheckpointError, match="not what was written"):
        store.load(0, CheckpointId(incarnation=1, interval=2))


def test_checkpoint_within_an_interval_is_newer_than_its_start(storage: Storage) -> None:
    store = CheckpointStore(storage)
    store.commit(checkpoint(3))
    store.commit(checkpoint(3, step=77))
    newest = store.newest(0)
    assert newest is not None and newest.id.step == 77
    limited = store.newest(0, at_most_interval=2)
    assert limited is None


def test_commit_of_a_fenced_incarnation_is_refused(storage: Storage) -> None:
    store = CheckpointStore(storage)
    store.acquire_fence(0, 1)
    store.commit(checkpoint(1))
    store.acquire_fence(0, 2)
    assert not store.commit(checkpoint(2, incarnation=1))
    assert store.commit(checkpoint(2, incarnation=2))
    assert [(checkpoint_id.interval, checkpoint_id.incarnation) for checkpoint_id in store.list(0)] == [(1, 1), (2, 2)]
    assert read_table(storage, "metrics").column("interval").to_pylist() == [1, 2]


def test_rows_of_a_repeated_interval_are_counted_once(storage: Storage) -> None:
    store = CheckpointStore(storage)
    for interval, incarnation in ((1, 1), (2, 1), (2, 2), (3, 2)):
        store.commit(checkpoint(interval, incarnation=incarnation))
    table = read_table(storage, "metrics")
    assert table.column("interval").to_pylist() == [1, 2, 3]
    assert table.column("incarnation").to_pylist() == [1, 2, 2]


def test_flush_history_writes_rows_missing_after_a_crash(storage: Storage) -> None:
    store = CheckpointStore(storage)
    store.commit(checkpoint(1))
    storage.delete("metrics/0-000001-001.parquet")
    assert len(read_table(storage, "metrics")) == 0
    store.flush_history()
    assert read_table(storage, "metrics").column("interval").to_pylist() == [1]


def test_checkpoint_files_contain_no_pickle(storage: Storage) -> None:
    CheckpointStore(storage).commit(checkpoint(1, score=0.1))
    names = storage.names("networks/0/000001-001")
    assert {name.rpartition(".")[2] for name in names} == {"safetensors", "json", "parquet"}
    manifest = json.loads(storage.read("networks/0/000001-001/manifest.json"))
    assert sorted([*manifest.keys() - {"checksum"}, "manifest.json"]) == names


def test_failed_commit_raises_and_keeps_earlier_checkpoints(tmp_path) -> None:
    bucket = Bucket(pafs.LocalFileSystem())
    storage = Storage(str(tmp_path), filesystem=pafs.PyFileSystem(bucket))
    store = CheckpointStore(storage)
    store.commit(checkpoint(1))
    bucket.fails = True
    with pytest.raises(StorageError, match=r"could not write networks/0/000002-001/.*the bucket is away"):
        store.commit(checkpoint(2))
    with pytest.raises(StorageError):
        storage.check_writable()
    newest = store.newest(0)
    assert newest is not None and newest.id.interval == 1


def test_storage_write_past_the_deadline_raises(tmp_path) -> None:
    bucket = Bucket(pafs.LocalFileSystem())
    bucket.delay_seconds = 0.5
    storage = Storage(str(tmp_path), filesystem=pafs.PyFileSystem(bucket), deadline_seconds=0.05)
    with pytest.raises(StorageError, match=r"did not write file within 0\.05 s"):
        storage.write("file", b"x")


def test_storage_that_hangs_does_not_keep_a_process_from_ending(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # nobody writes into it, so that a read hangs
    script = (
        "import sys; from inarch.population.persistence.storage import Storage\n"
        "from inarch.population.errors import StorageError\n"
        "try: Storage(sys.argv[1], deadline_seconds=0.2).read('pipe')\n"
        "except StorageError as error: print(error)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0 and "did not read pipe within 0.2 s" in result.stdout, result.stderr


def test_storage_that_cannot_be_opened_raises() -> None:
    with pytest.raises(StorageError, match="cannot be opened"):
        Storage("nonsense://x/y")
    with pytest.raises(StorageError):
        Storage("/proc/inarch").check_writable()


def test_files_of_tensors_are_those_of_the_library(tmp_path: Path) -> None:
    tensors = {
        "half": torch.arange(5, dtype=torch.bfloat16),
        "ordered": torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
        "count": torch.tensor(7),
        "mask": torch.tensor([True, False, True]),
        "empty": torch.zeros(0, 3),
        "large": torch.randn(2_000_003),
        "complex": torch.tensor([1 + 2j]),
    }
    content = b"".join(parts_of(tensors))
    expected = {name: tensor.contiguous() for name, tensor in tensors.items()}
    for found in (safetensors.torch.load(content), read_tensors(content)):
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert len(content) == len(safetensors.torch.save(expected))
    assert max(len(part) for part in parts_of(tensors)) <= PART_BYTES
    with pytest.raises(CheckpointError, match="of type complex128"):
        list(parts_of({"x": torch.zeros(1, dtype=torch.complex128)}))
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_tensors(content[:-5])


def test_checkpoint_with_checksums_of_an_earlier_version_loads(storage: Storage) -> None:
    store = CheckpointStore(storage)
    store.commit(checkpoint(1))
    (name,) = [name for name in storage.names("networks/0") if name.startswith("000001")]
    manifest = {}
    for file in storage.names(f"networks/0/{name}"):
        content = storage.read(f"networks/0/{name}/{file}")
        manifest[file] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    del manifest["manifest.json"]
    storage.write(f"networks/0/{name}/manifest.json", json.dumps(manifest).encode())
    assert store.newest(0) is not None
    manifest["model.safetensors"]["sha256"] = "0" * 64
    storage.write(f"networks/0/{name}/manifest.json", json.dumps(manifest).encode())
    assert store.newest(0) is None


@pytest.mark.parametrize("entry", [{}, {"bytes": 3}, {"bytes": 3, "unknown": "x"}])
def test_manifest_with_an_unknown_checksum_is_damaged(storage: Storage, entry: dict[str, Any]) -> None:
    store = CheckpointStore(storage)
    store.commit(checkpoint(1))
    manifest = json.loads(storage.read("networks/0/000001-001/manifest.json"))
    del manifest["checksum"]
    manifest["training.json"] = entry
    storage.write("networks/0/000001-001/manifest.json", json.dumps(manifest).encode())
    assert store.newest(0) is None


def test_committing_and_flushing_read_no_weights(tmp_path: Path) -> None:
    class Counting(Bucket):
        read: ClassVar[list[str]] = []

        def open_input_file(self, path: str) -> Any:
            self.read.append(path)
            return super().open_input_file(path)

    storage = Storage(str(tmp_path / "run"), filesystem=pafs.PyFileSystem(Counting(pafs.LocalFileSystem())))
    store = CheckpointStore(storage)
    for interval in range(1, 6):
        store.commit(checkpoint(interval, score=float(-interval)))
    store.flush_history()
    assert Counting.read and not [path for path in Counting.read if path.endswith(".safetensors")]
    assert len(read_table(storage, "metrics")) == 5


def test_deadline_of_a_file_begins_anew_with_each_part(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path), deadline_seconds=0.4)

    def parts(seconds: float) -> Iterator[bytes]:
        for _ in range(4):
            time.sleep(seconds)
            yield b"x"

    storage.write_parts("slow", parts(0.2))
    assert storage.read("slow") == b"xxxx"
    with pytest.raises(StorageError, match=r"did not write stuck within 0\.4 s"):
        storage.write_parts("stuck", parts(1.0))


def test_folders_that_were_not_written_whole_are_dropped(storage: Storage) -> None:
    store = CheckpointStore(storage)
    for name in ("000001-001", "000001-001-000000007", "000009-001"):
        storage.write(f"networks/0/{name}/model.safetensors", b"cut")
    store.acquire_fence(0, 1)
    store.commit(checkpoint(2))
    store.commit(checkpoint(3))
    assert storage.names("networks/0") == ["000002-001", "000003-001", "000009-001", "incarnation-001"]
    store.commit(checkpoint(4, incarnation=2))
    assert storage.names("networks/0") == ["000002-001", "000003-001", "000004-002", "incarnation-001"]
    store.commit(checkpoint(5, incarnation=2))
    assert storage.names("networks/0") == ["000004-002", "000005-002", "incarnation-001"]


@pytest.mark.parametrize("name", ["incarnation-x", "incarnation-", ".nfs0001", "000001", "a-b-c"])
def test_other_names_in_a_network_folder_are_ignored(storage: Storage, name: str) -> None:
    store = CheckpointStore(storage)
    storage.write(f"networks/0/{name}", b"")
    assert not store.is_fenced(0, 1) and store.list(0) == []
    assert store.commit(checkpoint(1))


def test_checkpoints_before_a_resume_stay_until_replaced(storage: Storage) -> None:
    """In lockstep, all networks resume from an earlier interval if only that is common. It must remain common."""
    store = CheckpointStore(storage, keep=2)
    for interval, step in ((30, 0), (40, 0), (46, 470)):
        store.commit(checkpoint(interval, step=step))
    store.commit(checkpoint(50, incarnation=2))  # resumed from 40
    assert [identity.interval for identity in store.list(0)] == [40, 46, 50]
    store.commit(checkpoint(60, incarnation=2))
    assert [identity.interval for identity in store.list(0)] == [50, 60]


class LostAnswer(Storage):
    """Carries out the write of a manifest, and reports it as failed."""

    def write(self, relative: str, content: bytes) -> None:
        super().write(relative, content)
        if relative.endswith("manifest.json"):
            raise StorageError("no answer")


def test_rows_of_a_commit_that_seems_to_fail_are_counted_once(tmp_path: Path) -> None:
    store = CheckpointStore(Storage(str(tmp_path)), keep=1)
    store.commit(checkpoint(1))
    with pytest.raises(StorageError, match="no answer"):
        CheckpointStore(LostAnswer(str(tmp_path)), keep=1).commit(checkpoint(2))
    third = checkpoint(3)
    store.commit(dataclasses.replace(third, rows={"metrics": [*checkpoint(2).rows["metrics"], *third.rows["metrics"]]}))
    store.commit(checkpoint(4))
    store.flush_history()
    for all_incarnations in (False, True):
        table = read_table(Storage(str(tmp_path)), "metrics", all_incarnations=all_incarnations)
        assert table.column("interval").to_pylist() == [1, 2, 3, 4]


def test_epoch_that_another_incarnation_finishes_keeps_its_rows(tmp_path: Path) -> None:
    def fused(interval: int, epoch: int, incarnation: int, kept: int) -> dict[str, Any]:
        row = {"network": 0, "interval": interval, "incarnation": incarnation, "epoch": epoch, "layer": "c"}
        return dict.fromkeys(FUSION.names) | row | {"kept": kept}

    storage = Storage(str(tmp_path))
    store = CheckpointStore(storage, keep=9)
    for made, rows in (
        (checkpoint(1), [fused(1, 0, 1, 4)]),
        (checkpoint(1, step=15), [fused(2, 1, 1, 3)]),  # it stops within interval 2, in which epoch 1 has begun
        (checkpoint(2, incarnation=2), [fused(3, 2, 2, 2)]),
        (checkpoint(3, incarnation=3), [fused(3, 2, 3, 1)]),  # epoch 2 begins again
    ):
        store.commit(dataclasses.replace(made, rows={**made.rows, "fusion": rows}))
    table = read_table(storage, "fusion")
    assert table.select(["epoch", "kept"]).to_pylist() == [
        {"epoch": 0, "kept": 4},
        {"epoch": 1, "kept": 3},
        {"epoch": 2, "kept": 1},
    ]
