"""The driver's handle on a run: start it, find it again, watch it, scale it, wait for it, stop it, resume it."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import ActorAlreadyExistsError

from inarch.actors.coordinator.actor import CoordinatorActor
from inarch.actors.coordinator.run_metadata import read_config
from inarch.actors.driver.claiming import FolderContents, claim_existing_folder, claim_new_folder
from inarch.actors.driver.coordinator_client import CALL_SECONDS, CoordinatorClient, value_of
from inarch.actors.driver.discovery import check_folder_not_live, check_not_live, connect_to, find_run, write_cluster
from inarch.actors.driver.inputs import (
    check_here,
    resumed_config,
    run_storage,
    with_data,
    with_name,
    with_network,
    with_teachers,
)
from inarch.actors.messages import NAMESPACE, Event, RunStatus, coordinator_name
from inarch.actors.resources import check_reachable, connect, plan_resources
from inarch.actors.termination import stop_at_exit
from inarch.population.config import RunConfig, from_dict
from inarch.population.errors import ClusterError, ConfigError, RunExistsError, RunNotFoundError
from inarch.population.models import ModelFactory
from inarch.population.persistence.claim import Claim, withdraw
from inarch.population.persistence.storage import Storage
from inarch.population.tasks.run_spec import RunInfo, RunSpec

POLL_SECONDS = 2.0
"""How long one call waits at the coordinator for news."""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """How a run ended."""

    path: str
    """The run's folder."""
    table: Mapping[str, Any] | None
    """result.json: networks, mean, best, ensemble, soup, seconds; None where the run was stopped before its end."""

    @property
    def is_complete(self) -> bool:
        """Whether every network ended its schedule, or left as asked; not where one failed or the run was stopped."""
        return self.table is not None and all(row["ended"] in ("done", "retired") for row in self.table["networks"])


class PopulationRun:
    """One run. Make it by `start`, `attach` or `resume`."""

    def __init__(
        self, coordinator: Any, storage: Storage, name: str, *, dashboard: str | None, info: RunInfo | None
    ) -> None:
        self._coordinator, self._storage = coordinator, storage
        self._client = CoordinatorClient(coordinator, run=name, folder=storage.uri)
        self.name, self.dashboard, self.info = name, dashboard, info

    @property
    def path(self) -> str:
        """The run's folder."""
        return self._storage.uri

    @classmethod
    def start(
        cls,
        config: RunConfig,
        *,
        model: ModelFactory | str | None = None,
        data: Any = None,
    ) -> PopulationRun:
        """Check everything, then begin to train; returns when the networks are being placed.

        Args:
            config: The whole configuration.
            model: In place of config.model: `module:function`, or a callable that takes num_classes (and
                in_channels, if it names it) and gives a network.
            data: In place of config.data's paths: training data, (training, test), (training, validation, test), or a
                mapping with the keys train, validation and test. Each is a path, a pair (images, labels) of arrays or
                lists, a torch Dataset, a Hugging Face Dataset, or a DataLoader, whose Dataset is used. All but paths
                are read once and written into the run's folder.

        Raises:
            InarchError: something cannot be used; nothing was started, and the folder is as it was.
        """
        config = with_teachers(with_name(config))
        config, factory = with_network(config, model)
        storage = run_storage(config)
        before = FolderContents.of(storage)
        claim = claim_new_folder(storage, is_detached=config.detach)
        try:
            storage.check_writable()
            config = with_data(config, data, storage)
            check_here(config, factory)
            connection = connect(config.address)
            if config.detach and connection.is_own:
                raise ConfigError(
                    "detach needs a cluster that outlives this process: give its address, or set RAY_ADDRESS"
                )
            check_not_live(str(config.name))
            return cls._begin(config, factory, storage, connection, claim, is_resumed=False)
        except BaseException:
            before.restore(storage, claim)
            raise

    @classmethod
    def attach(cls, name: str, *, storage: str = "runs") -> PopulationRun:
        """The handle on a run that another process started.

        Args:
            name: Of the run, or the path of its folder.
            storage: Folder that holds runs.

        Raises:
            RunNotFoundError: there is no such run, or it has ended.
            ClusterError: its cluster cannot be reached.
        """
        folder = find_run(name, storage=storage)
        found = json.loads(folder.read("cluster.json"))
        try:
            check_reachable(found["address"])
            connect_to(found["address"])
            coordinator = ray.get_actor(coordinator_name(found["run"]), namespace=NAMESPACE)
        except ClusterError as error:
            raise ClusterError(f"run {found['run']}: {error}; it has ended, or runs on another machine") from None
        except ValueError:
            raise RunNotFoundError(f"run {found['run']} is not running any more; its folder is {folder.uri}") from None
        return cls(coordinator, folder, found["run"], dashboard=found["dashboard"], info=None)

    @classmethod
    def resume(
        cls,
        path: str,
        *,
        model: ModelFactory | str | None = None,
        data: str | Mapping[str, str] | None = None,
        epochs: int | None = None,
        address: str | None = None,
    ) -> PopulationRun:
        """Resume a run that was stopped or died, every network from its newest checkpoint; or train a finished one for
        more epochs.

        Args:
            path: The run's folder.
            model: The callable that the run was begun with, where it was one; its structure is checked.
            data: Where its data are now, if they were moved: the training images' path, or paths by part (train,
                validation, test, query). The images are checked against the recorded fingerprint.
            epochs: Of the whole schedule, more than before. The learning rate is that of the longer schedule from then
                on; the result so far is kept in results/.
            address: Of the cluster to resume on; None: the recorded one.

        Raises:
            RunNotFoundError: no run lies there.
            RunError: it is running, or has nothing left to do.
            ConfigError: fewer epochs, an unknown part, or the callable is missing.
            StructureError, DataError: network or images are not those that it was begun with.
        """
        storage = find_run(path)
        recorded = read_config(storage)
        config = resumed_config(storage, from_dict(RunConfig, recorded["config"]), data=data, epochs=epochs)
        config = dataclasses.replace(config, address=address or config.address)
        if recorded["model"] == "callable" and model is None:
            raise ConfigError(
                "this run was begun with a callable; PopulationRun.resume(path, model=...) needs it again"
            )
        config, factory = with_network(config, model)
        check_folder_not_live(storage)
        claim = claim_existing_folder(storage, is_detached=config.detach)
        try:
            connection = connect(config.address)
            check_not_live(str(config.name))
            if connection.is_own:  # a Ray that ends with this process
                config = dataclasses.replace(config, detach=False)
            return cls._begin(config, factory, storage, connection, claim, is_resumed=True)
        except BaseException:
            withdraw(storage, claim.token)
            raise

    @classmethod
    def _begin(
        cls,
        config: RunConfig,
        factory: ModelFactory | None,
        storage: Storage,
        connection: Any,
        claim: Claim,
        *,
        is_resumed: bool,
    ) -> PopulationRun:
        spec = RunSpec(
            name=str(config.name),
            folder=storage.uri,
            config=config,
            factory=factory,
            token=claim.token,
            is_resumed=is_resumed,
            is_detached=config.detach,
        )
        plan_resources(config)
        options: dict[str, Any] = {"name": coordinator_name(spec.name), "namespace": NAMESPACE}
        if config.detach:
            options["lifetime"] = "detached"
        try:
            coordinator = CoordinatorActor.options(**options).remote(spec)
        except ActorAlreadyExistsError:
            raise RunExistsError(f"a run named {spec.name!r} is live on this cluster; choose another name") from None
        try:
            info = value_of(coordinator.start.remote(), seconds=config.timeouts.start_seconds + CALL_SECONDS)
            write_cluster(storage, spec, connection)
        except BaseException:
            ray.kill(coordinator)
            raise
        run = cls(coordinator, storage, spec.name, dashboard=connection.dashboard, info=info)
        if not spec.is_detached:
            stop_at_exit(run)
        return run

    def status(self) -> RunStatus:
        """The run as it stands. Raises ClusterError when its coordinator does not answer."""
        return self._client.call("status")

    def scale(self, size: int) -> None:
        """Grow or shrink the population to `size` networks; returns when the change is under way."""
        self._client.call("scale", size)

    def events(self) -> Iterator[Event]:
        """What happens, as it happens, from the run's start (the newest 4,096 kept) to its end."""
        after = 0
        while True:
            found = self._client.call("events", after, POLL_SECONDS)
            yield from found
            after = found[-1].number if found else after
            if not found and self.status().state in ("finished", "failed"):
                return

    def wait(self, *, seconds: float | None = None) -> RunResult:
        """Wait for the end of the run.

        Args:
            seconds: At most so long; None: to its end, whenever that is.

        Raises:
            TimeoutError: it was not over after `seconds`.
            RunError: it failed; says why.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        while True:
            left = POLL_SECONDS if deadline is None else min(POLL_SECONDS, deadline - time.monotonic())
            if left <= 0:
                raise TimeoutError(f"run {self.name} was not over after {seconds:g} s")
            table = self._client.call("wait", max(left, 0.01))
            if table is not None:
                return RunResult(path=self.path, table=table)
            if self.status().state == "finished":
                return RunResult(path=self.path, table=self._client.call("wait", 0.01))

    def stop(self, *, seconds: float = 300.0) -> None:
        """Let every network commit a checkpoint at its next step, and end the run; it can be resumed.

        Raises:
            TimeoutError: networks had not ended after `seconds`.
        """
        deadline = time.monotonic() + seconds
        self.ask_to_stop()
        while not self._is_over():
            if time.monotonic() > deadline:
                raise TimeoutError(f"run {self.name} had not stopped after {seconds:g} s")
            time.sleep(0.1)

    def ask_to_stop(self) -> None:
        """Begin to stop; `stop` waits for the end."""
        self._client.call("stop")

    def is_live(self) -> bool:
        """Whether the run is under way."""
        return not self._is_over()

    def close(self) -> None:
        """End the coordinator of a run that is over."""
        ray.kill(self._coordinator)

    def _is_over(self) -> bool:
        """Whether the run has ended; one that its own driver has taken down meanwhile has."""
        try:
            return self.status().state in ("finished", "failed")
        except RunNotFoundError:
            return True
