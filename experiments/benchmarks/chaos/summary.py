"""Tables and JSON of chaos runs."""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from inarch.experiments.benchmarks.chaos.outcome import ChaosOutcome

MAX_SHOWN = 3
"""Most problems of a run that its verdict names."""

NOTHING_INJECTED = "no fault was injected"

MAX_SHOWN_CHARACTERS = 80
"""Most characters of a problem in the table."""


def counts(outcome: ChaosOutcome) -> dict[str, int]:
    """Return how many faults of each kind were injected, most frequent first.

    Args:
        outcome: The run.
    """
    kinds = (injection.kind.value for injection in outcome.injections if injection.has_happened)
    return dict(collections.Counter(kinds).most_common())


def verdict(outcome: ChaosOutcome) -> str:
    """Return in a line whether everything held, and how many faults could not be injected.

    Args:
        outcome: The run.
    """
    absent = sum(not injection.has_happened for injection in outcome.injections)
    text = "passed" if outcome.has_passed else f"FAILED: {'; '.join(outcome.problems[:MAX_SHOWN]) or NOTHING_INJECTED}"
    if len(outcome.problems) > MAX_SHOWN:
        text += f"; and {len(outcome.problems) - MAX_SHOWN} more"
    return text + (f" ({absent} of {len(outcome.injections)} faults could not be injected)" if absent else "")


def table(outcomes: Sequence[ChaosOutcome]) -> Table:
    """Return a table with a row for each run.

    Args:
        outcomes: The runs.
    """
    passed = sum(outcome.has_passed for outcome in outcomes)
    result = Table(title=f"chaos: {passed} of {len(outcomes)} passed", title_justify="left")
    for name in ("seed", "Ray, mode, task", "faults", "drivers", "intervals", "seconds", "verdict"):
        result.add_column(name, justify="left" if name in ("Ray, mode, task", "faults", "verdict") else "right")
    for outcome in outcomes:
        faults = ", ".join(f"{count} {kind}" for kind, count in counts(outcome).items())
        numbers = (str(outcome.drivers), str(outcome.rows), f"{outcome.seconds:.0f}")
        first = [*outcome.problems, NOTHING_INJECTED][0][:MAX_SHOWN_CHARACTERS]
        passed_text = "passed" if outcome.has_passed else f"FAILED: {first}"
        result.add_row(str(outcome.setting.seed), outcome.setting.name, faults, *numbers, passed_text)
    return result


def to_json(outcome: ChaosOutcome) -> dict[str, Any]:
    """Return a run in JSON's types.

    Args:
        outcome: The run.
    """
    return {
        "setting": dataclasses.asdict(outcome.setting),
        "has_passed": outcome.has_passed,
        "problems": list(outcome.problems),
        "faults": counts(outcome),
        "injections": [dataclasses.asdict(injection) for injection in outcome.injections],
        "drivers": outcome.drivers,
        "intervals": outcome.rows,
        "seconds": round(outcome.seconds, 1),
        "load_after": [round(load, 2) for load in os.getloadavg()],
    }
