"""Measure what a first `inarch train` takes besides training, phase by phase, and what `inarch status` costs."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from inarch.experiments.benchmarks.harness import Measurement, Must, Row
from inarch.population.errors import RunError

EPOCHS = 8
"""Epochs of the run, as in README."""

LIMIT_SECONDS = 15.0
"""Most seconds that a run may take besides training, on a machine with two cores that does nothing else."""

LIMIT_CPU_SECONDS = 1.5
"""Most CPU seconds of `inarch status`."""

MARKS = {"read": "starting Ray", "ready": "dashboard: ", "placed": ": joins", "finished": "finished"}
"""Parts of the lines that end the phases."""

COMMAND = (sys.executable, "-m", "inarch.experiments.cli")

FLOORS = {
    "reference: start and end Ray": "import ray; ray.init(logging_level=40); ray.shutdown()",
    "reference: import torch": "import torch",
}
"""Programs whose time a run cannot avoid."""


def startup(*, repeats: int) -> Measurement:
    """Measure `inarch train` on the digits, from its start to its end.

    Args:
        repeats: Runs, at least 1.

    Raises:
        RunError: A run failed.
    """
    phases: dict[str, list[float]] = {}
    status: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(repeats):
            for name, seconds in _run(Path(folder), f"startup-{number}").items():
                phases.setdefault(name, []).append(seconds)
            status.append(_cpu_seconds([*COMMAND, "status", f"startup-{number}", "--storage", folder]))
            for name, program in FLOORS.items():
                phases.setdefault(name, []).append(_wall_seconds([sys.executable, "-c", program]))
    must = {
        "all but training": Must(rule="at most", limit=LIMIT_SECONDS),
    }
    rows = [Row(what=name, unit="s", values=tuple(values), must=must.get(name)) for name, values in phases.items()]
    limit = Must(rule="at most", limit=LIMIT_CPU_SECONDS)
    rows.append(Row(what="inarch status of a finished run", unit="CPU s", values=tuple(status), must=limit))
    return Measurement(
        name="startup", repeats=repeats, rows=tuple(rows), setting={"epochs": EPOCHS, "recipe": "digits"}
    )


def _run(folder: Path, name: str) -> dict[str, float]:
    """Run `inarch train`, and return the seconds of its phases."""
    words = ["train", "--name", name, "--storage", str(folder), "--schedule.epochs", str(EPOCHS)]
    began = time.monotonic()
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    process = subprocess.Popen(
        [*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    assert process.stdout is not None
    marks: dict[str, float] = {}
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        for mark, part in MARKS.items():
            if part in line:
                marks.setdefault(mark, time.monotonic() - began)
    is_over = process.wait() == 0
    whole = time.monotonic() - began
    trained = re.search(r"trained in ([\d.]+) s", "".join(lines))
    if not is_over or trained is None or len(marks) < len(MARKS):
        raise RunError(f"inarch train ended with exit status {process.returncode}: {''.join(lines[-20:])}")
    training = float(trained.group(1))
    return {
        "all but training": whole - training,
        "until the command is read": marks["read"],
        "until data and model are checked": marks["ready"] - marks["read"],
        "until the networks train": marks["placed"] - marks["ready"],
        "training": training,
        "evaluation and result": marks["finished"] - marks["placed"] - training,
        "until the command ends": whole - marks["finished"],
    }


def _wall_seconds(command: list[str]) -> float:
    began = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    return time.monotonic() - began


def _cpu_seconds(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
