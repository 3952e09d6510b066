"""The files of a finished run's tables are folded into one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from inarch.population.persistence.checkpoint import CheckpointStore
from inarch.population.persistence.history import fold_history, read_table, to_parquet
from inarch.population.persistence.storage import Storage
from tests.population.persistence.test_checkpoint import checkpoint
from tests.population.report.test_report import run_folder


def row(network: int, interval: int, **fields: Any) -> dict[str, Any]:
    return {"network": network, "interval": interval, "incarnation": 1, "train_loss": 1.0} | fields


def write(storage: Storage, network: int, interval: int, **fields: Any) -> None:
    content = to_parquet([row(network, interval, **fields)], "metrics")
    storage.write(f"metrics/{network}-{interval:06d}-001.parquet", content)


def test_folding_keeps_every_row_in_one_file(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    for network in range(5):
        for interval in range(1, 5):
            fields = {"validation_accuracy": 0.5} if interval % 2 else {}
            write(storage, network, interval, **fields)
    before = read_table(storage, "metrics")
    fold_history(storage)
    assert storage.names("metrics") == ["folded-0000.parquet"]
    assert read_table(storage, "metrics").equals(before)
    fold_history(storage)
    assert storage.names("metrics") == ["folded-0000.parquet"]


def test_rows_after_a_fold_are_added_to_it(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    for interval in range(1, 4):
        write(storage, 0, interval)
    fold_history(storage)
    write(storage, 0, 4, train_later=0.25)
    fold_history(storage)
    assert storage.names("metrics") == ["folded-0001.parquet"]
    table = read_table(storage, "metrics")
    assert table["interval"].to_pylist() == [1, 2, 3, 4]
    assert table["train_later"].to_pylist() == [None, None, None, 0.25]


def test_death_between_write_and_delete_counts_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(str(tmp_path))
    for interval in range(1, 4):
        write(storage, 0, interval)
    monkeypatch.setattr(storage, "delete", lambda name: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        fold_history(storage)
    monkeypatch.undo()
    assert len(storage.names("metrics")) == 4
    assert read_table(storage, "metrics")["interval"].to_pylist() == [1, 2, 3]
    write(storage, 0, 2)  # a checkpoint whose rows are written again
    fold_history(storage)
    assert storage.names("metrics") == ["folded-0001.parquet"]
    assert read_table(storage, "metrics")["interval"].to_pylist() == [1, 2, 3]


def test_reader_lists_the_files_again_if_one_vanishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(str(tmp_path))
    for interval in range(1, 4):
        write(storage, 0, interval)
    read = storage.read

    def read_while_folded(name: str) -> bytes:
        monkeypatch.undo()
        fold_history(storage)  # by another process, between the listing and this call
        return read(name)

    monkeypatch.setattr(storage, "read", read_while_folded)
    assert read_table(storage, "metrics")["interval"].to_pylist() == [1, 2, 3]


def test_flush_does_not_write_folded_rows_again(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    store = CheckpointStore(storage)
    for interval in (1, 2):
        store.commit(dataclasses.replace(checkpoint(interval), rows={"metrics": [row(0, interval)]}))
    fold_history(storage)
    store.flush_history()
    assert storage.names("metrics") == ["folded-0000.parquet"]
    storage.delete("metrics")
    store.flush_history()
    assert len(storage.names("metrics")) == 2


def test_all_tables_of_a_run_are_folded(tmp_path: Path) -> None:
    storage = run_folder(tmp_path)
    for table in ("grafts", "filters"):
        storage.write(f"{table}/more.parquet", storage.read(f"{table}/all.parquet"))
    before = {table: len(read_table(storage, table)) for table in ("grafts", "filters")}
    fold_history(storage)
    assert {table: storage.names(table) for table in before} == {key: ["folded-0000.parquet"] for key in before}
    assert {table: len(read_table(storage, table)) for table in before} == before


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_large_finished_run_leaves_few_files(tmp_path: Path) -> None:
    """The tables of 100 networks with 200 checkpoints each, as many files as a run of that size leaves."""
    networks, intervals = 100, 200
    storage = Storage(str(tmp_path))
    storage.make("metrics")
    for network in range(networks):
        for interval in range(1, intervals + 1):
            content = to_parquet([row(network, interval)], "metrics")
            (tmp_path / "metrics" / f"{network}-{interval:06d}-001.parquet").write_bytes(content)
    fold_history(storage)
    assert len(storage.names("metrics")) <= 100
    table = read_table(storage, "metrics")
    assert table.num_rows == networks * intervals
    assert table["interval"].to_pylist()[:intervals] == list(range(1, intervals + 1))
