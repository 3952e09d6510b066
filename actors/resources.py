"""Ray itself: connecting, what the cluster has, what a network gets of it."""

from __future__ import annotations

import dataclasses
import logging
import os
import socket
from dataclasses import dataclass
from pathlib import Path

import ray

from inarch.actors.messages import NAMESPACE
from inarch.actors.termination import own_sigterm
from inarch.population.config import RunConfig
from inarch.population.errors import ClusterError, ResourceError

REACH_SECONDS = 3.0
"""A cluster whose port does not accept a connection in this time cannot be reached."""

GROWTH = 4
"""Without population.cpus a network reserves this part of its share: running actors cannot give CPUs back, and a
population must be able to grow."""


@dataclass(frozen=True, kw_only=True)
class NetworkResources:
    """What Ray reserves for each network, and the threads that it computes with."""

    cpus: float
    gpus: float
    threads: int


@dataclass(frozen=True, kw_only=True)
class Connection:
    """The Ray that this process is connected to."""

    address: str
    """HOST:PORT, for other processes."""
    dashboard: str | None
    """Its dashboard's URL, None without one."""
    is_own: bool
    """Started by this process, and gone with it."""


def connect(address: str | None = None) -> Connection:
    """Connect this process to Ray.

    Args:
        address: Of a cluster; None: RAY_ADDRESS if set, else a Ray of this machine, started here.

    Raises:
        ClusterError: no cluster answers there.
    """
    if ray.is_initialized():
        with own_sigterm():
            pass
        return Connection(address=_address(), dashboard=None, is_own=False)
    wanted = address or os.environ.get("RAY_ADDRESS") or None
    if wanted not in (None, "local", "auto"):
        check_reachable(wanted)
    is_own = wanted in (None, "local")
    if not is_own:
        _use_token()
    try:
        with own_sigterm():
            context = ray.init(
                address=wanted or "local",
                namespace=NAMESPACE,
                log_to_driver=False,
                logging_level=logging.ERROR,
                include_dashboard=True if is_own else None,
            )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ClusterError(f"no Ray cluster answers at {wanted or 'this machine'}: {error}") from error
    url = getattr(context, "dashboard_url", None)
    return Connection(address=_address(), dashboard=f"http://{url}" if url else None, is_own=is_own)


def _address() -> str:
    return str(ray.get_runtime_context().gcs_address)


def _use_token() -> None:
    """Speak to a cluster with the token that lies on this machine. A local Ray demands one since 2.60, but a second
    process sends it only if RAY_AUTH_MODE says so, and Ray has read that when it was imported: hence the refresh,
    the one use of a private name here (docs/decisions.md). A cluster that demands no token takes one all the same."""
    has_token = any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    has_token = has_token or (Path.home() / ".ray" / "auth_token").exists()
    if "RAY_AUTH_MODE" in os.environ or not has_token:
        return
    os.environ["RAY_AUTH_MODE"] = "token"
    refresh = getattr(getattr(getattr(ray, "_raylet", None), "Config", None), "initialize", None)
    if refresh is not None:
        refresh("")


def check_reachable(address: str) -> None:
    """Raises ClusterError unless something accepts connections at HOST:PORT, without waiting for Ray to find out."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):
        raise ClusterError(f"a cluster's address must be HOST:PORT, got {address!r}")
    try:
        socket.create_connection((host, int(port)), timeout=REACH_SECONDS).close()
    except OSError as error:
        raise ClusterError(f"the cluster at {address} cannot be reached: {error}") from None


def plan_resources(config: RunConfig) -> NetworkResources:
    """What each network gets of the connected cluster.

    Raises:
        ResourceError: not even population.min_size networks could ever be placed; says what there is.
    """
    has = ray.cluster_resources()
    cpus, gpus = has.get("CPU", 0.0), has.get("GPU", 0.0)
    wanted, size = config.population, config.population.size
    own_gpus = wanted.gpus
    if own_gpus is None:
        own_gpus = 0.0 if gpus == 0 else (1.0 if size <= gpus else 1.0 / -(-size // int(gpus)))
    share = wanted.cpus if wanted.cpus is not None else cpus / size
    reserved = wanted.cpus if wanted.cpus is not None else (min(share, 1.0) if own_gpus else share) / GROWTH
    placement = NetworkResources(cpus=round(reserved, 4), gpus=own_gpus, threads=max(1, int(share)))
    needed = wanted.min_size or size
    fitting = sum(_fitting(node["Resources"], placement) for node in ray.nodes() if node["Alive"])
    if fitting < needed:
        raise ResourceError(
            f"the cluster has {cpus:g} CPUs and {gpus:g} GPUs; {needed} networks with {placement.cpus:g} CPUs and "
            f"{placement.gpus:g} GPUs each can never be placed ({fitting} can); lower population.cpus or "
            "population.gpus, set population.min_size, or add nodes"
        )
    return placement


def _fitting(resources: dict[str, float], placement: NetworkResources) -> int:
    """How many networks fit on one empty node."""
    counts = [
        int(resources.get(kind, 0.0) / each + 1e-6)
        for kind, each in (("CPU", placement.cpus), ("GPU", placement.gpus))
        if each > 0
    ]
    return min(counts, default=1_000_000)


def check_capacity(config: RunConfig, placement: NetworkResources | None, *, size: int) -> None:
    """Raises ResourceError where the cluster can never place `size` networks of a run, each as its first were."""
    wanted = dataclasses.replace(config.population, size=size, min_size=None, max_size=None)
    if placement is not None:
        wanted = dataclasses.replace(wanted, cpus=placement.cpus, gpus=placement.gpus)
    optimizer = dataclasses.replace(config.optimizer, learning_rates="same")
    plan_resources(dataclasses.replace(config, population=wanted, optimizer=optimizer))
