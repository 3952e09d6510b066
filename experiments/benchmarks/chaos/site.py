"""Where a chaos run takes place: its folders, and the environment of its processes."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path

from inarch.experiments.benchmarks.chaos.drivers import NAME, Driver
from inarch.experiments.benchmarks.chaos.outcome import Journal
from inarch.experiments.benchmarks.chaos.plan import ChaosSetting
from inarch.experiments.benchmarks.processes import leftovers
from inarch.experiments.benchmarks.processes.companion import Companion

COMPANIONS = "inarch.experiments.benchmarks.chaos.companions"
"""Package of the observer and the guest."""


class Site:
    """The folders of a chaos run, and the processes that start there."""

    def __init__(self, setting: ChaosSetting, folder: Path, *, token: str, journal: Journal) -> None:
        """Create the folders. No process is started.

        Args:
            setting: What is trained.
            folder: A folder with a short path, for the run, Ray's files and logs.
            token: Marks the processes.
            journal: Gets what happens.
        """
        self.setting, self.folder, self.journal = setting, folder, journal
        self.scratch, self.storage = folder / "s", folder / "r"
        for path in (self.scratch, self.scratch / "tmp", self.storage):
            path.mkdir(exist_ok=True)
        is_separate = setting.cluster == "separate"  # a cluster that Ray's test tools start has no token of its own
        secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)} if is_separate else {}
        self._environment = leftovers.environment(token, self.scratch, secret)

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.storage / NAME

    def companion(self, module: str, words: Sequence[str]) -> Companion:
        """Start a companion.

        Args:
            module: Name of its module.
            words: Words of its command line.
        """
        log = self.folder / f"{module.rpartition('.')[2]}.log"
        return Companion(module, words, log=log, environment=self._environment)

    def driver(self, words: Sequence[str], *, name: str) -> Driver:
        """Start a process of `inarch`.

        Args:
            words: Words of its command line after `inarch`.
            name: Name of its log, without its suffix.
        """
        return Driver(words, log=self.folder / f"{name}.log", environment=self._environment)
