"""Weights & Biases as a tracker."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from inarch.actors.driver.trackers.tracker import POPULATION, TrackedRun, Tracker, read_cursor, write_cursor
from inarch.population.extension.optional_packages import check_installed

if TYPE_CHECKING:
    import wandb


class WandB(Tracker):
    """Logs to Weights & Biases: a run for each network and one for the population, in a group of the run's name."""

    def __init__(
        self,
        project: str = "inarch",
        *,
        mode: Literal["online", "offline"] | None = None,
        directory: str = ".",
    ) -> None:
        """Create the tracker.

        Args:
            project: Name of the project.
            mode: offline writes files below `directory`, which `wandb sync` sends later. online sends them at once.
                None: WANDB_MODE if set, otherwise offline.
            directory: Folder in which the folder `wandb` is made.

        Raises:
            ConfigError: The package wandb is not installed.
        """
        super().__init__()
        check_installed("wandb", needed_by="tracker wandb", extra="wandb")
        self._project, self._mode, self._directory = project, mode or os.environ.get("WANDB_MODE", "offline"), directory
        self._run = TrackedRun(name="", id="", folder="", settings={})
        self._runs: dict[str, wandb.Run] = {}

    @property
    def _cursor(self) -> Path:
        """File that holds what was logged."""
        project = self._project.replace("/", "-")
        return Path(self._directory) / "wandb" / f"inarch-{project}-{self._run.name}.json"

    def begin(self, run: TrackedRun) -> Mapping[str, int]:
        """Begin the run of the population, or continue."""
        self._run = run
        self._cursor.parent.mkdir(parents=True, exist_ok=True)
        return read_cursor(self._cursor, run) or {}

    def log(self, key: str, step: int, seconds: float, values: Mapping[str, float]) -> None:
        """Log the values as one row, with the step in a column of its own."""
        column = "interval" if key == POPULATION else "step"
        self._wandb_run(key).log({**values, column: step, "seconds": seconds})

    def record(self, sent: Mapping[str, int]) -> None:
        """Write the file that says what was logged."""
        write_cursor(self._cursor, self._run.id, sent)

    def end(self, *, state: str, artifacts: Path | None) -> None:
        """Keep the artifacts with the population's run, and finish all runs."""
        if artifacts is not None:
            import wandb

            population = self._wandb_run(POPULATION)
            files = wandb.Artifact(f"{self._run.name}-result", type="result")
            files.add_dir(str(artifacts))
            population.log_artifact(files)
            population.summary["state"] = state
        for run in self._runs.values():
            run.finish(exit_code=1 if state == "failed" else 0)
        self._runs = {}

    def _wandb_run(self, key: str) -> wandb.Run:
        if key not in self._runs:
            import wandb

            created = self._runs[key] = wandb.init(
                project=self._project,
                dir=self._directory,
                mode=self._mode,  # pyright: ignore[reportArgumentType] # the environment's value
                id=f"{hashlib.sha256(self._run.id.encode()).hexdigest()[:16]}-{key}",
                name=self._run.name if key == POPULATION else f"{self._run.name}/{key}",
                group=self._run.name,
                job_type="population" if key == POPULATION else "network",
                config=dict(self._run.settings),
                resume="allow",
                reinit="create_new",
                settings=wandb.Settings(silent=True, x_disable_stats=True, console="off"),
            )
            created.define_metric("*", step_metric="interval" if key == POPULATION else "step")
        return self._runs[key]
