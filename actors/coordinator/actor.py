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
from inarch.actors.coordinator.lifecycle import Supervisor
from inarch.actors.coordinator.network_group import reason_of, result_of
from inarch.actors.coordinator.remote_tasks import judge_task, prepare_task
from inarch.actors.coordinator.resume_plan import resumable_members
from inarch.actors.coordinator.run_context import RunContext
from inarch.actors.coordinator.run_state import State
from inarch.actors.messages import Directive, Event, Facts, References, RunSpec, RunStatus
from inarch.actors.resources import check_room, place
from inarch.actors.retry import patiently
from inarch.population.errors import InarchError, RunError, RunExistsError, StorageError
from inarch.population.membership.barrier import BarrierResult
from inarch.population.membership.members import ACTIVE, DONORS, MemberState
from inarch.population.membership.outcome import Refusal
from inarch.population.membership.snapshot_index import PublishedSnapshot
from inarch.population.membership.staleness import staleness_limit
from inarch.population.persistence.claim import withdraw
from inarch.population.persistence.interval_report import IntervalReport
from inarch.population.state.snapshot import SnapshotInfo


class Coordinator:
    """The plain class; `CoordinatorActor` is it on Ray. All methods run on one event loop."""

    def __init__(self, spec: RunSpec) -> None:
        """Args: the run. Nothing happens before `start`, but for an incarnation that Ray brought back."""
        context = RunContext(spec, on_failure=lambda error: self._fail(f"the coordinator failed: {error!r}"))
        self._spec, self._config, self._is_lockstep = spec, spec.config, context.is_lockstep
        self._storage, self._course, self._background = context.storage, context.course, context.background
        self._members, self._index, self._gate = context.members, context.board, context.gate
        self._crew, self._chronicle = context.crew, context.chronicle
        self._supervisor = Supervisor(context, save=self._save, changed=self._changed, fail=self._fail)
        self._knows_members = asyncio.Event()
        self._knows_members.set()
        self._result: dict[str, Any] | None = None

    def __repr__(self) -> str:
        return f"Coordinator({self._spec.name})"

    # Called by the driver.

    async def start(self) -> Facts:
        """Check everything, then place the founders (or bring back the members of a resumed run) and let them train.

        Raises:
            InarchError: data, network, resources or storage cannot be used; nothing was started.
        """
        self._course.placement = place(self._config)
        await asyncio.to_thread(self._storage.check_writable)
        facts = await self._prepare()
        run = self._spec.name
        if self._spec.is_resumed:
            await asyncio.to_thread(records.check_facts, self._storage, facts, run=run)
            num_intervals = facts.num_intervals
            members = await asyncio.to_thread(resumable_members, self._storage, run=run, num_intervals=num_intervals)
            for member in members:
                self._members.restore(member)
            await self._write_members()  # before the configuration changes: a start that dies here is resumed alike
            await asyncio.to_thread(records.update_config, self._storage, self._spec, facts)
        else:
            await asyncio.to_thread(records.write_config, self._storage, self._spec, facts)
            for _ in range(self._config.population.size):
                self._members.add(is_initial=True)
        self._save()
        self._background.spawn(self._supervisor.raise_population())
        self._background.spawn(self._watch())
        return facts

    async def scale(self, size: int) -> None:
        """Grow or shrink to `size` networks; returns when the change is under way.

        Raises:
            ConfigError: size is below 1 or above population.max_size.
            RunError: the run is over or stopping.
            ResourceError: the cluster can never place so many.
        """
        await self._knows_members.wait()
        if not self._course.is_open:
            raise RunError(f"run {self._spec.name} is {self._course.state}; it cannot be scaled")
        growth = self._members.num_to_add(size, max_size=self._config.population.max_size)
        if growth > 0:
            check_room(self._config, self._course.placement, size=size)
        for _ in range(growth):
            self._background.spawn(self._supervisor.begin(self._members.add(is_initial=False).id, "newcomer"))
        for network_id in self._members.select_for_removal(-growth) if growth < 0 else ():
            self._supervisor.let_go(network_id)
        self._background.spawn(self._changed())  # where the last that trained has gone, the run ends

    async def stop(self) -> None:
        """Let every network commit a checkpoint at its next step and end; the run can be resumed."""
        await self._knows_members.wait()
        if not self._course.is_open:
            return
        self._course.state = "stopping"
        self._chronicle.tell("stop", None)
        for network_id in self._members.active():
            if not self._supervisor.takes_part(network_id):
                self._members.set_state(network_id, MemberState.STOPPED)
                self._supervisor.dismiss(network_id)
            else:
                self._crew.direct(network_id, Directive.STOP)
        await self._background.wake()
        self._save()
        await self._finish_if_over()

    async def status(self) -> RunStatus:
        """The run as it stands."""
        return RunStatus(
            name=self._spec.name,
            state=self._course.state,
            num_intervals=self._course.facts.num_intervals if self._course.facts else 0,
            epochs=self._config.schedule.epochs,
            networks=tuple(self._chronicle.status(member) for member in self._members),
            seconds=self._course.seconds,
            message=self._course.message,
            coordinator_process=os.getpid(),
            refusals=dict(self._chronicle.refusals),
        )

    async def events(self, after: int, seconds: float) -> list[Event]:
        """Events numbered above `after`; waits for the first at most so long."""
        await self._background.until(
            lambda: bool(self._chronicle.after(after)) or self._course.is_over, seconds=seconds
        )
        return self._chronicle.after(after)

    async def wait(self, seconds: float) -> dict[str, Any] | None:
        """The result when the run is over, None if it is not after so long. Raises RunError where it failed."""
        await self._background.until(lambda: self._course.is_over, seconds=seconds)
        if self._course.state == "failed":
            raise RunError(self._course.message)
        return self._result

    # Called by networks.

    async def post(
        self,
        network_id: int,
        incarnation: int,
        reports: list[IntervalReport],
        posting: PublishedSnapshot[References] | None,
    ) -> Directive:
        """Take a network's reports and its newest snapshot; also its heartbeat."""
        await self._knows_members.wait()
        if network_id not in self._members or incarnation != self._members[network_id].incarnation:
            return Directive.FENCED
        self._chronicle.heard(network_id)
        if reports or posting is not None:
            self._gate.let_in(network_id)
        if self._members[network_id].state is MemberState.STALLED:
            self._members.set_state(network_id, MemberState.TRAINING)
        if posting is not None:
            self._index.publish(posting)
            self._gate.arrive(network_id, posting.origin.interval)
            await self._open_barriers()
        for report in reports:
            self._chronicle.note(report)
        await self._background.wake()
        if not self._course.is_open:
            return Directive.STOP
        return Directive.LEAVE if self._members[network_id].state is MemberState.LEAVING else Directive.GO_ON

    async def ask(self, asker: SnapshotInfo) -> tuple[PublishedSnapshot[References], ...] | Refusal:
        """What a network may take now; in lockstep, when the barrier of its interval has opened."""
        await self._knows_members.wait()
        if asker.incarnation != self._members[asker.network_id].incarnation:
            return Refusal.STOPPING
        members, donors, version = self._members.in_topology(), self._members.donors(), None
        if self._is_lockstep:
            opening = await self._pass_barrier(asker)
            if opening is None:
                return Refusal.STOPPING
            if opening.is_timed_out:
                return Refusal.BARRIER_TIMEOUT
            members, donors, version = opening.members, opening.donors, asker.interval
        facts = self._course.facts
        limit = staleness_limit(self._config.age, num_intervals=facts.num_intervals if facts else 1)
        count = self._config.exchange.num_donors
        return self._index.select_donors(
            asker, members=members, donors=donors, limit=limit, count=count, version=version
        )

    async def join(self, network_id: int, incarnation: int) -> int | PublishedSnapshot[References]:
        """What a newcomer begins with: a posting to be cloned, or an interval to begin at with its own weights. In
        lockstep it waits for a barrier to open."""
        await self._knows_members.wait()
        if incarnation != self._members[network_id].incarnation:
            raise RunError(f"incarnation {incarnation} of network {network_id} was replaced")
        return await self._gate.join(network_id, self._supervisor.birth_of)

    # What a run begins with.

    async def _prepare(self) -> Facts:
        promised = self._read_data()
        try:
            facts: Facts = await asyncio.wait_for(result_of(promised), self._config.patience.start_seconds)
        except TimeoutError:
            raise RunError("the data were not read within patience.start_seconds") from None
        self._course.facts = facts
        return facts

    def _read_data(self) -> Any:
        """Begin to read the data: one task's value, which every network is handed and Ray can make again."""
        references: Any = prepare_task.remote(self._spec)
        self._course.data, facts = references
        return facts

    # How a run ends.

    async def _finish_if_over(self) -> None:
        """When no member is active any more, judge the networks, write the result and end them."""
        self._supervisor.drop_the_unplaced()
        is_early = not (self._course.has_begun or self._course.state == "stopping")
        if self._members.active() or is_early or self._course.is_ending or not len(self._members):
            return
        is_stopped = self._course.state == "stopping" or any(m.state is MemberState.STOPPED for m in self._members)
        self._course.state = "finishing"
        await self._background.wake()
        seconds = self._course.seconds
        ended = {member.id: member.state.value for member in self._members}
        for network_id in self._crew.networks():
            self._supervisor.dismiss(network_id)
        self._crew.end_leavers()
        if all(member.state is MemberState.FAILED for member in self._members):
            self._fail(self._course.message or "every network failed")
            return
        if not is_stopped:
            try:
                self._result = await result_of(
                    judge_task.remote(self._spec, self._course.data, ended, self._course.reasons, seconds)
                )
            except (InarchError, RayError) as error:
                self._fail(reason_of(error))
                return
        await self._write_members(state="finished")
        await self._give_free()
        self._course.state = "finished"
        self._chronicle.tell("finish", None, is_complete=not is_stopped)
        await self._background.wake()
        self._background.spawn(self._end_later())

    async def _give_free(self) -> None:
        """The run is over, and its folder may be claimed again."""
        with contextlib.suppress(StorageError):
            await asyncio.to_thread(withdraw, self._storage, self._spec.token)

    async def _end_later(self) -> None:
        """A detached coordinator stays long enough to tell how the run ended, then goes for good."""
        if self._course.state == "failed":
            await self._write_members()
            await self._give_free()
        if self._spec.is_detached:
            await asyncio.sleep(self._config.patience.lease_seconds)
            ray.kill(ray.get_runtime_context().current_actor)

    def _fail(self, message: str) -> None:
        if self._course.is_over:
            return
        self._course.state, self._course.message = "failed", message
        for network_id in self._crew.networks():
            self._supervisor.dismiss(network_id)
        self._crew.end_leavers()
        self._background.spawn(self._background.wake())
        self._save()
        self._background.spawn(self._end_later())

    # How a coordinator that died comes back.

    async def recover(self) -> None:
        """Called by the actor itself when Ray brought it back: take the living networks over."""
        try:
            seconds = self._config.patience.start_seconds
            record = await asyncio.to_thread(patiently, lambda: records.read_members(self._storage), seconds=seconds)
            if record is None:
                self._fail("the coordinator died before the run had begun")
                return
            facts = await asyncio.to_thread(patiently, lambda: records.read_facts(self._storage), seconds=seconds)
            self._course.facts = facts
            self._course.placement = records.placement_of(record)
            self._course.message = record["message"]
            self._course.began_seconds = time.monotonic() - (time.time() - record["began"])
            self._read_data()
            for member in records.members_of(record):
                self._members.restore(member)
            self._course.has_begun = True
            if record["state"] in ("finished", "failed"):
                self._course.state = record["state"]
                await self._read_result()
                self._background.spawn(self._end_later())
                return
            self._course.state = "stopping" if record["state"] == "stopping" else "training"
            known = [member for member in self._members if member.state in ACTIVE | DONORS]
            for member in known:
                self._supervisor.find(member)
            self._supervisor.dismiss_the_gone()
        finally:
            # Before anybody is asked how it stands: one on a dead node answers late, and the living need their lease.
            self._knows_members.set()
        await asyncio.gather(*(self._supervisor.take_over(member) for member in known))
        self._background.spawn(self._watch())
        await self._finish_if_over()

    async def _read_result(self) -> None:
        with contextlib.suppress(StorageError):
            self._result = json.loads(await asyncio.to_thread(self._storage.read, "result.json"))

    # Barriers, heartbeats, the record.

    async def _open_barriers(self) -> None:
        """lockstep: open what can be opened, let newcomers in, and wake those who wait."""
        if not self._is_lockstep or self._course.state != "training":
            return
        for interval in self._gate.open(self._supervisor.birth_of):
            self._index.drop_before(interval)
            self._crew.end_leavers()
        await self._background.wake()

    async def _pass_barrier(self, asker: SnapshotInfo) -> BarrierResult | None:
        """Wait for the barrier of an asker's interval; None where the run stops first."""
        self._gate.arrive(asker.network_id, asker.interval)
        await self._open_barriers()
        await self._background.until(
            lambda: bool(self._gate.opening(asker.interval)) or self._course.state != "training", seconds=None
        )
        return self._gate.opening(asker.interval)

    async def _watch(self) -> None:
        """Once a second: who is silent, whose barrier has waited too long, who finds no room, what the dashboard
        shows."""
        while not self._course.is_over:
            await asyncio.sleep(1.0)
            self._supervisor.see_to_the_silent()
            await self._open_barriers()
            await self._supervisor.see_to_room()
            self._chronicle.metrics.show(self._chronicle.status(member) for member in self._members)

    async def _changed(self) -> None:
        """A life began or ended."""
        await self._open_barriers()
        self._save()
        await self._finish_if_over()
        await self._background.wake()

    def _save(self) -> None:
        """See that the members' record is written soon; nobody waits for it."""
        self._background.soon(self._write_members)

    async def _write_members(self, *, state: State | None = None) -> None:
        if not len(self._members):  # one that came back and knows nobody yet must not put that on record
            return
        try:
            await asyncio.to_thread(
                records.write_members,
                self._storage,
                token=self._spec.token,
                state=state or self._course.state,
                message=self._course.message,
                members=self._members,
                placement=self._course.placement,
                began=time.time() - self._course.seconds,
            )
        except StorageError as error:
            self._course.message = str(error)
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
