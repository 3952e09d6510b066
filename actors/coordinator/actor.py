"""The coordinator actor: who is in the population, what lies on the board, how the run stands.

It holds references and small reports, never weights. Its event loop never waits for storage. It may die at any time:
networks train on, and its next incarnation, which Ray starts, finds them by name and takes them over.

It answers the driver and the networks, and sees a run through to its end; the networks' lives are the supervisor's.

Longer than 300 lines: it is one state machine on one event loop. Start, end, recovery and barriers share its state, and
another cut would only pass that state around until its decisions are pure functions.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from typing import Any

import ray
from ray.exceptions import RayError

from inarch.actors.coordinator import run_metadata as records
from inarch.actors.coordinator.lifecycle import NetworkLifecycle
from inarch.actors.coordinator.network_group import await_result, format_error
from inarch.actors.coordinator.remote_tasks import evaluate_run_task, prepare_run
from inarch.actors.coordinator.resume_plan import resumable_members
from inarch.actors.coordinator.run_context import RunContext
from inarch.actors.coordinator.run_state import State
from inarch.actors.messages import Command, Event, References, RunStatus
from inarch.actors.resources import check_capacity, plan_resources
from inarch.actors.retry import retry
from inarch.population.errors import InarchError, RunError, RunExistsError, StorageError
from inarch.population.membership.barrier import BarrierResult
from inarch.population.membership.members import ACTIVE, DONORS, MemberState
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.membership.snapshot_index import PublishedSnapshot
from inarch.population.membership.staleness import staleness_limit
from inarch.population.persistence.claim import withdraw
from inarch.population.persistence.interval_report import IntervalReport
from inarch.population.state.snapshot import SnapshotInfo
from inarch.population.tasks.run_spec import RunInfo, RunSpec


class Coordinator:
    """The plain class; `CoordinatorActor` is it on Ray. All methods run on one event loop."""

    def __init__(self, spec: RunSpec) -> None:
        """Args: the run. Nothing happens before `start`, but for an incarnation that Ray brought back."""
        context = RunContext(spec, on_failure=lambda error: self._fail(f"the coordinator failed: {error!r}"))
        self._spec, self._config, self._is_lockstep = spec, spec.config, context.is_lockstep
        self._storage, self._state, self._background = context.storage, context.course, context.background
        self._members, self._index, self._admission = context.members, context.board, context.gate
        self._group, self._monitor = context.crew, context.chronicle
        self._lifecycle = NetworkLifecycle(context, save=self._save, changed=self._changed, fail=self._fail)
        self._knows_members = asyncio.Event()
        self._knows_members.set()
        self._result: dict[str, Any] | None = None

    def __repr__(self) -> str:
        return f"Coordinator({self._spec.name})"

    # Called by the driver.

    async def start(self) -> RunInfo:
        """Check everything, then place the founders (or bring back the members of a resumed run) and let them train.

        Raises:
            InarchError: data, network, resources or storage cannot be used; nothing was started.
        """
        self._state.placement = plan_resources(self._config)
        await asyncio.to_thread(self._storage.check_writable)
        info = await self._prepare()
        run = self._spec.name
        if self._spec.is_resumed:
            await asyncio.to_thread(records.check_info, self._storage, info, run=run)
            num_intervals = info.num_intervals
            members = await asyncio.to_thread(resumable_members, self._storage, run=run, num_intervals=num_intervals)
            for member in members:
                self._members.restore(member)
            await self._write_members()  # before the configuration changes: a start that dies here is resumed alike
            await asyncio.to_thread(records.update_config, self._storage, self._spec, info)
        else:
            await asyncio.to_thread(records.write_config, self._storage, self._spec, info)
            for _ in range(self._config.population.size):
                self._members.add(is_initial=True)
        self._save()
        self._background.spawn(self._lifecycle.start_all())
        self._background.spawn(self._watch())
        return info

    async def scale(self, size: int) -> None:
        """Grow or shrink to `size` networks; returns when the change is under way.

        Raises:
            ConfigError: size is below 1 or above population.max_size.
            RunError: the run is over or stopping.
            ResourceError: the cluster can never place so many.
        """
        await self._knows_members.wait()
        if not self._state.is_open:
            raise RunError(f"run {self._spec.name} is {self._state.state}; it cannot be scaled")
        growth = self._members.num_to_add(size, max_size=self._config.population.max_size)
        if growth > 0:
            check_capacity(self._config, self._state.placement, size=size)
        for _ in range(growth):
            self._background.spawn(self._lifecycle.begin(self._members.add(is_initial=False).id, "joined"))
        for network_id in self._members.select_for_removal(-growth) if growth < 0 else ():
            self._lifecycle.request_leave(network_id)
        self._background.spawn(self._changed())  # where the last that trained has gone, the run ends

    async def stop(self) -> None:
        """Let every network commit a checkpoint at its next step and end; the run can be resumed."""
        await self._knows_members.wait()
        if not self._state.is_open:
            return
        self._state.state = "stopping"
        self._monitor.emit("stop", None)
        for network_id in self._members.active():
            if not self._lifecycle.takes_part(network_id):
                self._members.set_state(network_id, MemberState.STOPPED)
                self._lifecycle.terminate(network_id)
            else:
                self._group.direct(network_id, Command.STOP)
        await self._background.notify()
        self._save()
        await self._finish_if_over()

    async def status(self) -> RunStatus:
        """The run as it stands."""
        return RunStatus(
            name=self._spec.name,
            state=self._state.state,
            num_intervals=self._state.info.num_intervals if self._state.info else 0,
            epochs=self._config.schedule.epochs,
            networks=tuple(self._monitor.status(member) for member in self._members),
            seconds=self._state.seconds,
            message=self._state.message,
            coordinator_process=os.getpid(),
            refusals=dict(self._monitor.refusals),
        )

    async def events(self, after: int, seconds: float) -> list[Event]:
        """Events numbered above `after`; waits for the first at most so long."""
        await self._background.wait_until(
            lambda: bool(self._monitor.after(after)) or self._state.is_over, seconds=seconds
        )
        return self._monitor.after(after)

    async def wait(self, seconds: float) -> dict[str, Any] | None:
        """The result when the run is over, None if it is not after so long. Raises RunError where it failed."""
        await self._background.wait_until(lambda: self._state.is_over, seconds=seconds)
        if self._state.state == "failed":
            raise RunError(self._state.message)
        return self._result

    # Called by networks.

    async def post(
        self,
        network_id: int,
        incarnation: int,
        reports: list[IntervalReport],
        posting: PublishedSnapshot[References] | None,
    ) -> Command:
        """Take a network's reports and its newest snapshot; also its heartbeat."""
        await self._knows_members.wait()
        if network_id not in self._members or incarnation != self._members[network_id].incarnation:
            return Command.FENCED
        self._monitor.record_heartbeat(network_id)
        if reports or posting is not None:
            self._admission.admit(network_id)
        if self._members[network_id].state is MemberState.STALLED:
            self._members.set_state(network_id, MemberState.TRAINING)
        if posting is not None:
            self._index.publish(posting)
            self._admission.arrive(network_id, posting.origin.interval)
            await self._open_barriers()
        for report in reports:
            self._monitor.record_report(report)
        await self._background.notify()
        if not self._state.is_open:
            return Command.STOP
        return Command.LEAVE if self._members[network_id].state is MemberState.LEAVING else Command.CONTINUE

    async def ask(self, asker: SnapshotInfo) -> tuple[PublishedSnapshot[References], ...] | ExchangeOutcome:
        """What a network may take now; in lockstep, when the barrier of its interval has opened."""
        await self._knows_members.wait()
        if asker.incarnation != self._members[asker.network_id].incarnation:
            return ExchangeOutcome.STOPPING
        members, donors, version = self._members.in_topology(), self._members.donors(), None
        if self._is_lockstep:
            opening = await self._pass_barrier(asker)
            if opening is None:
                return ExchangeOutcome.STOPPING
            if opening.is_timed_out:
                return ExchangeOutcome.BARRIER_TIMEOUT
            members, donors, version = opening.members, opening.donors, asker.interval
        info = self._state.info
        limit = staleness_limit(self._config.staleness, num_intervals=info.num_intervals if info else 1)
        count = self._config.exchange.donor_limit
        return self._index.select_donors(
            asker, members=members, donors=donors, limit=limit, count=count, version=version
        )

    async def join(self, network_id: int, incarnation: int) -> int | PublishedSnapshot[References]:
        """What a newcomer begins with: a posting to be cloned, or an interval to begin at with its own weights. In
        lockstep it waits for a barrier to open."""
        await self._knows_members.wait()
        if incarnation != self._members[network_id].incarnation:
            raise RunError(f"incarnation {incarnation} of network {network_id} was replaced")
        return await self._admission.join(network_id, self._lifecycle.select_parent)

    # What a run begins with.

    async def _prepare(self) -> RunInfo:
        promised = self._read_data()
        try:
            info: RunInfo = await asyncio.wait_for(await_result(promised), self._config.timeouts.start_seconds)
        except TimeoutError:
            raise RunError("the data were not read within timeouts.start_seconds") from None
        self._state.info = info
        return info

    def _read_data(self) -> Any:
        """Begin to read the data: one task's value, which every network is handed and Ray can make again."""
        references: Any = prepare_run.remote(self._spec)
        self._state.data, info = references
        return info

    # How a run ends.

    async def _finish_if_over(self) -> None:
        """When no member is active any more, judge the networks, write the result and end them."""
        self._lifecycle.retire_never_placed()
        is_early = not (self._state.has_begun or self._state.state == "stopping")
        if self._members.active() or is_early or self._state.is_ending or not len(self._members):
            return
        is_stopped = self._state.state == "stopping" or any(m.state is MemberState.STOPPED for m in self._members)
        self._state.state = "finishing"
        await self._background.notify()
        seconds = self._state.seconds
        ended = {member.id: member.state.value for member in self._members}
        for network_id in self._group.networks():
            self._lifecycle.terminate(network_id)
        self._group.end_leavers()
        if all(member.state is MemberState.FAILED for member in self._members):
            self._fail(self._state.message or "every network failed")
            return
        if not is_stopped:
            try:
                self._result = await await_result(
                    evaluate_run_task.remote(self._spec, self._state.data, ended, self._state.reasons, seconds)
                )
            except (InarchError, RayError) as error:
                self._fail(format_error(error))
                return
        await self._write_members(state="finished")
        await self._give_free()
        self._state.state = "finished"
        self._monitor.emit("finish", None, is_complete=not is_stopped)
        await self._background.notify()
        self._background.spawn(self._end_later())

    async def _give_free(self) -> None:
        """The run is over, and its folder may be claimed again."""
        with contextlib.suppress(StorageError):
            await asyncio.to_thread(withdraw, self._storage, self._spec.token)

    async def _end_later(self) -> None:
        """A detached coordinator stays long enough to tell how the run ended, then goes for good."""
        if self._state.state == "failed":
            await self._write_members()
            await self._give_free()
        if self._spec.is_detached:
            await asyncio.sleep(self._config.timeouts.lease_seconds)
            ray.kill(ray.get_runtime_context().current_actor)

    def _fail(self, message: str) -> None:
        if self._state.is_over:
            return
        self._state.state, self._state.message = "failed", message
        for network_id in self._group.networks():
            self._lifecycle.terminate(network_id)
        self._group.end_leavers()
        self._background.spawn(self._background.notify())
        self._save()
        self._background.spawn(self._end_later())

    # How a coordinator that died comes back.

    async def recover(self) -> None:
        """Called by the actor itself when Ray brought it back: take the living networks over."""
        try:
            seconds = self._config.timeouts.start_seconds
            record = await asyncio.to_thread(retry, lambda: records.read_members(self._storage), seconds=seconds)
            if record is None:
                self._fail("the coordinator died before the run had begun")
                return
            info = await asyncio.to_thread(retry, lambda: records.read_info(self._storage), seconds=seconds)
            self._state.info = info
            self._state.placement = records.placement_of(record)
            self._state.message = record["message"]
            self._state.began_seconds = time.monotonic() - (time.time() - record["began"])
            self._read_data()
            for member in records.members_of(record):
                self._members.restore(member)
            self._state.has_begun = True
            if record["state"] in ("finished", "failed"):
                self._state.state = record["state"]
                await self._read_result()
                self._background.spawn(self._end_later())
                return
            self._state.state = "stopping" if record["state"] == "stopping" else "training"
            known = [member for member in self._members if member.state in ACTIVE | DONORS]
            for member in known:
                self._lifecycle.find(member)
            self._lifecycle.terminate_orphans()
        finally:
            # Before anybody is asked how it stands: one on a dead node answers late, and the living need their lease.
            self._knows_members.set()
        await asyncio.gather(*(self._lifecycle.reattach(member) for member in known))
        self._background.spawn(self._watch())
        await self._finish_if_over()

    async def _read_result(self) -> None:
        with contextlib.suppress(StorageError):
            self._result = json.loads(await asyncio.to_thread(self._storage.read, "result.json"))

    # Barriers, heartbeats, the record.

    async def _open_barriers(self) -> None:
        """lockstep: open what can be opened, let newcomers in, and wake those who wait."""
        if not self._is_lockstep or self._state.state != "training":
            return
        for interval in self._admission.open(self._lifecycle.select_parent):
            self._index.drop_before(interval)
            self._group.end_leavers()
        await self._background.notify()

    async def _pass_barrier(self, asker: SnapshotInfo) -> BarrierResult | None:
        """Wait for the barrier of an asker's interval; None where the run stops first."""
        self._admission.arrive(asker.network_id, asker.interval)
        await self._open_barriers()
        await self._background.wait_until(
            lambda: bool(self._admission.opening(asker.interval)) or self._state.state != "training", seconds=None
        )
        return self._admission.opening(asker.interval)

    async def _watch(self) -> None:
        """Once a second: who is silent, whose barrier has waited too long, who finds no room, what the dashboard
        shows."""
        while not self._state.is_over:
            await asyncio.sleep(1.0)
            self._lifecycle.check_heartbeats()
            await self._open_barriers()
            await self._lifecycle.reclaim_capacity()
            self._monitor.metrics.show(self._monitor.status(member) for member in self._members)

    async def _changed(self) -> None:
        """A life began or ended."""
        await self._open_barriers()
        self._save()
        await self._finish_if_over()
        await self._background.notify()

    def _save(self) -> None:
        """See that the members' record is written soon; nobody waits for it."""
        self._background.run_coalesced(self._write_members)

    async def _write_members(self, *, state: State | None = None) -> None:
        if not len(self._members):  # one that came back and knows nobody yet must not put that on record
            return
        try:
            await asyncio.to_thread(
                records.write_members,
                self._storage,
                token=self._spec.token,
                state=state or self._state.state,
                message=self._state.message,
                members=self._members,
                placement=self._state.placement,
                began=time.time() - self._state.seconds,
            )
        except StorageError as error:
            self._state.message = str(error)
        except RunExistsError as error:
            self._fail(str(error))


class _RemoteCoordinator(Coordinator):
    """On Ray, which awaits a constructor that is async, an incarnation that was brought back takes the living networks
    over before it answers anybody."""

    async def __init__(self, spec: RunSpec) -> None:
        super().__init__(spec)
        if ray.get_runtime_context().was_current_actor_reconstructed:
            self._knows_members.clear()
            self._background.spawn(self.recover())


_on_ray: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)

CoordinatorActor: Any = _on_ray(_RemoteCoordinator)
"""`Coordinator` on Ray."""
