"""Write rows of a network's history while it trains, before the checkpoint that will hold them."""

from __future__ import annotations

import threading

from inarch.actors.network.log_file import LogFile
from inarch.population.errors import StorageError
from inarch.population.persistence.checkpoint import CheckpointStore
from inarch.population.persistence.history_schemas import EARLY_TABLES, Rows


class EarlyRows:
    """Writes rows on a thread of its own. Training never waits for it.

    Others may graft a snapshot of a process that dies before its next checkpoint. These rows then say what the snapshot
    was made of. They are needed only for a repetition of the run (`inarch replay`), so a failure of storage is logged
    and ends nothing. While storage is slow, rows gather and are written together.
    """

    def __init__(self, checkpoints: CheckpointStore, network_id: int, incarnation: int, *, log: LogFile) -> None:
        """Create the writer. Its thread starts with the first rows.

        Args:
            checkpoints: Checkpoints of the run.
            network_id: Id of the network.
            incarnation: Number of its incarnation.
            log: Log of the network, for failures of storage.
        """
        self._checkpoints, self._key, self._log = checkpoints, (network_id, incarnation), log
        self._changed = threading.Condition()
        self._waiting: Rows = {}
        self._interval = 0
        self._is_writing = False

    def write(self, rows: Rows, interval: int) -> None:
        """Hand rows over. The call returns at once.

        Args:
            rows: Rows of the tables in `EARLY_TABLES`.
            interval: Intervals completed.
        """
        if not any(rows.values()):
            return
        with self._changed:
            self._waiting = {table: [*self._waiting.get(table, ()), *rows.get(table, ())] for table in EARLY_TABLES}
            self._interval = interval
            if not self._is_writing:
                self._is_writing = True
                threading.Thread(target=self._write_all, name="early-rows", daemon=True).start()

    def wait(self, *, seconds: float) -> bool:
        """Wait until everything is written or has failed, and return whether it is.

        Args:
            seconds: Longest wait.
        """
        with self._changed:
            return self._changed.wait_for(lambda: not self._is_writing, timeout=seconds)

    def _write_all(self) -> None:
        while True:
            with self._changed:
                rows, self._waiting, interval = self._waiting, {}, self._interval
                if not rows:
                    self._is_writing = False
                    self._changed.notify_all()
                    return
            try:
                self._checkpoints.write_early(*self._key, interval, rows)
            except StorageError as error:
                self._log.logger.warning("rows of interval %d were not written early: %s", interval, error)
