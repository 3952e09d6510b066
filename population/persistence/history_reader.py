"""Reads the intervals that are added to a run's history, each once, while the run trains or later."""

from __future__ import annotations

import collections
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inarch.population.errors import DamagedError, MissingError
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.persistence.history import READ_ATTEMPTS, read_file
from inarch.population.persistence.storage import Storage

logger = logging.getLogger("inarch")

Row = Mapping[str, Any]

DAMAGED_READS = 5
"""Calls in which a file that cannot be read keeps its size before it counts as damaged. Before that, its writer may not
have finished."""


@dataclass(frozen=True, kw_only=True)
class RecordedInterval:
    """One interval of one network, as committed to the history."""

    row: Row
    """Its row of the table `metrics`."""
    grafts: tuple[Row, ...]
    """Its rows of the table `grafts`: one for each donor and layer."""

    @property
    def network_id(self) -> int:
        """Id of the network."""
        return self.row["network"]

    @property
    def interval(self) -> int:
        """Number of the interval. The first is 1."""
        return self.row["interval"]


class HistoryReader:
    """Returns the intervals that were added to the history since the last call.

    A network's intervals come in order, each once. An interval that was trained again after a restart is not returned
    a second time. Files that were read are not read again.
    """

    def __init__(self, storage: Storage) -> None:
        """Create a reader that has read nothing.

        Args:
            storage: The run's folder.
        """
        self._storage = storage
        self._names_read: dict[str, set[str]] = {"metrics": set(), "grafts": set()}
        self._waiting: dict[tuple[int, int], Row] = {}
        self._grafts: dict[tuple[int, int, int], list[Row]] = {}
        self._returned: dict[int, int] = {}
        self._is_partial = False
        self._unreadable: collections.Counter[tuple[str, int | None]] = collections.Counter()
        self._rows: dict[str, list[Row]] = {"metrics": [], "grafts": []}

    def new_intervals(self, *, is_final: bool = False) -> list[RecordedInterval]:
        """Return the intervals that were added since the last call, in the order of their time.

        The files of the two tables are written one after the other. An interval with a graft is therefore returned when
        the rows of the graft are there. If a file is only partly written, nothing is returned, and the next call reads
        it again. A file that stays so is damaged: a warning names it, and its rows are left out.

        Args:
            is_final: Whether the history is complete. Intervals are then returned without rows that never came.

        Raises:
            StorageError: The storage fails. The next call returns what this one did not.
        """
        self._is_partial = False
        for table in self._rows:
            self._read_table(table)
        metrics, grafts = self._rows["metrics"], self._rows["grafts"]
        self._rows = {"metrics": [], "grafts": []}
        for row in metrics:
            key = row["network"], row["interval"]
            known = self._waiting.get(key)
            if row["interval"] > self._returned.get(row["network"], 0) and (
                known is None or row["incarnation"] >= known["incarnation"]
            ):
                self._waiting[key] = row
        for row in grafts:
            self._grafts.setdefault((row["rootstock"], row["interval"], row["incarnation"]), []).append(row)
        if self._is_partial and not is_final:
            return []
        intervals = self._ready(is_final=is_final)
        self._grafts = {key: rows for key, rows in self._grafts.items() if key[1] > self._returned.get(key[0], 0)}
        return _in_order_of_time(intervals)

    def _ready(self, *, is_final: bool) -> list[RecordedInterval]:
        """Take the waiting intervals that are complete, and those before them."""
        ready: list[RecordedInterval] = []
        incomplete: set[int] = set()
        for network_id, number in sorted(self._waiting):
            row = self._waiting[network_id, number]
            grafts = self._grafts.get((network_id, number, row["incarnation"]), [])
            if row["outcome"] == ExchangeOutcome.GRAFTED.value and not grafts and not is_final:
                incomplete.add(network_id)
            if network_id in incomplete:
                continue
            ready.append(RecordedInterval(row=row, grafts=tuple(_without_repeats(grafts))))
            del self._waiting[network_id, number]
            self._returned[network_id] = number
        return ready

    def _read_table(self, table: str) -> None:
        """Add the rows of the files of a table that were not read before.

        A file that vanishes meanwhile was folded into another. The files are then listed again.
        """
        for _ in range(READ_ATTEMPTS):
            if self._read_files(table):
                return
        self._is_partial = True

    def _read_files(self, table: str) -> bool:
        """Add the rows of unread files. Return whether all files were there."""
        is_complete = True
        for name in self._storage.names(table):
            if not name.endswith(".parquet") or name in self._names_read[table]:
                continue
            try:
                self._rows[table] += read_file(self._storage, table, name).to_pylist()
                self._names_read[table].add(name)
            except MissingError:
                is_complete = False
            except DamagedError as error:
                self._note_unreadable(table, name, error)
        return is_complete

    def _note_unreadable(self, table: str, name: str, error: DamagedError) -> None:
        """Wait for the writer of a file, or leave the file out if it stays as it is."""
        key = f"{table}/{name}", self._storage.size(f"{table}/{name}")
        self._unreadable[key] += 1
        if self._unreadable[key] < DAMAGED_READS:
            self._is_partial = True
            return
        logger.warning("%s; its rows are left out", error)
        self._names_read[table].add(name)


def _in_order_of_time(intervals: list[RecordedInterval]) -> list[RecordedInterval]:
    """Return intervals in the order of their time, and those of a network in order even if its clock was set back."""
    latest: dict[int, float] = {}
    keys: list[tuple[float, int, int]] = []
    for interval in intervals:
        time = max(interval.row["time"], latest.get(interval.network_id, interval.row["time"]))
        latest[interval.network_id] = time
        keys.append((time, interval.network_id, interval.interval))
    return [interval for _, interval in sorted(zip(keys, intervals, strict=True), key=lambda pair: pair[0])]


def _without_repeats(rows: list[Row]) -> list[Row]:
    """Return rows of one interval, of which some were read twice: from a file, and from the one it was folded into."""
    return list({(row["scion"], row["layer"]): row for row in rows}.values())
