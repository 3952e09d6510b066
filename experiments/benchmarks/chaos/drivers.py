"""The drivers of a chaos run: `inarch train`, `inarch resume` and `inarch stop` as processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from inarch.experiments.benchmarks.chaos.plan import ChaosSetting

NAME = "chaos"
"""Name of the run."""

INTERVALS_PER_MINUTE = 80
"""Intervals of the schedule for each minute of faults. An interval takes about a second, so the faults end first."""

STEP_SECONDS = 0.03
"""Duration to which each training step is padded."""

STEPS = 20
"""Training steps of an interval, about."""

TEXT_CHARACTERS = 64_000
TEXT_CONTEXT, TEXT_BATCH = 32, 32

LEASE_SECONDS = 10.0
STORAGE_SECONDS = 20.0

MAX_RESTARTS = 10
"""Restarts without progress that a network may have. Faults follow one another faster than a network can start."""

MODULE = "inarch.experiments.cli"


def num_intervals(setting: ChaosSetting) -> int:
    """Return the intervals of the schedule, about.

    Args:
        setting: The setting.
    """
    return max(20, round(INTERVALS_PER_MINUTE * setting.minutes))


def train_words(setting: ChaosSetting, *, storage: Path, address: str, text: Path) -> list[str]:
    """Return the words of `inarch train` for a chaos run.

    Args:
        setting: The setting.
        storage: Folder that holds the run's folder.
        address: Address of the cluster, or local.
        text: File for the text that the networks learn. It is written if the task is text.
    """
    options: dict[str, object] = {
        "name": NAME,
        "storage": storage,
        "address": address,
        "mode": setting.mode,
        "seed": setting.seed,
        "population.size": setting.population,
        "population.max-restarts": MAX_RESTARTS,
        "timeouts.lease-seconds": LEASE_SECONDS,
        "timeouts.storage-seconds": STORAGE_SECONDS,
        "debug.straggler.step-seconds": STEP_SECONDS,
    }
    if setting.cluster == "separate":
        options["population.cpus"] = 1
    if setting.task == "images":
        recipe, options["schedule.epochs"] = "digits", num_intervals(setting)
    else:
        recipe = "text-transformer"
        steps = 0.8 * TEXT_CHARACTERS / (TEXT_CONTEXT * TEXT_BATCH)
        options |= {
            "schedule.epochs": max(1, round(num_intervals(setting) * STEPS / steps)),
            "schedule.interval-steps": STEPS,
            "schedule.batch-size": TEXT_BATCH,
            "text.source": text,
            "text.context": TEXT_CONTEXT,
            "text.width": 32,
            "text.layers": 1,
        }
        write_text(text)
    return ["train", recipe, *(word for name, value in options.items() for word in (f"--{name}", str(value)))]


def write_text(path: Path) -> None:
    """Write a small text: the beginning of Python's documentation.

    Args:
        path: The file.
    """
    from pydoc_data.topics import topics

    path.write_text("\n".join(topics.values())[:TEXT_CHARACTERS])


class Driver:
    """One process of `inarch`, and what it prints."""

    def __init__(self, words: Sequence[str], *, log: Path, environment: Mapping[str, str]) -> None:
        """Start the process.

        Args:
            words: Words of the command line after `inarch`.
            log: File for what it prints.
            environment: Its environment variables.
        """
        self.words, self._log = tuple(words), log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", MODULE, *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
            )

    @property
    def status(self) -> int | None:
        """Exit status, negative for a signal. None while it runs."""
        return self.process.poll()

    @property
    def printed_bytes(self) -> int:
        """Bytes that it has printed so far."""
        return self._log.stat().st_size

    def text(self) -> str:
        """Return what it has printed so far."""
        return self._log.read_text(errors="replace")

    def complaint(self, expected: Sequence[int]) -> str:
        """Return what is wrong with its end. Empty if nothing is.

        Args:
            expected: Exit statuses of which it must have one. Empty: it must not have ended.
        """
        text, status = self.text(), self.status
        last = " / ".join(text.strip().splitlines()[-3:])
        if status not in expected:
            wanted = " or ".join(map(str, expected)) or "no end"
            return f"inarch {self.words[0]} exited with {status} (expected: {wanted}): {last}"
        if "Traceback" in text:
            return f"inarch {self.words[0]} printed a traceback: {last}"
        return ""
