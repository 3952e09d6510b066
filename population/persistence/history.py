"""The history of a run, as Parquet tables.

    metrics/   a row for each network and interval
    grafts/    a row for each graft and layer
    filters/   a row for each evaluated interval and layer
    fusion/    a row for each epoch and layer of a compact network

Rows are committed with the checkpoint that follows them. The folders hold only committed rows, with a file for each
checkpoint that bears its name. Writing a file twice gives the same file, so no row is lost or counted twice. At the end
of a run the files of each table are folded into one.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from inarch.population.errors import MissingError
from inarch.population.persistence.storage import Storage

THRESHOLDS = {"invalid_1": 1.0, "invalid_0_1": 0.1, "invalid_0_01": 0.01, "invalid_0_001": 0.001}
"""Columns of the filters table, each with its threshold: a filter is invalid if its l1 norm is below it. The papers
tabulate these thresholds."""


METRICS = pa.schema(
    [
        ("network", pa.int64()),
        ("interval", pa.int64()),
        ("incarnation", pa.int64()),
        ("epoch", pa.float64()),
        ("step", pa.int64()),
        ("learning_rate", pa.float64()),
        ("train_loss", pa.float64()),
        ("examples", pa.int64()),
        ("examples_per_second", pa.float64()),
        ("seconds_steps", pa.float64()),
        ("seconds_evaluate", pa.float64()),
        ("seconds_stage", pa.float64()),
        ("seconds_publish", pa.float64()),
        ("seconds_fetch", pa.float64()),
        ("seconds_graft", pa.float64()),
        ("seconds_commit", pa.float64()),
        ("outcome", pa.string()),
        ("grafts", pa.int64()),
        ("time", pa.float64()),
    ]
)
"""A row for each network and interval.

After train_loss come columns for the metrics that the task names, all of type float64:

- train_NAME: mean over the interval's training examples of a metric that the task's loss gives.
- validation_NAME: metric of the validation data. Null if the interval was not evaluated.

The other columns:

- examples: examples that the network trained on in the interval.
- seconds_*: duration of each phase. seconds_commit is that of the interval before: copies for its checkpoint, and the
  hand-over to the thread that writes it. 0 after a start. Null in runs of older versions, and for guests.
- outcome: a value of `population.membership.outcome.ExchangeOutcome`.
- grafts: grafts of the network so far.
- time: seconds of the runtime's clock.
"""

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
"""A row for each graft and layer.

- rootstock, scion: ids of the two networks.
- interval: interval of the rootstock, equal to rootstock_version. Versions count intervals.
- compensated_intervals: intervals of the rootstock's training that delay compensation added to the scion.
- own_information, scion_information: information of the layer in each network. Null if the rule measures none.
- alpha: share of its own weights that the layer kept. At level filter, the mean over the layer's weights.
"""

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
"""A row for each evaluated interval and layer, measured before the interval's exchange.

- filters: filters of the layer.
- entropy: entropy of the layer, in nats.
- mean_l1: mean l1 norm of the filters.
- invalid_x: filters with an l1 norm below that threshold, see THRESHOLDS.
"""

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
"""A row for each layer at the beginning of each epoch of a compact network. The columns are those of
`population.fusion.LayerFusion`."""

TABLES = {"metrics": METRICS, "grafts": GRAFTS, "filters": FILTERS, "fusion": FUSION}

READ_ATTEMPTS = 5
"""How often the files of a table are listed and read if one of them vanishes."""

PREFIX = "folded-"
"""Beginning of the name of a file that replaces others."""

FOLDED = b"inarch.folded"
"""Key of the metadata of a Parquet file that names the files that it replaces."""

Rows = Mapping[str, Sequence[Mapping[str, Any]]]
"""Rows by table name. A row holds values by column name."""


def to_parquet(rows: Sequence[Mapping[str, Any]], table: str) -> bytes:
    """Return rows of a table as the bytes of a Parquet file.

    Args:
        rows: Values by column name.
        table: Name of the table, a key of TABLES.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    sink = io.BytesIO()
    content = pa.Table.from_pylist([dict(row) for row in rows], schema=_schema(table, names))
    pq.write_table(content, sink, compression="zstd")
    return sink.getvalue()


def read_table(storage: Storage, table: str) -> pa.Table:
    """Return all committed rows of a table, sorted by network and interval.

    An interval that was trained again after a restart counts once, with the rows of its last incarnation.

    Args:
        storage: The run's folder.
        table: Name of the table, a key of TABLES.

    Raises:
        StorageError: A file cannot be read.
    """
    rows = _parts(storage, table)
    key = "rootstock" if table == "grafts" else "network"
    last = _last_incarnations(rows if table == "metrics" else _parts(storage, "metrics")).rename_columns(
        [key, "interval", "last"]
    )
    joined = rows.join(last, [key, "interval"])
    is_last = pc.field("incarnation") == pc.field("last")
    schema = _schema(table, rows.schema.names)
    order = [(key, "ascending"), ("interval", "ascending")]
    return joined.filter(is_last).select(schema.names).cast(schema).sort_by(order)


def fold_history(storage: Storage) -> None:
    """Fold the files of each table into one, so that a long run of many networks does not leave a file per checkpoint.

    The new file names those that it replaces, and readers skip them. A process that dies before it has deleted them
    therefore counts no row twice, nor does a checkpoint whose rows are written again. The next fold deletes them.

    Args:
        storage: The run's folder. No network may write to it meanwhile.

    Raises:
        StorageError: A file cannot be read or written. Nothing is lost.
    """
    for table in TABLES:
        names = _file_names(storage, table)
        files = _read_files(storage, table)
        if len(names) < 2:
            continue
        replaced = sorted({*names, *files, *(name for content in files.values() for name in _replaced_by(content))})
        content = _whole(table, files).replace_schema_metadata({FOLDED: json.dumps(replaced).encode()})
        sink = io.BytesIO()
        pq.write_table(content, sink, compression="zstd")
        number = sum(name.startswith(PREFIX) for name in replaced)
        storage.write(f"{table}/{PREFIX}{number:04d}.parquet", sink.getvalue())
        for name in names:
            storage.delete(f"{table}/{name}")


def replaced_files(storage: Storage, table: str) -> frozenset[str]:
    """Return the names of the files of a table that were folded into another.

    Args:
        storage: The run's folder.
        table: Name of the table, a key of TABLES.

    Raises:
        StorageError: A file cannot be read.
    """
    folded = [name for name in _file_names(storage, table) if name.startswith(PREFIX)]
    return frozenset(name for file in folded for name in _replaced_by(_read_file(storage, table, file)))


def _parts(storage: Storage, table: str) -> pa.Table:
    """All files of a table, concatenated. A column that a file of another version lacks is null there."""
    return _whole(table, _read_files(storage, table))


def _file_names(storage: Storage, table: str) -> list[str]:
    return [name for name in storage.names(table) if name.endswith(".parquet")]


def _read_files(storage: Storage, table: str) -> dict[str, pa.Table]:
    """Return the files of a table by name, without those that another file has replaced.

    If another process folds the table meanwhile, a file may vanish. The files are then listed again.
    """
    for _ in range(READ_ATTEMPTS - 1):
        with contextlib.suppress(MissingError):
            return _read_files_once(storage, table)
    return _read_files_once(storage, table)


def _read_files_once(storage: Storage, table: str) -> dict[str, pa.Table]:
    files: dict[str, pa.Table] = {}
    replaced: set[str] = set()
    names = _file_names(storage, table)
    for name in sorted(names, key=lambda name: not name.startswith(PREFIX)):  # a folded file names those to skip
        if name not in replaced:
            files[name] = _read_file(storage, table, name)
            replaced |= _replaced_by(files[name])
    return {name: content for name, content in files.items() if name not in replaced}


def _read_file(storage: Storage, table: str, name: str) -> pa.Table:
    return pq.read_table(io.BytesIO(storage.read(f"{table}/{name}")))


def _replaced_by(content: pa.Table) -> set[str]:
    """Return the names of the files that a file replaces."""
    metadata: Mapping[bytes, bytes] = content.schema.metadata or {}
    return set(json.loads(metadata.get(FOLDED, b"[]")))


def _whole(table: str, files: Mapping[str, pa.Table]) -> pa.Table:
    parts = [content.replace_schema_metadata(None) for content in files.values()]
    return pa.concat_tables([TABLES[table].empty_table(), *parts], promote_options="default")


def _schema(table: str, names: Iterable[str]) -> pa.Schema:
    """Return the schema of a table with these columns. The metrics table has a column for each metric of the task."""
    schema = TABLES[table]
    if table != "metrics":
        return schema
    place = schema.names.index("train_loss") + 1
    task_metrics = [
        pa.field(name, pa.float64())
        for name in names
        if name.startswith(("train_", "validation_")) and name not in schema.names
    ]
    return pa.schema([*list(schema)[:place], *task_metrics, *list(schema)[place:]])


def _last_incarnations(metrics: pa.Table) -> pa.Table:
    """For each network and interval, the last incarnation that trained it."""
    grouped = metrics.group_by(["network", "interval"]).aggregate([("incarnation", "max")])
    return grouped.select(["network", "interval", "incarnation_max"])
