"""Repeated measurements: median, least and greatest, ratios pair by pair, as JSON and as a table."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import ray
import torch
from rich.table import Table


@dataclass(frozen=True, kw_only=True)
class Must:
    """What a row's median must reach."""

    rule: Literal["at least", "at most"]
    limit: float

    def holds(self, value: float) -> bool:
        """Whether a value reaches it."""
        return value >= self.limit if self.rule == "at least" else value <= self.limit

    def __str__(self) -> str:
        return f"{self.rule} {self.limit:g}"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One thing, measured several times."""

    what: str
    unit: str
    """ms, images/s, ...; x for a ratio."""
    values: tuple[float, ...]
    """In the order of measuring, at least one."""
    must: Must | None = None
    """None for what is only shown."""

    @property
    def median(self) -> float:
        """Of the values."""
        return statistics.median(self.values)

    @property
    def reached(self) -> bool | None:
        """Whether the median reaches what it must; None where nothing is asked."""
        return None if self.must is None else self.must.holds(self.median)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What one benchmark found."""

    name: str
    repeats: int
    rows: tuple[Row, ...]
    setting: dict[str, Any]
    """What it was measured with: sizes, lengths, counts."""
    notes: tuple[str, ...] = ()
    """What a reader of the table must know."""


def ratio(what: str, above: Sequence[float], below: Sequence[float], must: Must | None = None) -> Row:
    """Ratios of what was measured in one turn: what slows the machine for a while slows both sides of a pair."""
    values = tuple(one / other for one, other in zip(above, below, strict=True))
    return Row(what=what, unit="x", values=values, must=must)


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "processor": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ray": ray.__version__,
        "load_before": [round(load, 2) for load in os.getloadavg()],
    }


def to_json(measurement: Measurement, info: dict[str, Any]) -> dict[str, Any]:
    """A measurement in JSON's types, beside the machine that it was made on."""
    return {
        "name": measurement.name,
        "machine": info,
        "repeats": measurement.repeats,
        "setting": measurement.setting,
        "rows": [_row_json(row) for row in measurement.rows],
        "notes": list(measurement.notes),
    }


def table(measurement: Measurement) -> Table:
    """A row for each thing measured."""
    shown = Table(title=f"{measurement.name}, {measurement.repeats} repeats", title_justify="left")
    for name in ("what", "median", "least", "greatest", "unit", "must", "reached"):
        shown.add_column(name, justify="right" if name in ("median", "least", "greatest") else "left")
    for row in measurement.rows:
        reached = {None: "", True: "yes", False: "NO"}[row.reached]
        shown.add_row(
            row.what,
            *(_number(value) for value in (row.median, min(row.values), max(row.values))),
            row.unit,
            "" if row.must is None else str(row.must),
            reached,
        )
    return shown


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
    """Three digits at least, and no more decimals than they need."""
    if abs(value) >= 100 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 else f"{value:.1e}"
