"""Rows that a network writes before the checkpoint that will hold them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inarch.actors.network.early_rows import EarlyRows
from inarch.actors.network.log_file import LogFile
from inarch.population.persistence.checkpoint import Checkpoint, CheckpointId, CheckpointStore
from inarch.population.persistence.history import early_name, read_table
from inarch.population.persistence.storage import Storage


def rows_of(interval: int) -> dict[str, list[dict[str, Any]]]:
    row = {"network": 0, "interval": interval, "incarnation": 1, "outcome": "nothing_yet", "position": 0}
    return {"births": [], "exchanges": [row]}


def recorded(storage: Storage) -> list[int]:
    return read_table(storage, "exchanges", all_incarnations=True)["interval"].to_pylist()


def test_early_rows_remain_until_their_checkpoint(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    store = CheckpointStore(storage)
    early = EarlyRows(store, 0, 1, log=LogFile(storage, "early"))
    for interval in (1, 2, 3):
        early.write(rows_of(interval), interval)
        assert early.wait(seconds=20.0)
    assert recorded(storage) == [1, 2, 3]
    rows = {"exchanges": rows_of(1)["exchanges"] + rows_of(2)["exchanges"]}
    identity = CheckpointId(incarnation=1, interval=2)
    assert store.commit(Checkpoint(network_id=0, id=identity, model={}, tensors={}, training={}, rows=rows))
    assert recorded(storage) == [1, 2, 3]
    assert storage.names("exchanges") == ["0-000002-001.parquet", early_name(0, 1, 3)]


def test_failing_storage_costs_early_rows_only(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    store = CheckpointStore(storage)
    early = EarlyRows(store, 0, 1, log=LogFile(storage, "failing"))
    (tmp_path / "exchanges").touch()  # a file, where the folder of the table belongs
    early.write(rows_of(1), 1)
    assert early.wait(seconds=20.0)
    (tmp_path / "exchanges").unlink()
    early.write(rows_of(2), 2)
    assert early.wait(seconds=20.0)
    assert recorded(storage) == [2]
    assert "rows of interval 1 were not written early" in (tmp_path / "logs" / "failing.log").read_text()
