"""Find a run: its folder, the cluster recorded there, and whether the run is still live."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping
from typing import Any

import ray
from ray.exceptions import ActorDiedError, GetTimeoutError, RayError

from inarch.actors.driver.coordinator_client import CoordinatorHandle, find_coordinator, kill_coordinator
from inarch.actors.driver.process_start import is_same_process, process_start
from inarch.actors.driver.trusted_clusters import TrustedClusters
from inarch.actors.messages import NAMESPACE, coordinator_name
from inarch.actors.resources import check_reachable, connect
from inarch.population.errors import (
    ClusterError,
    DamagedError,
    MissingError,
    RunError,
    RunExistsError,
    RunNotFoundError,
    StorageError,
)
from inarch.population.persistence.json_files import read_json, to_json
from inarch.population.persistence.storage import Storage
from inarch.population.tasks.run_folder import read_config, run_id_of
from inarch.population.tasks.run_spec import RunSpec

logger = logging.getLogger("inarch")

CLUSTER = "cluster.json"
"""File that says where a run is."""

EDITION = 1
"""Version of the format of cluster.json."""

ANSWER_SECONDS = 15.0
"""Seconds in which a coordinator must answer. A coordinator that does not is taken to be busy with a live run."""


def write_cluster(storage: Storage, spec: RunSpec, connection: Any) -> None:
    """Write cluster.json, which lets other processes find the run.

    Args:
        storage: The run's folder.
        spec: The run.
        connection: The `Connection` of this process, the run's driver.
    """
    content = {
        "edition": EDITION,
        "run": spec.name,
        "address": connection.address,
        "dashboard": connection.dashboard,
        "namespace": NAMESPACE,
        "coordinator": coordinator_name(spec.name),
        "is_detached": spec.is_detached,
        "driver": {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "process_started": process_start(os.getpid()),
        },
        "seconds": time.time(),
    }
    storage.replace(CLUSTER, to_json(content))


def read_cluster(storage: Storage) -> dict[str, Any]:
    """Return the content of cluster.json.

    Args:
        storage: The run's folder.

    Raises:
        MissingError: The run was never started.
        DamagedError: cluster.json is damaged.
        StorageError: The storage fails.
    """
    return read_json(storage, CLUSTER, fields={"run": str, "address": str, "is_detached": bool, "driver": dict})


def find_cluster(storage: Storage) -> dict[str, Any]:
    """Return the content of cluster.json of a run that may be live.

    Args:
        storage: The run's folder.

    Raises:
        RunNotFoundError: There is no such file, or it is damaged.
        StorageError: The storage fails.
    """
    try:
        return read_cluster(storage)
    except MissingError:
        raise RunNotFoundError(
            f"the folder {storage.uri} does not say on which cluster its run is: no {CLUSTER}"
        ) from None
    except DamagedError as error:
        raise RunNotFoundError(f"the folder {storage.uri} does not say on which cluster its run is: {error}") from None


def check_not_live(name: str) -> None:
    """Raise RunExistsError if a run of this name is live on the connected cluster.

    If the run has ended but its coordinator still exists, the coordinator is killed. The name is then free.

    Args:
        name: Name of the run.
    """
    if _is_live(name):
        raise RunExistsError(f"a run named {name!r} is live on this cluster; choose another name")


def check_folder_not_live(storage: Storage, trusted: TrustedClusters) -> None:
    """Raise RunError if a run is live on the cluster recorded in its folder.

    A cluster that cannot be reached counts as ended. A run that is not detached lives as long as its driver. If this
    process may not contact the cluster, or is connected to another one, only the driver's process is checked.

    Args:
        storage: The run's folder.
        trusted: Clusters that the caller trusts.

    Raises:
        RunError: The run is live.
        UntrustedError: The recorded cluster is on another machine, and the caller has named no cluster.
    """
    try:
        cluster = read_cluster(storage)
    except MissingError:
        return
    except DamagedError as error:  # a resume does not need it: the claims on the folder keep two starts apart
        logger.warning("%s; whether the run is live is decided by the claims on its folder", error)
        return
    address, driver = cluster["address"], cluster["driver"]
    if not cluster["is_detached"] and driver.get("host") == socket.gethostname() and not trusted.holds(address):
        _check_driver_ended(cluster)
        return
    if not trusted.may_ask(address, cluster["run"]):
        logger.warning(
            "the run's folder names the cluster at %s on another machine, which was not contacted; if the run is live "
            "there, it ends when this start claims its folder",
            address,
        )
        return
    try:
        check_reachable(address)
    except ClusterError:
        return
    if ray.is_initialized() and ray.get_runtime_context().gcs_address != address:
        if not cluster["is_detached"]:
            _check_driver_ended(cluster)
        return
    was_connected = ray.is_initialized()
    try:
        connect_to(address)
        is_live = _is_live(cluster["run"], of=storage)
    except ClusterError:
        return
    finally:
        if not was_connected and ray.is_initialized():
            ray.shutdown()
    if is_live:
        raise RunError(f"run {cluster['run']} is live on {address}; stop it first: inarch stop {storage.uri}")


def _check_driver_ended(cluster: Mapping[str, Any]) -> None:
    """Raise RunError if the process that drives a run lives on this machine."""
    driver = cluster["driver"]
    if _is_alive(driver):
        raise RunError(f"run {cluster['run']} is live: process {driver['process']} drives it; stop it first")


def is_of_other_run(coordinator: CoordinatorHandle, storage: Storage) -> bool:
    """Return whether a coordinator has a run of the same name in another folder.

    A coordinator that does not answer, or does not know, counts as that of this folder.

    Args:
        coordinator: The coordinator of this name on the connected cluster.
        storage: The run's folder.
    """
    try:
        other = ray.get(coordinator.run_id.remote(), timeout=ANSWER_SECONDS)
        return other is not None and other != run_id_of(read_config(storage), storage)
    except (RayError, GetTimeoutError, RunError, StorageError):
        return False


def check_same_run(coordinator: CoordinatorHandle, storage: Storage, name: str) -> None:
    """Raise RunNotFoundError if a coordinator has a run of the same name in another folder.

    Args:
        coordinator: The coordinator of this name on the connected cluster.
        storage: The run's folder.
        name: Name of the run.
    """
    if is_of_other_run(coordinator, storage):
        raise RunNotFoundError(
            f"run {name} of {storage.uri} has ended; a run of the same name in another folder is live on this cluster"
        )


def _is_live(name: str, *, of: Storage | None = None) -> bool:
    """Return whether a run of this name is live on the connected cluster. Kill the coordinator of a run that has ended.

    A run whose coordinator does not answer counts as live.

    Args:
        name: Name of the run.
        of: The run's folder. A run of the same name in another folder does not count, and its coordinator stays.
    """
    try:
        coordinator = find_coordinator(name)
        if of is not None and is_of_other_run(coordinator, of):
            return False
        status = ray.get(coordinator.status.remote(), timeout=ANSWER_SECONDS)
    except (ValueError, ActorDiedError):
        return False
    except (RayError, GetTimeoutError):
        return True
    if status.state not in ("finished", "failed"):
        return True
    kill_coordinator(coordinator)
    deadline = time.monotonic() + ANSWER_SECONDS
    while time.monotonic() < deadline:
        try:
            find_coordinator(name)
        except ValueError:
            return False
        time.sleep(0.05)
    return True


def _is_alive(driver: Mapping[str, Any]) -> bool:
    """Return whether another process lives on this machine. False for other machines, which cannot be checked."""
    host, process = driver.get("host"), driver.get("process")
    if host != socket.gethostname() or not isinstance(process, int) or process in (0, os.getpid()):
        return False
    started = driver.get("process_started")
    return is_same_process(process, started if isinstance(started, int | float) else None)


def connect_to_recorded(cluster: Mapping[str, Any], trusted: TrustedClusters) -> None:
    """Connect this process to the cluster of a live run.

    Args:
        cluster: Content of cluster.json.
        trusted: Clusters that the caller trusts.

    Raises:
        UntrustedError: The folder names a cluster on another machine, and the caller has named none.
        NoClusterError: No process listens at the address, and the run was started on this machine.
        ClusterError: This process is connected to another cluster, or no cluster answers.
    """
    address = trusted.of_live_run(cluster["address"], cluster["run"])
    try:
        connect_to(address)
    except ClusterError as error:
        is_here = cluster["driver"].get("host") == socket.gethostname()
        kind = type(error) if is_here else ClusterError  # an address such as 127.0.0.1 names another machine elsewhere
        raise kind(f"run {cluster['run']}: {error}; the run has ended, or runs on another machine") from None


def connect_to(address: str) -> None:
    """Connect this process to a cluster, unless it is connected to that cluster already.

    Args:
        address: Address of the cluster: HOST:PORT or `auto`.

    Raises:
        ClusterError: This process is connected to another cluster, or no cluster answers at the address.
    """
    if address != "auto":
        check_reachable(address)
    connect(address)
