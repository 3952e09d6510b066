"""What the report of a run shows, read from the run's folder without Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from inarch.population.evaluation.metrics import Metric
from inarch.population.membership.members import MemberRecord
from inarch.population.persistence.history import read_table
from inarch.population.persistence.storage import Storage
from inarch.population.tasks.run_folder import end_state, members_of, metrics_of, read_config, read_members, read_result

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
    known = filters.filter(pc.field("filters") > 0)
    shares = pc.call_function("divide", [known["invalid_0_1"].cast(pa.float64()), known["filters"]])
    return RunContent(
        name=str(recorded["config"].get("name")),
        state=end_state(storage, recorded) or record.get("state", "starting"),
        message=record.get("message", ""),
        config=recorded["config"],
        info=recorded["info"],
        metrics=metrics_of(storage, recorded),
        members=tuple(members_of(record)) if record else (),
        rows=tuple(read_table(storage, "metrics").to_pylist()),
        exchanges=tuple(_exchanges(grafts)),
        events=tuple(record.get("events", ())),
        alpha=grid(grafts["layer"], grafts["interval"], grafts["alpha"]),
        entropy=grid(filters["layer"], filters["interval"], filters["entropy"]),
        invalid=grid(known["layer"], known["interval"], shares),
        result=result,
    )


def grid(layers: pa.ChunkedArray, intervals: pa.ChunkedArray, values: pa.ChunkedArray) -> Grid:
    """Return the means of values by layer and interval, in at most `MAX_COLUMNS` columns.

    Arrow computes them, because a large population has millions of values.

    Args:
        layers: Layer of each value.
        intervals: Interval of each value.
        values: The values. Several values of one cell are averaged, and null is left out.
    """
    table = pa.table({"layer": layers, "interval": intervals, "value": values}).drop_null()
    cells = table.group_by(["layer", "interval"], use_threads=False).aggregate([("value", "sum"), ("value", "count")])
    known = sorted(set(cells["interval"].to_pylist()))
    width = -(-len(known) // MAX_COLUMNS) or 1
    column_of = {interval: position // width for position, interval in enumerate(known)}
    names = tuple(dict.fromkeys(cells["layer"].to_pylist()))
    row_of = {layer: position for position, layer in enumerate(names)}
    sums = [[0.0] * -(-len(known) // width) for _ in names]
    counts = [[0] * len(row) for row in sums]
    for cell in cells.to_pylist():
        row, column = row_of[cell["layer"]], column_of[cell["interval"]]
        sums[row][column] += cell["value_sum"]
        counts[row][column] += cell["value_count"]
    return Grid(
        layers=names,
        intervals=tuple(known[::width]),
        values=tuple(
            tuple(total / count if count else None for total, count in zip(*pair, strict=True))
            for pair in zip(sums, counts, strict=True)
        ),
    )


def _exchanges(grafts: pa.Table) -> list[Row]:
    """Return one row for each graft and donor, with the mean alpha over its layers."""
    keys = ["rootstock", "interval", "scion"]
    groups = grafts.group_by(keys, use_threads=False)
    found = groups.aggregate([("staleness_intervals", "first"), ("alpha", "mean")])
    return found.rename_columns(
        [name.removesuffix("_first").removesuffix("_mean") for name in found.column_names]
    ).to_pylist()
