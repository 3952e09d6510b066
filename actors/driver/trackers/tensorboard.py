"""TensorBoard as a tracker."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from inarch.actors.driver.trackers.tracker import POPULATION, TrackedRun, Tracker, read_cursor, write_cursor
from inarch.population.extension.optional_packages import check_installed

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

CURSOR = "inarch.json"
"""File that holds what was logged."""


class TensorBoard(Tracker):
    """Writes event files into DIRECTORY/RUN: a folder for each network and one for the population."""

    def __init__(self, directory: str = "tensorboard") -> None:
        """Create the tracker.

        Args:
            directory: Folder that TensorBoard is given as --logdir.

        Raises:
            ConfigError: The package tensorboard is not installed.
        """
        super().__init__()
        check_installed("tensorboard", needed_by="tracker tensorboard", extra="tensorboard")
        self._directory = Path(directory)
        self._folder, self._id = self._directory, ""
        self._writers: dict[str, SummaryWriter] = {}

    def begin(self, run: TrackedRun) -> Mapping[str, int]:
        """Begin to write into DIRECTORY/RUN, or continue."""
        self._folder, self._id = self._directory / run.name, run.id
        self._folder.mkdir(parents=True, exist_ok=True)
        sent = read_cursor(self._folder / CURSOR, run)
        if sent is not None:
            return sent
        settings = json.dumps(dict(run.settings), indent=2)
        self._writer(POPULATION).add_text("settings", f"```json\n{settings}\n```", 0)
        return {}

    def log(self, key: str, step: int, seconds: float, values: Mapping[str, float]) -> None:
        """Write a scalar for each value."""
        writer = self._writer(key)
        for name, value in values.items():
            writer.add_scalar(name, value, step, walltime=seconds)

    def record(self, sent: Mapping[str, int]) -> None:
        """Write the event files out, and the file that says what they hold."""
        for writer in self._writers.values():
            writer.flush()
        write_cursor(self._folder / CURSOR, self._id, sent)

    def end(self, *, state: str, artifacts: Path | None) -> None:
        """Close the event files. The result becomes a text."""
        if artifacts is not None and (result := artifacts / "result.json").exists():
            self._writer(POPULATION).add_text("result", f"```json\n{result.read_text()}\n```", 0)
        for writer in self._writers.values():
            writer.close()
        self._writers = {}

    def _writer(self, key: str) -> SummaryWriter:
        if key not in self._writers:
            from torch.utils.tensorboard import SummaryWriter  # imports torch, which takes seconds

            self._writers[key] = SummaryWriter(str(self._folder / key))
        return self._writers[key]
