"""All benchmarks by name, and the command that runs them. The benchmark `gpu` measures what a GPU does."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console

from inarch.experiments.benchmarks.checkpoint import checkpoint
from inarch.experiments.benchmarks.coordinator.benchmark import coordinator
from inarch.experiments.benchmarks.elastic.benchmark import elastic
from inarch.experiments.benchmarks.exchange.benchmark import exchange
from inarch.experiments.benchmarks.fusion import fusion
from inarch.experiments.benchmarks.gpu import check_gpu, gpu
from inarch.experiments.benchmarks.harness import Measurement, machine, table, to_json
from inarch.experiments.benchmarks.input.benchmark import read_input
from inarch.experiments.benchmarks.join import join_loop
from inarch.experiments.benchmarks.speed.overhead import overhead
from inarch.experiments.benchmarks.speed.startup import startup
from inarch.experiments.benchmarks.speed.straggler import straggler
from inarch.experiments.benchmarks.speed.training import training
from inarch.population.errors import ConfigError
from inarch.population.persistence.paths import prepare_file

BENCHMARKS: dict[str, Callable[..., Measurement]] = {
    "checkpoint": checkpoint,
    "coordinator": coordinator,
    "elastic": elastic,
    "exchange": exchange,
    "fusion": fusion,
    "gpu": gpu,
    "input": read_input,
    "join": join_loop,
    "overhead": overhead,
    "startup": startup,
    "straggler": straggler,
    "training": training,
}
"""Benchmarks by name. Each takes `repeats` and returns a measurement."""

ON_REQUEST = frozenset({"elastic", "gpu"})
"""Benchmarks that run only if they are named: elastic takes a quarter of an hour, and gpu needs a GPU."""


def run_benchmarks(
    names: Sequence[str] = (),
    *,
    repeats: int = 5,
    seconds: float = 300.0,
    out: str | None = None,
    console: Console,
) -> int:
    """Run benchmarks, print a table of each, and write all results as JSON.

    Args:
        names: Names in BENCHMARKS. Empty: all but those on request.
        repeats: How often each quantity is measured, at least 1. Results of fewer than 5 should not be quoted.
        seconds: Time for the benchmark gpu.
        out: File for the JSON. None: print it to standard output after the tables.
        console: Console for the tables.

    Returns:
        The exit status, always 0. A target that is not reached shows in the table. It is no error, because a busy
        machine can cause it.

    Raises:
        ConfigError: `repeats` is below 1, there is no such benchmark, or no GPU for the one that needs it.
        StorageError: `out` cannot be written.
    """
    if repeats < 1:
        raise ConfigError(f"repeats must be at least 1, got {repeats}")
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        raise ConfigError(f"there is no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    if "gpu" in names:
        check_gpu()
    file = None if out is None else prepare_file(out)
    info, results = machine(), []
    for name in names or [name for name in BENCHMARKS if name not in ON_REQUEST]:
        console.print(f"{name}: {repeats} repeats", highlight=False)
        options = {"seconds": seconds} if name == "gpu" else {}
        measurement = BENCHMARKS[name](repeats=repeats, **options)
        results.append(to_json(measurement, info))
        console.print(table(measurement))
        for note in measurement.notes:
            console.print(note, highlight=False, soft_wrap=True)
        if file is not None:  # after each benchmark, so that a command that is interrupted leaves its results
            file.write_text(_as_json(results) + "\n")
    if file is None:
        print(_as_json(results))
    else:
        console.print(f"written to {out}", highlight=False, soft_wrap=True)
    return 0


def _as_json(results: list[dict[str, Any]]) -> str:
    return json.dumps({"benchmarks": results}, indent=2)
