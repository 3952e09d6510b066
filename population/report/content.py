"""What the report of a run shows, read from the run's folder without Ray."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inarch.population.evaluation.metrics import Metric
from inarch.population.membership.members import MemberRecord
from inarch.population.persistence.history import read_table
from inarch.population.persistence.storage import Storage
from inarch.population.tasks.run_folder import members_of, metrics_of, read_config, read_members, read_result

Row = Mapping[str, Any]

MAX_COLUMNS = 200
"""Most columns of a picture over the intervals. With more intervals, neighboring ones are averaged."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Values by layer and interval."""

    layers: tuple[str, ...]
    intervals: tuple[int, ...]
    """First interval of each column."""
    values: tuple[tuple[float | None, ...], ...]
    """A row for each layer. None where nothing was recorded."""


@dataclass(frozen=True, kw_only=True)
class RunContent:
    """Everything that the report of a run shows."""

    name: str
    state: str
    """Phase of the run, as last recorded."""
    message: str
    """Newest failure. Empty if there was none."""
    config: Mapping[str, Any]
    info: Mapping[str, Any]
    metrics: tuple[Metric, ...]
    members: tuple[MemberRecord, ...]
    rows: tuple[Row, ...]
    """Rows of the table `metrics`."""
    exchanges: tuple[Row, ...]
    """A row for each graft and donor: rootstock, scion, interval, staleness_intervals, alpha (a mean over layers)."""
    events: tuple[Row, ...]
    """Events that changed a member or the run: seconds, kind, network_id and detail."""
    alpha: Grid
    """Mean alpha over the networks."""
    entropy: Grid
    """Mean entropy of the layers over the networks."""
    invalid: Grid
    """Mean share of filters whose l1 norm is below 0.1."""
    result: Mapping[str, Any] | None
    """Contents of result.json. None before the end of the run."""


def read_content(storage: Storage) -> RunContent:
    """Read what the report shows.

    Args:
        storage: The run's folder. The run may still be live.

    Raises:
        RunError: config.json is damaged.
        StorageError: A file cannot be read.
    """
    recorded, record = read_config(storage), read_members(storage) or {}
    result = read_result(storage)
    grafts, filters = read_table(storage, "grafts"), read_table(storage, "filters")
    columns = ["rootstock", "scion", "interval", "layer", "staleness_intervals", "alpha"]
    graft_rows = grafts.select(columns).to_pylist()
    filter_rows = filters.select(["interval", "layer", "entropy", "filters", "invalid_0_1"]).to_pylist()
    return RunContent(
        name=str(recorded["config"].get("name")),
        state=record.get("state", "starting"),
        message=record.get("message", ""),
        config=recorded["config"],
        info=recorded["info"],
        metrics=metrics_of(storage, recorded),
        members=tuple(members_of(record)) if record else (),
        rows=tuple(read_table(storage, "metrics").to_pylist()),
        exchanges=tuple(_exchanges(graft_rows)),
        events=tuple(record.get("events", ())),
        alpha=grid((row["layer"], row["interval"], row["alpha"]) for row in graft_rows),
        entropy=grid((row["layer"], row["interval"], row["entropy"]) for row in filter_rows),
        invalid=grid(
            (row["layer"], row["interval"], row["invalid_0_1"] / row["filters"] if row["filters"] else None)
            for row in filter_rows
        ),
        result=result,
    )


def grid(cells: Iterable[tuple[str, int, float | None]]) -> Grid:
    """Return the means of values by layer and interval, in at most `MAX_COLUMNS` columns.

    Args:
        cells: Layer, interval and value. Several values of one cell are averaged, and None is left out.
    """
    known = [(layer, interval, value) for layer, interval, value in cells if value is not None]
    intervals = sorted({interval for _, interval, _ in known})
    width = -(-len(intervals) // MAX_COLUMNS) or 1
    column_of = {interval: position // width for position, interval in enumerate(intervals)}
    layers = tuple(dict.fromkeys(layer for layer, _, _ in known))
    row_of = {layer: position for position, layer in enumerate(layers)}
    num_columns = -(-len(intervals) // width)
    values: list[list[list[float]]] = [[[] for _ in range(num_columns)] for _ in layers]
    for layer, interval, value in known:
        values[row_of[layer]][column_of[interval]].append(value)
    return Grid(
        layers=layers,
        intervals=tuple(intervals[::width]),
        values=tuple(tuple(statistics.fmean(cell) if cell else None for cell in row) for row in values),
    )


def _exchanges(rows: Sequence[Row]) -> list[Row]:
    """Return one row for each graft and donor, with the mean alpha over its layers."""
    alphas: dict[tuple[int, int, int], list[float]] = {}
    first: dict[tuple[int, int, int], Row] = {}
    for row in rows:
        key = row["rootstock"], row["interval"], row["scion"]
        first.setdefault(key, row)
        alphas.setdefault(key, []).append(row["alpha"])
    return [dict(row) | {"alpha": statistics.fmean(alphas[key])} for key, row in first.items()]
