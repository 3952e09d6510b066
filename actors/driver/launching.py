"""Launch the coordinator of a run: a new run in a claimed folder, or a run that is resumed."""

from __future__ import annotations

import dataclasses
import logging
import time
from dataclasses import dataclass
from typing import Any, cast

from ray.exceptions import ActorAlreadyExistsError, ActorDiedError, ActorUnavailableError

from inarch.actors.coordinator.actor import CoordinatorActor
from inarch.actors.driver.claiming import claim_existing_folder
from inarch.actors.driver.coordinator_client import (
    CALL_SECONDS,
    RETRY_SECONDS,
    CoordinatorHandle,
    kill_coordinator,
    value_of,
)
from inarch.actors.driver.discovery import check_folder_not_live, check_not_live, write_cluster
from inarch.actors.driver.object_store import warn_of_spilling
from inarch.actors.driver.trusted_clusters import TrustedClusters
from inarch.actors.messages import NAMESPACE, coordinator_name
from inarch.actors.resources import Connection, connect, plan_resources
from inarch.population.config import OpenConfig, RunConfig
from inarch.population.errors import ClusterError, ConfigError, RunExistsError
from inarch.population.extension.registry import Registration
from inarch.population.models import ModelFactory
from inarch.population.persistence.claim import Claim, withdraw
from inarch.population.persistence.storage import Storage
from inarch.population.tasks.protocol import Task
from inarch.population.tasks.run_spec import RunInfo, RunSpec

COORDINATOR_CALLS = 100_000
"""Calls that the coordinator may hold open at a time. Networks at a barrier, and drivers that follow the run, wait in
one each. Ray's own limit of 1,000 would let the networks of a large barrier keep all other calls waiting."""

START_ATTEMPTS = 3
"""Coordinators that are started in turn, if each is lost before the run has started."""

NAME_SECONDS = 10.0
"""Seconds within which Ray must have given up the name of a coordinator that was killed."""

logger = logging.getLogger("inarch")


@dataclass(frozen=True, kw_only=True)
class RunParts:
    """What a run is made of besides its configuration."""

    factory: ModelFactory | None = None
    """The caller's model factory. None: the configuration names the architecture."""
    task: Task | None = None
    """The caller's task. None: the configuration names it."""
    open: OpenConfig | None = None
    """Settings of a run without networks of its own. None: the run has networks."""
    registrations: tuple[Registration, ...] = ()
    """Registered objects that the configuration names, as from `registrations_of`."""


@dataclass(frozen=True, kw_only=True)
class Launched:
    """A run whose coordinator has checked it and begun to place networks."""

    spec: RunSpec
    coordinator: CoordinatorHandle
    info: RunInfo
    dashboard: str | None
    """URL of the cluster's dashboard, if it is known."""


def launch_new(config: RunConfig, parts: RunParts, storage: Storage, claim: Claim) -> Launched:
    """Launch a new run.

    Args:
        config: The run's configuration.
        parts: Model, task or settings of the run.
        storage: The run's folder.
        claim: Claim on the folder.

    Raises:
        ConfigError: A detached run would end with the cluster that this process has started.
        InarchError: The cluster cannot be reached, or the run cannot be started. Nothing is left running.
    """
    connection = connect(config.address)
    if config.detach and connection.is_own:
        raise ConfigError("detach needs a cluster that outlives this process: give its address, or set RAY_ADDRESS")
    check_not_live(str(config.name))
    return _launch(_spec(config, parts, storage, claim, is_resumed=False), connection)


def launch_again(config: RunConfig, parts: RunParts, storage: Storage, trusted: TrustedClusters) -> Launched:
    """Launch a run that was stopped or died. If that fails, its folder is free for another start.

    Args:
        config: The run's configuration.
        parts: Model, task or settings of the run.
        storage: The run's folder.
        trusted: Clusters that the caller trusts.

    Raises:
        RunError: The run is live.
        UntrustedError: The folder names a cluster on another machine, and the caller has named none.
        InarchError: The cluster cannot be reached, or the run cannot be started. Nothing is left running.
    """
    check_folder_not_live(storage, trusted)
    claim = claim_existing_folder(storage, is_detached=config.detach)
    try:
        connection = connect(config.address)
        check_not_live(str(config.name))
        if connection.is_own:  # this cluster ends with this process
            config = dataclasses.replace(config, detach=False)
        return _launch(_spec(config, parts, storage, claim, is_resumed=True), connection)
    except BaseException:
        withdraw(storage, claim.token)
        raise


def _spec(config: RunConfig, parts: RunParts, storage: Storage, claim: Claim, *, is_resumed: bool) -> RunSpec:
    """Return the description of a run."""
    return RunSpec(
        name=str(config.name),
        folder=storage.uri,
        config=config,
        factory=parts.factory,
        task=parts.task,
        open=parts.open,
        token=claim.token,
        is_resumed=is_resumed,
        is_detached=config.detach,
        registrations=parts.registrations,
    )


def _launch(spec: RunSpec, connection: Connection) -> Launched:
    """Start the coordinator, and let it check the run."""
    config, storage = spec.config, Storage(spec.folder, deadline_seconds=spec.config.timeouts.storage_seconds)
    if spec.open is None:
        plan_resources(config)
    coordinator, info = _start_coordinator(spec)
    try:
        write_cluster(storage, spec, connection)
    except BaseException:
        kill_coordinator(coordinator)
        raise
    if not info.is_open_run:
        warn_of_spilling(info, config)
    return Launched(spec=spec, coordinator=coordinator, info=info, dashboard=connection.dashboard)


def _start_coordinator(spec: RunSpec) -> tuple[CoordinatorHandle, RunInfo]:
    """Start the coordinator of a run. If its process or its node is lost meanwhile, start another.

    Args:
        spec: The run.

    Raises:
        ClusterError: `START_ATTEMPTS` coordinators were lost.
        RunExistsError: A run of this name is live.
        InarchError: The run cannot be started.
    """
    seconds = spec.config.timeouts.start_seconds + CALL_SECONDS
    reason = ""
    for attempt in range(START_ATTEMPTS):
        if attempt:
            logger.warning("run %s: its coordinator died while it started, and is started again: %s", spec.name, reason)
        coordinator = _create_coordinator(spec, name_seconds=NAME_SECONDS if attempt else 0.0)
        try:
            return coordinator, value_of(coordinator.start.remote(), seconds=seconds)
        except (ActorDiedError, ActorUnavailableError) as error:
            kill_coordinator(coordinator)  # otherwise Ray restarts it, but not this call
            reason = str(error).strip().splitlines()[-1]
        except BaseException:
            kill_coordinator(coordinator)
            raise
    raise ClusterError(f"run {spec.name}: its coordinator died while it started: {reason}")


def _create_coordinator(spec: RunSpec, *, name_seconds: float) -> CoordinatorHandle:
    """Create the actor of a run's coordinator.

    Args:
        spec: The run.
        name_seconds: Seconds to wait for the name, which Ray may still hold for a coordinator that was killed.

    Raises:
        RunExistsError: The name is taken.
    """
    options: dict[str, Any] = {
        "name": coordinator_name(spec.name),
        "namespace": NAMESPACE,
        "max_concurrency": COORDINATOR_CALLS,
    }
    if spec.config.detach:
        options["lifetime"] = "detached"
    until = time.monotonic() + name_seconds
    while True:
        try:
            return cast("CoordinatorHandle", CoordinatorActor.options(**options).remote(spec))
        except ActorAlreadyExistsError:
            if time.monotonic() >= until:
                message = f"a run named {spec.name!r} is live on this cluster; choose another name"
                raise RunExistsError(message) from None
        time.sleep(RETRY_SECONDS)
