"""The columns of the tables of a run's history."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

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

Then come columns for the network's own numbers in the interval, of type float64, each with the name of its field in the
configuration: `optimizer.learning_rate`, which is the initial rate, and all that differ between networks.

The other columns:

- learning_rate: learning rate of the interval's last step.
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

BIRTHS = pa.schema(
    [
        ("network", pa.int64()),
        ("interval", pa.int64()),
        ("incarnation", pa.int64()),
        ("step", pa.int64()),
        ("began", pa.string()),
        ("parent", pa.int64()),
        ("parent_version", pa.int64()),
        ("parent_incarnation", pa.int64()),
        ("threads", pa.int64()),
        ("device", pa.string()),
        ("processor", pa.string()),
        ("torch", pa.string()),
        ("code", pa.string()),
        ("config", pa.string()),
        ("time", pa.float64()),
    ]
)
"""A row for each process of a network (incarnation), with all that a repetition of its training needs.

- interval: intervals of the schedule completed when it began. step is above 0 if it began within the next interval.
- began: initial, with its own initial weights. cloned, with the weights of a parent. resumed, from a checkpoint.
- parent, parent_version, parent_incarnation: snapshot of the parent, or the checkpoint that it resumed from. Null for
  initial.
- threads: threads that it computed with.
- device: cpu or cuda.
- processor: kind of the CPU or GPU.
- torch: version of torch.
- code: hash of the source of `inarch.population`.
- config: hash of the configuration.
- time: seconds of the runtime's clock.
"""

EXCHANGES = pa.schema(
    [
        ("network", pa.int64()),
        ("interval", pa.int64()),
        ("incarnation", pa.int64()),
        ("outcome", pa.string()),
        ("position", pa.int64()),
        ("scion", pa.int64()),
        ("scion_version", pa.int64()),
        ("scion_incarnation", pa.int64()),
        ("scion_time", pa.float64()),
        ("weights", pa.binary()),
        ("time", pa.float64()),
    ]
)
"""A row for each exchange and scion that was admitted to it, and one row for an exchange without scions.

- position: place of the scion in the order in which the rule took them, from 0.
- scion, scion_version, scion_incarnation: the scion's snapshot. Null without one.
- scion_time: time at which the scion was staged, in seconds of its runtime's clock.
- weights: hashes of the weights that the network published in this interval, 4 bytes for each tensor. In rows of
  position 0 only.
- time: seconds of the runtime's clock at the exchange.
"""

TABLES = {
    "metrics": METRICS,
    "grafts": GRAFTS,
    "filters": FILTERS,
    "fusion": FUSION,
    "births": BIRTHS,
    "exchanges": EXCHANGES,
}

ROW_KEYS: Mapping[str, tuple[str, ...]] = {
    "metrics": ("network", "interval", "incarnation"),
    "grafts": ("rootstock", "scion", "interval", "incarnation", "layer"),
    "filters": ("network", "interval", "incarnation", "layer"),
    "fusion": ("network", "epoch", "incarnation", "layer"),
}
"""Columns that tell the rows of a table from each other, for tables that are written with checkpoints only."""

EARLY_TABLES = ("births", "exchanges")
"""Tables whose rows are written at once, and again with the next checkpoint. If a process dies after it has published,
its rows since its last checkpoint say what its snapshots were made of."""

Rows = Mapping[str, Sequence[Mapping[str, Any]]]
"""Rows by table name. A row holds values by column name."""


def schema_of(table: str, names: Iterable[str]) -> pa.Schema:
    """Return the schema of a table with these columns. The columns of the metrics table differ between runs.

    Args:
        table: Name of the table, a key of TABLES.
        names: Names of the columns.
    """
    schema = TABLES[table]
    if table != "metrics":
        return schema
    place = schema.names.index("train_loss") + 1
    task_metrics = [
        pa.field(name, pa.float64()) for name in names if name.startswith(TASK_PREFIXES) and name not in schema.names
    ]
    own_numbers = [pa.field(name, pa.float64()) for name in names if is_hyperparameter(name)]
    return pa.schema([*list(schema)[:place], *task_metrics, *own_numbers, *list(schema)[place:]])


TASK_PREFIXES = ("train_", "validation_")
"""Beginnings of the columns with the metrics of a task, whose names may have a dot."""


def is_hyperparameter(column: str) -> bool:
    """Return whether a column of the metrics table holds a number of the network's configuration.

    Args:
        column: Name of the column.
    """
    return "." in column and not column.startswith(TASK_PREFIXES)
