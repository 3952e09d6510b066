"""The lives of a run's networks: start them, watch them, restart them, end them.

What to do about a failure is decided in population/membership/failure_policy.py, and who may join or leave in
population_state.py. This file carries the decisions out.

Longer than 300 lines: each method is one transition of the same networks, and another cut would only pass their
processes and states around.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Awaitable, Iterable

import ray
from ray.exceptions import RayActorError, RayError

from inarch.actors.coordinator.network_group import format_error
from inarch.actors.coordinator.resumption.resume_plan import start_plans
from inarch.actors.coordinator.run_context import RunContext
from inarch.actors.messages import Command, ExitReason, References, StartMode, StartPlan, lease_seconds
from inarch.actors.network.standing import NetworkStanding
from inarch.actors.retry import RETRY_SECONDS
from inarch.population.errors import InarchError, RunError, StorageError, StructureError
from inarch.population.membership.failure_policy import FailureDecision, NetworkExit, NetworkHistory, decide
from inarch.population.membership.members import ACTIVE, OUTSIDE, MemberRecord, MemberState
from inarch.population.membership.snapshot_index import PublishedSnapshot
from inarch.population.membership.time_slicing import next_in_turn
from inarch.population.persistence.checkpoint import CheckpointStore

ROOM_SECONDS = 30.0
"""If no network trains, starting networks wait this long before finished ones make room for them."""


class NetworkLifecycle:
    """Starts, watches, restarts and ends the networks of one run. Every method is called on the event loop.

    It changes the shared state and sets `background.has_changed`. The coordinator reacts to that.
    """

    def __init__(self, context: RunContext) -> None:
        """Create the lifecycle. No network starts yet.

        Args:
            context: The parts of the run.
        """
        self._context, self._spec, self._config = context, context.spec, context.config
        self._state, self._population, self._members = context.state, context.population, context.population.members
        self._group, self._monitor, self._background = context.group, context.monitor, context.background
        self._idle_since: float | None = None
        self._plans: dict[int, StartPlan] = {}
        self._queue: list[int] = []
        """time_slicing: networks that have no process and wait for their turn, the longest waiting one first."""
        self._placed: frozenset[int] = frozenset()
        """time_slicing: networks with a place, where their models are being built."""

    # Start.

    async def start_all(self) -> None:
        """Start every member. When population.min_size are placed, those train, and the rest join later."""
        self._plans = plans = await self.read_plans()
        placing = {
            network_id: asyncio.create_task(self._create_with_retries(network_id, plan))
            for network_id, plan in plans.items()
            if plan.mode != "joined"
        }
        initial = set(placing)
        await self._wait_for_enough(placing)
        if self._state.phase != "starting":
            for task in placing.values():
                task.cancel()
            return
        self._state.begin()
        for network_id, task in placing.items():
            if task.done():
                self._background.spawn(self._supervise(network_id))
            elif self._config.population.time_slicing or plans[network_id].mode == "resumed":
                self._background.spawn(self._begin(network_id, task))  # it has work of its own
            else:
                task.cancel()
                self.terminate(network_id)
                self._members.move(network_id)
                self._background.spawn(self.start(network_id, "joined"))
        for network_id in plans.keys() - initial:
            self._background.spawn(self.start(network_id, "joined"))
        self._background.has_changed.set()

    def boot_all(self) -> None:
        """Start the processes of a new run's networks while its data are being read. `start_all` waits for them."""
        if self._state.resources is None:
            raise RunError("the resources of a network are not known yet")
        for member in self._members:
            with contextlib.suppress(ValueError):  # a process of this name lives: `start_all` reports that
                self._group.boot(member, StartPlan("initial"), self._state.data, resources=self._state.resources)

    async def read_plans(self) -> dict[int, StartPlan]:
        """Return how each starting member starts, by id."""
        starting = [member for member in self._members if member.state is MemberState.STARTING]
        if not self._spec.is_resumed:
            return {member.id: StartPlan("initial") for member in starting}
        storage, is_lockstep = self._context.storage, self._context.is_lockstep
        return await asyncio.to_thread(start_plans, storage, starting, is_lockstep=is_lockstep)

    async def _wait_for_enough(self, placing: dict[int, asyncio.Task[None]]) -> None:
        """Wait until population.min_size networks are placed. In lockstep, until all are.

        Networks that left meanwhile are removed from `placing`. A new run fails if one network cannot start. A resumed
        run marks that network failed and continues with the others.
        """
        population, timeouts = self._config.population, self._config.timeouts
        deadline = time.monotonic() + timeouts.start_seconds
        while self._state.phase == "starting":
            for network_id in [number for number in placing if self._members[number].state not in ACTIVE]:
                placing.pop(network_id).cancel()
            for network_id in [number for number, task in placing.items() if task.done() and task.exception()]:
                reason = format_error(placing[network_id].exception())
                if not self._spec.is_resumed or len(placing) == 1:
                    return self._fail_run(f"network {network_id} could not start: {reason}")
                del placing[network_id]
                self.mark_failed(network_id, reason)
            num_needed = min(population.num_to_begin, len(placing))
            num_needed = len(placing) if self._context.is_lockstep else num_needed
            num_placed = sum(task.done() for task in placing.values())
            if num_placed >= num_needed:
                return None
            if time.monotonic() > deadline:
                return self._fail_run(
                    f"only {num_placed} of {num_needed} networks were placed within timeouts.start_seconds "
                    f"({timeouts.start_seconds:g} s); the cluster has {ray.cluster_resources()}"
                )
            pending = [task for task in placing.values() if not task.done()]
            await asyncio.wait(pending, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
        return None

    def add(self, count: int) -> None:
        """Start further networks, which join the others.

        Args:
            count: Number of networks, at least 0.
        """
        for _ in range(count):
            network_id = self._members.add(is_initial=False).id
            self._background.spawn(self.start(network_id, "joined"))
        self._background.has_changed.set()

    async def start(self, network_id: int, mode: StartMode) -> None:
        """Place a network and let it train, unless the run or its membership ends first."""
        if not self._is_wanted(network_id):
            return
        if mode == "joined":
            self._population.hold(network_id)
        if self._config.population.time_slicing:
            self._queue.append(network_id)
            await self._background.wait_until(lambda: self._may_look_for_place(network_id), seconds=None)
            self._queue.remove(network_id)
            await self._background.notify()
            if not self._is_wanted(network_id):
                return
        await self._begin(network_id, self._create_with_retries(network_id, self._plan(network_id, mode)))

    async def _begin(self, network_id: int, creation: Awaitable[None]) -> None:
        """Wait for a network's process, and let it train, unless the run or its membership ends first."""
        try:
            await creation
        except (RayError, InarchError, ValueError) as error:
            if self._members[network_id].state in ACTIVE and not self._state.is_over:  # the end of a run cancels it
                self.mark_failed(network_id, format_error(error))
            return
        self._context.recorder.save()
        if self._is_wanted(network_id):
            await self._supervise(network_id)
        else:
            self.terminate(network_id)

    def _may_look_for_place(self, network_id: int) -> bool:
        """Return whether a network of the queue is the next one, or is not wanted any more."""
        waiting = {number: interval for number, interval in self.waiting().items() if number not in self._placed}
        return not self._is_wanted(network_id) or next_in_turn(self._queue, waiting) == network_id

    def mark_placed(self, network_ids: Iterable[int]) -> None:
        """Record which of the waiting networks have a place. The queue does not wait until their models are built.

        Args:
            network_ids: Their ids.
        """
        placed = frozenset(network_ids)
        if placed != self._placed:
            self._placed = placed
            self._background.has_changed.set()

    def waiting(self) -> dict[int, int]:
        """Return the completed intervals of each network that has no process that trains, and is to get one, by id.

        A restarted coordinator knows of a network without a process only where its last process began.
        """
        members = [self._members[network_id] for network_id in self._members.active()]
        return {
            member.id: max(self._population.interval(member.id), member.began_interval)
            for member in members
            if member.state is MemberState.STARTING
        }

    def _plan(self, network_id: int, mode: StartMode) -> StartPlan:
        """Return how a network starts after the others.

        In lockstep, the interval at which the run resumed limits its checkpoint until the network is past it.
        """
        limit = self._plans[network_id].at_most_interval if network_id in self._plans else None
        is_past = limit is None or self._population.interval(network_id) > limit
        return StartPlan(mode, None if is_past or mode != "resumed" else limit)

    def _is_wanted(self, network_id: int) -> bool:
        """Return whether a member should still train. Run or member may have ended while it was placed."""
        return self._state.is_open and self._members[network_id].state in ACTIVE

    async def _create_with_retries(self, network_id: int, plan: StartPlan) -> None:
        """Create the actor, and retry up to `max_restarts` times if its process dies during construction.

        An error raised by the network's own construction is retried only if it has trained before, because its cause, a
        lost device or failing storage, may be temporary.
        """
        while True:
            try:
                return await self._create(network_id, plan)
            except RayActorError as error:
                member = self._members[network_id]
                is_own_error = getattr(error, "actor_init_failed", False)
                has_trained = plan.mode == "resumed" and (member.restarts or self._state.has_begun)
                if is_own_error and not has_trained:
                    raise
                if member.restarts >= self._config.population.max_restarts or not self._is_wanted(network_id):
                    raise
                self._members.restart(network_id)
                self._context.recorder.save()
                await asyncio.sleep(RETRY_SECONDS if is_own_error else 0.0)

    async def _create(self, network_id: int, plan: StartPlan) -> None:
        """Create the actor and wait until its model is built.

        Args:
            network_id: Id of the network.
            plan: How it starts.

        Raises:
            StructureError: The model has another structure than those of the other networks.
            RayActorError: The process died.
        """
        member, resources = self._members[network_id], self._state.resources
        if resources is None:
            raise RunError("the resources of a network are not known yet")
        created = await self._group.create(member, plan, self._state.data, resources=resources)
        info = self._state.info
        if info is not None and created.structure != info.structure:
            self.terminate(network_id)
            raise StructureError(
                f"network {network_id} has another structure than its neighbors ({created.structure}, theirs "
                f"{info.structure}); the model function must build the same architecture each time"
            )
        for reason in created.damages:
            self._monitor.emit("damage", network_id, reason=reason)
        self._population.mark_started(network_id, interval=created.interval)
        self._monitor.record_placement(network_id, created.interval, process=created.process, node=created.node)

    # Train, and what follows.

    async def _supervise(self, network_id: int) -> None:
        """Let a network train, and handle its end."""
        incarnation = self._members[network_id].incarnation
        self._population.begin_training(network_id)
        self._background.has_changed.set()
        self._monitor.emit("join", network_id, incarnation=incarnation)
        if self._state.phase == "stopping":
            self._group.send(network_id, Command.STOP)
        reason, error = None, None
        try:
            reason = await self._group.train(network_id)
        except Exception as raised:  # of the user's code or of Ray: the failure policy tells them apart
            error = raised
        kept = await self._hand_over(network_id) if reason is ExitReason.PAUSED else None
        member = self._members[network_id]
        if member.incarnation != incarnation or self._state.is_over or member.state in OUTSIDE:
            return
        is_staying = self._is_wanted(network_id) and member.state is not MemberState.LEAVING
        if (reason is ExitReason.MOVED or reason is ExitReason.PAUSED) and is_staying:
            await self._give_up_place(network_id, reason, kept)
            return
        is_cut_off = reason in (ExitReason.ORPHANED, ExitReason.FENCED) and self._state.phase == "training"
        if reason is not None and not is_cut_off:
            self._record_end(network_id, reason)
        else:
            text = format_error(error) if reason is None else f"it ended, {reason.value}"
            own_error = None if isinstance(error, RayError) else error
            await self._handle_failure(network_id, NetworkExit(error=own_error), text)

    def _record_end(self, network_id: int, reason: ExitReason) -> None:
        """Record that a network ended as it should."""
        state = MemberState.STOPPED
        if reason is ExitReason.DONE:
            state = MemberState.DONE
        elif reason is ExitReason.LEFT or self._members[network_id].state is MemberState.LEAVING:
            state = MemberState.RETIRED
        self._members.set_state(network_id, state)
        self._monitor.emit("done" if state is MemberState.DONE else "leave", network_id, outcome=reason.value)
        if state is not MemberState.DONE:
            self.terminate(network_id, keep_snapshots=self._context.is_lockstep)
        self._background.has_changed.set()

    async def _handle_failure(self, network_id: int, exit: NetworkExit, reason: str) -> None:
        """Restart a network, mark it failed, or let it go, as the failure policy decides."""
        member, max_restarts = self._members[network_id], self._config.population.max_restarts
        history = NetworkHistory(
            state=member.state,
            is_run_open=self._state.is_open,
            has_worked=self._population.interval(network_id) > 0 or member.restarts > 0,
            restarts=member.restarts,
            max_restarts=max_restarts,
        )
        decision = decide(exit, history)
        is_exhausted = member.restarts >= max_restarts
        if decision is FailureDecision.FAIL and not is_exhausted:
            self.mark_failed(network_id, reason)
            return
        self._monitor.emit("loss", network_id, reason=reason)
        self.terminate(network_id)
        self._population.lose(network_id)
        if decision is FailureDecision.IGNORE:
            is_leaving = history.state is MemberState.LEAVING
            self._members.set_state(network_id, MemberState.RETIRED if is_leaving else MemberState.STOPPED)
            self._background.has_changed.set()
        elif decision is FailureDecision.FAIL:
            self.mark_failed(network_id, f"restarted {member.restarts} times without progress: {reason}")
        else:
            incarnation = self._members.restart(network_id).incarnation
            self._monitor.emit("restart", network_id, incarnation=incarnation)
            await self._start_again(network_id)

    async def _hand_over(self, network_id: int) -> PublishedSnapshot[References] | None:
        """Return the newest snapshot of a network, with bytes that outlive its process. None if there is none."""
        newest = self._population.index.newest(network_id)
        return None if newest is None else await self._group.hand_over(network_id, newest)

    async def _give_up_place(
        self, network_id: int, reason: ExitReason, kept: PublishedSnapshot[References] | None
    ) -> None:
        """Let a network that gave up its place wait for another one. It continues from its checkpoint.

        Args:
            network_id: Id of the network.
            reason: Why it gave up its place.
            kept: Snapshot that others may fetch meanwhile, or None.
        """
        self.terminate(network_id)
        incarnation = self._members.move(network_id, is_paused=kept is not None).incarnation
        if kept is not None:
            self._population.publish(kept, now=time.monotonic())
        if reason is ExitReason.PAUSED:
            self._monitor.emit("pause", network_id, interval=self._population.interval(network_id))
        else:
            self._monitor.emit("restart", network_id, incarnation=incarnation, reason="its place was taken back")
        await self._start_again(network_id)
        self._background.has_changed.set()

    async def _start_again(self, network_id: int) -> None:
        """Start the next incarnation of a network."""
        member = self._members[network_id]
        self._context.recorder.save()
        joins = not member.is_initial and not await self._has_checkpoint(network_id)
        self._background.spawn(self.start(network_id, "joined" if joins else "resumed"))

    async def _has_checkpoint(self, network_id: int) -> bool:
        try:
            return bool(await asyncio.to_thread(CheckpointStore(self._context.storage).list, network_id))
        except StorageError:
            return True

    def mark_failed(self, network_id: int, reason: str) -> None:
        """Mark a network failed. The others continue.

        Args:
            network_id: Id of the network.
            reason: Why it failed.
        """
        self._members.set_state(network_id, MemberState.FAILED)
        self._state.note_failure(f"network {network_id}: {reason}")
        self._state.reasons[network_id] = reason
        self._monitor.emit("failure", network_id, reason=reason)
        self.terminate(network_id)
        self._background.has_changed.set()

    def _retire(self, network_id: int, *, outcome: str) -> None:
        """Let a network without a process leave the population. Its checkpoints stay."""
        self._members.set_state(network_id, MemberState.RETIRED)
        self._monitor.emit("leave", network_id, outcome=outcome)
        self.terminate(network_id)
        self._background.has_changed.set()

    def _fail_run(self, message: str) -> None:
        self._state.fail(message)
        self._background.has_changed.set()

    # Leave and end.

    def request_leave(self, network_id: int) -> None:
        """Ask a member to leave. One without work ends at once, others finish their interval."""
        if self._population.leave(network_id):
            self._group.send(network_id, Command.LEAVE)
        else:
            self.terminate(network_id)

    def request_pause(self, network_id: int) -> None:
        """Ask a member that trains to give its place to another one at the end of its interval."""
        if self._members[network_id].state in (MemberState.TRAINING, MemberState.STALLED):
            self._group.send(network_id, Command.PAUSE)

    def request_move(self, network_id: int) -> None:
        """Ask a member that trains to write a checkpoint and to continue elsewhere. The request may be repeated."""
        if self._members[network_id].state in (MemberState.TRAINING, MemberState.STALLED):
            self._group.send(network_id, Command.MOVE)

    def request_stop(self, network_id: int) -> None:
        """Ask a member to stop. One without work ends at once, others commit a checkpoint at their next step."""
        if self._population.has_work(network_id):
            self._group.send(network_id, Command.STOP)
        else:
            self._members.set_state(network_id, MemberState.STOPPED)
            self.terminate(network_id)

    def terminate(self, network_id: int, *, keep_snapshots: bool = False) -> None:
        """End a network's process.

        Args:
            network_id: Id of the network.
            keep_snapshots: lockstep: its process ends at the next release, so that others can still fetch from it.
        """
        self._population.forget(network_id, keep_snapshots=keep_snapshots)
        if keep_snapshots:
            self._group.end_later(network_id)
        else:
            self._group.end(network_id)

    def terminate_all(self) -> None:
        """End the processes of all networks, also of those that were kept for their snapshots."""
        for network_id in self._group.networks():
            self.terminate(network_id)
        self._group.end_leavers()

    def retire_never_placed(self) -> None:
        """Retire members that were never placed, once no other member trains any more. Those that take turns wait."""
        if self._state.has_begun and not self._config.population.time_slicing:
            for network_id in self._population.retire_never_started():
                self.terminate(network_id)

    # Recovery of a coordinator that Ray restarted.

    def find(self, member: MemberRecord) -> None:
        """Take over the process of a recorded member, if it lives."""
        incarnation = self._group.find(member)
        if incarnation is not None:
            self._members.restore(dataclasses.replace(member, incarnation=incarnation))

    def terminate_orphans(self) -> None:
        """End the processes of members that had left before the coordinator died."""
        for member in self._members:
            if member.state in OUTSIDE and not member.is_guest and self._group.find(member) is not None:
                self.terminate(member.id, keep_snapshots=self._context.is_lockstep)

    async def reattach(self, member: MemberRecord) -> None:
        """Ask a found network how it stands, and supervise it. A member without an answering process is lost.

        A network that waits for its process, or is being built, starts as if nothing had happened. That is no restart.
        """
        standing, reason = await self._standing(member.id)
        if standing is None:
            state = self._members[member.id].state
            if state is MemberState.STARTING and self._is_wanted(member.id):
                self.terminate(member.id)
                self._members.move(member.id)
                await self._start_again(member.id)
            elif state in ACTIVE:
                self._spawn_loss(member.id, reason)
            return
        network = standing.description
        self._population.mark_started(member.id, interval=network.interval)
        self._monitor.record_placement(member.id, network.interval, process=network.process, node=network.node)
        for snapshot in standing.published:
            self._population.publish(snapshot, now=time.monotonic())
        if standing.report is not None:
            self._monitor.record_report(standing.report, is_news=False)
        self._background.spawn(self._supervise(member.id))

    async def _standing(self, network_id: int) -> tuple[NetworkStanding | None, str]:
        """Return how a found network stands, or None and the reason why it does not answer."""
        if network_id not in self._group:
            return None, "it was gone when the coordinator restarted"
        try:
            return await asyncio.wait_for(self._group.describe(network_id), lease_seconds(self._config) / 2), ""
        except (RayError, TimeoutError) as error:
            return None, format_error(error)

    def _spawn_loss(self, network_id: int, reason: str) -> None:
        self._background.spawn(self._handle_failure(network_id, NetworkExit(), reason))

    # Once a second.

    def check_heartbeats(self) -> tuple[int, ...]:
        """End the processes of networks that were silent for three leases. A restart follows.

        A finished member that is silent is removed as a donor.

        Returns:
            Ids of the guests that were silent for three leases.
        """
        silent = {member.id: self._monitor.silent_seconds(member.id) for member in self._members}
        members = self._population.check_heartbeats(silent, lease_seconds=lease_seconds(self._config))
        for network_id in members.lost_donors:
            self.terminate(network_id)
        for network_id in members.hanging:
            self._group.end(network_id)
        return members.gone

    def reclaim_capacity(self) -> None:
        """Make room if no network trains and those that start cannot be placed.

        First the finished networks end: they are only donors by then. If that does not help within
        timeouts.start_seconds, the waiting networks are marked failed. In an elastic population they are
        retired if others have finished, because such a population shrinks with its cluster.
        """
        now = time.monotonic()
        if not (self._population.is_starved() and self._state.has_begun and self._state.phase == "training"):
            self._idle_since = None
            return
        if self._idle_since is None:
            self._idle_since = now
        done = [member.id for member in self._members if member.state is MemberState.DONE]
        for network_id in done if now - self._idle_since > ROOM_SECONDS else ():
            self.terminate(network_id)
        if now - self._idle_since > self._config.timeouts.start_seconds:
            is_smaller = bool(done) and self._config.population.is_elastic
            reason = "it found no room in the cluster, or did not come up, within timeouts.start_seconds"
            for network_id in self._members.active():
                if is_smaller:
                    self._retire(network_id, outcome="no room in the cluster")
                else:
                    self.mark_failed(network_id, reason)
