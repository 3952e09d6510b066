"""Repeated measurements, with median, least and greatest value, as a table and as JSON."""

from __future__ import annotations

import contextlib
import os
import platform
import statistics
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import ray
import torch
from rich.table import Table

from inarch.population.training.birth import processor


@dataclass(frozen=True, kw_only=True)
class Must:
    """A target for the median of a row."""

    rule: Literal["at least", "at most"]
    limit: float

    def holds(self, value: float) -> bool:
        """Return whether a value reaches the target.

        Args:
            value: The value, in the unit of the row.
        """
        return value >= self.limit if self.rule == "at least" else value <= self.limit

    def __str__(self) -> str:
        return f"{self.rule} {self.limit:g}"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A quantity that is measured several times."""

    what: str
    """What is measured, in a few words."""
    unit: str
    """Unit of the values, for example ms or images/s. x for a ratio."""
    values: tuple[float, ...]
    """Values in the order of measuring, at least one."""
    must: Must | None = None
    """Target for the median. None if there is none."""

    @property
    def median(self) -> float:
        """Median of the values."""
        return statistics.median(self.values)

    @property
    def reached(self) -> bool | None:
        """Whether the median reaches the target. None without a target."""
        return None if self.must is None else self.must.holds(self.median)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The results of one benchmark."""

    name: str
    repeats: int
    rows: tuple[Row, ...]
    setting: dict[str, Any]
    """Sizes, lengths and counts that the benchmark used, in JSON's types."""
    notes: tuple[str, ...] = ()
    """Facts that a reader of the table must know."""


def ratio(what: str, above: Sequence[float], below: Sequence[float], must: Must | None = None) -> Row:
    """Return a row with the ratios of values that were measured in the same turn.

    If the machine is slow for a while, both values of a pair are slow, and their ratio stays comparable.

    Args:
        what: What is measured, in a few words.
        above: Numerators, one per turn.
        below: Denominators, one per turn.
        must: Target for the median ratio.
    """
    values = tuple(numerator / denominator for numerator, denominator in zip(above, below, strict=True))
    return Row(what=what, unit="x", values=values, must=must)


@contextlib.contextmanager
def one_thread() -> Generator[None]:
    """Let torch compute on one thread within the block.

    Yields:
        Nothing.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def machine() -> dict[str, Any]:
    """Return facts about this machine: cores, processor, system, versions, and the load before the benchmark."""
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "processor": processor(torch.device("cpu")),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ray": ray.__version__,
        "load_before": [round(load, 2) for load in os.getloadavg()],
    }


def to_json(measurement: Measurement, info: dict[str, Any]) -> dict[str, Any]:
    """Return a measurement in JSON's types.

    Args:
        measurement: The measurement.
        info: Facts about the machine, as from `machine`.
    """
    return {
        "name": measurement.name,
        "machine": info,
        "repeats": measurement.repeats,
        "setting": measurement.setting,
        "rows": [_row_json(row) for row in measurement.rows],
        "notes": list(measurement.notes),
    }


def table(measurement: Measurement) -> Table:
    """Return a table with one row per measured quantity.

    Args:
        measurement: The measurement.
    """
    result = Table(title=f"{measurement.name}, {measurement.repeats} repeats", title_justify="left")
    for name in ("what", "median", "least", "greatest", "unit", "must", "reached"):
        result.add_column(name, justify="right" if name in ("median", "least", "greatest") else "left")
    for row in measurement.rows:
        reached = {None: "", True: "yes", False: "NO"}[row.reached]
        result.add_row(
            row.what,
            *(_number(value) for value in (row.median, min(row.values), max(row.values))),
            row.unit,
            "" if row.must is None else str(row.must),
            reached,
        )
    return result


def _row_json(row: Row) -> dict[str, Any]:
    return {
        "what": row.what,
        "unit": row.unit,
        "median": row.median,
        "min": min(row.values),
        "max": max(row.values),
        "values": list(row.values),
        "must": None if row.must is None else str(row.must),
        "reached": row.reached,
    }


def _number(value: float) -> str:
    """Return a number with at least three significant digits, and no more decimals than needed."""
    if abs(value) >= 100 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 else f"{value:.1e}"
