"""What happened, as rows: one for each network and interval, one for each graft and layer, one for each evaluated
interval and layer.

Rows are committed with the checkpoint that follows them, and `metrics/`, `grafts/` and `filters/` hold the committed
ones, a part for each checkpoint, named after it: written twice they are the same file, so nothing is counted twice or
lost.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from inarch.population.persistence.storage import Storage

THRESHOLDS = {"invalid_1": 1.0, "invalid_0_1": 0.1, "invalid_0_01": 0.01, "invalid_0_001": 0.001}
"""Columns of the history, and the l1 norm below which a filter is invalid there: those that the papers tabulate."""


METRICS = pa.schema(
    [
        ("network", pa.int64()),
        ("interval", pa.int64()),
        ("incarnation", pa.int64()),
        ("epoch", pa.float64()),
        ("step", pa.int64()),
        ("learning_rate", pa.float64()),
        ("train_loss", pa.float64()),
        ("train_accuracy", pa.float64()),
        ("validation_loss", pa.float64()),
        ("validation_accuracy", pa.float64()),
        ("validation_mean_average_precision", pa.float64()),
        ("images", pa.int64()),
        ("images_per_second", pa.float64()),
        ("seconds_steps", pa.float64()),
        ("seconds_evaluate", pa.float64()),
        ("seconds_stage", pa.float64()),
        ("seconds_publish", pa.float64()),
        ("seconds_fetch", pa.float64()),
        ("seconds_graft", pa.float64()),
        ("outcome", pa.string()),
        ("grafts", pa.int64()),
        ("time", pa.float64()),
    ]
)
"""validation_*: as `population.evaluation.Scores`, null where an interval was not judged or its task has no such score;
outcome: 'grafted', 'kept' (the rule took nothing; in async also the last interval), 'off', or the refusal's name;
grafts: taken so far; time: seconds of the host's clock."""

GRAFTS = pa.schema(
    [
        ("rootstock", pa.int64()),
        ("scion", pa.int64()),
        ("interval", pa.int64()),
        ("incarnation", pa.int64()),
        ("rootstock_version", pa.int64()),
        ("scion_version", pa.int64()),
        ("scion_incarnation", pa.int64()),
        ("staleness_intervals", pa.float64()),
        ("staleness_steps", pa.float64()),
        ("staleness_seconds", pa.float64()),
        ("compensated_intervals", pa.int64()),
        ("layer", pa.string()),
        ("own_information", pa.float64()),
        ("scion_information", pa.float64()),
        ("alpha", pa.float64()),
    ]
)
"""interval: the rootstock's, equal to rootstock_version; versions count intervals; compensated_intervals: of the
rootstock's training that the scion was brought forward by; alpha: the part of its own that the layer kept, at level
filter a mean over its weights; informations: null where no layer's information was asked for."""

FILTERS = pa.schema(
    [
        ("network", pa.int64()),
        ("interval", pa.int64()),
        ("incarnation", pa.int64()),
        ("layer", pa.string()),
        ("filters", pa.int64()),
        ("entropy", pa.float64()),
        ("mean_l1", pa.float64()),
        *((name, pa.int64()) for name in THRESHOLDS),
    ]
)
"""Before the interval's exchange; invalid_x: filters whose l1 norm lies below that threshold."""

FUSION = pa.schema(
    [
        ("network", pa.int64()),
        ("interval", pa.int64()),
        ("incarnation", pa.int64()),
        ("epoch", pa.int64()),
        ("layer", pa.string()),
        ("filters", pa.int64()),
        ("kept", pa.int64()),
        ("temperature", pa.float64()),
        ("effective", pa.float64()),
        ("changed", pa.int64()),
        ("discarded_gradient", pa.float64()),
    ]
)
"""As `population.fusion.LayerFusion`, at the beginning of each epoch of a compact network."""

TABLES = {"metrics": METRICS, "grafts": GRAFTS, "filters": FILTERS, "fusion": FUSION}

Rows = Mapping[str, Sequence[Mapping[str, Any]]]
"""Rows by table name."""


def to_parquet(rows: Sequence[Mapping[str, Any]], table: str) -> bytes:
    """Rows of one table as a Parquet file's bytes."""
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=TABLES[table]), sink, compression="zstd")
    return sink.getvalue()


def read_table(storage: Storage, table: str) -> pa.Table:
    """All committed rows of one of TABLES of a run, by network and interval. Of an interval that was trained again
    after a death only the last time counts."""
    whole = _parts(storage, table)
    key = "rootstock" if table == "grafts" else "network"
    last = _last_incarnations(whole if table == "metrics" else _parts(storage, "metrics")).rename_columns(
        [key, "interval", "last"]
    )
    joined = whole.join(last, [key, "interval"])
    is_last = pc.field("incarnation") == pc.field("last")
    names = TABLES[table].names
    order = [(key, "ascending"), ("interval", "ascending")]
    return joined.filter(is_last).select(names).cast(TABLES[table]).sort_by(order)


def _parts(storage: Storage, table: str) -> pa.Table:
    found = [
        pq.read_table(io.BytesIO(storage.read(f"{table}/{name}")), schema=TABLES[table])
        for name in storage.names(table)
        if name.endswith(".parquet")
    ]
    return pa.concat_tables(found) if found else TABLES[table].empty_table()


def _last_incarnations(metrics: pa.Table) -> pa.Table:
    """network, interval and the last incarnation that trained it."""
    grouped = metrics.group_by(["network", "interval"]).aggregate([("incarnation", "max")])
    return grouped.select(["network", "interval", "incarnation_max"])
