"""The reader of a history that grows: each interval once, in order, with its grafts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from inarch.population.persistence.history import fold_history, read_table, to_parquet
from inarch.population.persistence.history_reader import HistoryReader
from inarch.population.persistence.storage import Storage


def write(storage: Storage, table: str, name: str, rows: list[dict[str, Any]]) -> None:
    storage.write(f"{table}/{name}.parquet", to_parquet(rows, table))


def metrics(*intervals: int, network: int = 0, incarnation: int = 1, outcome: str = "skipped") -> list[dict[str, Any]]:
    common = {"network": network, "incarnation": incarnation, "outcome": outcome}
    return [common | {"interval": interval, "time": float(interval)} for interval in intervals]


def grafts(interval: int, *, incarnation: int = 1) -> list[dict[str, Any]]:
    common = {"rootstock": 0, "scion": 1, "interval": interval, "incarnation": incarnation}
    return [common | {"layer": layer, "alpha": 0.5} for layer in ("a", "b")]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def numbers(reader: HistoryReader, *, is_final: bool = False) -> list[tuple[int, int]]:
    return [(found.network_id, found.interval) for found in reader.new_intervals(is_final=is_final)]


def test_each_interval_is_returned_once_in_order_of_time(storage: Storage) -> None:
    reader = HistoryReader(storage)
    assert numbers(reader) == []
    write(storage, "metrics", "0-2-1", metrics(1, 2))
    write(storage, "metrics", "1-1-1", metrics(1, network=1))
    assert numbers(reader) == [(0, 1), (1, 1), (0, 2)]
    write(storage, "metrics", "0-3-1", metrics(3))
    assert numbers(reader) == [(0, 3)]
    assert numbers(reader) == []


def test_interval_waits_for_the_rows_of_its_graft(storage: Storage) -> None:
    reader = HistoryReader(storage)
    write(storage, "metrics", "0-3-1", [*metrics(1), *metrics(2, outcome="grafted"), *metrics(3)])
    assert numbers(reader) == [(0, 1)]
    write(storage, "grafts", "0-3-1", grafts(2))
    found = reader.new_intervals()
    assert [(interval.interval, len(interval.grafts)) for interval in found] == [(2, 2), (3, 0)]


def test_complete_history_is_returned_without_missing_rows(storage: Storage) -> None:
    reader = HistoryReader(storage)
    write(storage, "metrics", "0-1-1", metrics(1, outcome="grafted"))
    assert numbers(reader) == []
    assert numbers(reader, is_final=True) == [(0, 1)]


def test_interval_that_was_trained_again_is_not_returned_twice(storage: Storage) -> None:
    reader = HistoryReader(storage)
    write(storage, "metrics", "0-2-1", metrics(1, 2))
    assert numbers(reader) == [(0, 1), (0, 2)]
    write(storage, "metrics", "0-3-2", metrics(2, 3, incarnation=2))
    assert numbers(reader) == [(0, 3)]


def test_last_incarnation_counts_among_unread_rows(storage: Storage) -> None:
    write(storage, "metrics", "0-1-2", metrics(1, incarnation=2, outcome="grafted"))
    write(storage, "metrics", "0-1-1", metrics(1, outcome="grafted"))
    write(storage, "grafts", "0-1-1", grafts(1))
    write(storage, "grafts", "0-1-2", grafts(1, incarnation=2)[:1])
    (interval,) = HistoryReader(storage).new_intervals()
    assert interval.row["incarnation"] == 2 and len(interval.grafts) == 1


def test_folded_history_returns_only_what_is_new(storage: Storage) -> None:
    reader = HistoryReader(storage)
    write(storage, "metrics", "0-1-1", metrics(1, outcome="grafted"))
    write(storage, "grafts", "0-1-1", grafts(1))
    assert numbers(reader) == [(0, 1)]
    write(storage, "metrics", "0-2-1", metrics(2, outcome="grafted"))
    write(storage, "grafts", "0-2-1", grafts(2))
    fold_history(storage)
    found = reader.new_intervals()
    assert [(interval.interval, len(interval.grafts)) for interval in found] == [(2, 2)]


def test_file_that_is_half_written_loses_nothing(storage: Storage) -> None:
    reader = HistoryReader(storage)
    write(storage, "metrics", "0-1-1", metrics(1))
    whole = to_parquet(metrics(2), "metrics")
    storage.write("metrics/0-2-1.parquet", whole[: len(whole) // 2])
    write(storage, "metrics", "0-3-1", metrics(3))
    assert numbers(reader) == []
    storage.write("metrics/0-2-1.parquet", whole)
    assert numbers(reader) == [(0, 1), (0, 2), (0, 3)]


def test_half_written_file_of_a_dead_run_is_left_out(storage: Storage) -> None:
    write(storage, "metrics", "0-1-1", metrics(1))
    storage.write("metrics/0-2-1.parquet", b"PAR1")
    assert numbers(HistoryReader(storage), is_final=True) == [(0, 1)]


def test_fold_during_a_reading_loses_nothing(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    for interval in (1, 2, 3):
        write(storage, "metrics", f"0-{interval}-1", metrics(interval))
    listed, names = storage.names("metrics"), storage.names
    fold_history(storage)
    answers = iter([listed])
    monkeypatch.setattr(storage, "names", lambda table: next(answers, None) or names(table))
    assert numbers(HistoryReader(storage)) == [(0, 1), (0, 2), (0, 3)]


def test_clock_that_was_set_back_keeps_the_order(storage: Storage) -> None:
    rows = [row | {"time": time} for row, time in zip(metrics(1, 2, 3), (5.0, 9.0, 2.0), strict=True)]
    write(storage, "metrics", "0-3-1", rows)
    write(storage, "metrics", "1-1-1", [row | {"time": 7.0} for row in metrics(1, network=1)])
    assert numbers(HistoryReader(storage)) == [(0, 1), (1, 1), (0, 2), (0, 3)]


def test_training_metric_may_have_a_dot_in_its_name(storage: Storage) -> None:
    rows = [row | {"train_f1.macro": 0.25, "optimizer.weight_decay": 0.5} for row in metrics(1)]
    write(storage, "metrics", "0-1-1", rows)
    (row,) = read_table(storage, "metrics").to_pylist()
    assert row["train_f1.macro"] == 0.25 and row["optimizer.weight_decay"] == 0.5
