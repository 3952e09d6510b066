"""The driver's handle on a run, which starts, attaches to, watches, scales, stops and resumes it.

Longer than 300 lines: this is the one class that users call, and each method documents its errors.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ray.exceptions import RayError

from inarch.actors.driver.callbacks import CallbackDispatcher, RunCallback, resolve_callbacks
from inarch.actors.driver.claiming import new_folder
from inarch.actors.driver.coordinator_client import (
    CoordinatorClient,
    CoordinatorHandle,
    SilentError,
    end_coordinator,
    find_coordinator,
)
from inarch.actors.driver.discovery import check_same_run, connect_to_recorded, find_cluster
from inarch.actors.driver.inputs import (
    OWN_TASK,
    check_here,
    check_names,
    check_resumed_trusted,
    names_own_code,
    remember_named,
    resumed_config,
    run_storage,
    with_name,
    with_network,
    with_task,
    with_teachers,
)
from inarch.actors.driver.launching import Launched, RunParts, launch_again, launch_new
from inarch.actors.driver.progress_lines import ProgressLines, print_line
from inarch.actors.driver.run_result import RunResult
from inarch.actors.driver.status_html import show_in_notebook, status_html
from inarch.actors.driver.trackers import resolve_trackers
from inarch.actors.driver.trusted_clusters import TrustedClusters
from inarch.actors.messages import Event, RunStatus
from inarch.actors.registrations import registrations_of
from inarch.actors.termination import stop_at_exit
from inarch.population.config import OpenConfig, RunConfig
from inarch.population.errors import ClusterError, ConfigError, InarchError, RunError, RunNotFoundError, StorageError
from inarch.population.extension.trusted_code import remember_code
from inarch.population.models.model_names import ModelFactory
from inarch.population.persistence.storage import Storage
from inarch.population.tasks.named_code import check_teachers_trusted
from inarch.population.tasks.protocol import Task
from inarch.population.tasks.run_folder import (
    find_run,
    read_config,
    read_members,
    read_result,
    recorded_config,
    recorded_open,
)
from inarch.population.tasks.run_spec import RunInfo

OPEN_DEFAULTS = OpenConfig()

POLL_SECONDS = 2.0
"""Longest time in seconds that one call waits at the coordinator for an event or the result."""

FINISH_SECONDS = 30.0
"""Longest wait of a `with` block for the result of a run that has ended, to pass it to callbacks."""

LATE_SECONDS = 10.0
"""How late an answer of the coordinator may be that `wait` still takes after its time is over."""


class PopulationRun:
    """The driver's handle on one run. Create it with `start`, `open`, `attach` or `resume`."""

    def __init__(
        self,
        coordinator: CoordinatorHandle,
        storage: Storage,
        name: str,
        *,
        dashboard: str | None,
        info: RunInfo | None,
    ) -> None:
        """Wrap the coordinator of a run.

        Args:
            coordinator: Handle of the coordinator's actor.
            storage: The run's folder.
            name: Name of the run.
            dashboard: URL of the cluster's dashboard, if it is known.
            info: Facts about the run's data and model. None if another process started the run.
        """
        self._coordinator, self._storage = coordinator, storage
        self._client = CoordinatorClient(run=name, folder=storage.uri)
        self.name, self.dashboard, self.info = name, dashboard, info
        self._dispatchers: list[CallbackDispatcher] = []
        self._lines: ProgressLines | None = None

    def __enter__(self) -> PopulationRun:
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop the run if it is still live, let its callbacks finish, and end its coordinator."""
        if self.is_live():
            self.stop()
        elif self._dispatchers or self._lines is not None:
            with contextlib.suppress(InarchError, TimeoutError):  # it failed, and its callbacks know
                self.wait(seconds=FINISH_SECONDS)
        with contextlib.suppress(RayError):
            self.close()

    def follow(self, callbacks: Sequence[RunCallback | str]) -> None:
        """Pass the events of the run on to callbacks, in a thread of this process.

        Args:
            callbacks: Callbacks, or `module:object` of callbacks, in the order in which they are called.

        Raises:
            ConfigError: One of them is not a RunCallback.
        """
        followers = resolve_callbacks(callbacks)
        if followers:
            dispatcher = CallbackDispatcher(followers, name=self.name, path=self.path)
            dispatcher.follow(self.events())
            self._dispatchers.append(dispatcher)

    def _repr_html_(self) -> str:
        """Return the present state as HTML, which a notebook shows for the last value of a cell."""
        return status_html(self.status())

    def show(self) -> RunResult:
        """Show the progress until the run ends, and return its result.

        In a notebook this is a table that is updated in place. Elsewhere it is a line for each event.

        Raises:
            RunError: The run failed. The message gives the reason.
        """
        if not show_in_notebook(lambda: self.status(is_patient=True)):
            self.print_progress()
        return self.wait()

    def print_progress(self) -> None:
        """Write each event of the run as a line to standard error, in a thread of this process."""
        if self._lines is None:
            self._lines = ProgressLines(self.events(), lambda: self.status(is_patient=True).metrics)

    @property
    def path(self) -> str:
        """Path or URI of the run's folder."""
        return self._storage.uri

    @classmethod
    def start(
        cls,
        config: RunConfig,
        *,
        model: ModelFactory | str | None = None,
        data: Any = None,
        task: Task | Callable[[], Task] | str | None = None,
        callbacks: Sequence[RunCallback | str] = (),
        quiet: bool = False,
    ) -> PopulationRun:
        """Check all inputs, start a run, and return while its networks are being placed.

        Args:
            config: The whole configuration.
            model: Replaces config.model.architecture: a name such as `module:function`, or a model factory. A factory
                takes num_classes, and in_channels if it has a parameter of that name, and returns a model.
            data: Replaces the paths in config.data: training data, (training, test), (training, validation, test), or a
                mapping with the keys train, validation and test. Each part is a path, a pair (inputs, labels) of arrays
                or lists, a torch Dataset, a Hugging Face Dataset, or a DataLoader, whose Dataset is used. Parts other
                than paths are read once and written into the run's folder. Only for tasks that take data.
            task: Replaces config.task: a name, `module:object`, a task of your own such as an instance of a subclass of
                TensorTask, or its class.
            callbacks: Follow the run in this process, in the order given, after those of config.callbacks. Each is a
                RunCallback or its `module:object`.
            quiet: Whether to print nothing. Otherwise each event of the run is printed as a line to standard error.

        Raises:
            InarchError: An input cannot be used. Nothing was started, and the run's folder is unchanged.
        """
        followers = [*resolve_callbacks([*config.callbacks, *callbacks]), *resolve_trackers(config.track)]
        config = with_teachers(with_name(config))
        if not quiet:
            print_line(f"run {config.name}: starting Ray and reading the data")
        config, run_task, is_own_task = with_task(config, task)
        config, factory = with_network(config, run_task, model)
        remember_named(config)
        check_teachers_trusted(config, known=[config.model.architecture], trust=False)
        storage = run_storage(config)
        with new_folder(storage, is_detached=config.detach) as claim:
            storage.check_writable()
            config = run_task.complete_config(config, data, storage)
            registrations = registrations_of(config)
            is_own = factory is not None or is_own_task or bool(registrations) or names_own_code(config)
            check_here(config, run_task, factory, has_own_code=is_own)
            parts = RunParts(factory=factory, task=run_task if is_own_task else None, registrations=registrations)
            launched = launch_new(config, parts, storage, claim)
        return cls._of(launched, followers, quiet=quiet)

    @classmethod
    def open(
        cls,
        name: str,
        config: OpenConfig = OPEN_DEFAULTS,
        *,
        storage: str = "runs",
        address: str | None = None,
        detach: bool = False,
        callbacks: Sequence[RunCallback | str] = (),
        quiet: bool = False,
    ) -> PopulationRun:
        """Open a population without networks of its own. Training loops join it: see `inarch.join`.

        The run ends when it is stopped, or when it has had no member for `config.idle_seconds`.

        Args:
            name: Name of the run and of its folder.
            config: What all members have in common.
            storage: Folder or URI that holds the folders of runs.
            address: Address of the Ray cluster, as `RunConfig.address`.
            detach: Whether the run continues when this process ends.
            callbacks: Follow the run in this process, in the order given.
            quiet: Whether to print nothing, as in `start`.

        Raises:
            InarchError: The run cannot be opened. Nothing was started.
        """
        followers = resolve_callbacks(callbacks)
        run_config = config.run_config(name, storage=storage, address=address, detach=detach)
        check_names(run_config)
        folder = run_storage(run_config)
        with new_folder(folder, is_detached=detach) as claim:
            folder.check_writable()
            parts = RunParts(open=config, registrations=registrations_of(run_config))
            launched = launch_new(run_config, parts, folder, claim)
        return cls._of(launched, followers, quiet=quiet)

    @classmethod
    def attach(
        cls,
        name: str,
        *,
        storage: str = "runs",
        address: str | None = None,
        callbacks: Sequence[RunCallback | str] = (),
    ) -> PopulationRun:
        """Return a handle on a live run that another process started.

        Args:
            name: Name of the run, or path or URI of its folder.
            storage: Folder that holds runs, searched by name.
            address: Address of the run's cluster. None: the address in the run's folder if it is on this machine, or if
                this process is connected to it, else RAY_ADDRESS.
            callbacks: Follow the run in this process, from its first event that the coordinator still has.

        Raises:
            RunNotFoundError: There is no such run, or it has ended.
            UntrustedError: The folder names a cluster on another machine, and neither `address` nor RAY_ADDRESS is set.
            ClusterError: The run's cluster cannot be reached.
        """
        followers = resolve_callbacks(callbacks)
        folder = find_run(name, storage=storage)
        cluster = find_cluster(folder)
        connect_to_recorded(cluster, TrustedClusters(named=address))
        try:
            coordinator = find_coordinator(cluster["run"])
        except ValueError:
            raise RunNotFoundError(
                f"run {cluster['run']} is not running any more; its folder is {folder.uri}"
            ) from None
        check_same_run(coordinator, folder, cluster["run"])
        run = cls(coordinator, folder, cluster["run"], dashboard=cluster.get("dashboard"), info=None)
        run.follow(followers)
        return run

    @classmethod
    def resume(
        cls,
        path: str,
        *,
        model: ModelFactory | str | None = None,
        data: str | Mapping[str, str] | None = None,
        epochs: int | None = None,
        task: Task | Callable[[], Task] | str | None = None,
        address: str | None = None,
        trust: bool = False,
        callbacks: Sequence[RunCallback | str] = (),
        quiet: bool = False,
    ) -> PopulationRun:
        """Resume a run that was stopped or died, or train a finished run for more epochs.

        Every network resumes from its newest checkpoint. In lockstep mode, networks resume from a common interval if
        their checkpoints allow it.

        Args:
            path: The run's folder.
            model: The model factory, if the run was started with a callable. The structure of its model is checked.
            data: Present location of the data, if they were moved: the path of the training data, or paths by part
                (train, validation, test, query). The data are checked against the recorded fingerprint.
            epochs: Epochs of the whole schedule, more than before. From then on, the learning rate follows the longer
                schedule. The result so far is kept in results/.
            task: The task, if the run was started with a task of the caller's own.
            address: Address of the cluster to resume on. None: the recorded address if it is on this machine, else
                RAY_ADDRESS.
            trust: Whether code that the folder names may be imported from the working directory, and its trackers used,
                if you have never named them yourself on this machine.
            callbacks: Follow the run in this process, in the order given.
            quiet: Whether to print nothing, as in `start`.

        Raises:
            RunNotFoundError: The folder holds no run.
            RunError: The run is live, or has nothing left to do.
            ConfigError: The schedule is not longer, a part of the data is unknown, or a callable or a task is missing.
            StructureError, DataError: The model or the data differ from those that the run was started with.
            UntrustedError: The folder names a cluster on another machine, and neither `address` nor RAY_ADDRESS is set,
                or it names code of the working directory or trackers that you have never named, and `trust` is false.
        """
        storage, trusted = find_run(path), TrustedClusters(named=address)
        recorded = read_config(storage)
        settings, config = recorded_open(storage, recorded), recorded_config(storage, recorded)
        config = dataclasses.replace(config, address=trusted.of_resumed_run(config.address, str(config.name)))
        given = {"model.architecture": model, "task": task}
        remember_code(name for name in given.values() if isinstance(name, str))
        is_given = {field for field, value in given.items() if value is not None}
        check_resumed_trusted(config, storage, given=is_given, trust=trust)
        if settings is not None:
            ignored = {"data": data, "epochs": epochs, "model": model, "task": task}
            if names := [name for name, value in ignored.items() if value]:
                raise ConfigError(
                    f"run {config.name} is open for training loops, which have data, model and schedule of their own; "
                    f"resume it without {' and '.join(names)}"
                )
            followers = resolve_callbacks(callbacks)
            parts = RunParts(open=settings, registrations=registrations_of(config))
            return cls._of(launch_again(config, parts, storage, trusted), followers, quiet=quiet)
        config = resumed_config(storage, config, data=data, epochs=epochs)
        followers = [*resolve_callbacks([*config.callbacks, *callbacks]), *resolve_trackers(config.track)]
        if recorded["model"] == "callable" and model is None:
            raise ConfigError(
                "this run was begun with a callable; pass it again: PopulationRun.resume(path, model=...)"
            )
        if config.task == OWN_TASK and task is None:
            raise ConfigError(
                "this run was begun with a task of the caller; pass it again: PopulationRun.resume(path, task=...)"
            )
        config, run_task, is_own_task = with_task(config, task)
        config, factory = with_network(config, run_task, model)
        parts = RunParts(
            factory=factory, task=run_task if is_own_task else None, registrations=registrations_of(config)
        )
        return cls._of(launch_again(config, parts, storage, trusted), followers, quiet=quiet)

    @classmethod
    def _of(cls, launched: Launched, followers: Sequence[RunCallback], *, quiet: bool) -> PopulationRun:
        """Return a handle on a run that this process has launched."""
        spec = launched.spec
        storage = Storage(spec.folder, deadline_seconds=spec.config.timeouts.storage_seconds)
        run = cls(launched.coordinator, storage, spec.name, dashboard=launched.dashboard, info=launched.info)
        if not spec.is_detached:
            stop_at_exit(run)
        run.follow(followers)
        if not quiet:
            run.print_progress()
        return run

    def status(self, *, is_patient: bool = False) -> RunStatus:
        """Return the present state of the run.

        Args:
            is_patient: Wait for a coordinator that hangs as long as the cluster answers, and not only 60 s.

        Raises:
            ClusterError: The coordinator does not answer.
            RunNotFoundError: The coordinator's process has ended.
        """
        call = self._client.follow if is_patient else self._client.call
        return call(lambda: self._coordinator.status.remote())

    def scale(self, size: int) -> None:
        """Grow or shrink the population, and return while the change is under way.

        Args:
            size: New number of networks.

        Raises:
            ConfigError: The size is below 1 or above population.max_size.
            RunError: The run is stopping or has ended.
            ResourceError: The cluster can never place that many networks.
        """
        self._client.call(lambda: self._coordinator.scale.remote(size))

    def events(self) -> Iterator[Event]:
        """Yield the events of the run, from its start to its end, as they happen.

        The coordinator keeps the newest 4,096 events. A caller that reads later misses older events. If the coordinator
        hangs, the caller waits as long as the cluster answers.
        """
        after = 0
        while True:
            events = self._client.follow(functools.partial(self._coordinator.events.remote, after, POLL_SECONDS))
            yield from events
            after = events[-1].number if events else after
            if not events and self.status(is_patient=True).state in ("finished", "failed"):
                return

    def wait(self, *, seconds: float | None = None) -> RunResult:
        """Wait for the end of the run, and return its result.

        If the coordinator hangs, the caller waits as long as the cluster answers, within `seconds`.

        Args:
            seconds: Longest wait. None: no limit.

        Raises:
            TimeoutError: The run had not ended after `seconds`.
            ClusterError: The cluster does not answer.
            RunError: The run failed. The message gives the reason.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        while True:
            remaining = POLL_SECONDS if deadline is None else min(POLL_SECONDS, deadline - time.monotonic())
            if remaining <= 0:
                raise TimeoutError(f"run {self.name} was not over after {seconds:g} s")
            limit = None if deadline is None else deadline - time.monotonic() + LATE_SECONDS
            try:
                wait = functools.partial(self._coordinator.wait.remote, max(remaining, 0.01))
                table = self._client.follow(wait, seconds=limit)
                is_over = table is not None or self.status(is_patient=deadline is None).state == "finished"
                if is_over and table is None:  # it finished between the two calls, or was stopped
                    table = self._client.follow(lambda: self._coordinator.wait.remote(0.01), seconds=limit)
            except SilentError:
                raise TimeoutError(f"run {self.name} was not over after {seconds:g} s") from None
            except RunError:
                self._finish_callbacks(None)
                raise
            if is_over:
                result = RunResult(path=self.path, table=table)
                self._finish_callbacks(result)
                return result

    def stop(self, *, seconds: float = 300.0) -> RunResult:
        """Stop the run, and wait for its end. Every network writes a checkpoint at its next step.

        A stopped run can be resumed.

        Args:
            seconds: Longest wait.

        Returns:
            The result, without a table. If the run had finished before it was asked to stop, the table is there. If it
            failed, `failure` gives the reason.

        Raises:
            TimeoutError: The run had not ended after `seconds`.
        """
        deadline = time.monotonic() + seconds
        self.ask_to_stop()
        while not self._is_over():
            if time.monotonic() > deadline:
                raise TimeoutError(f"run {self.name} had not stopped after {seconds:g} s")
            time.sleep(0.1)
        try:
            table = self._client.call(lambda: self._coordinator.wait.remote(0.01))
            result = RunResult(path=self.path, table=table)
        except (RunNotFoundError, ClusterError):  # its own driver has ended its coordinator
            result = self._recorded_result()
        except RunError as error:
            result = RunResult(path=self.path, table=None, failure=str(error))
        self._finish_callbacks(None if result.failure else result)
        return result

    def _recorded_result(self) -> RunResult:
        """Return the result of a run that has ended from its folder. Empty if the folder cannot be read."""
        with contextlib.suppress(StorageError):
            storage = Storage(self.path)
            table, record = read_result(storage), read_members(storage) or {}
            is_failed = record.get("state") == "failed"
            failure = (record.get("message") or "the run failed") if is_failed else ""
            return RunResult(path=self.path, table=table, failure=failure)
        return RunResult(path=self.path, table=None)

    def ask_to_stop(self) -> None:
        """Request the stop without waiting for it, unlike `stop`."""
        self._client.call(lambda: self._coordinator.stop.remote())

    def is_live(self) -> bool:
        """Return whether the run has not ended yet."""
        return not self._is_over()

    def close(self) -> None:
        """End the coordinator's process. Call this when the run has ended."""
        end_coordinator(self._coordinator)

    def _finish_callbacks(self, result: RunResult | None) -> None:
        if self._lines is not None:
            self._lines.finish()
        for dispatcher in self._dispatchers:
            dispatcher.finish(result)

    def _is_over(self) -> bool:
        """Return whether the run has ended. A run without a coordinator has, because its own driver has ended it."""
        try:
            return self.status().state in ("finished", "failed")
        except RunNotFoundError:
            return True
