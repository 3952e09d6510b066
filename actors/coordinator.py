"""The coordinator actor: who is in the population, what lies on the board, who died and comes back, what happened.

It holds references and small reports, never weights. Its event loop never waits for storage. It may die at any time:
networks train on, and its next incarnation, which Ray starts, finds them by name and takes them over.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import json
import os
import platform
import time
from collections.abc import Coroutine
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from actors.cluster import Placement, place
from actors.dashboard import RunMetrics
from actors.network import NetworkActor
from actors.spec import (
    NAMESPACE,
    Birth,
    Directive,
    Event,
    Facts,
    NetworkSpec,
    NetworkStatus,
    Outcome,
    RunSpec,
    RunStatus,
    network_name,
)
from actors.tasks import judge_task, prepare_task
from population.board import Barrier, Board, Posting, Refusal
from population.checkpoint import CheckpointStore
from population.config import to_dict
from population.errors import DataError, InarchError, RunError, StorageError, StructureError
from population.members import ACTIVE, DONORS, Member, Members, MemberState
from population.snapshot import Origin
from population.staleness import age_limit
from population.storage import Storage
from population.training import Report

KEPT_EVENTS = 4096
"""Events kept for drivers that read them; older ones are in the history."""

References = list[ray.ObjectRef]


class Coordinator:
    """The plain class; `CoordinatorActor` is it on Ray. All methods run on one event loop."""

    def __init__(self, spec: RunSpec) -> None:
        """Args: the run. Nothing happens before `start`, but for an incarnation that Ray brought back."""
        config = spec.config
        self._spec, self._config = spec, config
        self._storage = Storage(spec.folder, deadline_seconds=config.patience.storage_seconds)
        self._members = Members()
        self._board: Board[References] = Board(
            config.topology, seed=config.seed, kept=2 if config.mode == "lockstep" else 1
        )
        self._barrier = Barrier(deadline_seconds=config.patience.barrier_seconds)
        self._handles: dict[int, Any] = {}
        self._status: dict[int, NetworkStatus] = {}
        self._heard: dict[int, float] = {}
        self._waiting_to_join: dict[int, asyncio.Future[int | Posting[References]]] = {}
        self._changed = asyncio.Condition()
        self._events: collections.deque[Event] = collections.deque(maxlen=KEPT_EVENTS)
        self._num_events = 0
        self._refusals: collections.Counter[str] = collections.Counter()
        self._metrics = RunMetrics(spec.name)
        self._tasks: set[asyncio.Task[None]] = set()
        self._saves = asyncio.Lock()
        self._num_saves = 0
        self._placement: Placement | None = None
        self._data: Any = None
        self._facts: Facts | None = None
        self._state: Any = "starting"
        self._message = ""
        self._began = time.monotonic()
        self._has_founders = False
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
        await self._in_thread(self._storage.check_writable)
        facts = await self._prepare()
        if self._spec.is_resumed:
            await self._check_fingerprints(facts)
            await self._restore_members()
        else:
            await self._in_thread(self._write_config, facts)
            for _ in range(self._config.population.size):
                self._members.add(is_founder=True)
        await self._save()
        self._spawn(self._raise_population())
        self._spawn(self._watch())
        return facts

    async def recover(self) -> None:
        """Called by the actor itself when Ray brought it back: take the living networks over."""
        record = await self._in_thread(self._read_members)
        if record is None:
            self._fail("the coordinator died before the run had begun")
            return
        self._placement = place(self._config)
        try:
            facts = await self._prepare()
        except InarchError as error:
            self._fail(f"the coordinator came back and could not read the data again: {error}")
            return
        del facts
        self._has_founders = True
        self._state = record["state"] if record["state"] in ("stopping", "training") else "training"
        for saved in record["members"]:
            self._members.restore(_member(saved))
        await asyncio.gather(*(self._take_over(member) for member in self._members if member.state in ACTIVE | DONORS))
        self._spawn(self._watch())
        await self._finish_if_over()

    async def scale(self, size: int) -> None:
        """Grow or shrink to `size` networks; returns when the change is under way.

        Raises:
            ConfigError: size is below 1 or above population.max_size.
            RunError: the run is over or stopping.
            ResourceError: the cluster can never place so many.
        """
        if self._state not in ("starting", "training"):
            raise RunError(f"run {self._spec.name} is {self._state}; it cannot be scaled")
        growth = self._members.to_grow(size, max_size=self._config.population.max_size)
        if growth > 0:
            wanted = dataclasses.replace(self._config.population, size=size, min_size=None, max_size=None)
            if self._placement is not None:
                wanted = dataclasses.replace(wanted, cpus=self._placement.cpus, gpus=self._placement.gpus)
            rates = dataclasses.replace(self._config.optimizer, learning_rates="same")
            place(dataclasses.replace(self._config, population=wanted, optimizer=rates))
            for _ in range(growth):
                member = self._members.add(is_founder=False)
                self._spawn(self._begin(member.id, "newcomer"))
        for network in self._members.to_leave(-growth) if growth < 0 else ():
            self._members.move(network, MemberState.LEAVING)
            self._direct(network, Directive.LEAVE)
        await self._save()

    async def stop(self) -> None:
        """Let every network commit a checkpoint at its next step and end; the run can be resumed."""
        if self._state in ("starting", "training"):
            self._state = "stopping"
            self._tell("stop", None)
            for network in self._members.active():
                self._direct(network, Directive.STOP)
            for future in self._waiting_to_join.values():
                if not future.done():
                    future.cancel()
            await self._wake()
            await self._save()
            await self._finish_if_over()

    async def status(self) -> RunStatus:
        """The run as it stands."""
        facts = self._facts
        return RunStatus(
            name=self._spec.name,
            state=self._state,
            num_intervals=facts.num_intervals if facts else 0,
            epochs=self._config.schedule.epochs,
            networks=tuple(self._network_status(member) for member in self._members),
            seconds=time.monotonic() - self._began,
            message=self._message,
            coordinator_process=os.getpid(),
            refusals=dict(self._refusals),
        )

    async def events(self, after: int, seconds: float) -> list[Event]:
        """Events numbered above `after`; waits for the first at most so long."""
        async with self._changed:
            try:
                await asyncio.wait_for(
                    self._changed.wait_for(lambda: self._num_events > after or self._is_over()), seconds
                )
            except TimeoutError:
                return []
        return [event for event in self._events if event.number > after]

    async def wait(self, seconds: float) -> dict[str, Any] | None:
        """The result when the run is over, None if it is not after so long. Raises RunError where it failed."""
        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait_for(self._is_over), seconds)
            except TimeoutError:
                return None
        if self._state == "failed":
            raise RunError(self._message)
        return self._result

    # Called by networks.

    async def post(
        self, network: int, incarnation: int, reports: list[Report], posting: Posting[References] | None
    ) -> Directive:
        """Take a network's reports and its newest snapshot; also its heartbeat."""
        if network not in self._members or incarnation < self._members[network].incarnation:
            return Directive.FENCED
        self._heard[network] = time.monotonic()
        if self._members[network].state is MemberState.STALLED:
            self._members.move(network, MemberState.TRAINING)
        if posting is not None:
            self._board.post(posting)
            if self._config.mode == "lockstep":
                self._barrier.arrive(network, posting.origin.interval, now=time.monotonic())
                await self._open_barriers(posting.origin.interval)
        for report in reports:
            self._note(report)
        await self._wake()
        if self._state in ("stopping", "failed"):
            return Directive.STOP
        leaving = self._members[network].state is MemberState.LEAVING
        return Directive.LEAVE if leaving else Directive.GO_ON

    async def ask(self, asker: Origin) -> Posting[References] | Refusal:
        """What a network may take now; in lockstep, when the barrier of its interval has opened."""
        version = None
        if self._config.mode == "lockstep":
            version = asker.interval
            self._barrier.arrive(asker.network, asker.interval, now=time.monotonic())
            if not await self._pass_barrier(asker.interval):
                return Refusal.STOPPING if self._state != "training" else Refusal.BARRIER_TIMEOUT
        limit = age_limit(self._config.age, num_intervals=self._facts.num_intervals if self._facts else 1)
        return self._board.offer(
            asker,
            members=self._members.in_topology(),
            donors=self._members.donors(),
            limit=limit,
            version=version,
        )

    async def join(self, network: int, incarnation: int) -> int | Posting[References]:
        """What a newcomer begins with: a posting to be cloned, or an interval to begin at with its own weights. In
        lockstep it waits for a barrier to open."""
        if incarnation < self._members[network].incarnation:
            raise RunError(f"incarnation {incarnation} of network {network} was replaced")
        if self._config.mode == "lockstep" and self._expected():
            future = self._waiting_to_join.setdefault(network, asyncio.get_running_loop().create_future())
            return await asyncio.shield(future)
        return self._birth_of(network)

    # The rest is private to the coordinator.

    async def _prepare(self) -> Facts:
        references: Any = prepare_task.remote(self._spec)
        self._data, promised = references
        try:
            facts: Facts = await asyncio.wait_for(_result(promised), self._config.patience.start_seconds)
        except TimeoutError:
            raise RunError("the data were not read within patience.start_seconds") from None
        self._facts = facts
        return facts

    async def _raise_population(self) -> None:
        """Start every member; when population.min_size are placed, those train, and the rest join as they come."""
        birth: Birth = "resumed" if self._spec.is_resumed else "founder"
        starting = [member.id for member in self._members if member.state is MemberState.STARTING]
        if not starting:
            await self._finish_if_over()
            return
        at_most = await self._in_thread(self._common_interval, starting) if self._spec.is_resumed else None
        needed = min(self._config.population.min_size or self._config.population.size, len(starting))
        if self._config.mode == "lockstep":
            needed = len(starting)
        places = {network: asyncio.ensure_future(self._place(network, birth, at_most)) for network in starting}
        ready: list[int] = []
        deadline = time.monotonic() + self._config.patience.start_seconds
        while len(ready) < needed:
            pending = [place for network, place in places.items() if network not in ready]
            left = deadline - time.monotonic()
            if left <= 0:
                self._fail(
                    f"only {len(ready)} of {needed} networks were placed within patience.start_seconds "
                    f"({self._config.patience.start_seconds:g} s); the cluster has {ray.cluster_resources()}"
                )
                return
            await asyncio.wait(pending, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            for network, placed in places.items():
                if placed.done() and network not in ready:
                    error = placed.exception()
                    if error is not None:
                        self._fail(f"network {network} could not start: {_cause(error)}")
                        return
                    ready.append(network)
        self._has_founders = True
        self._began = time.monotonic()
        if self._state == "starting":
            self._state = "training"
        for network in ready:
            self._spawn(self._supervise(network))
        for network, placed in places.items():
            if network not in ready:
                self._spawn(self._let_join(network, placed))
        await self._save()
        await self._wake()

    async def _let_join(self, network: int, placed: asyncio.Future[None]) -> None:
        """A founder that found its place late: it begins as a newcomer does."""
        placed.cancel()
        handle = self._handles.pop(network, None)
        if handle is not None:
            ray.kill(handle)
        self._members.revive(network)
        await self._begin(network, "newcomer")

    async def _begin(self, network: int, birth: Birth, at_most: int | None = None) -> None:
        """Place a network and let it train."""
        try:
            await self._place(network, birth, at_most)
        except (RayError, InarchError) as error:
            self._members.move(network, MemberState.FAILED)
            self._tell("failure", network, reason=str(_cause(error)))
            await self._finish_if_over()
            return
        await self._save()
        await self._supervise(network)

    async def _place(self, network: int, birth: Birth, at_most: int | None) -> None:
        """Create the actor and wait until its network is built."""
        member, placement = self._members[network], self._placement
        if placement is None:
            raise RunError("there is no placement yet")
        spec = NetworkSpec(
            run=self._spec,
            network=network,
            incarnation=member.incarnation,
            birth=birth,
            threads=placement.threads,
            gpus=placement.gpus,
            at_most_interval=at_most,
        )
        handle = NetworkActor.options(
            name=network_name(self._spec.name, network, member.incarnation),
            namespace=NAMESPACE,
            lifetime="detached",
            num_cpus=placement.cpus,
            num_gpus=placement.gpus,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
        ).remote(spec, self._data)
        self._handles[network] = handle
        structure, interval, process, node = await _result(handle.ready.remote())
        if self._facts is not None and structure != self._facts.structure:
            ray.kill(handle)
            raise StructureError(
                f"network {network} has another structure than its neighbors ({structure}, theirs "
                f"{self._facts.structure}); "
                "the network's function must build the same architecture each time"
            )
        self._heard[network] = time.monotonic()
        known = self._status.get(network) or NetworkStatus(network=network, state="starting", incarnation=1)
        self._status[network] = dataclasses.replace(known, interval=interval, process=process, node=node)

    async def _supervise(self, network: int) -> None:
        """Let a network train, and see to it when its run ends or its process dies."""
        handle, incarnation = self._handles[network], self._members[network].incarnation
        if self._members[network].state is not MemberState.LEAVING:
            self._members.move(network, MemberState.TRAINING)
        self._tell("join", network, incarnation=incarnation)
        if self._state == "stopping":
            self._direct(network, Directive.STOP)
        try:
            outcome = await _result(handle.run.remote())
        except (RayActorError, RayError) as error:
            if self._members[network].incarnation == incarnation:
                await self._lost(network, error)
            return
        except Exception as error:
            if self._members[network].incarnation == incarnation:
                await self._give_up(network, str(_cause(error)))
            return
        if self._members[network].incarnation == incarnation:
            await self._ended(network, outcome)

    async def _ended(self, network: int, outcome: Outcome) -> None:
        state = {
            Outcome.DONE: MemberState.DONE,
            Outcome.LEFT: MemberState.RETIRED,
            Outcome.STOPPED: MemberState.STOPPED,
        }.get(outcome, MemberState.STOPPED)
        if outcome is Outcome.STOPPED and self._members[network].state is MemberState.LEAVING:
            state = MemberState.RETIRED
        self._members.move(network, state)
        self._tell("done" if state is MemberState.DONE else "leave", network, outcome=outcome.value)
        if state is not MemberState.DONE:
            self._dismiss(network)
        await self._open_barriers()
        await self._save()
        await self._finish_if_over()

    async def _lost(self, network: int, error: BaseException) -> None:
        """A network's process died: bring it back from its newest checkpoint. The others train on meanwhile."""
        self._tell("loss", network, reason=str(error).strip().splitlines()[0][:200] if str(error).strip() else "died")
        self._dismiss(network)
        self._barrier.forget(network)
        leaving = self._members[network].state is MemberState.LEAVING
        self._members.move(network, MemberState.LOST)
        if self._state == "stopping" or leaving:
            self._members.move(network, MemberState.RETIRED if leaving else MemberState.STOPPED)
            await self._open_barriers()
            await self._finish_if_over()
            return
        if self._members[network].restarts >= self._config.population.restarts:
            await self._give_up(network, f"its process died {self._members[network].restarts + 1} times")
            return
        member = self._members.revive(network)
        self._tell("restart", network, incarnation=member.incarnation)
        await self._save()
        is_newcomer = not member.is_founder and not await self._in_thread(self._has_checkpoint, network)
        self._spawn(self._begin(network, "newcomer" if is_newcomer else "resumed"))

    async def _give_up(self, network: int, reason: str) -> None:
        self._members.move(network, MemberState.FAILED)
        self._message = f"network {network}: {reason}"
        self._tell("failure", network, reason=reason)
        self._dismiss(network)
        await self._open_barriers()
        await self._save()
        await self._finish_if_over()

    def _dismiss(self, network: int) -> None:
        """A network is gone: its snapshots with it."""
        self._board.withdraw(network)
        handle = self._handles.pop(network, None)
        if handle is not None:
            ray.kill(handle)

    async def _finish_if_over(self) -> None:
        """When no member is active any more, judge the networks, write the result and end them."""
        if self._members.active() or self._state in ("finishing", "finished", "failed") or not len(self._members):
            return
        is_stopped = self._state == "stopping" or any(m.state is MemberState.STOPPED for m in self._members)
        self._state = "finishing"
        await self._wake()
        seconds = time.monotonic() - self._began
        ended = {member.id: member.state.value for member in self._members}
        for network in list(self._handles):
            self._dismiss(network)
        survivors = [
            m for m in self._members if m.state in (MemberState.DONE, MemberState.RETIRED, MemberState.STOPPED)
        ]
        if not survivors:
            self._fail(self._message or "every network failed")
            return
        try:
            if not is_stopped:
                self._result = await _result(judge_task.remote(self._spec, self._data, ended, seconds))
        except (InarchError, RayError) as error:
            self._fail(str(_cause(error)))
            return
        self._state = "finished"
        self._tell("finish", None, is_complete=not is_stopped)
        await self._save()
        await self._wake()
        if self._spec.is_detached:
            self._spawn(self._end_later())

    async def _end_later(self) -> None:
        """A detached coordinator stays long enough to tell how the run ended, then goes."""
        await asyncio.sleep(self._config.patience.lease_seconds)
        os._exit(0)

    def _fail(self, message: str) -> None:
        self._state, self._message = "failed", message
        for network in list(self._handles):
            self._dismiss(network)
        self._spawn(self._wake())
        self._spawn(self._save())

    async def _watch(self) -> None:
        """Once a second: who is silent, whose barrier has waited too long, what the dashboard shows."""
        lease = self._config.patience.lease_seconds
        while not self._is_over():
            await asyncio.sleep(1.0)
            now = time.monotonic()
            for member in list(self._members):
                if member.state not in (MemberState.TRAINING, MemberState.STALLED):
                    continue
                silent = now - self._heard.get(member.id, now)
                if silent > lease:
                    self._members.move(member.id, MemberState.STALLED)
                handle = self._handles.get(member.id)
                if silent > 3 * lease and handle is not None:
                    ray.kill(handle)
            await self._open_barriers()
            self._metrics.show(self._network_status(member) for member in self._members)

    async def _take_over(self, member: Member) -> None:
        """Find a living network by its name; one that cannot be found is lost."""
        try:
            handle = ray.get_actor(network_name(self._spec.name, member.id, member.incarnation), namespace=NAMESPACE)
            report, postings, facts = await asyncio.wait_for(
                _result(handle.describe.remote()), self._config.patience.lease_seconds
            )
        except (ValueError, RayError, TimeoutError) as error:
            if member.state in ACTIVE:
                self._spawn(self._lost(member.id, error))
            return
        self._handles[member.id] = handle
        self._heard[member.id] = time.monotonic()
        self._status[member.id] = NetworkStatus(
            network=member.id,
            state=member.state.value,
            incarnation=member.incarnation,
            interval=facts[1],
            process=facts[2],
            node=facts[3],
        )
        for posting in postings:
            self._board.post(posting)
        if report is not None:
            self._note(report, is_news=False)
        self._spawn(self._supervise(member.id))

    def _note(self, report: Report, *, is_news: bool = True) -> None:
        """Remember what a network told."""
        network = report.origin.network
        known = self._status.get(network) or NetworkStatus(network=network, state="", incarnation=1)
        if report.origin.interval < known.interval:
            return
        self._status[network] = dataclasses.replace(
            known,
            interval=report.origin.interval,
            epoch=report.epoch,
            train_loss=report.train_loss,
            validation_accuracy=report.validation_accuracy,
            images_per_second=report.images_per_second,
            grafts=report.grafts,
            outcome=report.outcome or known.outcome,
            scion=report.scion,
            age_intervals=report.age.intervals if report.age else None,
            age_seconds=report.age.seconds if report.age else None,
        )
        if not is_news:
            return
        if not report.outcome:
            self._tell(
                "interval",
                network,
                interval=report.origin.interval,
                loss=report.train_loss,
                accuracy=report.validation_accuracy,
            )
            return
        self._metrics.exchanged(report.outcome)
        if report.outcome == "grafted":
            self._tell(
                "graft",
                network,
                interval=report.origin.interval,
                scion=report.scion,
                age=self._status[network].age_intervals,
            )
        elif report.outcome != "off":
            self._refusals[report.outcome] += 1
            self._tell("refusal", network, interval=report.origin.interval, reason=report.outcome)

    def _birth_of(self, network: int) -> int | Posting[References]:
        """A newcomer's parent; where nothing is to be cloned, the interval at which it begins with its own weights."""
        parent = self._board.parent(network, members=self._members.in_topology(), donors=self._members.donors())
        if parent is None or self._config.population.newcomers == "fresh":
            furthest = [self._status[n].interval for n in self._members.donors() if n in self._status and n != network]
            return parent.origin.interval if parent is not None else max(furthest, default=0)
        return parent

    def _expected(self) -> list[int]:
        """lockstep: members that will reach the next barrier; newcomers that wait to join are not among them."""
        newcomers = {
            m.id for m in self._members if m.state is MemberState.STARTING and not m.is_founder and m.restarts == 0
        }
        waiting = set(self._waiting_to_join) | newcomers
        return [network for network in self._members.active() if network not in waiting]

    async def _open_barriers(self, interval: int | None = None) -> None:
        """Open what can be opened, let newcomers in, and wake those who wait."""
        if self._config.mode != "lockstep" or self._state != "training":
            return
        intervals = [interval] if interval is not None else self._barrier.waiting()
        for each in intervals:
            was_open = self._barrier.is_open(each)
            if self._barrier.try_open(each, expected=self._expected(), now=time.monotonic()) and not was_open:
                self._board.prune(each)
                for network, future in list(self._waiting_to_join.items()):
                    if not future.done():
                        future.set_result(self._birth_of(network))
                    del self._waiting_to_join[network]
        await self._wake()

    async def _pass_barrier(self, interval: int) -> bool:
        """Whether an interval's barrier opened with everybody there."""
        await self._open_barriers(interval)
        async with self._changed:
            await self._changed.wait_for(lambda: self._barrier.is_open(interval) or self._state != "training")
        return self._barrier.is_open(interval) and not self._barrier.is_timed_out(interval)

    def _direct(self, network: int, directive: Directive) -> None:
        handle = self._handles.get(network)
        if handle is not None:
            handle.direct.remote(directive)

    def _network_status(self, member: Member) -> NetworkStatus:
        known = self._status.get(member.id) or NetworkStatus(network=member.id, state="", incarnation=1)
        silent = time.monotonic() - self._heard[member.id] if member.id in self._heard else 0.0
        return dataclasses.replace(
            known, state=member.state.value, incarnation=member.incarnation, silent_seconds=round(silent, 2)
        )

    def _tell(self, kind: Any, network: int | None, **detail: Any) -> None:
        self._num_events += 1
        self._events.append(
            Event(number=self._num_events, kind=kind, network=network, seconds=time.time(), detail=detail)
        )

    def _is_over(self) -> bool:
        return self._state in ("finished", "failed")

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something beside; a coordinator that fails says so."""

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not task.cancelled() and task.exception() is not None:
                self._fail(f"the coordinator failed: {task.exception()!r}")

        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(ended)

    async def _in_thread(self, call: Any, *arguments: Any) -> Any:
        """Storage calls run on a thread: the event loop goes on."""
        return await asyncio.to_thread(call, *arguments)

    async def _save(self) -> None:
        """Write who the members are: numbered files, since a file that is overwritten can be lost."""
        async with self._saves:
            self._num_saves += 1
            record = {
                "state": self._state,
                "message": self._message,
                "seconds": time.time(),
                "members": [dataclasses.asdict(member) for member in self._members],
            }
            try:
                await self._in_thread(write_members, self._storage, record)
            except StorageError as error:
                self._message = str(error)

    def _read_members(self) -> dict[str, Any] | None:
        return read_members(self._storage)

    def _write_config(self, facts: Facts) -> None:
        content = {
            "config": to_dict(self._config),
            "network": "callable" if self._spec.factory is not None else self._config.network.architecture,
            "facts": dataclasses.asdict(facts),
            "versions": versions(),
        }
        self._storage.write("config.json", json.dumps(content, indent=2).encode())

    async def _check_fingerprints(self, facts: Facts) -> None:
        recorded = json.loads(await self._in_thread(self._storage.read, "config.json"))["facts"]
        if recorded["structure"] != facts.structure:
            raise StructureError(
                f"run {self._spec.name} was begun with a network of {recorded['parameters']} parameters and structure "
                f"{recorded['structure']}; this one has {facts.parameters} and {facts.structure}"
            )
        if recorded["data_fingerprint"] != facts.data_fingerprint:
            raise DataError(
                f"run {self._spec.name} was begun with other images than {self._config.data.train!r} has now"
            )

    async def _restore_members(self) -> None:
        """A resumed run's members: those that had not finished begin a new incarnation."""
        record = await self._in_thread(self._read_members)
        if record is None:
            raise RunError(f"run {self._spec.name} has no record of its members; it cannot be resumed")
        going_on = {MemberState.DONE, MemberState.RETIRED, MemberState.FAILED}
        for saved in record["members"]:
            member = _member(saved)
            if member.state not in going_on:
                member = dataclasses.replace(
                    member, state=MemberState.STARTING, incarnation=member.incarnation + 1, restarts=0
                )
            self._members.restore(member)

    def _common_interval(self, networks: list[int]) -> int | None:
        """lockstep: the interval that all members that go on have completed."""
        if self._config.mode != "lockstep":
            return None
        store = CheckpointStore(self._storage, keep=self._config.checkpoint.keep)
        newest = [store.newest(network) for network in networks]
        return min((found.id.interval if found is not None else 0 for found in newest), default=0)

    def _has_checkpoint(self, network: int) -> bool:
        return bool(CheckpointStore(self._storage).list(network))


class _RemoteCoordinator(Coordinator):
    """On Ray an incarnation that was brought back takes the living networks over."""

    async def __init__(self, spec: RunSpec) -> None:  # type: ignore[misc]  # Ray awaits an async constructor
        super().__init__(spec)
        if ray.get_runtime_context().was_current_actor_reconstructed:
            self._spawn(self.recover())


_on_ray: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)

CoordinatorActor: Any = _on_ray(_RemoteCoordinator)
"""`Coordinator` on Ray."""


def versions() -> dict[str, str]:
    """Of what decides numbers."""
    import numpy
    import torch
    import torchvision

    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
        "numpy": numpy.__version__,
        "ray": ray.__version__,
    }


def write_members(storage: Storage, record: dict[str, Any]) -> None:
    """Write the members' record under the next number, then drop all but the last two."""
    names = storage.names("members")
    number = int(names[-1].split(".")[0]) + 1 if names else 0
    storage.write(f"members/{number:08d}.json", json.dumps(record).encode())
    for old in names[:-1]:
        storage.delete(f"members/{old}")


def read_members(storage: Storage) -> dict[str, Any] | None:
    """The newest record that is whole."""
    for name in reversed(storage.names("members")):
        try:
            return json.loads(storage.read(f"members/{name}"))
        except (StorageError, ValueError):
            continue
    return None


def _member(saved: dict[str, Any]) -> Member:
    return Member(**{**saved, "state": MemberState(saved["state"])})


async def _result(reference: Any) -> Any:
    """A task's or method's value; what it raised is raised as itself."""
    try:
        return await reference
    except RayTaskError as error:
        raise _cause(error) from None


def _cause(error: BaseException) -> BaseException:
    """What went wrong beneath Ray's wrappers."""
    cause = getattr(error, "cause", None)
    if isinstance(error, RayTaskError) and isinstance(cause, BaseException):
        return cause
    return error
