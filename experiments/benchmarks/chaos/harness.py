"""A chaos run: a population trains while faults are injected, and the invariants are checked at the end."""

from __future__ import annotations

import contextlib
import signal
import uuid
from collections.abc import Callable
from pathlib import Path

from inarch.experiments.benchmarks.chaos import invariants
from inarch.experiments.benchmarks.chaos.live_run import LiveRun
from inarch.experiments.benchmarks.chaos.outcome import ChaosOutcome, Journal
from inarch.experiments.benchmarks.chaos.plan import ChaosSetting, Fault, FaultKind, plan
from inarch.experiments.benchmarks.chaos.population_faults import PopulationFaults
from inarch.experiments.benchmarks.chaos.run_watch import ANSWER_SECONDS, GivenUpError
from inarch.experiments.benchmarks.chaos.site import Site
from inarch.experiments.benchmarks.chaos.storage_faults import StorageFaults
from inarch.experiments.benchmarks.processes import leftovers
from inarch.experiments.benchmarks.processes.companion import Companion

NODES = "inarch.experiments.benchmarks.processes.nodes"
"""Module of the companion that owns a cluster."""

START_SECONDS = 180.0
"""Longest wait for a cluster to start."""

END_SECONDS = 60.0
"""Time that a cluster, and the processes of a run whose last driver has ended, have to end."""


def run_under_faults(
    setting: ChaosSetting, folder: Path, *, is_small: bool, grace_seconds: float, say: Callable[[str], None]
) -> ChaosOutcome:
    """Train, inject all faults of the plan, let the run end, and check what it left.

    Args:
        setting: What is trained, and the seed of the faults.
        folder: A folder with a short path, for the run (in its subfolder r), Ray's files and logs.
        is_small: Whether the subfolder r lies on a small file system of its own.
        grace_seconds: Time after which the run counts as hanging if nothing has moved.
        say: Prints a line.
    """
    token, journal = uuid.uuid4().hex, Journal(say)
    site = Site(setting, folder, token=token, journal=journal)
    run, nodes = LiveRun(site, grace_seconds=grace_seconds), None
    before = leftovers.shared_memory()
    try:
        nodes = None if setting.cluster == "own" else site.companion(NODES, [str(setting.population + 1)])
        run.start(address="local" if nodes is None else _address(nodes, journal))
        _inject_all(run, PopulationFaults(run, nodes=nodes), StorageFaults(run, is_small=is_small))
        run.train_for(None)
    except GivenUpError as error:
        journal.note_problem(str(error))
    finally:
        run.lasting.end_all()
        run.close()
        if nodes is not None:
            _close(nodes, journal)
    problems = (
        *journal.problems,
        *leftovers.remaining_processes(token, seconds=END_SECONDS),
        *leftovers.remaining_shared_memory(before),
        *leftovers.remaining_files(site.scratch),
        *invariants.problems(site.path),
    )
    return ChaosOutcome(
        setting=setting,
        injections=tuple(journal.injections),
        drivers=run.num_drivers,
        rows=invariants.num_rows(site.path),
        seconds=journal.seconds,
        problems=problems,
    )


def _address(nodes: Companion, journal: Journal) -> str:
    """Wait for a cluster, and return its address."""
    if not nodes.ready(seconds=START_SECONDS):
        raise GivenUpError(f"the cluster did not start within {START_SECONDS:g} s")
    address: str = nodes.ask("address", seconds=ANSWER_SECONDS)
    journal.say(f"cluster at {address}")
    return address


def _inject_all(run: LiveRun, population: PopulationFaults, storage: StorageFaults) -> None:
    """Inject the faults of the plan in their order, or note why they cannot be injected."""
    journal = run.site.journal
    injectors: dict[FaultKind, Callable[[Fault], None]] = {
        FaultKind.KILL_NETWORK: population.kill_network,
        FaultKind.FREEZE_NETWORK: population.freeze_network,
        FaultKind.KILL_COORDINATOR: population.kill_coordinator,
        FaultKind.FREEZE_COORDINATOR: population.freeze_coordinator,
        FaultKind.SCALE_UP: lambda fault: population.scale(fault, 1),
        FaultKind.SCALE_DOWN: lambda fault: population.scale(fault, -1),
        FaultKind.STOP: run.stop_and_resume,
        FaultKind.TERMINATE_DRIVER: lambda fault: run.end_driver_and_resume(fault, signal.SIGTERM),
        FaultKind.KILL_DRIVER: lambda fault: run.end_driver_and_resume(fault, signal.SIGKILL),
        FaultKind.GUEST: population.let_guest_join,
        FaultKind.FULL_STORAGE: storage.fill,
        FaultKind.SLOW_STORAGE: storage.slow_write,
        FaultKind.NODE: population.add_node,
    }
    for fault in plan(run.site.setting):
        if not run.train_for(fault.gap_seconds):
            journal.note_injection(fault.kind, "", "the run had ended")
            continue
        try:
            injectors[fault.kind](fault)
        except (TimeoutError, RuntimeError) as error:
            journal.note_injection(fault.kind, "", str(error))


def _close(nodes: Companion, journal: Journal) -> None:
    """End a cluster, and note the named actors that are left on it."""
    with contextlib.suppress(TimeoutError, RuntimeError):
        for name in nodes.ask("actors", seconds=ANSWER_SECONDS):
            journal.note_problem(f"actor {name} was left behind")
        nodes.ask("close", seconds=END_SECONDS)
    nodes.close()
