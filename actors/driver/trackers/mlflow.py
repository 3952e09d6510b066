"""MLflow as a tracker."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inarch.actors.driver.trackers.tracker import POPULATION, RESULT, TrackedRun, Tracker
from inarch.population.extension.optional_packages import check_installed

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

MAX_METRICS, MAX_PARAMS = 1000, 100
"""Most metrics and parameters that MLflow takes in one call."""

STATES = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
"""MLflow's status of a run by the state in which ours ended."""


class MLflow(Tracker):
    """Logs to MLflow: a run for the population, and a child run for each network."""

    def __init__(self, uri: str | None = None, *, experiment: str = "inarch") -> None:
        """Create the tracker.

        Args:
            uri: Tracking URI, such as http://HOST:5000 or sqlite:///FILE. None: MLFLOW_TRACKING_URI, or MLflow's own
                default.
            experiment: Name of the experiment.

        Raises:
            ConfigError: The package mlflow is not installed.
        """
        super().__init__()
        check_installed("mlflow", needed_by="tracker mlflow", extra="mlflow")
        self._uri, self._experiment_name = uri, experiment
        self._client: MlflowClient | None = None
        self._run = TrackedRun(name="", id="", folder="", settings={})
        self._experiment = ""
        self._runs: dict[str, str] = {}
        self._recorded: dict[str, int] = {}

    def begin(self, run: TrackedRun) -> Mapping[str, int]:
        """Create the run of the population, or find the runs that an earlier process created."""
        from mlflow import MlflowClient
        from mlflow.entities import Param

        client = self._client = MlflowClient(self._uri)
        self._run = run
        experiment = client.get_experiment_by_name(self._experiment_name)
        self._experiment = experiment.experiment_id if experiment else client.create_experiment(self._experiment_name)
        known = {found.data.tags["inarch.key"]: found for found in self._found(client)}
        self._runs = {key: found.info.run_id for key, found in known.items()}
        for run_id in self._runs.values():
            client.update_run(run_id, status="RUNNING")
        if POPULATION not in known:
            params = [Param(name, str(value)[:500]) for name, value in run.settings.items()]
            for start in range(0, len(params), MAX_PARAMS):
                client.log_batch(self._run_id(POPULATION), params=params[start : start + MAX_PARAMS])
        self._recorded = {key: int(found.data.tags.get("inarch.interval", 0)) for key, found in known.items()}
        if POPULATION in known:
            self._recorded[RESULT] = int(known[POPULATION].data.tags.get("inarch.result", 0))
        return dict(self._recorded)

    def log(self, key: str, step: int, seconds: float, values: Mapping[str, float]) -> None:
        """Log the values in one call, or in several of 1,000 each."""
        from mlflow.entities import Metric

        metrics = [Metric(name, value, int(seconds * 1000), step) for name, value in values.items()]
        for start in range(0, len(metrics), MAX_METRICS):
            self._connected.log_batch(self._run_id(key), metrics=metrics[start : start + MAX_METRICS])

    def record(self, sent: Mapping[str, int]) -> None:
        """Record the last interval as a tag of each run."""
        for key, interval in sent.items():
            if self._recorded.get(key) != interval:
                run_key, tag = (POPULATION, "inarch.result") if key == RESULT else (key, "inarch.interval")
                self._connected.set_tag(self._run_id(run_key), tag, interval)
                self._recorded[key] = interval

    def end(self, *, state: str, artifacts: Path | None) -> None:
        """Keep the artifacts with the population's run, and end all runs."""
        if artifacts is not None:
            self._connected.log_artifacts(self._run_id(POPULATION), str(artifacts))
        for run_id in self._runs.values():
            self._connected.set_terminated(run_id, STATES[state])

    @property
    def _connected(self) -> MlflowClient:
        assert self._client is not None, "begin comes first"
        return self._client

    def _found(self, client: MlflowClient) -> list[Run]:
        """Return the runs of this population that MLflow has."""
        found: list[Run] = []
        token: str | None = None
        while True:
            page: Any = client.search_runs(
                [self._experiment], filter_string=f"tags.`inarch.id` = '{self._run.id}'", page_token=token
            )
            found += page
            token = page.token
            if not token:
                return found

    def _run_id(self, key: str) -> str:
        """Return MLflow's id of the run of a network or of the population. A missing run is created."""
        if key not in self._runs:
            from mlflow.tracking.context.registry import resolve_tags

            tags = {"inarch.id": self._run.id, "inarch.key": key, "inarch.folder": self._run.folder}
            name = self._run.name
            if key == POPULATION:
                tags = resolve_tags(tags)  # adds the user, the program and the git commit
            else:
                tags["mlflow.parentRunId"] = self._run_id(POPULATION)
                name = f"{name}/{key}"
            created = self._connected.create_run(
                self._experiment, start_time=int(time.time() * 1000), tags=tags, run_name=name
            )
            self._runs[key] = created.info.run_id
        return self._runs[key]
