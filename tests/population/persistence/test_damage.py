"""Damaged files of a run's folder are named, and never end a run."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from inarch.population.config import RunConfig, to_dict
from inarch.population.errors import ConfigError, DamagedError
from inarch.population.persistence.checkpoint import CheckpointStore
from inarch.population.persistence.history import damaged_files, fold_history, read_table, to_parquet
from inarch.population.persistence.history_reader import DAMAGED_READS, HistoryReader
from inarch.population.persistence.json_files import read_json, to_json
from inarch.population.persistence.storage import Storage
from inarch.population.tasks.run_folder import (
    read_config,
    read_info,
    read_members,
    read_result,
    recorded_config,
)
from tests.population.persistence.test_checkpoint import checkpoint


def flip(file: Path, place: int = -40) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 0x10
    file.write_bytes(bytes(content))


def row(network: int, interval: int) -> dict[str, Any]:
    return {"network": network, "interval": interval, "incarnation": 1, "outcome": "off", "time": float(interval)}


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """A history of three files, of which the second is damaged."""
    storage = Storage(str(tmp_path))
    for interval in range(1, 4):
        storage.write(f"metrics/0-{interval:06d}-001.parquet", to_parquet([row(0, interval)], "metrics"))
    flip(tmp_path / "metrics" / "0-000002-001.parquet", 100)
    return storage


def test_damaged_part_is_named_and_left_out(storage: Storage, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert read_table(storage, "metrics")["interval"].to_pylist() == [1, 3]
    assert "metrics/0-000002-001.parquet is not what was written; its rows are left out" in caplog.text
    assert list(damaged_files(storage)) == ["metrics/0-000002-001.parquet"]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no table", bytes(200)])
def test_file_of_something_else_is_left_out(storage: Storage, content: bytes) -> None:
    storage.write("metrics/0-000003-001.parquet", content)
    assert read_table(storage, "metrics")["interval"].to_pylist() == [1]


def test_fold_leaves_a_damaged_part_where_it_is(storage: Storage) -> None:
    fold_history(storage)
    assert storage.names("metrics") == ["0-000002-001.parquet", "folded-0000.parquet"]
    assert read_table(storage, "metrics")["interval"].to_pylist() == [1, 3]


def test_reader_of_a_live_run_names_a_damaged_part(storage: Storage, caplog: pytest.LogCaptureFixture) -> None:
    reader = HistoryReader(storage)
    for _ in range(DAMAGED_READS - 1):
        assert reader.new_intervals() == []
    assert [item.interval for item in reader.new_intervals()] == [1, 3]
    assert "metrics/0-000002-001.parquet" in caplog.text


def test_flush_repairs_a_part_from_its_checkpoint(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    store = CheckpointStore(storage)
    store.commit(checkpoint(1))
    flip(tmp_path / "metrics" / "0-000001-001.parquet", 100)
    assert read_table(storage, "metrics").num_rows == 0
    store.flush_history()
    assert read_table(storage, "metrics").num_rows == 1


def test_damaged_rows_of_a_checkpoint_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    storage = Storage(str(tmp_path))
    store = CheckpointStore(storage)
    store.commit(checkpoint(1))
    storage.delete("metrics")
    flip(tmp_path / "networks" / "0" / "000001-001" / "metrics.parquet")
    store.flush_history()
    assert "metrics.parquet is not what was written; its rows are lost" in caplog.text
    assert storage.names("metrics") == []


def test_damaged_checkpoint_is_named_where_it_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = CheckpointStore(Storage(str(tmp_path)))
    for interval in (1, 2):
        store.commit(checkpoint(interval))
    flip(tmp_path / "networks" / "0" / "000002-001" / "model.safetensors", -1)
    newest = store.newest(0)
    assert newest is not None and newest.id.interval == 1
    assert list(store.passed_over) == ["networks/0/000002-001"]
    assert "model.safetensors is not what was written" in caplog.text


@pytest.mark.parametrize("manifest", [b"", b"{}", b"[]", b'"text"', b'{"model.safetensors": 1}', b"\xff", b"null"])
def test_any_damaged_manifest_is_a_damaged_checkpoint(tmp_path: Path, manifest: bytes) -> None:
    store = CheckpointStore(Storage(str(tmp_path)))
    for interval in (1, 2):
        store.commit(checkpoint(interval, score=0.5))
    (tmp_path / "networks" / "0" / "000002-001" / "manifest.json").write_bytes(manifest)
    newest, best = store.newest(0), store.best(0)
    assert newest is not None and newest.id.interval == 1
    assert best is not None and best[2] == 1


def test_json_file_holds_what_was_written(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    content = {"a": 1, "b": [1.5, None, float("inf")], "c": {"x": "\u00e4"}}
    storage.write("file.json", to_json(content))
    assert read_json(storage, "file.json") == content
    storage.write("file.json", storage.read("file.json").replace(b"1.5", b"1.6"))
    with pytest.raises(DamagedError, match=r"file\.json is not what was written"):
        read_json(storage, "file.json")


def test_damaged_name_of_the_checksum_is_damage(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.write("file.json", to_json({"a": 1}).replace(b"checksum", b"checkrum"))
    with pytest.raises(DamagedError, match=r"file\.json is not what was written"):
        read_json(storage, "file.json")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"1", b"\xff\xfe", b"[" * 100_000])
def test_file_that_is_no_json_object_is_named(tmp_path: Path, content: bytes) -> None:
    storage = Storage(str(tmp_path))
    storage.write("file.json", content)
    with pytest.raises(DamagedError, match=r"file\.json is damaged"):
        read_json(storage, "file.json")


def test_json_of_an_earlier_version_has_no_checksum(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.write("file.json", b'{"a": 1}')
    assert read_json(storage, "file.json", fields={"a": int}) == {"a": 1}
    with pytest.raises(DamagedError, match="its field 'b' is missing or of another type"):
        read_json(storage, "file.json", fields={"b": int})


def test_truncated_result_counts_as_absent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    storage = Storage(str(tmp_path))
    assert read_result(storage) is None
    result = {"run": "x", "metrics": [], "networks": [], "seconds": 1.0}
    storage.replace("result.json", to_json(result))
    assert storage.names("") == ["result.json"]
    assert read_result(storage) == result
    storage.write("result.json", storage.read("result.json")[:40])
    assert read_result(storage) is None
    assert "result.json is damaged" in caplog.text


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"seed": "x"}, "seed must be a whole number"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"schedule": {"epochs": "x"}}, r"schedule\.epochs must be a whole number"),
        ({"schedule": 3}, "schedule must be a ScheduleConfig"),
        ({"topology": []}, "topology must be a TopologyConfig"),
        ({"track": "mlflow"}, "track must be a list of texts"),
    ],
)
def test_value_of_another_type_is_a_named_error(tmp_path: Path, section: dict[str, Any], message: str) -> None:
    storage = Storage(str(tmp_path))
    config = json.loads(json.dumps(to_dict(RunConfig(name="run")))) | section
    storage.write("config.json", json.dumps({"config": config, "info": {}, "model": "resnet8"}).encode())
    with pytest.raises(ConfigError, match=rf"config\.json: {message}"):
        recorded_config(storage, read_config(storage))


def test_info_with_unknown_fields_is_a_named_error(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    config = json.loads(json.dumps(to_dict(RunConfig(name="run"))))
    storage.write("config.json", json.dumps({"config": config, "info": {"x": 1}, "model": "resnet8"}).encode())
    with pytest.raises((DamagedError, ValueError), match="info"):
        read_info(storage)


@pytest.mark.parametrize("name", ["../x", "/tmp/x", ".a", 3])
def test_recorded_name_cannot_leave_the_folder(tmp_path: Path, name: Any) -> None:
    storage = Storage(str(tmp_path))
    config = json.loads(json.dumps(to_dict(RunConfig(name="run")))) | {"name": name}
    storage.write("config.json", json.dumps({"config": config, "info": {}, "model": "resnet8"}).encode())
    with pytest.raises((ConfigError, DamagedError), match="name"):
        recorded_config(storage, read_config(storage))


@pytest.mark.parametrize("member", [3, {}, {"id": 0}, {"id": 0, "state": "odd"}, {"id": "0", "state": "done"}])
def test_damaged_member_makes_the_older_record_count(tmp_path: Path, member: Any) -> None:
    storage = Storage(str(tmp_path))
    record = {"state": "training", "message": "", "began": 0.0, "placement": None, "events": []}
    storage.write("members/00000000.json", to_json(record | {"members": [{"id": 0, "state": "done"}]}))
    storage.write("members/00000001.json", json.dumps(record | {"members": [member]}).encode())
    found = read_members(storage)
    assert found is not None and found["members"] == [{"id": 0, "state": "done"}]
    storage.delete("members/00000000.json")
    with pytest.raises(DamagedError, match="none of the members' records"):
        read_members(storage)
