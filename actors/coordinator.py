"""The coordinator actor: who is in the population, what lies on the board, who died and comes back.

It holds references and small reports, never weights. Its event loop never waits for storage. It may die at any time:
networks train on, and its next incarnation, which Ray starts, finds them by name and takes them over.

This file is longer than others: placing, supervising and ending networks share the members, the board and the event
loop, and apart they would only hand these to and fro. The processes are in crew.py, newcomers and barriers in gate.py,
tasks and waits in background.py, what is told of a run in chronicle.py, what is written in records.py, what a run that
goes on begins with in resuming.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import time
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from actors import records
from actors.background import Background
from actors.chronicle import Chronicle
from actors.cluster import Placement, place
from actors.crew import Crew, reason_of, result_of
from actors.gate import Gate
from actors.patience import RETRY_SECONDS, patiently
from actors.resuming import resumable_members, resumed_births
from actors.spec import Birth, Directive, Event, Facts, Outcome, RunSpec, RunStatus
from actors.tasks import judge_task, prepare_task
from population.board import Board, Opening, Posting, Refusal
from population.checkpoint import CheckpointStore
from population.errors import DataError, InarchError, RunError, StorageError, StructureError
from population.members import ACTIVE, DONORS, Member, Members, MemberState
from population.report import Report
from population.snapshot import Origin
from population.staleness import age_limit
from population.storage import Storage

References = list[ray.ObjectRef]

ROOM_SECONDS = 30.0
"""Networks that start while nobody trains have so long until finished networks make room for them."""

ENDED = ("finished", "failed")
"""States of a run that is over."""


class Coordinator:
    """The plain class; `CoordinatorActor` is it on Ray. All methods run on one event loop."""

    def __init__(self, spec: RunSpec) -> None:
        """Args: the run. Nothing happens before `start`, but for an incarnation that Ray brought back."""
        config = spec.config
        self._spec, self._config = spec, config
        self._is_lockstep = config.mode == "lockstep"
        self._storage = Storage(spec.folder, deadline_seconds=config.patience.storage_seconds)
        self._members = Members()
        self._board: Board[References] = Board(config.topology, seed=config.seed, kept=2 if self._is_lockstep else 1)
        self._gate: Gate[int | Posting[References]] = Gate(
            self._members, is_lockstep=self._is_lockstep, deadline_seconds=config.patience.barrier_seconds
        )
        self._chronicle = Chronicle(spec.name)
        self._crew = Crew(spec)
        self._background = Background(lambda error: self._fail(f"the coordinator failed: {error!r}"))
        self._knows_members = asyncio.Event()
        self._knows_members.set()
        self._idle_since: float | None = None
        self._placement: Placement | None = None
        self._data: Any = None
        self._facts: Facts | None = None
        self._state: Any = "starting"
        self._message = ""
        self._began = time.monotonic()
        self._has_begun = False
        self._result: dict[str, Any] | None = None

    def __repr__(self) -> str:
        return f"Coordinator({self._spec.name})"

    # Called by the driver.

    async def start(self) -> Facts:
        """Check everything, then place the founders (or bring back the members of a resumed run) and let them train.

        Raises:
            InarchError: data, network, resources or storage cannot be used; nothing was started.
        """
        self._placement = place(self._config)
        await asyncio.to_thread(self._storage.check_writable)
        facts = await self._prepare()
        run = self._spec.name
        if self._spec.is_resumed:
            await asyncio.to_thread(records.check_facts, self._storage, facts, run=run)
            for member in await asyncio.to_thread(resumable_members, self._storage, run=run):
                self._members.restore(member)
        else:
            await asyncio.to_thread(records.write_config, self._storage, self._spec, facts)
            for _ in range(self._config.population.size):
                self._members.add(is_founder=True)
        self._save()
        self._background.spawn(self._raise_population())
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
        if self._state not in ("starting", "training"):
            raise RunError(f"run {self._spec.name} is {self._state}; it cannot be scaled")
        growth = self._members.to_grow(size, max_size=self._config.population.max_size)
        if growth > 0:
            self._check_room(size)
        for _ in range(growth):
            self._background.spawn(self._begin(self._members.add(is_founder=False).id, "newcomer"))
        for network in self._members.to_leave(-growth) if growth < 0 else ():
            self._let_go(network)
        self._save()

    async def stop(self) -> None:
        """Let every network commit a checkpoint at its next step and end; the run can be resumed."""
        await self._knows_members.wait()
        if self._state not in ("starting", "training"):
            return
        self._state = "stopping"
        self._chronicle.tell("stop", None)
        for network in self._members.active():
            if self._members[network].state is MemberState.STARTING or self._gate.is_outside(network):
                self._members.move(network, MemberState.STOPPED)
                self._dismiss(network)
            else:
                self._crew.direct(network, Directive.STOP)
        await self._background.wake()
        self._save()
        await self._finish_if_over()

    async def status(self) -> RunStatus:
        """The run as it stands."""
        return RunStatus(
            name=self._spec.name,
            state=self._state,
            num_intervals=self._facts.num_intervals if self._facts else 0,
            epochs=self._config.schedule.epochs,
            networks=tuple(self._chronicle.status(member) for member in self._members),
            seconds=time.monotonic() - self._began,
            message=self._message,
            coordinator_process=os.getpid(),
            refusals=dict(self._chronicle.refusals),
        )

    async def events(self, after: int, seconds: float) -> list[Event]:
        """Events numbered above `after`; waits for the first at most so long."""
        await self._background.until(
            lambda: bool(self._chronicle.after(after)) or self._state in ENDED, seconds=seconds
        )
        return self._chronicle.after(after)

    async def wait(self, seconds: float) -> dict[str, Any] | None:
        """The result when the run is over, None if it is not after so long. Raises RunError where it failed."""
        await self._background.until(lambda: self._state in ENDED, seconds=seconds)
        if self._state == "failed":
            raise RunError(self._message)
        return self._result

    # Called by networks.

    async def post(
        self, network: int, incarnation: int, reports: list[Report], posting: Posting[References] | None
    ) -> Directive:
        """Take a network's reports and its newest snapshot; also its heartbeat."""
        await self._knows_members.wait()
        if network not in self._members or incarnation != self._members[network].incarnation:
            return Directive.FENCED
        self._chronicle.heard(network)
        if reports or posting is not None:
            self._gate.let_in(network)
        if self._members[network].state is MemberState.STALLED:
            self._members.move(network, MemberState.TRAINING)
        if posting is not None:
            self._board.post(posting)
            self._gate.arrive(network, posting.origin.interval)
            await self._open_barriers()
        for report in reports:
            self._chronicle.note(report)
        await self._background.wake()
        if self._state not in ("starting", "training"):
            return Directive.STOP
        return Directive.LEAVE if self._members[network].state is MemberState.LEAVING else Directive.GO_ON

    async def ask(self, asker: Origin) -> tuple[Posting[References], ...] | Refusal:
        """What a network may take now; in lockstep, when the barrier of its interval has opened."""
        await self._knows_members.wait()
        if asker.incarnation != self._members[asker.network].incarnation:
            return Refusal.STOPPING
        members, donors, version = self._members.in_topology(), self._members.donors(), None
        if self._is_lockstep:
            opening = await self._pass_barrier(asker)
            if opening is None:
                return Refusal.STOPPING
            if opening.is_timed_out:
                return Refusal.BARRIER_TIMEOUT
            members, donors, version = opening.members, opening.donors, asker.interval
        limit = age_limit(self._config.age, num_intervals=self._facts.num_intervals if self._facts else 1)
        count = self._config.exchange.num_donors
        return self._board.offer(asker, members=members, donors=donors, limit=limit, count=count, version=version)

    async def join(self, network: int, incarnation: int) -> int | Posting[References]:
        """What a newcomer begins with: a posting to be cloned, or an interval to begin at with its own weights. In
        lockstep it waits for a barrier to open."""
        await self._knows_members.wait()
        if incarnation != self._members[network].incarnation:
            raise RunError(f"incarnation {incarnation} of network {network} was replaced")
        return await self._gate.join(network, self._birth_of)

    # How a population comes up.

    async def _prepare(self) -> Facts:
        promised = self._read_data()
        try:
            facts: Facts = await asyncio.wait_for(result_of(promised), self._config.patience.start_seconds)
        except TimeoutError:
            raise RunError("the data were not read within patience.start_seconds") from None
        self._facts = facts
        return facts

    def _read_data(self) -> Any:
        """Begin to read the data: one task's value, which every network is handed and Ray can make again."""
        references: Any = prepare_task.remote(self._spec)
        self._data, facts = references
        return facts

    async def _raise_population(self) -> None:
        """Start every member; when population.min_size are placed, those train, and the rest join as they come."""
        starting = [member.id for member in self._members if member.state is MemberState.STARTING]
        births = await self._births(starting)
        founders = [network for network in starting if births[network][0] != "newcomer"]
        needed = min(self._config.population.min_size or self._config.population.size, len(founders))
        if self._is_lockstep:
            needed = len(founders)
        placing = {
            network: asyncio.ensure_future(self._place_surely(network, *births[network])) for network in founders
        }
        deadline = time.monotonic() + self._config.patience.start_seconds
        while self._state == "starting":
            done = [network for network in founders if placing[network].done()]
            failed = [network for network in done if placing[network].exception() is not None]
            for network in failed:
                reason = reason_of(placing[network].exception())
                if self._spec.is_resumed and len(founders) > 1:
                    founders.remove(network)
                    needed = min(needed, len(founders))
                    await self._give_up(network, reason)
                else:
                    self._fail(f"network {network} could not start: {reason}")
            if len(done) >= needed or self._state != "starting":
                break
            if time.monotonic() > deadline:
                self._fail(
                    f"only {len(done)} of {needed} networks were placed within patience.start_seconds "
                    f"({self._config.patience.start_seconds:g} s); the cluster has {ray.cluster_resources()}"
                )
            pending = [placing[network] for network in founders if network not in done]
            await asyncio.wait(pending, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
        if self._state != "starting":
            for future in placing.values():
                future.cancel()
            return
        self._has_begun, self._state, self._began = True, "training", time.monotonic()
        for network in founders:
            if placing[network].done():
                self._background.spawn(self._supervise(network))
            else:
                placing[network].cancel()
                self._dismiss(network)
                self._members.revive(network)
                self._background.spawn(self._begin(network, "newcomer"))
        for network in starting:
            if births[network][0] == "newcomer":
                self._background.spawn(self._begin(network, "newcomer"))
        self._save()
        await self._finish_if_over()
        await self._background.wake()

    async def _births(self, starting: list[int]) -> dict[int, tuple[Birth, int | None]]:
        """How each member begins, and at which interval at most."""
        if not self._spec.is_resumed:
            return dict.fromkeys(starting, ("founder", None))
        members = [self._members[network] for network in starting]
        return await asyncio.to_thread(resumed_births, self._storage, members, is_lockstep=self._is_lockstep)

    async def _begin(self, network: int, birth: Birth) -> None:
        """Place a network and let it train, unless the run or its membership ended before it could."""
        if not self._is_wanted(network):
            return
        if birth == "newcomer":
            self._gate.keep_out(network)
        try:
            await self._place_surely(network, birth, None)
        except (RayError, InarchError, ValueError) as error:
            if self._members[network].state in ACTIVE:
                await self._give_up(network, reason_of(error))
            return
        self._save()
        if self._is_wanted(network):
            await self._supervise(network)
        else:
            self._dismiss(network)

    def _is_wanted(self, network: int) -> bool:
        """Whether a member is still to train: while it was placed the run may have stopped, or it been sent away."""
        return self._state in ("starting", "training") and self._members[network].state in ACTIVE

    async def _place_surely(self, network: int, birth: Birth, at_most: int | None) -> None:
        """Place a network; where its process dies before it is built, again, as often as restarts allow. What its own
        code raises then is not tried again but for one that has lived: what it lacks, a device or a storage, may come
        back."""
        while True:
            try:
                return await self._place(network, birth, at_most)
            except RayActorError as error:
                member = self._members[network]
                is_own_fault = getattr(error, "actor_init_failed", False)
                if is_own_fault and not (birth == "resumed" and member.restarts):
                    raise
                if member.restarts >= self._config.population.restarts or not self._is_wanted(network):
                    raise
                self._members.revive(network)
                await asyncio.sleep(RETRY_SECONDS if is_own_fault else 0.0)

    async def _place(self, network: int, birth: Birth, at_most: int | None) -> None:
        """Create the actor and wait until its network is built.

        Raises:
            StructureError: it has another structure than the run's networks.
            RayActorError: its process died.
        """
        member, placement = self._members[network], self._placement
        if placement is None:
            raise RunError("there is no placement yet")
        structure, interval, process, node = await self._crew.create(
            member, birth, self._data, placement=placement, at_most_interval=at_most
        )
        if self._facts is not None and structure != self._facts.structure:
            self._dismiss(network)
            raise StructureError(
                f"network {network} has another structure than its neighbors ({structure}, theirs "
                f"{self._facts.structure}); the network's function must build the same architecture each time"
            )
        self._members.came_up(network, interval=interval)
        self._chronicle.placed(network, interval=interval, process=process, node=node)

    def _check_room(self, size: int) -> None:
        """Raises ResourceError where the cluster can never place `size` networks."""
        wanted = dataclasses.replace(self._config.population, size=size, min_size=None, max_size=None)
        if self._placement is not None:
            wanted = dataclasses.replace(wanted, cpus=self._placement.cpus, gpus=self._placement.gpus)
        optimizer = dataclasses.replace(self._config.optimizer, learning_rates="same")
        place(dataclasses.replace(self._config, population=wanted, optimizer=optimizer))

    def _birth_of(self, network: int) -> int | Posting[References]:
        """A newcomer's parent; where nothing is to be cloned, the interval to begin at with its own weights."""
        parent = self._board.parent(network, members=self._members.in_topology(), donors=self._members.donors())
        if parent is not None and self._config.population.newcomers == "clone":
            return parent
        others = [other for other in self._members.donors() if other != network]
        furthest = max((self._chronicle.interval(other) for other in others), default=0)
        return parent.origin.interval if parent is not None else furthest

    # How a network's life ends.

    async def _supervise(self, network: int) -> None:
        """Let a network train, and see to it when its run ends or its process dies."""
        incarnation = self._members[network].incarnation
        if self._members[network].state is not MemberState.LEAVING:
            self._members.move(network, MemberState.TRAINING)
        self._chronicle.tell("join", network, incarnation=incarnation)
        if self._state == "stopping":
            self._crew.direct(network, Directive.STOP)
        try:
            outcome: Outcome | BaseException = await self._crew.train(network)
        except Exception as error:  # the network's own, or its process's death: told apart below
            outcome = error
        if self._members[network].incarnation != incarnation or self._state in ENDED:
            return
        if isinstance(outcome, Outcome):
            await self._ended(network, outcome)
        elif self._may_pass(network, outcome):
            await self._lost(network, reason_of(outcome))
        else:
            await self._give_up(network, reason_of(outcome))

    def _may_pass(self, network: int, error: BaseException) -> bool:
        """Whether a network that ended so may go on from its newest checkpoint: its process died, storage or data could
        not be read, or its own code failed where it had worked before, as when a device is lost. What inarch found
        wrong stays wrong, and so does code that never came to an end of an interval."""
        if isinstance(error, InarchError):
            return isinstance(error, (StorageError, DataError))
        has_worked = self._chronicle.interval(network) > 0 or self._members[network].restarts > 0
        return isinstance(error, RayError) or has_worked

    async def _ended(self, network: int, outcome: Outcome) -> None:
        is_leaving = self._members[network].state is MemberState.LEAVING
        if outcome in (Outcome.ORPHANED, Outcome.FENCED) and self._state == "training":
            await self._lost(network, f"it ended, {outcome.value}")
            return
        state = MemberState.STOPPED
        if outcome is Outcome.DONE:
            state = MemberState.DONE
        elif outcome is Outcome.LEFT or is_leaving:
            state = MemberState.RETIRED
        self._members.move(network, state)
        self._chronicle.tell("done" if state is MemberState.DONE else "leave", network, outcome=outcome.value)
        if state is not MemberState.DONE:
            self._dismiss(network, is_gentle=self._is_lockstep)
        await self._after_an_end()

    async def _lost(self, network: int, reason: str) -> None:
        """A network's process died: bring it back from its newest checkpoint. The others train on meanwhile."""
        self._chronicle.tell("loss", network, reason=reason)
        self._dismiss(network)
        is_leaving = self._members[network].state is MemberState.LEAVING
        self._members.move(network, MemberState.LOST)
        if is_leaving or self._state not in ("starting", "training"):
            self._members.move(network, MemberState.RETIRED if is_leaving else MemberState.STOPPED)
            await self._after_an_end()
        elif self._members[network].restarts >= self._config.population.restarts:
            times = self._members[network].restarts
            await self._give_up(network, f"brought back {times} times, it came no further than before: {reason}")
        else:
            member = self._members.revive(network)
            self._chronicle.tell("restart", network, incarnation=member.incarnation)
            self._save()
            joins = not member.is_founder and not await self._has_checkpoint(network)
            self._background.spawn(self._begin(network, "newcomer" if joins else "resumed"))

    async def _give_up(self, network: int, reason: str) -> None:
        self._members.move(network, MemberState.FAILED)
        self._message = f"network {network}: {reason}"
        self._chronicle.tell("failure", network, reason=reason)
        self._dismiss(network)
        await self._after_an_end()

    async def _after_an_end(self) -> None:
        await self._open_barriers()
        self._save()
        await self._finish_if_over()

    def _let_go(self, network: int) -> None:
        """A member is to leave: one that never trained at once, others after their interval."""
        member = self._members[network]
        if self._gate.is_outside(network) or (member.state is MemberState.STARTING and self._has_begun):
            self._members.move(network, MemberState.RETIRED)
            self._dismiss(network)
            return
        self._members.move(network, MemberState.LEAVING)
        self._crew.direct(network, Directive.LEAVE)

    def _dismiss(self, network: int, *, is_gentle: bool = False) -> None:
        """End a network's process. Gently, its snapshots stay until the next barrier: others may still take them."""
        self._gate.forget(network)
        if is_gentle:
            self._crew.end_later(network)
            return
        self._board.withdraw(network)
        self._crew.end(network)

    async def _has_checkpoint(self, network: int) -> bool:
        try:
            return bool(await asyncio.to_thread(CheckpointStore(self._storage).list, network))
        except StorageError:
            return True

    async def _finish_if_over(self) -> None:
        """When no member is active any more, judge the networks, write the result and end them."""
        self._drop_the_unplaced()
        is_early = not (self._has_begun or self._state == "stopping")
        if self._members.active() or is_early or self._state in ("finishing", *ENDED) or not len(self._members):
            return
        is_stopped = self._state == "stopping" or any(m.state is MemberState.STOPPED for m in self._members)
        self._state = "finishing"
        await self._background.wake()
        seconds = time.monotonic() - self._began
        ended = {member.id: member.state.value for member in self._members}
        for network in self._crew.networks():
            self._dismiss(network)
        self._crew.end_leavers()
        if all(member.state is MemberState.FAILED for member in self._members):
            self._fail(self._message or "every network failed")
            return
        if not is_stopped:
            try:
                self._result = await result_of(judge_task.remote(self._spec, self._data, ended, seconds))
            except (InarchError, RayError) as error:
                self._fail(reason_of(error))
                return
        self._state = "finished"
        self._chronicle.tell("finish", None, is_complete=not is_stopped)
        await self._write_members()
        await self._background.wake()
        if self._spec.is_detached:
            self._background.spawn(self._end_later())

    def _drop_the_unplaced(self) -> None:
        """Members that never found a place are no reason to wait when nobody else trains any more. Whether one did is
        in the record: a coordinator that came back has not seen it."""
        left = self._members.active()
        if self._has_begun and left and not any(self._members[network].has_lived for network in left):
            for network in left:
                self._members.move(network, MemberState.RETIRED)
                self._dismiss(network)

    async def _end_later(self) -> None:
        """A detached coordinator stays long enough to tell how the run ended, then goes for good."""
        await asyncio.sleep(self._config.patience.lease_seconds)
        ray.kill(ray.get_runtime_context().current_actor)

    def _fail(self, message: str) -> None:
        if self._state in ENDED:
            return
        self._state, self._message = "failed", message
        for network in self._crew.networks():
            self._dismiss(network)
        self._crew.end_leavers()
        self._background.spawn(self._background.wake())
        self._save()
        if self._spec.is_detached:
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
            self._facts = await asyncio.to_thread(patiently, lambda: records.read_facts(self._storage), seconds=seconds)
            self._placement = records.placement_of(record)
            self._message = record["message"]
            self._read_data()
            for member in records.members_of(record):
                self._members.restore(member)
            self._has_begun = True
            if record["state"] in ENDED:
                self._state = record["state"]
                await self._read_result()
                if self._spec.is_detached:
                    self._background.spawn(self._end_later())
                return
            self._state = "stopping" if record["state"] == "stopping" else "training"
            known = [member for member in self._members if member.state in ACTIVE | DONORS]
            for member in known:
                self._find(member)
        finally:
            # Before anybody is asked how it stands: one on a dead node answers late, and the living need their lease.
            self._knows_members.set()
        await asyncio.gather(*(self._take_over(member) for member in known))
        self._background.spawn(self._watch())
        await self._finish_if_over()

    async def _read_result(self) -> None:
        with contextlib.suppress(StorageError):
            self._result = json.loads(await asyncio.to_thread(self._storage.read, "result.json"))

    def _find(self, member: Member) -> None:
        incarnation = self._crew.find(member)
        if incarnation is not None:
            self._members.restore(dataclasses.replace(member, incarnation=incarnation))

    async def _take_over(self, member: Member) -> None:
        """Ask a network that was found by its name how it stands; one that was not, or does not answer, is lost."""
        if member.id not in self._crew:
            if self._members[member.id].state in ACTIVE:
                self._background.spawn(self._lost(member.id, "it was gone when the coordinator came back"))
            return
        try:
            patience = self._config.patience.lease_seconds / 2
            report, postings, facts = await asyncio.wait_for(self._crew.describe(member.id), patience)
        except (RayError, TimeoutError) as error:
            if member.state in ACTIVE:
                self._background.spawn(self._lost(member.id, reason_of(error)))
            return
        _, interval, process, node = facts
        self._members.came_up(member.id, interval=interval)
        self._chronicle.placed(member.id, interval=interval, process=process, node=node)
        for posting in postings:
            self._board.post(posting)
            self._gate.arrive(member.id, posting.origin.interval)
        if report is not None:
            self._chronicle.note(report, is_news=False)
        self._background.spawn(self._supervise(member.id))

    # Barriers, heartbeats, the record.

    async def _open_barriers(self) -> None:
        """lockstep: open what can be opened, let newcomers in, and wake those who wait."""
        if not self._is_lockstep or self._state != "training":
            return
        for interval in self._gate.open(self._birth_of):
            self._board.prune(interval)
            self._crew.end_leavers()
        await self._background.wake()

    async def _pass_barrier(self, asker: Origin) -> Opening | None:
        """Wait for the barrier of an asker's interval; None where the run stops first."""
        self._gate.arrive(asker.network, asker.interval)
        await self._open_barriers()
        await self._background.until(
            lambda: bool(self._gate.opening(asker.interval)) or self._state != "training", seconds=None
        )
        return self._gate.opening(asker.interval)

    async def _watch(self) -> None:
        """Once a second: who is silent, whose barrier has waited too long, what the dashboard shows."""
        lease = self._config.patience.lease_seconds
        while self._state not in ENDED:
            await asyncio.sleep(1.0)
            for member in list(self._members):
                if member.state is MemberState.DONE and self._chronicle.silent_seconds(member.id) > 3 * lease:
                    self._dismiss(member.id)
                if member.state not in (MemberState.TRAINING, MemberState.STALLED, MemberState.LEAVING):
                    continue
                silent = self._chronicle.silent_seconds(member.id)
                if silent > lease and member.state is MemberState.TRAINING:
                    self._members.move(member.id, MemberState.STALLED)
                if silent > 3 * lease:
                    self._crew.end(member.id)
            await self._open_barriers()
            await self._see_to_room()
            self._chronicle.metrics.show(self._chronicle.status(member) for member in self._members)

    async def _see_to_room(self) -> None:
        """When nobody trains and those who are to start find no room, or do not come up: end the finished ones, which
        are only donors by now and hold the room; then give the others up when they have had as long as a start has."""
        active, now = self._members.active(), time.monotonic()
        is_idle = bool(active) and all(self._members[network].state is MemberState.STARTING for network in active)
        if not (is_idle and self._has_begun and self._state == "training"):
            self._idle_since = None
            return
        if self._idle_since is None:
            self._idle_since = now
        done = [member.id for member in self._members if member.state is MemberState.DONE]
        for network in done if now - self._idle_since > ROOM_SECONDS else ():
            self._dismiss(network)
        if now - self._idle_since > self._config.patience.start_seconds:
            for network in active:
                reason = "it found no room in the cluster, or did not come up, within patience.start_seconds"
                await self._give_up(network, reason)

    def _save(self) -> None:
        """See that the members' record is written soon; nobody waits for it."""
        self._background.soon(self._write_members)

    async def _write_members(self) -> None:
        if not len(self._members):  # one that came back and knows nobody yet must not put that on record
            return
        try:
            await asyncio.to_thread(
                records.write_members,
                self._storage,
                state=self._state,
                message=self._message,
                members=self._members,
                placement=self._placement,
                now=time.time(),
            )
        except StorageError as error:
            self._message = str(error)


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
