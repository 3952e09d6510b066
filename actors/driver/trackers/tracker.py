"""Trackers: callbacks that send the history of a run to a service for experiments."""

from __future__ import annotations

import collections
import contextlib
import json
import logging
import os
import tempfile
import threading
import time
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inarch.actors.driver.callbacks import RunCallback
from inarch.actors.driver.run_result import RunResult
from inarch.actors.driver.trackers.tracked_values import PopulationValues, network_values, result_values
from inarch.population.errors import ConfigError, MissingError
from inarch.population.persistence.history_reader import HistoryReader, RecordedInterval
from inarch.population.persistence.json_files import from_json, to_json
from inarch.population.persistence.storage import Storage
from inarch.population.tasks.run_folder import end_state, metrics_of, read_config, read_members, read_result, run_id_of

READ_SECONDS = 5.0
"""Least time between two readings of the history."""

RETRY_SECONDS = 60.0
"""Time after a failure in which nothing is sent, so that a server that is down does not keep the driver busy."""

LOCK_SECONDS = 30.0
"""Longest wait at the end of a run for a transfer that is under way."""

POPULATION = "population"
"""Key of the population among the networks, whose keys are `network-ID`."""

RESULT = "result"
"""Key of the result in the record of what was sent: the population's step at the end."""

ARTIFACTS = ("config.json", "result.json", "report.html")
"""Files of the run's folder that trackers keep."""

logger = logging.getLogger("inarch")


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """Description of a run, for a tracker."""

    name: str
    """Name of the run."""
    id: str
    """Id of the run. Two runs of one name have different ids."""
    folder: str
    """Path or URI of its folder."""
    settings: Mapping[str, str | int | float | bool]
    """Fields of the configuration by their dotted names, facts under `info.`, and versions under `versions.`."""


class Tracker(RunCallback):
    """Sends the intervals of a run to a service for experiments, as a run for each network and one for the population.

    The intervals are read from the history in the run's folder. What was sent is recorded with the service. Each
    interval is therefore sent once, also if the run is resumed, the coordinator restarts or another process continues.
    """

    def __init__(self) -> None:
        """Create a tracker that follows no run."""
        self._name, self._storage = "", Storage(".")
        self._reader: HistoryReader | None = None
        self._sent: dict[str, int] = {}
        self._values = PopulationValues(None)
        self._pending: collections.deque[tuple[RecordedInterval, tuple[int, dict[str, float]] | None]] = (
            collections.deque()
        )
        self._last_step = 0
        self._next_seconds = 0.0
        self._lock = threading.Lock()

    @abstractmethod
    def begin(self, run: TrackedRun) -> Mapping[str, int]:
        """Begin to log a run, or continue.

        Args:
            run: The run.

        Returns:
            What `record` was last given for this run. Empty for a new run.

        Raises:
            ConfigError: The target holds another run.
        """

    @abstractmethod
    def log(self, key: str, step: int, seconds: float, values: Mapping[str, float]) -> None:
        """Log values.

        Args:
            key: `network-ID`, or `population`.
            step: Optimizer step of the network, or interval of the population.
            seconds: Time, in seconds of the wall clock.
            values: Values by name. They may be NaN or infinite.
        """

    @abstractmethod
    def record(self, sent: Mapping[str, int]) -> None:
        """Record which intervals were logged.

        Args:
            sent: The last interval that was logged, by key. Under `result`: the population's interval at the end.
        """

    @abstractmethod
    def end(self, *, state: str, artifacts: Path | None) -> None:
        """End the runs.

        Args:
            state: finished, stopped or failed.
            artifacts: Folder with files of the run that are worth keeping. None: nothing is new.
        """

    def on_start(self, name: str, path: str) -> None:
        """Begin to log the run at `path`. If that fails, it is tried again later.

        Args:
            name: Name of the run.
            path: Path or URI of its folder.

        Raises:
            ConfigError: The target holds another run.
            RunError: config.json is damaged.
            StorageError: The folder cannot be read.
            Exception: The service failed.
        """
        self._name, self._storage = name, Storage(path)
        self._reader, self._last_step, self._next_seconds = None, 0, time.monotonic() + RETRY_SECONDS
        self._pending.clear()
        self._begin()
        self._next_seconds = 0.0

    def on_interval(self, row: Mapping[str, Any]) -> None:
        """Send what was committed since the last time, every few seconds."""
        if time.monotonic() >= self._next_seconds:
            self.advance()

    def on_finish(self, result: RunResult | None) -> None:
        """Send the rest, the result and the artifacts."""
        self.complete("failed" if result is None else end_state(self._storage, read_config(self._storage)) or "stopped")

    def advance(self, *, is_final: bool = False) -> int:
        """Send the intervals that were committed since the last call.

        Args:
            is_final: Whether the history is complete.

        Returns:
            Number of intervals sent. Intervals that were sent earlier do not count.

        Raises:
            TimeoutError: An earlier transfer is still under way.
            Exception: The service failed. The next call sends the rest.
        """
        if not self._lock.acquire(timeout=LOCK_SECONDS if is_final else 0):
            raise TimeoutError("an earlier transfer is still under way; inarch track sends the rest")
        try:
            self._next_seconds = time.monotonic() + RETRY_SECONDS
            reader = self._reader or self._begin()
            num_sent = self._send(reader, is_final=is_final)
            self._next_seconds = time.monotonic() + READ_SECONDS
            return num_sent
        finally:
            self._lock.release()

    def complete(self, state: str) -> int:
        """Send the rest, the result and the artifacts, and end.

        Args:
            state: finished, stopped or failed.

        Returns:
            Number of intervals sent.

        Raises:
            Exception: The service failed. `inarch track` sends what is missing.
        """
        num_sent = self.advance(is_final=True)
        result = read_result(self._storage) if state == "finished" else None
        is_new = result is not None and self._last_step > self._sent.get(RESULT, 0)
        if not num_sent and not is_new:
            self.end(state=state, artifacts=None)
            return 0
        with tempfile.TemporaryDirectory() as folder:
            artifacts = Path(folder)
            for name in ARTIFACTS:
                _copy(self._storage, name, artifacts / name)
            if result is not None and is_new:
                self.log(POPULATION, self._last_step, time.time(), result_values(result))
                self._sent[RESULT] = self._last_step
                self.record(self._sent)
                _copy_best(self._storage, result, artifacts)
            self.end(state=state, artifacts=artifacts)
        return num_sent

    def _begin(self) -> HistoryReader:
        """Begin to log the run, and return a reader of its history."""
        recorded = read_config(self._storage)
        metrics = metrics_of(self._storage, recorded)
        run_id = run_id_of(recorded, self._storage)
        run = TrackedRun(name=self._name, id=run_id, folder=self._storage.uri, settings=_settings(recorded))
        self._values = PopulationValues(metrics[0] if metrics else None)
        self._sent = dict(self.begin(run))
        self._reader = HistoryReader(self._storage)
        return self._reader

    def _send(self, reader: HistoryReader, *, is_final: bool) -> int:
        """Log what is new. What is not logged because of an error stays in `_pending`."""
        events = (read_members(self._storage) or {}).get("events", ())
        for interval in reader.new_intervals(is_final=is_final):
            self._pending.append((interval, self._values.add(interval, events)))
        num_sent = 0
        try:
            while self._pending:
                interval, of_population = self._pending[0]
                row, key = interval.row, f"network-{interval.network_id}"
                num_sent += self._log_new(key, interval.interval, row["step"], row["time"], network_values(interval))
                if of_population is not None:
                    step, values = of_population
                    self._log_new(POPULATION, step, step, row["time"], values)
                    self._last_step = step
                self._pending.popleft()
        except BaseException:
            with contextlib.suppress(Exception):  # the first error counts
                self.record(self._sent)
            raise
        self.record(self._sent)
        return num_sent

    def _log_new(self, key: str, interval: int, step: int, seconds: float, values: Mapping[str, float]) -> bool:
        """Log values, unless this interval was logged before. Return whether they were logged."""
        if interval <= self._sent.get(key, 0):
            return False
        self.log(key, step, seconds, values)
        self._sent[key] = interval
        return True


def read_cursor(file: Path, run: TrackedRun) -> dict[str, int] | None:
    """Return the last step that was sent of each network, as `write_cursor` recorded it. None if nothing was sent.

    Args:
        file: The file.
        run: The run that is sent.

    Raises:
        ConfigError: The file is of another run.
        DamagedError: The file is cut or altered.
    """
    if not file.exists():
        return None
    content = from_json(file.read_bytes(), str(file), fields={"id": str, "sent": dict})
    if content["id"] != run.id:
        raise ConfigError(f"{file} is of another run named {run.name}; choose another folder")
    return content["sent"]


def write_cursor(file: Path, run_id: str, sent: Mapping[str, int]) -> None:
    """Record what was sent. A process that dies meanwhile leaves the old record or the new one.

    Args:
        file: The file.
        run_id: Id of the run.
        sent: The last step that was sent of each network.
    """
    partial = file.with_name(f"{file.name}.partial")
    partial.write_bytes(to_json({"id": run_id, "sent": dict(sent)}))
    os.replace(partial, file)


def _settings(recorded: Mapping[str, Any]) -> dict[str, str | int | float | bool]:
    """Return the content of config.json as flat settings. Lists become text, and long ones are left out."""
    flat: dict[str, str | int | float | bool] = {}

    def add(prefix: str, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            if isinstance(value, Mapping):
                add(f"{prefix}{name}.", value)
            elif value is None or isinstance(value, (str, int, float, bool)):
                flat[f"{prefix}{name}"] = "None" if value is None else value
            elif len(text := json.dumps(value)) <= 250:
                flat[f"{prefix}{name}"] = text

    add("", recorded["config"])
    add("info.", recorded["info"])
    add("versions.", recorded.get("versions", {}))
    return flat


def _copy(storage: Storage, name: str, target: Path) -> None:
    """Copy a file of the run's folder. A file that is not there is left out."""
    try:
        target.write_bytes(storage.read(name))
    except MissingError:
        logger.info("%s has no %s", storage.uri, name)


def _copy_best(storage: Storage, result: Mapping[str, Any], folder: Path) -> None:
    """Write the weights of the best network that the result uses, if there are any."""
    import safetensors.torch  # imports torch

    from inarch.population.persistence.checkpoint import CheckpointStore  # imports torch
    from inarch.population.tasks.chosen_weights import chosen_of

    best = result.get("best")
    chosen = None if best is None else chosen_of(CheckpointStore(storage), best, result)
    if chosen is not None:
        in_default_order = {name: tensor.contiguous() for name, tensor in chosen.state.items()}
        safetensors.torch.save_file(in_default_order, folder / "best.safetensors")
