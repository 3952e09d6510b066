"""The lives of a run's networks: placed, supervised, brought back, ended.

Longer than 300 lines: each life passes through all of these states, and they share members, board and processes. What
can be decided without them is in failure_policy.py and resuming.py.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable

import ray
from ray.exceptions import RayActorError, RayError

from inarch.actors.coordinator.failure_policy import is_worth_a_restart
from inarch.actors.coordinator.network_group import format_error
from inarch.actors.coordinator.resume_plan import start_plans
from inarch.actors.coordinator.run_context import RunContext
from inarch.actors.messages import Command, ExitReason, References, StartMode, StartPlan
from inarch.actors.retry import RETRY_SECONDS
from inarch.population.errors import InarchError, RunError, StorageError, StructureError
from inarch.population.membership.members import ACTIVE, GONE, Member, MemberState
from inarch.population.membership.snapshot_index import PublishedSnapshot
from inarch.population.persistence.checkpoint import CheckpointStore

ROOM_SECONDS = 30.0
"""Networks that start while nobody trains have so long until finished networks make room for them."""

HEARD = frozenset({MemberState.TRAINING, MemberState.STALLED, MemberState.LEAVING})
"""States of members that give signs of life."""


class NetworkLifecycle:
    """Of one run. On the coordinator's event loop only."""

    def __init__(
        self,
        context: RunContext,
        *,
        save: Callable[[], None],
        changed: Callable[[], Awaitable[None]],
        fail: Callable[[str], None],
    ) -> None:
        """Args: what it shares with the coordinator. save: see that the members are on record; changed: called when a
        life began or ended; fail: end the run."""
        self._spec, self._config, self._is_lockstep = context.spec, context.config, context.is_lockstep
        self._storage, self._state, self._background = context.storage, context.course, context.background
        self._members, self._index, self._admission = context.members, context.board, context.gate
        self._group, self._monitor = context.crew, context.chronicle
        self._save, self._changed, self._fail = save, changed, fail
        self._idle_since: float | None = None
        self._resume_points: dict[int, StartPlan] = {}

    async def start_all(self) -> None:
        """Start every member; when population.min_size are placed, those train, and the rest join as they come."""
        self._resume_points = beginnings = await self._read_beginnings()
        placing = {
            network_id: asyncio.create_task(self._create_with_retries(network_id, beginning))
            for network_id, beginning in beginnings.items()
            if beginning.mode != "joined"
        }
        founders = set(placing)
        await self._wait_for_enough(placing)
        if self._state.state != "starting":
            for future in placing.values():
                future.cancel()
            return
        self._state.begin()
        for network_id, future in placing.items():
            if future.done():
                self._background.spawn(self._supervise(network_id))
            else:
                future.cancel()
                self.terminate(network_id)
                self._members.restart(network_id)
                self._background.spawn(self.begin(network_id, "joined"))
        for network_id in beginnings.keys() - founders:
            self._background.spawn(self.begin(network_id, "joined"))
        await self._changed()

    async def _read_beginnings(self) -> dict[int, StartPlan]:
        """How each member that starts begins, by id."""
        starting = [member for member in self._members if member.state is MemberState.STARTING]
        if not self._spec.is_resumed:
            return {member.id: StartPlan("initial") for member in starting}
        return await asyncio.to_thread(start_plans, self._storage, starting, is_lockstep=self._is_lockstep)

    async def _wait_for_enough(self, placing: dict[int, asyncio.Task[None]]) -> None:
        """Until population.min_size are placed, in lockstep all. A run that goes on gives up those that cannot be, and
        they are taken out of `placing`, like those that were sent away meanwhile; a new one fails, as does one that has
        none left or waits too long."""
        population, timeouts = self._config.population, self._config.timeouts
        deadline = time.monotonic() + timeouts.start_seconds
        while self._state.state == "starting":
            for network_id in [network_id for network_id in placing if self._members[network_id].state not in ACTIVE]:
                placing.pop(network_id).cancel()
            for network_id in [n for n, future in placing.items() if future.done() and future.exception() is not None]:
                reason = format_error(placing[network_id].exception())
                if not self._spec.is_resumed or len(placing) == 1:
                    return self._fail(f"network {network_id} could not start: {reason}")
                del placing[network_id]
                await self._give_up(network_id, reason)
            needed = min(population.min_size or population.size, len(placing))
            needed = len(placing) if self._is_lockstep else needed
            num_placed = sum(future.done() for future in placing.values())
            if num_placed >= needed:
                return None
            if time.monotonic() > deadline:
                return self._fail(
                    f"only {num_placed} of {needed} networks were placed within timeouts.start_seconds "
                    f"({timeouts.start_seconds:g} s); the cluster has {ray.cluster_resources()}"
                )
            pending = [future for future in placing.values() if not future.done()]
            await asyncio.wait(pending, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
        return None

    async def begin(self, network_id: int, mode: StartMode) -> None:
        """Place a network and let it train, unless the run or its membership ended before it could."""
        if not self._is_wanted(network_id):
            return
        if mode == "joined":
            self._admission.hold(network_id)
        try:
            await self._create_with_retries(network_id, self._start_plan(network_id, mode))
        except (RayError, InarchError, ValueError) as error:
            if self._members[network_id].state in ACTIVE:
                await self._give_up(network_id, format_error(error))
            return
        self._save()
        if self._is_wanted(network_id):
            await self._supervise(network_id)
        else:
            self.terminate(network_id)

    def _start_plan(self, network_id: int, mode: StartMode) -> StartPlan:
        """How a network begins that starts after the others. What a run that goes on begins with in lockstep holds
        until the network is past it."""
        shared = self._resume_points[network_id].at_most_interval if network_id in self._resume_points else None
        is_past = shared is None or self._monitor.interval(network_id) > shared
        return StartPlan(mode, None if is_past or mode != "resumed" else shared)

    def _is_wanted(self, network_id: int) -> bool:
        """Whether a member is still to train: while it was placed the run may have stopped, or it been sent away."""
        return self._state.is_open and self._members[network_id].state in ACTIVE

    async def _create_with_retries(self, network_id: int, beginning: StartPlan) -> None:
        """Place a network; where its process dies before it is built, again, as often as restarts allow. What its own
        code raises then is not tried again but for one that has lived: what it lacks, a device or a storage, may come
        back."""
        while True:
            try:
                return await self._place(network_id, beginning)
            except RayActorError as error:
                member = self._members[network_id]
                is_own_fault = getattr(error, "actor_init_failed", False)
                if is_own_fault and not (beginning.mode == "resumed" and member.restarts):
                    raise
                if member.restarts >= self._config.population.max_restarts or not self._is_wanted(network_id):
                    raise
                self._members.restart(network_id)
                self._save()
                await asyncio.sleep(RETRY_SECONDS if is_own_fault else 0.0)

    async def _place(self, network_id: int, beginning: StartPlan) -> None:
        """Create the actor and wait until its network is built.

        Raises:
            StructureError: it has another structure than the run's networks.
            RayActorError: its process died.
        """
        member, placement = self._members[network_id], self._state.placement
        if placement is None:
            raise RunError("there is no placement yet")
        structure, interval, process, node = await self._group.create(
            member, beginning, self._state.data, placement=placement
        )
        if self._state.info is not None and structure != self._state.info.structure:
            self.terminate(network_id)
            raise StructureError(
                f"network {network_id} has another structure than its neighbors ({structure}, theirs "
                f"{self._state.info.structure}); the network's function must build the same architecture each time"
            )
        self._members.mark_started(network_id, interval=interval)
        self._monitor.record_placement(network_id, interval=interval, process=process, node=node)

    def select_parent(self, network_id: int) -> int | PublishedSnapshot[References]:
        """A newcomer's parent; where nothing is to be cloned, the interval to begin at with its own weights."""
        parent = self._index.select_parent(
            network_id, members=self._members.in_topology(), donors=self._members.donors()
        )
        if parent is not None and self._config.population.init_new_networks == "clone":
            return parent
        others = [other for other in self._members.donors() if other != network_id]
        furthest = max((self._monitor.interval(other) for other in others), default=0)
        return parent.origin.interval if parent is not None else furthest

    async def _supervise(self, network_id: int) -> None:
        """Let a network train, and see to it when its run ends or its process dies."""
        incarnation = self._members[network_id].incarnation
        if self._members[network_id].state is not MemberState.LEAVING:
            self._members.set_state(network_id, MemberState.TRAINING)
        self._monitor.emit("join", network_id, incarnation=incarnation)
        if self._state.state == "stopping":
            self._group.direct(network_id, Command.STOP)
        try:
            outcome: ExitReason | BaseException = await self._group.train(network_id)
        except Exception as error:  # the network's own, or its process's death: told apart below
            outcome = error
        if self._members[network_id].incarnation != incarnation or self._state.is_over:
            return
        if self._members[network_id].state in GONE:
            return  # it was sent away, and its process ended, before it had joined
        if isinstance(outcome, ExitReason):
            await self._ended(network_id, outcome)
        elif is_worth_a_restart(outcome, has_worked=self._has_worked(network_id)):
            await self._lost(network_id, format_error(outcome))
        else:
            await self._give_up(network_id, format_error(outcome))

    def _has_worked(self, network_id: int) -> bool:
        """Whether a network has completed an interval, or trained before a restart."""
        return self._monitor.interval(network_id) > 0 or self._members[network_id].restarts > 0

    async def _ended(self, network_id: int, outcome: ExitReason) -> None:
        is_leaving = self._members[network_id].state is MemberState.LEAVING
        if outcome in (ExitReason.ORPHANED, ExitReason.FENCED) and self._state.state == "training":
            await self._lost(network_id, f"it ended, {outcome.value}")
            return
        state = MemberState.STOPPED
        if outcome is ExitReason.DONE:
            state = MemberState.DONE
        elif outcome is ExitReason.LEFT or is_leaving:
            state = MemberState.RETIRED
        self._members.set_state(network_id, state)
        self._monitor.emit("done" if state is MemberState.DONE else "leave", network_id, outcome=outcome.value)
        if state is not MemberState.DONE:
            self.terminate(network_id, is_gentle=self._is_lockstep)
        await self._changed()

    async def _lost(self, network_id: int, reason: str) -> None:
        """A network's process died: bring it back from its newest checkpoint. The others train on meanwhile."""
        self._monitor.emit("loss", network_id, reason=reason)
        self.terminate(network_id)
        is_leaving = self._members[network_id].state is MemberState.LEAVING
        self._members.set_state(network_id, MemberState.LOST)
        if is_leaving or not self._state.is_open:
            self._members.set_state(network_id, MemberState.RETIRED if is_leaving else MemberState.STOPPED)
            await self._changed()
        elif self._members[network_id].restarts >= self._config.population.max_restarts:
            times = self._members[network_id].restarts
            await self._give_up(network_id, f"brought back {times} times, it came no further than before: {reason}")
        else:
            member = self._members.restart(network_id)
            self._monitor.emit("restart", network_id, incarnation=member.incarnation)
            self._save()
            joins = not member.is_initial and not await self._has_checkpoint(network_id)
            self._background.spawn(self.begin(network_id, "joined" if joins else "resumed"))

    async def _give_up(self, network_id: int, reason: str) -> None:
        self._members.set_state(network_id, MemberState.FAILED)
        self._state.message = f"network {network_id}: {reason}"
        self._state.reasons[network_id] = reason
        self._monitor.emit("failure", network_id, reason=reason)
        self.terminate(network_id)
        await self._changed()

    def request_leave(self, network_id: int) -> None:
        """A member is to leave: one that never trained at once, others after their interval."""
        if not self.takes_part(network_id):
            self._members.set_state(network_id, MemberState.RETIRED)
            self.terminate(network_id)
            return
        self._members.set_state(network_id, MemberState.LEAVING)
        self._group.direct(network_id, Command.LEAVE)

    def takes_part(self, network_id: int) -> bool:
        """Whether a member trains, so that its process holds work that is not saved yet."""
        is_starting = self._members[network_id].state is MemberState.STARTING
        return not (is_starting or self._admission.is_outside(network_id))

    def terminate(self, network_id: int, *, is_gentle: bool = False) -> None:
        """End a network's process. Gently, its snapshots stay until the next barrier: others may still take them."""
        self._admission.forget(network_id)
        if is_gentle:
            self._group.end_later(network_id)
            return
        self._index.remove(network_id)
        self._group.end(network_id)

    async def _has_checkpoint(self, network_id: int) -> bool:
        try:
            return bool(await asyncio.to_thread(CheckpointStore(self._storage).list, network_id))
        except StorageError:
            return True

    def retire_never_placed(self) -> None:
        """Members that never found a place are no reason to wait when nobody else trains any more, and somebody has.
        Who found one is in the record: a coordinator that came back has not seen it."""
        left, has_anybody = self._members.active(), any(member.ever_started for member in self._members)
        is_idle = not any(self._members[network_id].ever_started for network_id in left)
        if self._state.has_begun and has_anybody and is_idle:
            for network_id in left:
                self._members.set_state(network_id, MemberState.RETIRED)
                self.terminate(network_id)

    def find(self, member: Member) -> None:
        """Take over the process of a member that is known from the record, if there is one."""
        incarnation = self._group.find(member)
        if incarnation is not None:
            self._members.restore(dataclasses.replace(member, incarnation=incarnation))

    def terminate_orphans(self) -> None:
        """Processes of members that had left when the coordinator died."""
        for member in self._members:
            if member.state in GONE and self._group.find(member) is not None:
                self.terminate(member.id, is_gentle=self._is_lockstep)

    async def reattach(self, member: Member) -> None:
        """Ask a network that was found by its name how it stands; one that was not, or does not answer, is lost."""
        if member.id not in self._group:
            if self._members[member.id].state in ACTIVE:
                self._background.spawn(self._lost(member.id, "it was gone when the coordinator came back"))
            return
        try:
            timeouts = self._config.timeouts.lease_seconds / 2
            report, postings, info = await asyncio.wait_for(self._group.describe(member.id), timeouts)
        except (RayError, TimeoutError) as error:
            if member.state in ACTIVE:
                self._background.spawn(self._lost(member.id, format_error(error)))
            return
        _, interval, process, node = info
        self._members.mark_started(member.id, interval=interval)
        self._monitor.record_placement(member.id, interval=interval, process=process, node=node)
        for posting in postings:
            self._index.publish(posting)
            self._admission.arrive(member.id, posting.origin.interval)
        if report is not None:
            self._monitor.record_report(report, is_news=False)
        self._background.spawn(self._supervise(member.id))

    def check_heartbeats(self) -> None:
        """A member that trains and is not heard from is stalled after a lease, and ended after three: it then comes
        back. One that is done gives nothing any more."""
        lease = self._config.timeouts.lease_seconds
        for member in list(self._members):
            silent = self._monitor.silent_seconds(member.id)
            if member.state is MemberState.DONE and silent > 3 * lease:
                self.terminate(member.id)
            elif member.state in HEARD and silent > 3 * lease:
                self._group.end(member.id)
            elif member.state is MemberState.TRAINING and silent > lease:
                self._members.set_state(member.id, MemberState.STALLED)

    async def reclaim_capacity(self) -> None:
        """When nobody trains and those who are to start find no room, or do not come up: end the finished ones, which
        are only donors by now and hold the room; then give the others up when they have had as long as a start has."""
        active, now = self._members.active(), time.monotonic()
        is_idle = bool(active) and all(self._members[network_id].state is MemberState.STARTING for network_id in active)
        if not (is_idle and self._state.has_begun and self._state.state == "training"):
            self._idle_since = None
            return
        if self._idle_since is None:
            self._idle_since = now
        done = [member.id for member in self._members if member.state is MemberState.DONE]
        for network_id in done if now - self._idle_since > ROOM_SECONDS else ():
            self.terminate(network_id)
        if now - self._idle_since > self._config.timeouts.start_seconds:
            for network_id in active:
                reason = "it found no room in the cluster, or did not come up, within timeouts.start_seconds"
                await self._give_up(network_id, reason)
