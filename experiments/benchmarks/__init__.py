"""`inarch bench`: what exchange, fusion, input, grafting and a straggler cost, each beside what it is to beat."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from inarch.experiments.benchmarks.exchange import exchange
from inarch.experiments.benchmarks.fusion import fusion
from inarch.experiments.benchmarks.harness import Measurement, machine, table, to_json
from inarch.experiments.benchmarks.input import read_input
from inarch.experiments.benchmarks.overhead import overhead
from inarch.experiments.benchmarks.straggler import straggler
from inarch.population.errors import ConfigError

BENCHMARKS: dict[str, Callable[..., Measurement]] = {
    "exchange": exchange,
    "fusion": fusion,
    "input": read_input,
    "overhead": overhead,
    "straggler": straggler,
}
"""Each takes `repeats` and gives its measurement."""


def run_benchmarks(names: Sequence[str] = (), *, repeats: int = 5, out: str | None = None, console: Console) -> int:
    """Measure, show a table of each, write the JSON.

    Args:
        names: Of BENCHMARKS; all of them where none is named.
        repeats: Measurements of each thing, at least 1; fewer than 5 are not to be quoted.
        out: File for the JSON; None: it goes to standard output after the tables.
        console: Where the tables go.

    Returns:
        0. What is not reached is said and not made an error: a busy machine is none.

    Raises:
        ConfigError: no repeats, or no such benchmark.
    """
    if repeats < 1:
        raise ConfigError(f"repeats must be at least 1, got {repeats}")
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        raise ConfigError(f"there is no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    info, found = machine(), []
    for name in names or BENCHMARKS:
        console.print(f"{name}: {repeats} repeats", highlight=False)
        measurement = BENCHMARKS[name](repeats=repeats)
        found.append(to_json(measurement, info))
        console.print(table(measurement))
        for note in measurement.notes:
            console.print(note, highlight=False, soft_wrap=True)
    text = json.dumps({"benchmarks": found}, indent=2)
    if out is None:
        print(text)
    else:
        Path(out).write_text(text + "\n")
        console.print(f"written to {out}", highlight=False, soft_wrap=True)
    return 0


__all__ = ["BENCHMARKS", "run_benchmarks"]
