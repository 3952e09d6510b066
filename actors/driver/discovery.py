"""Runs found again: their folder, the cluster that it names, and whether they still live."""

from __future__ import annotations

import json
import os
import socket
import time
from typing import Any

import ray
from ray.exceptions import ActorDiedError, GetTimeoutError, RayError

from inarch.actors.messages import NAMESPACE, coordinator_name
from inarch.actors.resources import check_reachable, connect
from inarch.population.errors import ClusterError, RunError, RunExistsError, RunNotFoundError
from inarch.population.persistence.storage import Storage, absolute, joined
from inarch.population.tasks.run_spec import RunSpec

EDITION = 1
"""Of cluster.json."""

ANSWER_SECONDS = 15.0
"""A coordinator that does not answer in this time is taken to be busy with a live run."""


def find_run(name: str, *, storage: str = "runs") -> Storage:
    """The folder of a run, by its name or path.

    Raises:
        RunNotFoundError: there is none.
    """
    for candidate in (name, joined(storage, name)):
        found = Storage(candidate)
        if found.exists("config.json"):
            return found
    raise RunNotFoundError(f"there is no run at {absolute(name)} nor at {joined(absolute(storage), name)}")


def write_cluster(storage: Storage, spec: RunSpec, connection: Any) -> None:
    """How another process finds the run."""
    content = {
        "edition": EDITION,
        "run": spec.name,
        "address": connection.address,
        "dashboard": connection.dashboard,
        "namespace": NAMESPACE,
        "coordinator": coordinator_name(spec.name),
        "is_detached": spec.is_detached,
        "driver": {"host": socket.gethostname(), "process": os.getpid()},
        "seconds": time.time(),
    }
    storage.write("cluster.json", json.dumps(content, indent=2).encode())


def check_not_live(name: str) -> None:
    """Raises RunExistsError where a run of this name is live on the connected cluster. The coordinator of a run that is
    over is ended, so that the name is free."""
    if _is_live(name):
        raise RunExistsError(f"a run named {name!r} is live on this cluster; choose another name")


def check_folder_not_live(storage: Storage) -> None:
    """Raises RunError where the cluster that a folder names still runs it."""
    if not storage.exists("cluster.json"):
        return
    found = json.loads(storage.read("cluster.json"))
    try:
        check_reachable(found["address"])
    except ClusterError:
        return
    if ray.is_initialized() and ray.get_runtime_context().gcs_address != found["address"]:
        # This process cannot look into the other cluster; a run that is not detached lives as long as its driver.
        if not found["is_detached"] and _is_alive(**found["driver"]):
            raise RunError(f"run {found['run']} is live: process {found['driver']['process']} drives it; stop it first")
        return
    was_connected = ray.is_initialized()
    try:
        connect_to(found["address"])
        is_live = _is_live(found["run"])
    except ClusterError:
        return
    finally:
        if not was_connected and ray.is_initialized():
            ray.shutdown()
    if is_live:
        raise RunError(f"run {found['run']} is live on {found['address']}; stop it first: inarch stop {storage.uri}")


def _is_live(name: str) -> bool:
    """Whether the connected cluster runs a run of this name. A coordinator that is over is ended here; one that does
    not answer counts as live."""
    try:
        coordinator = ray.get_actor(coordinator_name(name), namespace=NAMESPACE)
        status: Any = ray.get(coordinator.status.remote(), timeout=ANSWER_SECONDS)
    except (ValueError, ActorDiedError):
        return False
    except (RayError, GetTimeoutError):
        return True
    if status.state not in ("finished", "failed"):
        return True
    ray.kill(coordinator)
    deadline = time.monotonic() + ANSWER_SECONDS
    while time.monotonic() < deadline:
        try:
            ray.get_actor(coordinator_name(name), namespace=NAMESPACE)
        except ValueError:
            return False
        time.sleep(0.05)
    return True


def _is_alive(*, host: str, process: int) -> bool:
    """Whether another process of this machine lives; of other machines nothing is known."""
    if host != socket.gethostname() or process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def connect_to(address: str) -> None:
    """Connect this process to a cluster; raises ClusterError where it is connected to another."""
    if ray.is_initialized():
        if ray.get_runtime_context().gcs_address != address:
            raise ClusterError(f"this process is connected to another cluster than {address}")
        return
    connect(address)
