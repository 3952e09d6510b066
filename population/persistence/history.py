"""The history of a run, as Parquet tables.

    metrics/   a row for each network and interval
    grafts/    a row for each graft and layer
    filters/   a row for each evaluated interval and layer
    fusion/    a row for each epoch and layer of a compact network
    births/    a row for each process of a network
    exchanges/ a row for each exchange and scion

Rows are committed with the checkpoint that follows them. The folders hold only committed rows, with a file for each
checkpoint that bears its name. Writing a file twice gives the same file, so no row is lost or counted twice. At the end
of a run the files of each table are folded into one.

Rows of births and exchanges are also written at once, into files of their own (`early_name`). These
files are deleted once a checkpoint holds their rows, so those of a process that died remain.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from inarch.population.errors import DamagedError, MissingError
from inarch.population.persistence.history_schemas import EARLY_TABLES, ROW_KEYS, TABLES, schema_of
from inarch.population.persistence.paths import joined
from inarch.population.persistence.storage import Storage
from inarch.population.persistence.table_files import from_parquet_file, to_parquet_file

logger = logging.getLogger("inarch")

READ_ATTEMPTS = 5
"""How often the files of a table are listed and read if one of them vanishes."""

PREFIX = "folded-"
"""Beginning of the name of a file that replaces others."""

FOLDED = b"inarch.folded"
"""Key of the metadata of a Parquet file that names the files that it replaces."""


def to_parquet(rows: Sequence[Mapping[str, Any]], table: str) -> bytes:
    """Return rows of a table as the bytes of a Parquet file.

    Args:
        rows: Values by column name.
        table: Name of the table, a key of TABLES.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    return to_parquet_file(pa.Table.from_pylist([dict(row) for row in rows], schema=schema_of(table, names)))


def read_table(storage: Storage, table: str, *, all_incarnations: bool = False) -> pa.Table:
    """Return the rows of a table, sorted by network and interval.

    An interval that was trained again after a restart counts once, with the rows of its last incarnation. So does an
    epoch in the table fusion. A damaged file is left out, and a warning names it (`damaged_files`).

    Args:
        storage: The run's folder.
        table: Name of the table, a key of TABLES.
        all_incarnations: Return the rows of all incarnations. Those of births are always returned.

    Raises:
        StorageError: A file cannot be read.
    """
    rows = _parts(storage, table)
    key = "rootstock" if table == "grafts" else "network"
    if table in EARLY_TABLES or _has_repetitions(rows, ROW_KEYS[table]):
        rows = _distinct(rows)
    within = ["position"] if table == "exchanges" else []
    if all_incarnations or table == "births":
        return rows.sort_by([(name, "ascending") for name in (key, "interval", "incarnation", *within)])
    if table == "fusion":  # an epoch that one incarnation has begun may be finished by another
        keys = [key, "epoch", "layer"]
        last = rows.group_by(keys).aggregate([("incarnation", "max")]).rename_columns([*keys, "last"])
    else:
        keys = [key, "interval"]
        metrics = rows if table == "metrics" else _parts(storage, "metrics")
        last = _last_incarnations(metrics).rename_columns([*keys, "last"])
    joined = rows.join(last, keys, use_threads=False)  # which keeps the order of the rows
    is_last = pc.field("incarnation") == pc.field("last")
    schema = schema_of(table, rows.schema.names)
    order = [(name, "ascending") for name in (key, "interval", *within)]
    return joined.filter(is_last).select(schema.names).cast(schema).sort_by(order)


def early_name(network_id: int, incarnation: int, interval: int) -> str:
    """Return the name of a file of rows that are written before the checkpoint that will hold them.

    Args:
        network_id: Id of the network.
        incarnation: Incarnation of the network.
        interval: Intervals completed.
    """
    return f"{network_id}-{interval:06d}-{incarnation:03d}-early.parquet"


def read_file(storage: Storage, table: str, name: str) -> pa.Table:
    """Return the rows of one file of a table.

    Args:
        storage: The run's folder.
        table: Name of the table, a key of TABLES.
        name: Name of the file.

    Raises:
        MissingError: There is no such file.
        DamagedError: It is damaged, or is a file of something else.
        StorageError: The storage fails.
    """
    relative = f"{table}/{name}"
    place = joined(storage.uri, relative)
    content = from_parquet_file(storage.read(relative), place)
    try:
        known = [field for field in schema_of(table, content.schema.names) if field.name in content.schema.names]
        names = [field.name for field in known]
        missing = {"rootstock" if table == "grafts" else "network", "interval", "incarnation"} - set(names)
        if missing:
            raise DamagedError(f"{place} is damaged: it has no column {min(missing)!r}")
        return content.select(names).cast(pa.schema(known, metadata=content.schema.metadata))
    except (pa.ArrowException, ValueError) as error:
        raise DamagedError(f"{place} is damaged: {error}") from None


def damaged_files(storage: Storage) -> dict[str, str]:
    """Return the files of all tables that cannot be read, with the reason. Their rows are missing from the tables.

    Args:
        storage: The run's folder.

    Raises:
        StorageError: A file cannot be read because the storage fails.
    """
    damages: dict[str, str] = {}
    for table in TABLES:
        _read_files(storage, table, damages)
    return damages


def fold_history(storage: Storage) -> None:
    """Fold the files of each table into one, so that a long run of many networks does not leave a file per checkpoint.

    The new file names those that it replaces, and readers skip them. A process that dies before it has deleted them
    therefore counts no row twice, nor does a checkpoint whose rows are written again. The next fold deletes them.
    Damaged files stay as they are.

    Args:
        storage: The run's folder. No network may write to it meanwhile.

    Raises:
        StorageError: A file cannot be read or written. Nothing is lost.
    """
    for table in TABLES:
        damages: dict[str, str] = {}
        files = _read_files(storage, table, damages)
        names = [name for name in _file_names(storage, table) if f"{table}/{name}" not in damages]
        if len(names) < 2:
            continue
        replaced = sorted({*names, *files, *(name for content in files.values() for name in _replaced_by(content))})
        content = to_parquet_file(_whole(table, files), {FOLDED: json.dumps(replaced).encode()})
        number = 1 + max((_fold_number(name) for name in _file_names(storage, table)), default=-1)
        storage.write(f"{table}/{PREFIX}{number:04d}.parquet", content)
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
    replaced: set[str] = set()
    for name in _file_names(storage, table):
        if name.startswith(PREFIX):
            with contextlib.suppress(DamagedError):  # `read_table` names it
                replaced |= _replaced_by(read_file(storage, table, name))
    return frozenset(replaced)


def _parts(storage: Storage, table: str) -> pa.Table:
    """All files of a table, concatenated. A column that a file of another version lacks is null there."""
    return _whole(table, _read_files(storage, table))


def _file_names(storage: Storage, table: str) -> list[str]:
    return [name for name in storage.names(table) if name.endswith(".parquet")]


def _fold_number(name: str) -> int:
    """Return the number of a folded file. -1 for other files."""
    number = name.removeprefix(PREFIX).removesuffix(".parquet")
    return int(number) if name.startswith(PREFIX) and number.isdecimal() else -1


def _read_files(storage: Storage, table: str, damages: dict[str, str] | None = None) -> dict[str, pa.Table]:
    """Return the files of a table by name, without those that another file has replaced.

    If another process folds the table meanwhile, a file may vanish. The files are then listed again. Damaged files are
    left out and named: in `damages` if it is given, or else in a warning.
    """
    own_damages: dict[str, str] = {}
    files: dict[str, pa.Table] = {}
    for attempt in range(READ_ATTEMPTS):
        own_damages.clear()
        try:
            files = _read_files_once(storage, table, own_damages)
            break
        except MissingError:
            if attempt == READ_ATTEMPTS - 1:
                raise
    if damages is not None:
        damages |= own_damages
    for reason in own_damages.values() if damages is None else ():
        logger.warning("%s; its rows are left out", reason)
    return files


def _read_files_once(storage: Storage, table: str, damages: dict[str, str]) -> dict[str, pa.Table]:
    files: dict[str, pa.Table] = {}
    replaced: set[str] = set()
    names = _file_names(storage, table)
    for name in sorted(names, key=lambda name: not name.startswith(PREFIX)):  # a folded file names those to skip
        if name not in replaced:
            try:
                files[name] = read_file(storage, table, name)
                replaced |= _replaced_by(files[name])
            except DamagedError as error:
                files.pop(name, None)
                damages[f"{table}/{name}"] = str(error)
    return {name: content for name, content in files.items() if name not in replaced}


def _replaced_by(content: pa.Table) -> set[str]:
    """Return the names of the files that a file replaces."""
    metadata: Mapping[bytes, bytes] = content.schema.metadata or {}
    try:
        return {str(name) for name in json.loads(metadata.get(FOLDED, b"[]"))}
    except (ValueError, TypeError) as error:
        raise DamagedError(f"the names of replaced files are damaged: {error}") from None


def _whole(table: str, files: Mapping[str, pa.Table]) -> pa.Table:
    parts = [content.replace_schema_metadata(None) for content in files.values()]
    return pa.concat_tables([TABLES[table].empty_table(), *parts], promote_options="default")


def _distinct(rows: pa.Table) -> pa.Table:
    """Return the rows without repetitions.

    A process that dies may leave a row in two files. So does a write that storage carries out and reports as failed,
    because the next checkpoint holds the rows again.
    """
    return rows.group_by(rows.schema.names, use_threads=False).aggregate([])  # in their order


def _has_repetitions(rows: pa.Table, key: Sequence[str]) -> bool:
    """Whether several rows of a table have the same values in the columns of its key."""
    return len(rows.select(key).group_by(key).aggregate([])) < len(rows)


def _last_incarnations(metrics: pa.Table) -> pa.Table:
    """For each network and interval, the last incarnation that trained it."""
    grouped = metrics.group_by(["network", "interval"]).aggregate([("incarnation", "max")])
    return grouped.select(["network", "interval", "incarnation_max"])
