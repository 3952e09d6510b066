"""Faults of the storage of a live run."""

from __future__ import annotations

from inarch.experiments.benchmarks.chaos.injectors import FullStorage, SlowWrite
from inarch.experiments.benchmarks.chaos.live_run import LiveRun
from inarch.experiments.benchmarks.chaos.plan import Fault
from inarch.experiments.benchmarks.chaos.population_faults import name_of, networks

AHEAD = 2
"""Intervals between a network's present one and the one whose checkpoint is written slowly."""


class StorageFaults:
    """Injects faults into the storage of a run. Each method notes the fault, or raises as those of PopulationFaults."""

    def __init__(self, run: LiveRun, *, is_small: bool) -> None:
        """Create it. Nothing is injected.

        Args:
            run: The run.
            is_small: Whether its storage lies on a small file system of its own.
        """
        self._run, self._journal = run, run.site.journal
        self._full = FullStorage(run.site.storage, is_small=is_small)

    def fill(self, fault: Fault) -> None:
        """Fill the storage, and make room later.

        Args:
            fault: The fault.
        """
        status = self._run.watch.newest_status()
        writers = {name_of(network): network["process"] for network in networks(status, fault)}
        reason = self._full.begin(writers | {"coordinator": status["coordinator"]})
        self._journal.note_injection(fault.kind, f"for {fault.duration_seconds:.0f} s", reason)
        self._run.lasting.add(fault, self._make_room)

    def slow_write(self, fault: Fault) -> None:
        """Let the write of a file of a checkpoint hang, and succeed later.

        Args:
            fault: The fault.
        """
        network = networks(self._run.watch.newest_status(), fault)[0]
        write = SlowWrite(
            self._run.site.path,
            network_id=network["id"],
            incarnation=network["incarnation"],
            interval=network["interval"] + AHEAD,
        )
        reason = write.begin()
        if reason:
            self._journal.note_injection(fault.kind, name_of(network), reason)
            return
        target = f"{name_of(network)} for {fault.duration_seconds:.0f} s"
        self._journal.say(f"{fault.kind.value}: {target}")
        self._run.lasting.add(fault, lambda: self._journal.note_injection(fault.kind, target, write.end()))

    def _make_room(self) -> None:
        self._full.end()
        self._journal.say("storage has room")
