"""Processes of `inarch` in the integration tests, which are marked so that none is left behind unseen."""

from __future__ import annotations

import itertools
import json
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import Any

import psutil

from inarch.experiments.benchmarks.chaos.drivers import Driver
from inarch.experiments.benchmarks.processes import leftovers
from tests.conftest import ROOT
from tests.integration.runs import until


class Commands:
    """Starts `inarch` commands. Their environment, and that of the Ray that they start, carries a mark."""

    def __init__(self, storage: Path, **variables: str) -> None:
        """Create the folders of Ray's files. No process is started.

        Args:
            storage: Folder for runs and for what the commands print.
            **variables: Further environment variables of the commands.
        """
        self._token, self._numbers, self.storage = uuid.uuid4().hex, itertools.count(1), storage
        self._scratch = Path(tempfile.mkdtemp(prefix="cmd-"))  # its path is short, because Ray's sockets lie below it
        (self._scratch / "tmp").mkdir()
        variables = {"PYTHONPATH": str(ROOT / ".package"), **variables}
        self._environment = leftovers.environment(self._token, self._scratch, variables)

    def start(self, *words: str) -> Driver:
        """Start a command.

        Args:
            *words: Words of the command line after `inarch`.
        """
        log = self.storage / f"{next(self._numbers)}-{words[0]}.log"
        return Driver(words, log=log, environment=self._environment)

    def train(self, name: str, *words: str) -> Driver:
        """Start `inarch train`.

        Args:
            name: Name of the run.
            *words: Further words of the command line.
        """
        return self.start("train", "--name", name, "--storage", str(self.storage), *words)

    def succeed(self, *words: str, seconds: float = 140.0) -> str:
        """Run a command that must exit with status 0, and return what it printed.

        Args:
            *words: Words of the command line after `inarch`.
            seconds: Longest wait.
        """
        driver = self.start(*words)
        assert driver.process.wait(seconds) == 0, driver.text()
        return driver.text()

    def state(self, name: str) -> dict[str, Any]:
        """Return what `inarch status --json` prints about a run.

        Args:
            name: Name of the run.
        """
        text = self.succeed("status", name, "--storage", str(self.storage), "--json")
        return json.loads(next(line for line in text.splitlines() if line.startswith("{")))

    def actors(self) -> list[psutil.Process]:
        """Return the living processes in which actors of the commands' Ray run."""
        return [process for process in leftovers.marked_processes(self._token) if is_actor(process)]

    def remaining(self, *, seconds: float) -> list[str]:
        """Wait until all processes of the commands have ended, and return a line for each that has not. End those.

        Args:
            seconds: Longest wait.
        """
        return leftovers.remaining_processes(self._token, seconds=seconds)

    def close(self) -> None:
        """End all processes that are left, and delete Ray's files."""
        self.remaining(seconds=0.0)
        shutil.rmtree(self._scratch, ignore_errors=True)


def is_actor(process: psutil.Process) -> bool:
    """Return whether an actor of Ray runs in a process."""
    try:
        return " ".join(process.cmdline()).startswith("ray::") and "IDLE" not in process.cmdline()[0]
    except (psutil.Error, IndexError):
        return False


def printed(driver: Driver, text: str, *, seconds: float = 120.0) -> None:
    """Wait until a command has printed a text, and fail if it ends without.

    Args:
        driver: The command.
        text: The text.
        seconds: Longest wait.
    """

    def has_printed() -> bool:
        is_over, output = driver.status is not None, driver.text()
        assert text in output or not is_over, output
        return text in output

    until(has_printed, seconds=seconds)
