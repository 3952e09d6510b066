"""A chaos run: drivers train a population while faults are injected, and the invariants are checked at the end.

Longer than 300 lines: each fault has a method that injects it, and all of them share the state of one run.
"""

from __future__ import annotations

import contextlib
import secrets
import signal
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from inarch.experiments.benchmarks.chaos import invariants, leftovers
from inarch.experiments.benchmarks.chaos.companions import Companion
from inarch.experiments.benchmarks.chaos.drivers import NAME, Driver, train_words
from inarch.experiments.benchmarks.chaos.injectors import FullStorage, SlowWrite, freeze, kill, thaw
from inarch.experiments.benchmarks.chaos.plan import ChaosSetting, Fault, FaultKind, plan

PACKAGE = "inarch.experiments.benchmarks.chaos"

TICK_SECONDS = 0.25
"""Pause between two looks at the drivers."""

ANSWER_SECONDS = 15.0
"""Longest wait for an answer of the observer while faults are injected."""

START_SECONDS = 180.0
"""Longest wait for a companion or a cluster to start."""

GONE_SECONDS = 60.0
"""Time that the processes of a run have to end after its last driver has."""

MAX_UNEXPECTED = 3
"""Drivers that may end as they should not, before the run is given up."""

EXCHANGE_SECONDS = 3.0
"""Time that a guest exchanges before it is killed in the midst of it."""

AHEAD = 2
"""Intervals between a network's present one and the one whose checkpoint is written slowly."""


@dataclass(frozen=True, kw_only=True)
class Injection:
    """A fault that was injected, or could not be."""

    kind: FaultKind
    seconds: float
    """Time since the beginning of the chaos run."""
    target: str
    reason: str = ""
    """Why it could not be injected. Empty if it was."""

    @property
    def has_happened(self) -> bool:
        """Whether the fault was injected."""
        return not self.reason


@dataclass(frozen=True, kw_only=True)
class ChaosOutcome:
    """What a chaos run did, and what did not hold."""

    setting: ChaosSetting
    injections: tuple[Injection, ...]
    drivers: int
    """Number of drivers: the first, and one for each resume."""
    rows: int
    """Intervals in the history, of all networks."""
    seconds: float
    problems: tuple[str, ...]
    """What did not hold. Empty if everything did."""

    @property
    def has_passed(self) -> bool:
        """Whether everything held, and at least one fault was injected."""
        return not self.problems and any(injection.has_happened for injection in self.injections)


@dataclass(frozen=True)
class _End:
    """The end of a fault that lasts."""

    at: float
    kind: FaultKind
    call: Callable[[], None]


class ChaosRun:
    """One run under faults. `run` may be called once."""

    def __init__(
        self, setting: ChaosSetting, folder: Path, *, grace_seconds: float, say: Callable[[str], None]
    ) -> None:
        """Prepare a run. Nothing is started.

        Args:
            setting: What is trained, and the seed of the faults.
            folder: An empty folder with a short path, for the run, Ray's files and logs.
            grace_seconds: Time after which the run counts as hanging if nothing has moved.
            say: Prints a line.
        """
        self._setting, self._folder, self._grace, self._print = setting, folder, grace_seconds, say
        self._token = uuid.uuid4().hex
        self._scratch, self._storage = folder / "s", folder / "r"
        is_separate = setting.cluster == "separate"  # a cluster that Ray's test tools start has no token of its own
        secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)} if is_separate else {}
        self._environment = leftovers.environment(self._token, self._scratch, secret)
        self._began = time.monotonic()
        self._injections: list[Injection] = []
        self._problems: list[str] = []
        self._ends: list[_End] = []
        self._world = _World()

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self._storage / NAME

    def run(self, *, is_small: bool = False) -> ChaosOutcome:
        """Train, inject all faults of the plan, let the run end, and check what it left.

        Args:
            is_small: Whether the subfolder r lies on a small file system of its own.
        """
        for folder in (self._scratch, self._scratch / "tmp", self._storage):
            folder.mkdir(exist_ok=True)
        self._full = FullStorage(self._storage, is_small=is_small)
        before = leftovers.shared_memory()
        try:
            self._start_cluster()
            self._launch(self._first_words())
            for fault in plan(self._setting):
                if not self._train_for(fault.gap_seconds):
                    self._note(fault.kind, "", "the run had ended")
                    continue
                self._inject(fault)
            self._train_for(None)
        except _GivenUpError as error:
            self._problems.append(str(error))
        finally:
            self._end_faults()
            self._close()
        self._problems += leftovers.remaining_processes(self._token, seconds=GONE_SECONDS)
        self._problems += leftovers.remaining_shared_memory(before)
        self._problems += leftovers.remaining_files(self._scratch)
        self._problems += invariants.problems(self.path)
        return self._outcome()

    def _outcome(self) -> ChaosOutcome:
        return ChaosOutcome(
            setting=self._setting,
            injections=tuple(self._injections),
            drivers=self._world.num_drivers,
            rows=invariants.num_rows(self.path),
            seconds=time.monotonic() - self._began,
            problems=tuple(self._problems),
        )

    # Drivers and time.

    def _start_cluster(self) -> None:
        if self._setting.cluster == "own":
            return
        nodes = self._companion("nodes", [str(self._setting.population + 1)])
        if not nodes.ready(seconds=START_SECONDS):
            raise _GivenUpError(f"the cluster did not start within {START_SECONDS:g} s")
        self._world.nodes, self._world.address = nodes, nodes.ask("address", seconds=ANSWER_SECONDS)
        self._say(f"cluster at {self._world.address}")

    def _first_words(self) -> list[str]:
        return train_words(
            self._setting, storage=self._storage, address=self._world.address, text=self._folder / "text.txt"
        )

    def _companion(self, module: str, words: Sequence[str]) -> Companion:
        log = self._folder / f"{module}.log"
        return Companion(f"{PACKAGE}.{module}", words, log=log, environment=self._environment)

    def _launch(self, words: Sequence[str]) -> None:
        """Start a driver, and wait until its run trains or is over."""
        self._world.num_drivers, self._world.launched_at = self._world.num_drivers + 1, time.time()
        number = self._world.num_drivers
        self._say(f"driver {number}: inarch {words[0]}")
        log = self._folder / f"driver-{number}.log"
        self._world.driver = Driver(words, log=log, environment=self._environment)
        self._world.expected = ()
        self._await_training()

    def _resume(self) -> None:
        self._launch(["resume", str(self.path)])

    def _await_training(self) -> None:
        """Wait until an observer sees the run train. Return also if the driver ends meanwhile."""
        self._drop_observer()
        self._world.last_status = None
        while self._world.driver is not None and self._world.driver.status is None:
            self._check_moves()
            self._end_due_faults()
            if self._has_started():
                status = self._status()
                if status is not None and status["state"] == "training":
                    return
            time.sleep(TICK_SECONDS)

    def _has_started(self) -> bool:
        """Return whether the present driver has written where its run is. Before, observers would look in vain."""
        try:
            return (self.path / "cluster.json").stat().st_mtime >= self._world.launched_at
        except OSError:
            return False

    def _status(self) -> dict[str, Any] | None:
        """Return the run's status, or None if it does not answer."""
        observer = self._world.observer
        if observer is None or not observer.is_alive:
            self._drop_observer()
            observer = self._world.observer = self._companion("observer", [str(self.path)])
        if not observer.ready(seconds=ANSWER_SECONDS):
            return None
        try:
            return observer.ask("status", seconds=ANSWER_SECONDS)
        except (TimeoutError, RuntimeError):
            return None

    def _drop_observer(self) -> None:
        if self._world.observer is not None:
            self._world.observer.close()
            self._world.observer = None

    def _train_for(self, seconds: float | None) -> bool:
        """Let the run train, end faults that are due, and replace drivers that have ended.

        Args:
            seconds: How long. None: until the run is complete.

        Returns:
            Whether the run is not complete yet.
        """
        until = None if seconds is None else time.monotonic() + seconds
        while until is None or time.monotonic() < until:
            if self._is_complete():
                return False
            if self._world.driver is not None and self._world.driver.status is not None:
                self._replace_driver()
                until = None if seconds is None else time.monotonic() + seconds
            self._check_moves()
            self._end_due_faults()
            time.sleep(TICK_SECONDS)
        return True

    def _is_complete(self) -> bool:
        """Return whether the last driver has ended with the run's result. Note what is wrong with its end."""
        driver = self._world.driver
        if driver is None:
            return True
        if driver.status is None or not (self.path / "result.json").exists():
            return False
        self._note_end(driver, (*self._world.expected, 0))
        self._world.driver = None
        self._drop_observer()
        return True

    def _replace_driver(self) -> None:
        """Note how a driver ended that was not asked to, and resume its run."""
        assert self._world.driver is not None
        self._note_end(self._world.driver, self._world.expected)
        if self._world.driver.status not in self._world.expected:
            self._world.num_unexpected += 1
            if self._world.num_unexpected > MAX_UNEXPECTED:
                raise _GivenUpError(f"{MAX_UNEXPECTED + 1} drivers ended as they should not")
        self._end_faults_of_driver()
        self._resume()

    def _note_end(self, driver: Driver, expected: Sequence[int]) -> None:
        complaint = driver.complaint(expected)
        if complaint:
            self._say(f"WRONG: {complaint}")
            self._problems.append(complaint)

    def _check_moves(self) -> None:
        """Raise if nothing has moved for the time of grace."""
        names = sum(1 for _ in (self.path / "networks").glob("*/*")) if self.path.is_dir() else 0
        newest = max((str(path) for path in (self.path / "networks").glob("*/*")), default="")
        printed = self._world.driver.printed_bytes if self._world.driver else 0
        if self._world.has_moved((names, newest, printed), now=time.monotonic(), grace=self._grace):
            return
        raise _GivenUpError(f"nothing moved for {self._grace:g} s")

    # Faults.

    def _inject(self, fault: Fault) -> None:
        """Inject a fault, or note why it cannot be injected."""
        inject = {
            FaultKind.KILL_NETWORK: self._kill_network,
            FaultKind.FREEZE_NETWORK: self._freeze_network,
            FaultKind.KILL_COORDINATOR: self._kill_coordinator,
            FaultKind.FREEZE_COORDINATOR: self._freeze_coordinator,
            FaultKind.SCALE_UP: lambda fault: self._scale(fault, 1),
            FaultKind.SCALE_DOWN: lambda fault: self._scale(fault, -1),
            FaultKind.STOP: self._stop,
            FaultKind.TERMINATE_DRIVER: lambda fault: self._end_driver(fault, signal.SIGTERM),
            FaultKind.KILL_DRIVER: lambda fault: self._end_driver(fault, signal.SIGKILL),
            FaultKind.GUEST: self._let_guest_join,
            FaultKind.FULL_STORAGE: self._fill_storage,
            FaultKind.SLOW_STORAGE: self._slow_write,
            FaultKind.NODE: self._add_node,
        }[fault.kind]
        try:
            inject(fault)
        except (TimeoutError, RuntimeError) as error:
            self._note(fault.kind, "", str(error))

    def _networks(self, fault: Fault) -> list[dict[str, Any]]:
        """Return the run's own networks that train, beginning with the one that the fault has chosen.

        If the coordinator does not answer, they are those that it named last.
        """
        status = self._status() or self._world.last_status
        if status is None:
            raise TimeoutError("the coordinator did not answer")
        self._world.last_status, self._world.coordinator = status, status["coordinator"]
        networks = [n for n in status["networks"] if n["name"] is None and n["state"] in TRAINING and _lives(n)]
        if not networks:
            raise RuntimeError("no network trains")
        first = int(fault.choice * len(networks))
        return networks[first:] + networks[:first]

    def _kill_network(self, fault: Fault) -> None:
        network = self._networks(fault)[0]
        self._note(fault.kind, _name(network), kill(network["process"]))

    def _freeze_network(self, fault: Fault) -> None:
        network = self._networks(fault)[0]
        self._freeze(fault, network["process"], _name(network))

    def _kill_coordinator(self, fault: Fault) -> None:
        self._note(fault.kind, "coordinator", kill(self._coordinator(fault)))

    def _freeze_coordinator(self, fault: Fault) -> None:
        self._freeze(fault, self._coordinator(fault), "coordinator")

    def _coordinator(self, fault: Fault) -> int:
        """Return the process id of the coordinator. One that is frozen does not answer, but is known."""
        with contextlib.suppress(RuntimeError):
            self._networks(fault)
        return self._world.coordinator

    def _freeze(self, fault: Fault, process: int, target: str) -> None:
        reason = freeze(process)
        self._note(fault.kind, f"{target} for {fault.duration_seconds:.0f} s", reason)
        if not reason:
            self._end_later(fault, lambda: self._say(f"{target} continues" if thaw(process) else f"{target} was gone"))

    def _scale(self, fault: Fault, change: int) -> None:
        size = len(self._networks(fault))
        wanted = min(max(2, size + change), self._setting.population + 2)
        if wanted == size:
            self._note(fault.kind, f"{size} networks", "the population has its least or greatest size")
            return
        assert self._world.observer is not None
        self._world.observer.ask("scale", seconds=ANSWER_SECONDS, size=wanted)
        self._note(fault.kind, f"{size} to {wanted} networks")

    def _stop(self, fault: Fault) -> None:
        self._end_faults_of_driver()
        number = self._world.num_drivers
        self._note(fault.kind, f"driver {number}")
        log = self._folder / f"stop-{number}.log"
        stop = Driver(["stop", str(self.path)], log=log, environment=self._environment)
        self._await_end(stop)
        self._note_end(stop, (0, 2) if (self.path / "result.json").exists() else (0,))
        self._await_end_and_resume((0,))

    def _end_driver(self, fault: Fault, number: signal.Signals) -> None:
        self._end_faults_of_driver()
        assert self._world.driver is not None
        self._note(fault.kind, f"driver {self._world.num_drivers}")
        self._world.driver.process.send_signal(number)
        self._await_end_and_resume((143,) if number == signal.SIGTERM else (-number,))

    def _await_end_and_resume(self, expected: Sequence[int]) -> None:
        assert self._world.driver is not None
        self._world.expected = tuple(expected)
        self._await_end(self._world.driver)
        if not self._is_complete():
            self._replace_driver()

    def _await_end(self, driver: Driver) -> None:
        while driver.status is None:
            self._check_moves()
            self._end_due_faults()
            time.sleep(TICK_SECONDS)

    def _let_guest_join(self, fault: Fault) -> None:
        if self._world.guest is not None:
            self._note(fault.kind, "guest", "another guest is there")
            return
        guest = self._world.guest = self._companion("guest", [str(self.path)])
        self._say("a guest starts")
        self._end_later(fault, lambda: self._end_guest(guest))

    def _end_guest(self, guest: Companion) -> None:
        """Kill the guest while it exchanges."""
        self._world.guest = None
        has_joined = guest.ready(seconds=TICK_SECONDS)
        if has_joined:
            with contextlib.suppress(TimeoutError, RuntimeError):
                guest.ask("exchange", seconds=EXCHANGE_SECONDS, during=60.0)
        guest.process.kill()
        guest.close()
        self._note(FaultKind.GUEST, "guest", "" if has_joined else "it had not joined in time")

    def _fill_storage(self, fault: Fault) -> None:
        networks = self._networks(fault)
        writers = {_name(network): network["process"] for network in networks}
        reason = self._full.begin(writers | {"coordinator": self._world.coordinator})
        self._note(fault.kind, f"for {fault.duration_seconds:.0f} s", reason)
        self._end_later(fault, self._make_room)

    def _make_room(self) -> None:
        self._full.end()
        self._say("storage has room")

    def _slow_write(self, fault: Fault) -> None:
        network = self._networks(fault)[0]
        write = SlowWrite(
            self.path,
            network_id=network["id"],
            incarnation=network["incarnation"],
            interval=network["interval"] + AHEAD,
        )
        reason = write.begin()
        if reason:
            self._note(fault.kind, _name(network), reason)
            return
        target = f"{_name(network)} for {fault.duration_seconds:.0f} s"
        self._say(f"{fault.kind.value}: {target}")
        self._end_later(fault, lambda: self._note(fault.kind, target, write.end()))

    def _add_node(self, fault: Fault) -> None:
        assert self._world.nodes is not None
        size = len(self._networks(fault))
        self._world.nodes.ask("add", seconds=START_SECONDS)
        self._note(fault.kind, f"node, and {size} to {size + 1} networks")
        self._end_later(fault, self._remove_node)
        assert self._world.observer is not None
        self._world.observer.ask("scale", seconds=ANSWER_SECONDS, size=size + 1)

    def _remove_node(self) -> None:
        assert self._world.nodes is not None
        self._world.nodes.ask("remove", seconds=START_SECONDS)
        self._say("the node is removed")

    def _end_later(self, fault: Fault, call: Callable[[], None]) -> None:
        self._ends.append(_End(time.monotonic() + fault.duration_seconds, fault.kind, call))

    def _end_due_faults(self) -> None:
        self._end_those(lambda end: end.at <= time.monotonic())

    def _end_faults_of_driver(self) -> None:
        """End the faults with which no driver can stop or resume: a frozen coordinator, and full storage."""
        self._end_those(lambda end: end.kind in (FaultKind.FREEZE_COORDINATOR, FaultKind.FULL_STORAGE))

    def _end_faults(self) -> None:
        self._end_those(lambda end: True)

    def _end_those(self, is_due: Callable[[_End], bool]) -> None:
        due = [end for end in self._ends if is_due(end)]
        self._ends = [end for end in self._ends if end not in due]
        for end in due:
            try:
                end.call()
            except (TimeoutError, RuntimeError, OSError) as error:
                self._problems.append(f"{end.kind.value} could not be ended: {error}")

    # The end.

    def _close(self) -> None:
        """End what this run has started, and note the named actors that are left on a separate cluster."""
        if self._world.driver is not None and self._world.driver.status is None:
            self._world.driver.process.kill()
            self._world.driver.process.wait()
        self._drop_observer()
        if self._world.nodes is None:
            return
        with contextlib.suppress(TimeoutError, RuntimeError):
            actors = self._world.nodes.ask("actors", seconds=ANSWER_SECONDS)
            self._problems += [f"actor {name} was left behind" for name in actors]
            self._world.nodes.ask("close", seconds=GONE_SECONDS)
        self._world.nodes.close()

    def _note(self, kind: FaultKind, target: str, reason: str = "") -> None:
        seconds = time.monotonic() - self._began
        self._injections.append(Injection(kind=kind, seconds=seconds, target=target, reason=reason))
        self._say(f"{kind.value}: {target}" + (f", NOT INJECTED: {reason}" if reason else ""))

    def _say(self, text: str) -> None:
        self._print(f"{time.monotonic() - self._began:7.1f} s  {text}")


TRAINING = ("training", "stalled", "leaving", "starting")
"""States of networks that may be victims."""


class _World:
    """The processes of a chaos run, and when they last moved."""

    def __init__(self) -> None:
        self.driver: Driver | None = None
        self.observer: Companion | None = None
        self.nodes: Companion | None = None
        self.guest: Companion | None = None
        self.address = "local"
        self.last_status: dict[str, Any] | None = None
        self.expected: tuple[int, ...] = ()
        self.num_drivers, self.num_unexpected, self.coordinator = 0, 0, 0
        self.launched_at = 0.0
        self._seen: object = None
        self._seen_at = time.monotonic()

    def has_moved(self, seen: object, *, now: float, grace: float) -> bool:
        """Return whether something has changed within the time of grace."""
        if seen != self._seen:
            self._seen, self._seen_at = seen, now
        return now - self._seen_at <= grace


class _GivenUpError(Exception):
    """A chaos run that cannot be continued."""


def _lives(network: dict[str, Any]) -> bool:
    """Return whether a network has a living process. The status names that of a lost network until it has a new one."""
    return network["process"] is not None and psutil.pid_exists(network["process"])


def _name(network: dict[str, Any]) -> str:
    return f"network {network['id']} (incarnation {network['incarnation']}, interval {network['interval']})"
