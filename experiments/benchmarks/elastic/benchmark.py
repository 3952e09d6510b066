"""Measure how a population follows its cluster: from 2 networks to 6 on new nodes, and to 3 when a node is lost."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path

from inarch.experiments.benchmarks.elastic.measures import Measures, measures
from inarch.experiments.benchmarks.elastic.trial import LARGE_NODE, NAME, SMALL_NODE, Times
from inarch.experiments.benchmarks.harness import Measurement, Must, Row, ratio
from inarch.experiments.benchmarks.processes import leftovers
from inarch.experiments.comparison.statistics import interval
from inarch.population.errors import RunError
from inarch.population.persistence.history import read_table
from inarch.population.persistence.storage import Storage

TRIAL = "inarch.experiments.benchmarks.elastic.trial"
"""Module that plays one trial."""

TRIAL_SECONDS = 1200.0
"""Longest time for a trial."""

LEAVE_SECONDS = 30.0
"""Time that the processes of a trial have to end."""

USED = Must(rule="at most", limit=30.0)
UNHURT = Must(rule="at least", limit=0.95)


def elastic(*, repeats: int = 5, epochs: int = 40, step_seconds: float = 0.1) -> Measurement:
    """Measure how soon new nodes are used, what that costs the other networks, and how well the newcomers end.

    Each repeat is a run with a seed of its own, on a cluster of its own whose nodes are processes of this machine. The
    newcomers start with a copy of another network's weights. Those whose node is lost wait until others end, and go
    on from their checkpoints.

    Args:
        repeats: Number of runs.
        epochs: Epochs of the schedule. They must last until all networks have trained side by side.
        step_seconds: Duration to which every step is padded, so that the number of cores does not limit the pace.

    Raises:
        RunError: A run failed. The message has the end of what it printed.
    """
    trials = [trial(seed, epochs=epochs, step_seconds=step_seconds) for seed in range(repeats)]
    setting = {
        "epochs": epochs,
        "step_seconds": step_seconds,
        "nodes_added": [LARGE_NODE, SMALL_NODE],
        "node_removed": LARGE_NODE,
    }
    return Measurement(name="elastic", repeats=repeats, rows=rows(trials), setting=setting, notes=notes(trials))


def trial(seed: int, *, epochs: int, step_seconds: float) -> Measures:
    """Play one trial in a process of its own, and measure it.

    Args:
        seed: Seed of the run.
        epochs: Epochs of the schedule.
        step_seconds: Duration of a step.

    Raises:
        RunError: The trial failed.
    """
    token, folder = uuid.uuid4().hex, Path(tempfile.mkdtemp(prefix="el-"))  # short, because Ray's sockets lie below it
    (folder / "tmp").mkdir()
    secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    words = [sys.executable, "-m", TRIAL, str(folder), str(seed), str(epochs), str(step_seconds)]
    try:
        completed = subprocess.run(
            words,
            env=leftovers.environment(token, folder, secret),
            capture_output=True,
            text=True,
            timeout=TRIAL_SECONDS,
            check=False,
        )
        if completed.returncode:
            raise RunError(f"elastic, seed {seed}: the trial failed:\n{completed.stderr[-2000:]}")
        times = parsed(completed.stdout)
        return measures(times, read_table(Storage(str(folder / NAME)), "metrics"), step_seconds=step_seconds)
    except subprocess.TimeoutExpired:
        raise RunError(f"elastic, seed {seed}: the trial had not ended after {TRIAL_SECONDS:g} s") from None
    finally:
        leftovers.remaining_processes(token, seconds=LEAVE_SECONDS)
        shutil.rmtree(folder, ignore_errors=True)


def parsed(output: str) -> Times:
    """Return the times that a trial has printed in its last line.

    Args:
        output: What it printed.
    """
    content = json.loads(output.splitlines()[-1])
    accuracies = {int(network_id): accuracy for network_id, accuracy in content["accuracies"].items()}
    return Times(**content | {"lost": tuple(content["lost"]), "accuracies": accuracies})


def rows(trials: Sequence[Measures]) -> tuple[Row, ...]:
    """Return the rows of the table.

    Args:
        trials: The trials, at least one.
    """

    def values(name: str) -> tuple[float, ...]:
        return tuple(getattr(one, name) for one in trials)

    before = values("pace")
    return (
        Row(what="nodes appear to the first newcomer's step", unit="s", values=values("first_step"), must=USED),
        Row(what="nodes appear to the last newcomer's step", unit="s", values=values("all_steps")),
        Row(what="pace of the founders alone", unit="intervals/s", values=before),
        ratio("pace of the founders while four join / alone", values("pace_growing"), before, UNHURT),
        ratio("pace of the founders among six / alone", values("pace_together"), before),
        ratio("pace of the others after a node is lost / alone", values("pace_after_loss"), before, UNHURT),
        Row(what="accuracy of the founders", unit="%", values=values("founders")),
        Row(what="accuracy of the newcomer that stayed", unit="%", values=values("stayed")),
        Row(what="accuracy of the newcomers that were lost", unit="%", values=values("returned")),
    )


def notes(trials: Sequence[Measures]) -> tuple[str, ...]:
    """Return how much better the newcomers are than the founders, paired by seed.

    Args:
        trials: The trials, at least one.
    """
    stayed = interval([one.stayed - one.founders for one in trials])
    returned = interval([one.returned - one.founders for one in trials])
    return (
        f"the newcomer that stayed minus the founders: {stayed.mean:+.2f} ± {stayed.half:.2f} points (95 %)",
        f"the newcomers that were lost minus the founders: {returned.mean:+.2f} ± {returned.half:.2f} points (95 %)",
    )
