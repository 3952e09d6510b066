"""Join a population from any training loop."""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar, cast

import ray
import torch
from ray.actor import ActorProxy
from ray.exceptions import ActorDiedError, ActorUnavailableError, GetTimeoutError
from torch import nn

from inarch.actors.coordinator_api import CoordinatorApi, GuestApi
from inarch.actors.driver.coordinator_client import RETRY_SECONDS, find_coordinator, value_of
from inarch.actors.driver.discovery import check_same_run, connect_to_recorded, find_cluster
from inarch.actors.driver.trusted_clusters import TrustedClusters
from inarch.actors.guest.loop_optimizer import LoopOptimizer
from inarch.actors.guest.member import Member
from inarch.actors.guest.ranks import Ranks
from inarch.actors.guest.session import GuestSession, RayGuestCalls, logger
from inarch.actors.guest.terms import check_terms
from inarch.actors.guest.wrappers import bare_model
from inarch.actors.messages import Enrollment, GuestApplication, GuestTerms
from inarch.actors.network.exchange_backend import RayExchangeBackend
from inarch.actors.network.exchange_client import ExchangeClient
from inarch.actors.registrations import register_all
from inarch.actors.resources import connect
from inarch.population.config import OpenConfig, RunConfig
from inarch.population.errors import ClusterError, ConfigError, RunNotFoundError, StructureError
from inarch.population.exchange import exchange_rule
from inarch.population.exchange.participant import Participant
from inarch.population.exchange.shared_state import SharedState, blends_momentum
from inarch.population.grafting.channel_tracing import find_channels
from inarch.population.grafting.channels import Channels
from inarch.population.state.optimizer import create_state
from inarch.population.tasks.run_folder import find_run

T = TypeVar("T")

ANSWER_SECONDS = 30.0
"""Longest wait for an answer of the coordinator. A run that reads its data may take longer, see `TERMS_SECONDS`."""

TERMS_SECONDS = 300.0
"""Longest wait for a run that still reads its data."""


def join(
    run: str,
    model: nn.Module,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    every: int | None = None,
    name: str | None = None,
    begin: Literal["own", "clone"] = "own",
    config: OpenConfig | None = None,
    storage: str = "runs",
    address: str | None = None,
    input_shape: Sequence[int] | None = None,
    distributed: bool | None = None,
) -> Member:
    """Make this training loop a member of a population, which exchanges weights with the others while it trains.

    The loop stays as it is. With an optimizer, its step hook exchanges whenever an interval is complete. Without one,
    the loop calls `Member.step` after each step, or `Member.exchange` when it likes. The exchange changes the model's
    weights in place and never waits longer than 50 ms for other processes.

    Args:
        run: Name of the run, or path or URI of its folder. `inarch open NAME` or `PopulationRun.open` opens a run for
            loops like this one. A run of `inarch train` can be joined too.
        model: The model that the loop trains, also in a wrapper: DistributedDataParallel, torch.compile, accelerate.
        optimizer: The loop's optimizer, also in a wrapper of accelerate or Lightning.
        every: Optimizer steps from one exchange to the next. None: as the run. Required with an optimizer if the run
            does not know it yet.
        name: Name of this member across restarts. A process that joins under the name of an earlier one takes its
            place. None: a new name, which begins with host and process.
        begin: own: keep the model's weights. clone: take those of the most advanced member, and its place in the
            schedule. If there is none, the weights stay.
        config: What the loop expects of the exchange. A run that differs is refused. None: whatever the run has.
        storage: Folder that holds runs, searched by name for the cluster's address.
        address: Address of the Ray cluster. None: the cluster that this process is connected to, else RAY_ADDRESS, else
            the address recorded in the run's folder if it is on this machine.
        input_shape: Shape of one input, without its batch dimension. Needed only if the run grafts single filters or
            matches channels, which are traced with such an input.
        distributed: Whether the ranks of torch.distributed train this model together. Rank 0 is then the member, and
            the others receive its weights after each exchange. None: they do if a process group is initialized.

    Raises:
        RunNotFoundError: There is no such run, or it has ended.
        UntrustedError: The run's folder names a cluster on another machine, and the caller has named none.
        ClusterError: The cluster cannot be reached.
        ConfigError: The run differs from `config`, exchanges at other intervals, or its rule needs something that the
            model lacks.
        StructureError: The model has another structure than those of the other members, or its weights are sharded, on
            several devices, or on a device that is neither CPU nor CUDA.
        RunError: The run is ending, or runs in lockstep.
    """
    if begin not in ("own", "clone"):
        raise ConfigError(f"begin must be own or clone, got {begin!r}")
    if every is not None and every < 1:
        raise ConfigError(f"every must be at least 1, got {every}")
    ranks, module = Ranks(is_distributed=distributed), bare_model(model)
    run_name, terms = ranks.share(functools.partial(_terms, run, storage, address))
    check_terms(run_name, terms, config)
    if optimizer is not None and every is None and not terms.info.interval_steps:
        raise ConfigError(f"every: run {run_name} does not know yet after how many steps to exchange; give a number")
    register_all(terms.registrations)
    loop_optimizer = LoopOptimizer(optimizer) if optimizer is not None else None
    participant = Participant(_shared_state(module, loop_optimizer, terms.config), terms.config)
    rule = exchange_rule(terms.config, functools.partial(_channels, module, input_shape))

    def enroll() -> Enrollment:
        application = GuestApplication(
            name=name or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}",
            structure=participant.layout.fingerprint,
            snapshot_bytes=participant.layout.nbytes,
            parameters=sum(parameter.numel() for parameter in module.parameters()),
            every=every,
            process=os.getpid(),
            node=ray.get_runtime_context().get_node_id(),
        )
        return _answer(run_name, lambda handle: handle.enroll.remote(application))

    enrollment = ranks.share(enroll)
    participant.begin(rule, network_id=enrollment.network_id, num_intervals=enrollment.num_intervals)
    session = None
    if ranks.is_first:
        session = _session(run_name, enrollment, terms.config, participant)
    member = Member(participant, enrollment, session, optimizer=loop_optimizer, ranks=ranks)
    if begin == "clone" and not member.adopt():
        logger.warning("run %s: no member had weights that could be cloned; this one begins with its own", run_name)
    return member


def connect_to_run(run: str, storage: str = "runs", address: str | None = None) -> str:
    """Connect this process to the Ray cluster of a run. `join` does this itself.

    Call it first in a driver that starts its workers on the same cluster, for example with Ray Train.

    Args:
        run: Name of the run, or path or URI of its folder.
        storage: Folder that holds runs, searched by name for the cluster's address.
        address: Address of the cluster, as in `join`.

    Returns:
        Name of the run.

    Raises:
        RunNotFoundError: There is no such run.
        UntrustedError: The run's folder names a cluster on another machine, and the caller has named none.
        ClusterError: The cluster cannot be reached, or this process is connected to another.
    """
    is_name = "/" not in run
    if is_name and (address or ray.is_initialized() or os.environ.get("RAY_ADDRESS")):
        connect(address)
        return run
    try:
        folder = find_run(run, storage=storage)
        cluster = find_cluster(folder)
    except RunNotFoundError as error:
        raise RunNotFoundError(
            f"{error}; open a run for training loops: inarch open {run if is_name else 'NAME'}, or give the address of "
            "the Ray cluster on which it runs"
        ) from None
    connect_to_recorded(cluster, TrustedClusters(named=address))
    with contextlib.suppress(ValueError):  # there is no coordinator of this name, which the first call reports
        check_same_run(find_coordinator(cluster["run"]), folder, cluster["run"])
    return cluster["run"]


def _terms(run: str, storage: str, address: str | None) -> tuple[str, GuestTerms]:
    """Connect to the run's cluster, and return the run's name and its terms."""
    name = connect_to_run(run, storage, address)
    return name, _answer(name, lambda handle: handle.terms.remote(), seconds=TERMS_SECONDS)


def _handle(run: str) -> ActorProxy[GuestApi]:
    try:
        return cast("ActorProxy[GuestApi]", find_coordinator(run))
    except ValueError:
        raise RunNotFoundError(
            f"no run named {run!r} is live on the cluster at {ray.get_runtime_context().gcs_address}; open one for "
            f"training loops: inarch open {run}"
        ) from None


def _answer(
    run: str, call: Callable[[ActorProxy[GuestApi]], ray.ObjectRef[T]], *, seconds: float = ANSWER_SECONDS
) -> T:
    """Return the coordinator's answer to a call. The call is repeated while Ray restarts the coordinator."""
    end = time.monotonic() + seconds
    while True:
        try:
            return value_of(call(_handle(run)), seconds=max(0.01, end - time.monotonic()))
        except ActorUnavailableError:
            if time.monotonic() >= end:
                raise ClusterError(f"run {run}: its coordinator was not available for {seconds:g} s") from None
            time.sleep(RETRY_SECONDS)
        except GetTimeoutError:
            raise ClusterError(f"run {run}: its coordinator did not answer within {seconds:g} s") from None
        except ActorDiedError:
            raise RunNotFoundError(f"run {run} is not running any more") from None


def _session(run: str, enrollment: Enrollment, config: RunConfig, participant: Participant) -> GuestSession:
    """Begin to send heartbeats to the coordinator."""
    handle, network_id, incarnation = _handle(run), enrollment.network_id, enrollment.incarnation
    backend = RayExchangeBackend(cast("ActorProxy[CoordinatorApi]", handle), network_id, incarnation)
    client = ExchangeClient(
        backend,
        config,
        participant.layout,
        logger=logger,
        prepare=participant.prepare,
        packing=participant.packing,
    )
    calls = RayGuestCalls(handle, network_id, incarnation)
    return GuestSession(client, calls, fetch_seconds=client.fetch_seconds)


def _shared_state(module: nn.Module, optimizer: LoopOptimizer | None, config: RunConfig) -> SharedState:
    """Return the tensors that the model's snapshots hold.

    Args:
        module: The model.
        optimizer: Its optimizer. None if it is not known.
        config: Configuration of the run.

    Raises:
        StructureError: The model has no parameters, or lazy ones that have no shape yet.
        ConfigError: Running averages are exchanged, and the optimizer is not known.
    """
    parameters = list(module.parameters())
    if not parameters:
        raise StructureError("the model has no parameters, so that there is nothing to exchange")
    if any(isinstance(parameter, torch.nn.parameter.UninitializedParameter) for parameter in parameters):
        raise StructureError("the model has lazy layers without a shape; run one batch through it before joining")
    if optimizer is None and blends_momentum(config):
        raise ConfigError("graft.momentum=blend exchanges the optimizer's running averages; give join the optimizer")
    if optimizer is None:
        return SharedState(module, None, config)
    if blends_momentum(config):
        create_state(optimizer.optimizer)
    return SharedState(module, optimizer.optimizer, config)


def _channels(module: nn.Module, input_shape: Sequence[int] | None) -> Channels:
    """Return the channels of the model, traced with an input of the caller's shape."""
    if input_shape is None:
        raise ConfigError(
            "input_shape: the run grafts single filters or matches channels, which are traced with an input; give its "
            "shape without the batch dimension, for example input_shape=(3, 32, 32)"
        )
    return find_channels(module, input_shape)
