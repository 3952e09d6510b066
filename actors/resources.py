"""Connect to a Ray cluster, and decide what it reserves for each network and for the evaluation."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib
import logging
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from inarch.actors.messages import NAMESPACE
from inarch.actors.termination import own_sigterm
from inarch.population.config import RunConfig
from inarch.population.config.per_network import number_fields, with_numbers
from inarch.population.errors import ClusterError, NoClusterError, ResourceError

ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"
"""A call that every cluster answers, if it needs no token."""

REACH_SECONDS = 3.0
"""Seconds in which the port of a cluster must accept a connection."""

GROWTH = 4
"""Divisor of the CPUs that a network reserves if population.cpus is not set: it reserves a quarter of its share.
Running actors cannot return CPUs, so a population that reserved whole shares could not grow."""


@dataclass(frozen=True, kw_only=True)
class NetworkResources:
    """Resources of each network."""

    cpus: float
    """CPUs that Ray reserves, fractions allowed."""
    gpus: float
    """GPUs that Ray reserves, fractions allowed. With 0, the network trains on the CPU."""
    threads: int
    """Threads that the network computes with, at least 1. They may exceed the reserved CPUs."""

    @property
    def request(self) -> dict[str, float]:
        """What a network's process needs on one node, by Ray's names of the resources."""
        return {"CPU": self.cpus, "GPU": self.gpus}


@dataclass(frozen=True, kw_only=True)
class Connection:
    """The Ray cluster that this process is connected to."""

    address: str
    """HOST:PORT, at which other processes reach the cluster."""
    dashboard: str | None
    """URL of the cluster's dashboard. None if there is none or its URL is not known."""
    is_own: bool
    """Whether this process started the cluster. Such a cluster ends with the process."""


def connect(address: str | None = None) -> Connection:
    """Connect this process to Ray. A process that is connected already keeps its connection, whatever the address.

    Args:
        address: Address of a cluster: HOST:PORT, `auto`, or `local`, which starts a cluster on this machine. None: the
            value of RAY_ADDRESS, or `local` if that is not set.

    Raises:
        ClusterError: No cluster answers at the address, or this process is connected to another cluster.
    """
    if ray.is_initialized():
        with own_sigterm():
            pass
        connected = _address()
        if address is not None and _are_different(address, connected):
            raise ClusterError(
                f"this process is connected to the cluster at {connected}, not to {address}; call ray.shutdown() "
                "first, or leave the address out"
            )
        return Connection(address=connected, dashboard=None, is_own=False)
    target = address or os.environ.get("RAY_ADDRESS") or None
    if target not in (None, "local", "auto"):
        check_reachable(target)
    is_own = target in (None, "local")
    if not is_own:
        _use_token(target)
    try:
        with own_sigterm():
            context = ray.init(
                address=target or "local",
                namespace=NAMESPACE,
                log_to_driver=False,
                logging_level=logging.ERROR,
                include_dashboard=None,  # with True, a dashboard that does not start would end the run
            )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ClusterError(f"no Ray cluster answers at {target or 'this machine'}: {error}") from error
    url = getattr(context, "dashboard_url", None)
    return Connection(address=_address(), dashboard=f"http://{url}" if url else None, is_own=is_own)


def _address() -> str:
    return str(ray.get_runtime_context().gcs_address)


def _use_token(address: str) -> None:
    """Let Ray send this machine's authentication token to a cluster, if there is a token and the cluster demands one.

    A local Ray requires a token since version 2.60. A second process sends it only if RAY_AUTH_MODE is `token`, and Ray
    read that variable when it was imported. Ray therefore has to read it again, through a private name: the only use of
    a private name here (docs/development/decisions, 0005). With that mode, this process also demands the token of
    the cluster's processes that call it. Those of a cluster without a token have none, and could start no actor.
    """
    has_token = any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    has_token = has_token or (Path.home() / ".ray" / "auth_token").exists()
    if "RAY_AUTH_MODE" in os.environ or not has_token or not demands_token(address):
        return
    os.environ["RAY_AUTH_MODE"] = "token"
    refresh = getattr(getattr(getattr(ray, "_raylet", None), "Config", None), "initialize", None)
    if refresh is not None:
        refresh("")


def demands_token(address: str) -> bool:
    """Return whether a cluster refuses calls without a token. A cluster of which that is not known counts as such.

    Args:
        address: HOST:PORT, or `auto`.
    """
    if address == "auto":
        address = _newest_cluster()
    if "://" in address or ":" not in address:
        return True
    try:
        grpc: Any = importlib.import_module("grpc")  # Ray's dashboard needs it, so it is there in most installations
    except ImportError:
        return True
    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary(ALIVE)(b"", timeout=REACH_SECONDS)
        except grpc.RpcError as error:
            # A call of another version of Ray may be unknown, or have other arguments: the cluster let it in.
            return error.code() not in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INVALID_ARGUMENT)
    return False


def _newest_cluster() -> str:
    """Return the address of the newest cluster on this machine, which Ray writes into a file. Empty: there is none."""
    folder = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray")
    try:
        return (folder / "ray_current_cluster").read_text().strip()
    except OSError:
        return ""


def check_reachable(address: str) -> None:
    """Raise ClusterError if no process accepts connections at an address. This check is faster than Ray's own.

    Args:
        address: HOST:PORT, with or without `ray://`.

    Raises:
        NoClusterError: No process listens there.
        ClusterError: The address has another form, or no connection is made within `REACH_SECONDS`.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal()):
        raise ClusterError(f"a cluster's address must be HOST:PORT, got {address!r}")
    try:
        socket.create_connection((host, int(port)), timeout=REACH_SECONDS).close()
    except ConnectionRefusedError as error:
        raise NoClusterError(f"the cluster at {address} cannot be reached: {error}") from None
    except OSError as error:
        raise ClusterError(f"the cluster at {address} cannot be reached: {error}") from None


def _are_different(wished: str, connected: str) -> bool:
    """Return whether HOST:PORT certainly names another cluster than the connected one. Other forms may be the same."""
    wished_host, _, wished_port = wished.rpartition(":")
    host, _, port = connected.rpartition(":")
    if "://" in wished or not wished_port.isdecimal():
        return False
    if wished_port != port:
        return True
    try:
        addresses = {socket.gethostbyname(wished_host), socket.gethostbyname(host)}
    except OSError:
        return False
    return len(addresses) == 2 and not any(name.startswith("127.") for name in addresses)


def plan_resources(config: RunConfig) -> NetworkResources:
    """Return the resources of each network on the connected cluster.

    Without population.cpus, a network's share is an equal part of the CPUs. It computes with as many threads, but
    reserves less: see `GROWTH`. In an elastic population it reserves its whole share, because the population
    would otherwise grow to four networks for each share. Without population.gpus, each network has a GPU of its own if
    there are enough. Otherwise the networks share the GPUs evenly.

    Args:
        config: The run's configuration.

    Raises:
        ResourceError: Even if it were empty, the cluster could not place the networks with which the run begins. The
            message states what the cluster has.
    """
    available = ray.cluster_resources()
    cpus, gpus = available.get("CPU", 0.0), available.get("GPU", 0.0)
    population, size = config.population, config.population.size
    if population.cpus is None and cpus == 0:
        raise ResourceError(
            "the cluster has no CPUs, of which each network would get a share; set population.cpus to what a network "
            "is to get, or wait until nodes have started"
        )
    network_gpus = population.gpus
    if network_gpus is None:
        network_gpus = 0.0 if gpus == 0 else (1.0 if size <= gpus else min(1.0, gpus) / -(-size // max(1, int(gpus))))
    share = population.cpus if population.cpus is not None else cpus / size
    growth = 1 if population.is_elastic and not network_gpus else GROWTH
    reserved = population.cpus if population.cpus is not None else (min(share, 1.0) if network_gpus else share) / growth
    placement = NetworkResources(cpus=round(reserved, 4), gpus=network_gpus, threads=max(1, int(share)))
    needed = population.num_to_begin
    fitting = sum(_fitting(node["Resources"], placement) for node in ray.nodes() if node["Alive"])
    if fitting < needed:
        raise ResourceError(
            f"the cluster has {cpus:g} CPUs and {gpus:g} GPUs; {needed} networks with {placement.cpus:g} CPUs and "
            f"{placement.gpus:g} GPUs each can never be placed ({fitting} can); lower population.cpus or "
            "population.gpus, set population.min_size, or add nodes"
        )
    return placement


def _fitting(resources: dict[str, float], placement: NetworkResources) -> int:
    """Return how many networks fit on one empty node. A million stands for no limit."""
    counts = [
        int(resources.get(kind, 0.0) / amount + 1e-6)
        for kind, amount in (("CPU", placement.cpus), ("GPU", placement.gpus))
        if amount > 0
    ]
    return min(counts, default=1_000_000)


def check_capacity(config: RunConfig, placement: NetworkResources | None, *, size: int) -> None:
    """Raise ResourceError if the cluster can never place a run of a given size.

    Args:
        config: The run's configuration.
        placement: Resources that the run's networks have. A further network must get the same. None: they follow from
            the configuration.
        size: Number of networks.

    Raises:
        ResourceError: The cluster could not place that many networks even if it were empty.
    """
    population = dataclasses.replace(config.population, size=size, min_size=None, max_size=None)
    if placement is not None:
        population = dataclasses.replace(population, cpus=placement.cpus, gpus=placement.gpus)
    # A list of numbers is for the networks that the run began with. It does not matter for their places.
    firsts = {item.name: item.value[0] for item in number_fields(config) if isinstance(item.value, tuple)}
    plan_resources(dataclasses.replace(with_numbers(config, firsts), population=population))


@contextlib.asynccontextmanager
async def reserved_gpu(gpus: float, *, seconds: float) -> AsyncIterator[dict[str, Any]]:
    """Reserve a share of a GPU for a task, as long as the context lasts.

    Args:
        gpus: Share of one GPU. 0: nothing is reserved.
        seconds: Longest wait for it.

    Yields:
        Options for the task. Empty if there is no such share in time, or if none is wanted.
    """
    if not gpus:
        yield {}
        return
    group = placement_group([{"GPU": gpus}])
    try:
        ready = await asyncio.to_thread(group.wait, seconds)
        place = PlacementGroupSchedulingStrategy(placement_group=group)
        yield {"num_gpus": gpus, "scheduling_strategy": place} if ready else {}
    finally:
        remove_placement_group(group)
