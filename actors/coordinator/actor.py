"""The coordinator actor: it tracks members, snapshots and metrics of a run, and sees the run through to its end.

It holds references and small reports, never weights. Its event loop never waits for storage. It may die at any time:
the networks train on, and its next incarnation, which Ray starts, finds them by name and takes them over.

Longer than 300 lines: each call of the driver, of the networks and of the guests is a method of the actor.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
import warnings
from typing import Any

import ray
from ray import ObjectRef
from ray.actor import ActorClass, exit_actor

from inarch.actors.coordinator import run_metadata
from inarch.actors.coordinator.elasticity.cluster_watch import ClusterWatch
from inarch.actors.coordinator.guests import Guests, open_info
from inarch.actors.coordinator.lifecycle import NetworkLifecycle
from inarch.actors.coordinator.network_group import await_result
from inarch.actors.coordinator.remote_tasks import prepare_run
from inarch.actors.coordinator.resumption.recovery import find_networks, read_result, restore_run
from inarch.actors.coordinator.resumption.resume_plan import resumable_members, vanished_networks
from inarch.actors.coordinator.run_completion import RunCompletion
from inarch.actors.coordinator.run_context import RunContext
from inarch.actors.coordinator_api import GuestApi
from inarch.actors.messages import (
    LARGE_POPULATION,
    Command,
    Enrollment,
    Event,
    ExitReason,
    GuestApplication,
    GuestTerms,
    References,
    RunStatus,
)
from inarch.actors.registrations import register_all
from inarch.actors.resources import check_capacity, plan_resources
from inarch.population.config.runtime import MAX_LABELED_NETWORKS
from inarch.population.errors import ConfigError, RunError, StorageError
from inarch.population.membership.members import MemberRecord, MemberState
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.membership.population_state import JoinPoint
from inarch.population.membership.snapshot_index import PublishedSnapshot
from inarch.population.persistence.interval_report import IntervalReport
from inarch.population.state.snapshot_info import SnapshotInfo
from inarch.population.tasks.run_folder import failure_reasons, read_config, read_info, read_members, run_id_of
from inarch.population.tasks.run_spec import RunInfo, RunSpec


class RunCoordinator(GuestApi):
    """Coordinates one run. `CoordinatorActor` is a subclass on Ray. Every method runs on one event loop."""

    def __init__(self, spec: RunSpec) -> None:
        """Create a coordinator that does nothing until `start`, `recover` or `react` is called.

        Args:
            spec: The run.
        """
        self._spec, self._config = spec, spec.config  # first, because Ray shows the actor if its constructor fails
        self.context = RunContext(spec)
        self._state, self._population = self.context.state, self.context.population
        self._members, self._monitor = self.context.population.members, self.context.monitor
        self._background, self._recorder = self.context.background, self.context.recorder
        self.lifecycle = NetworkLifecycle(self.context)
        self._has_members = asyncio.Event()
        if not spec.is_resumed:  # else `start` or `recover` restores them
            self._has_members.set()
        self._join_points: dict[tuple[int, int], JoinPoint[References]] = {}
        self.cluster_watch = ClusterWatch(self.context, self.lifecycle)
        self.guests = Guests(self.context)
        self._completion = RunCompletion(self.context, self.lifecycle, self.guests)

    def __repr__(self) -> str:
        return f"Coordinator({self._spec.name})"

    # Calls of the driver.

    @ray.method
    async def start(self) -> RunInfo:
        """Check the run, then start its networks, or the members of a resumed run.

        Returns:
            What is known of data and model. The networks are being placed by then.

        Raises:
            InarchError: Data, model, resources or storage cannot be used. Nothing was started.
        """
        register_all(self._spec.registrations)
        if self._spec.open is None:
            self._state.resources = plan_resources(self._config)
        await asyncio.to_thread(self.context.storage.check_writable)
        if not self._spec.is_resumed and self._spec.open is None:
            for _ in range(self._config.population.size):
                self._members.add(is_initial=True)
        try:
            info = await self._prepare()
            await self._record_start(info)
        except BaseException:
            self.lifecycle.terminate_all()
            raise
        finally:
            self._has_members.set()
        self._recorder.save()
        if self._spec.open is None:
            self._background.spawn(self.lifecycle.start_all())
        else:
            self._state.begin()
        self._background.spawn(self._watch())
        self._background.spawn(self.react())
        return info

    @ray.method
    async def scale(self, size: int) -> None:
        """Grow or shrink the population to `size` networks. The change is under way when the call returns.

        Guests do not count, except in an open run, which asks its youngest guests to leave. In an elastic
        population `size` is the largest size from now on, and the population grows to it when the cluster has room.

        Args:
            size: Wanted number of networks.

        Raises:
            ConfigError: The size is below 1 or above population.max_size.
            RunError: The run is over or stopping.
            ResourceError: The cluster can never place so many networks.
        """
        await self._has_members.wait()
        if not self._state.is_open:
            raise RunError(f"run {self._spec.name} is {self._state.phase}; it cannot be scaled")
        if self._spec.open is not None:
            self.guests.scale(size)
            return
        if self._config.metrics.per_network and size > MAX_LABELED_NETWORKS:
            raise ConfigError(f"with metrics.per_network a population has at most {MAX_LABELED_NETWORKS} networks")
        growth = self._members.num_to_add(size, max_size=self._config.population.max_size)
        self._state.limit = size
        if not self._config.population.is_elastic:
            if growth > 0:
                check_capacity(self._config, self._state.resources, size=size)
            self._state.wanted = size
            self.lifecycle.add(max(0, growth))
        for network_id in self._members.select_for_removal(-growth) if growth < 0 else ():
            self.lifecycle.request_leave(network_id)
        self._background.has_changed.set()

    @ray.method
    async def stop(self) -> None:
        """Let every network commit a checkpoint at its next step and end. The run can be resumed."""
        await self._has_members.wait()
        if not self._state.is_open:
            return
        self._state.phase, self._state.is_stopped = "stopping", True
        self._monitor.emit("stop", None)
        for network_id in self._members.active():
            self.lifecycle.request_stop(network_id)
        await self._background.notify()
        self._background.has_changed.set()

    @ray.method
    async def run_id(self) -> str | None:
        """Return the id of the run in its folder, or None if it cannot be read. A run of the same name has another."""
        storage = self.context.storage

        def read() -> str:
            return run_id_of(read_config(storage), storage)

        try:
            return await asyncio.to_thread(read)
        except (RunError, StorageError):
            return None

    @ray.method
    async def status(self) -> RunStatus:
        """Return how the run stands."""
        state = self._state
        return RunStatus(
            name=self._spec.name,
            state=state.phase,
            num_intervals=state.info.num_intervals if state.info else 0,
            metrics=state.info.metrics if state.info else (),
            epochs=self._config.schedule.epochs,
            networks=tuple(self._monitor.status(member) for member in self._members),
            seconds=state.seconds,
            message=state.message,
            coordinator_process=os.getpid(),
            refusals=dict(self._monitor.refusals),
        )

    @ray.method
    async def events(self, after: int, seconds: float) -> list[Event]:
        """Return the events numbered above `after`.

        Args:
            after: Number of the last event that the caller knows.
            seconds: Longest wait for the first event.
        """
        await self._background.wait_until(
            lambda: bool(self._monitor.after(after)) or self._state.has_ended, seconds=seconds
        )
        return self._monitor.after(after)

    @ray.method
    async def wait(self, seconds: float) -> dict[str, Any] | None:
        """Return the result when the run is over, or None if it is not over in time.

        Args:
            seconds: Longest wait.

        Raises:
            RunError: The run failed.
        """
        await self._background.wait_until(lambda: self._state.has_ended, seconds=seconds)
        if self._state.phase == "failed":
            raise RunError(self._state.message)
        return self._completion.result

    @ray.method
    async def exit(self) -> None:
        """End this process, after the end of the run. Ray then shows that it exited as intended."""
        await asyncio.to_thread(self._monitor.log.close)
        exit_actor()

    # Calls of the networks: see CoordinatorApi.

    @ray.method
    async def post(
        self,
        network_id: int,
        incarnation: int,
        reports: list[IntervalReport],
        snapshot: PublishedSnapshot[References] | None,
    ) -> Command:
        """Answer `CoordinatorApi.post`."""
        await self._has_members.wait()
        if not self._population.is_current(network_id, incarnation):
            return Command.FENCED
        self._monitor.record_heartbeat(network_id)
        self._population.record_contact(network_id, has_trained=bool(reports) or snapshot is not None)
        if snapshot is not None:
            self._population.publish(snapshot, now=time.monotonic())
            self._monitor.metrics.count_published(snapshot.nbytes)
            await self._release_barriers()
        if reports or snapshot is not None:  # it has joined, and does not ask again
            self._join_points.pop((network_id, incarnation), None)
        is_guest = self._members[network_id].is_guest
        for report in reports:
            self._record_report(report)
            if is_guest:
                self.guests.record(report)
        await self._background.notify()
        if is_guest:
            return self.guests.command(network_id)
        if not self._state.is_open:
            return Command.STOP
        is_leaving = self._members[network_id].state is MemberState.LEAVING
        return Command.LEAVE if is_leaving else Command.CONTINUE

    @ray.method
    async def ask(self, own: SnapshotInfo) -> tuple[PublishedSnapshot[References], ...] | ExchangeOutcome:
        """Answer `CoordinatorApi.ask`."""
        await self._has_members.wait()
        if not self._population.is_current(own.network_id, own.incarnation):
            return ExchangeOutcome.STOPPING
        if self.context.is_lockstep:
            self._population.arrive(own.network_id, own.interval, now=time.monotonic())
            await self._release_barriers()
            await self._background.wait_until(
                lambda: self._population.is_released(own.interval) or self._state.phase != "training", seconds=None
            )
        selected = self._population.select_donors(own)
        return ExchangeOutcome.STOPPING if selected is None else selected

    @ray.method
    async def join(self, network_id: int, incarnation: int) -> JoinPoint[References]:
        """Answer `CoordinatorApi.join`."""
        await self._has_members.wait()
        if not self._population.is_current(network_id, incarnation):
            raise RunError(f"incarnation {incarnation} of network {network_id} was replaced")
        point = self._population.join(network_id)
        if point is None:
            await self._background.wait_until(lambda: not self._population.is_joining(network_id), seconds=None)
            point = self._join_points.get((network_id, incarnation))
        if point is None:
            raise RunError(f"network {network_id} left before it could join")
        return point

    @ray.method
    async def withdraw(self, origin: SnapshotInfo) -> None:
        """Answer `CoordinatorApi.withdraw`."""
        await self._has_members.wait()
        self.guests.withdraw(origin)

    # Calls of guests: see GuestApi.

    @ray.method
    async def terms(self) -> GuestTerms:
        """Answer `GuestApi.terms`."""
        await self._has_members.wait()
        await self._background.wait_until(lambda: self._state.info or self._state.is_over, seconds=None)
        return self.guests.terms()

    @ray.method
    async def enroll(self, application: GuestApplication) -> Enrollment:
        """Answer `GuestApi.enroll`."""
        await self._has_members.wait()
        return self.guests.enroll(application)

    @ray.method
    async def parent(self, network_id: int, incarnation: int) -> PublishedSnapshot[References] | None:
        """Answer `GuestApi.parent`."""
        await self._has_members.wait()
        is_current = self._population.is_current(network_id, incarnation)
        return self._population.parent(network_id) if is_current else None

    @ray.method
    async def sign_off(self, network_id: int, incarnation: int, outcome: ExitReason) -> None:
        """Answer `GuestApi.sign_off`."""
        await self._has_members.wait()
        self.guests.sign_off(network_id, incarnation, outcome)

    # Start.

    async def _prepare(self) -> RunInfo:
        """Read the data and check the model, as a task of Ray. An open run has neither."""
        if self._spec.open is not None:
            is_resumed, storage = self._spec.is_resumed, self.context.storage
            info = await asyncio.to_thread(read_info, storage) if is_resumed else open_info(self._spec.open)
            self._set_info(info)
            return info
        pending = self._read_data()
        if not self._spec.is_resumed:
            self.lifecycle.boot_all()
        try:
            info = await asyncio.wait_for(await_result(pending), self._config.timeouts.start_seconds)
        except TimeoutError:
            raise RunError("the data were not read within timeouts.start_seconds") from None
        self._set_info(info)
        return info

    def _read_data(self, *, patience_seconds: float = 0.0) -> ObjectRef[RunInfo]:
        """Begin to read the data. All networks share the task's value, and Ray can compute it again."""
        remote: Any = prepare_run  # ray.remote's types know no default values
        self._state.data, info = remote.remote(self._spec, patience_seconds)
        return info

    def _set_info(self, info: RunInfo) -> None:
        self._state.info = info
        self._state.wanted = self._config.population.size if self._spec.open is None else 0
        self._state.limit = self._config.population.max_size
        self._population.num_intervals = info.num_intervals

    async def _record_start(self, info: RunInfo) -> None:
        """Write the configuration to the run's folder. For a resumed run, restore the members."""
        storage, run = self.context.storage, self._spec.name
        if not self._spec.is_resumed:
            await asyncio.to_thread(run_metadata.write_config, storage, self._spec, info)
            return
        await asyncio.to_thread(run_metadata.check_info, storage, info, run=run)
        is_open, num_intervals = self._spec.open is not None, info.num_intervals
        members = await asyncio.to_thread(
            resumable_members, storage, run=run, num_intervals=num_intervals, is_open=is_open
        )
        for member in members:
            self._members.restore(member)
        vanished = await asyncio.to_thread(vanished_networks, storage, members)
        for network_id, reason in vanished.items():
            self.lifecycle.mark_failed(network_id, reason)
        record = await asyncio.to_thread(read_members, storage) or {}
        if record.get("limit") is not None:  # `scale` has set it
            self._state.limit = record["limit"]
        self._state.wanted = len(self._members.counted())
        self._monitor.restore_life_events(record.get("events", ()))
        self._state.reasons = failure_reasons(record) | self._state.reasons
        await self._recorder.write()  # before the configuration changes: a start that dies here is resumed alike
        await asyncio.to_thread(run_metadata.update_config, storage, self._spec, info)

    # Reaction to changes.

    async def react(self) -> None:
        """React to changes of the state until the run is over: release barriers, save, and finish or fail the run."""
        while not self._state.is_over:
            await self._background.has_changed.wait()
            self._background.has_changed.clear()
            try:
                for error in self._background.errors:
                    self._state.fail(f"the coordinator failed: {error!r}")
                await self._release_barriers()
                self._recorder.save()
                await self._completion.finish_if_over()
            except Exception as error:
                self._state.fail(f"the coordinator failed: {error!r}")
            await self._background.notify()
        if self._state.is_failing:
            await self._completion.clean_up()

    async def _release_barriers(self) -> None:
        """lockstep: release barriers, admit joining networks, and wake the calls that wait."""
        if not self.context.is_lockstep or self._state.phase != "training":
            return
        release = self._population.release_barriers(now=time.monotonic())
        for network_id, point in release.joins.items():
            self._join_points[network_id, self._members[network_id].incarnation] = point
        if release.intervals:
            self.context.group.end_leavers()
        await self._background.notify()

    def _record_report(self, report: IntervalReport) -> None:
        self._monitor.record_report(report)
        network_id, interval = report.origin.network_id, report.origin.interval
        self._population.record_interval(network_id, max(interval, self._population.interval(network_id)))

    async def _watch(self) -> None:
        """Once a second: check heartbeats, deadlines of barriers and capacity, and update the dashboard's metrics.

        The metrics of a large population are updated less often, because they are computed from all members.
        """
        for second in itertools.count(1):
            if self._state.is_over:
                return
            before = time.monotonic()
            await asyncio.sleep(1.0)
            late_seconds = time.monotonic() - before - 1.0
            if late_seconds > 1.0:  # this process was frozen or busy, and heartbeats wait to be read
                self._monitor.excuse_silence(late_seconds)
            self.guests.record_gone(self.lifecycle.check_heartbeats())
            self.guests.write_soon()
            if self._spec.open is not None or self._members.guests:
                self._background.has_changed.set()
            await self._release_barriers()
            self.lifecycle.reclaim_capacity()
            self.cluster_watch.check_soon()
            if second % (1 + len(self._members) // LARGE_POPULATION) == 0:
                self._show_metrics()

    def _show_metrics(self) -> None:
        info = self._state.info
        self._monitor.metrics.show(
            [self._monitor.status(member) for member in self._members],
            info.metrics[0] if info else None,
            wanted=self._state.wanted,
            num_intervals=info.num_intervals if info else 0,
            snapshot_bytes=info.snapshot_bytes if info else 0,
        )

    # Recovery.

    def await_recovery(self) -> None:
        """Let all calls wait until `recover` has read the members."""
        self._has_members.clear()

    async def recover(self) -> None:
        """Take over the living networks. The actor calls this itself when Ray has restarted it."""
        known: list[MemberRecord] = []
        self._background.spawn(self.react())
        try:
            if not await restore_run(self.context):
                self._completion.result = await read_result(self.context)
                if self._state.phase == "finished":
                    self._background.spawn(self._completion.end_process())
                return
            if self._spec.open is None:
                self._read_data(patience_seconds=self._config.timeouts.start_seconds)
            self.guests.mark_recovered()
            known = find_networks(self.context, self.lifecycle)
        finally:
            # Before the networks are asked how they stand: one on a dead node answers late, and the living networks
            # need their lease.
            self._has_members.set()
            self._background.has_changed.set()
        await asyncio.gather(*(self.lifecycle.reattach(member) for member in known))
        self._background.spawn(self._watch())
        self._background.has_changed.set()


class Coordinator(RunCoordinator):
    """The coordinator on Ray, which awaits an async constructor. A restarted one recovers before it answers calls."""

    async def __init__(self, spec: RunSpec) -> None:
        """Create the coordinator, and begin the recovery if Ray has restarted it.

        Args:
            spec: The run.
        """
        super().__init__(spec)
        if _is_restarted():
            register_all(spec.registrations)
            self.await_recovery()
            self.context.background.spawn(self._recover_or_exit())

    async def _recover_or_exit(self) -> None:
        """Recover the run. If its start was not recorded, exit, because the driver starts another coordinator."""
        try:
            has_config = await asyncio.to_thread(self.context.storage.exists, "config.json")
        except StorageError:
            has_config = True  # not known: recovery waits for storage
        if has_config or self.context.spec.is_resumed:
            await self.recover()
        else:
            ray.get_runtime_context().current_actor.exit.remote()


def _is_restarted() -> bool:
    """Return whether Ray has restarted this actor. Ray warns that this attribute will change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bool(ray.get_runtime_context().was_current_actor_reconstructed)


CoordinatorActor: ActorClass[Coordinator] = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)(Coordinator)
"""`Coordinator` as an actor."""
