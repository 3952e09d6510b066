"""Read a file of a table (Parquet, Arrow or CSV) column by column."""

from __future__ import annotations

import contextlib
import math
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa
import pyarrow.csv
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from inarch.population.data.reading.decoding import LFS_POINTER
from inarch.population.errors import DataError

Kind = Literal["parquet", "arrow", "csv"]
"""Format of a table file."""

KINDS: dict[str, Kind] = {".parquet": "parquet", ".pq": "parquet", ".arrow": "arrow", ".csv": "csv", ".tsv": "csv"}
"""Format of a table file by its suffix in lower case."""

MISSING = ["", "NA", "N/A", "NaN", "nan", "null", "None"]
"""Texts that mean an empty cell in a CSV file."""

ROWS_A_GROUP = 1024
"""Rows of an Arrow or CSV table that are shuffled together, like a row group of Parquet."""


@dataclass(frozen=True, kw_only=True)
class TableFile:
    """Location and format of a file of a table."""

    filesystem: pafs.FileSystem = field(repr=False)
    """File system of the file."""
    path: str
    """Path in the file system."""
    kind: Kind
    """Format of the file."""


def table_kind(path: str) -> Kind | None:
    """Return the format of a table by its suffix, or None for other files.

    Args:
        path: Path or name of the file.
    """
    return KINDS.get(posixpath.splitext(path)[1].lower())


class TableReader:
    """A file of a table, open in this process."""

    def __init__(self, file: TableFile) -> None:
        """Open a file. Arrow and CSV tables are read whole, Parquet tables group by group.

        Args:
            file: The file.

        Raises:
            DataError: The file cannot be read.
        """
        self.file = file
        self._table: pa.Table | None = None
        try:
            if file.kind == "parquet":
                self._parquet = pq.ParquetFile(file.path, filesystem=file.filesystem)
            else:
                self._table = _read_table(file)
        except (pa.ArrowException, OSError) as error:
            reason = "it does not exist" if isinstance(error, FileNotFoundError) else error
            if _is_pointer(file):
                reason = "it is a Git LFS pointer, not the table itself; fetch it with git lfs pull"
            raise DataError(f"{file.path} cannot be read as {file.kind}: {reason}") from error

    def close(self) -> None:
        """Close the file."""
        if self._table is None:
            self._parquet.close()
        self._table = None

    def columns(self) -> list[str]:
        """Return the names of the columns."""
        return list(self._table.column_names if self._table is not None else self._parquet.schema_arrow.names)

    def kind(self, name: str) -> pa.DataType:
        """Return the type of a column.

        Args:
            name: Name of the column.
        """
        schema = self._table.schema if self._table is not None else self._parquet.schema_arrow
        return schema.field(name).type

    def metadata(self) -> Mapping[bytes, bytes]:
        """Return the metadata of the table's schema."""
        schema = self._table.schema if self._table is not None else self._parquet.schema_arrow
        return schema.metadata or {}

    def group_sizes(self) -> list[int]:
        """Return the number of rows in each group."""
        if self._table is None:
            metadata = self._parquet.metadata
            return [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
        starts = range(0, len(self._table), ROWS_A_GROUP)
        return [min(ROWS_A_GROUP, len(self._table) - start) for start in starts]

    def column(self, name: str) -> pa.ChunkedArray:
        """Return a whole column.

        Args:
            name: Name of the column.

        Raises:
            DataError: The column cannot be read.
        """
        try:
            return self._table.column(name) if self._table is not None else self._parquet.read(columns=[name]).column(0)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.file.path}: column {name!r} cannot be read: {error}") from error

    def group(self, index: int, column: str) -> pa.ChunkedArray:
        """Return a column of a group.

        Args:
            index: Number of the group.
            column: Name of the column.
        """
        if self._table is None:
            return self._parquet.read_row_group(index, columns=[column]).column(0)
        return self._table.column(column).slice(index * ROWS_A_GROUP, ROWS_A_GROUP)


def _is_pointer(file: TableFile) -> bool:
    """Return whether a file is a pointer of Git LFS."""
    try:
        with file.filesystem.open_input_stream(file.path) as source:
            return source.read(len(LFS_POINTER)) == LFS_POINTER
    except OSError:
        return False


def _read_table(file: TableFile) -> pa.Table:
    if file.kind == "csv":
        return _read_csv(file)
    is_local = isinstance(file.filesystem, pafs.LocalFileSystem)
    source = pa.memory_map(file.path) if is_local else file.filesystem.open_input_file(file.path)
    if source.read(6) == b"ARROW1":
        source.seek(0)
        return pa.ipc.open_file(source).read_all()
    source.seek(0)
    return pa.ipc.open_stream(source).read_all()


def _read_csv(file: TableFile) -> pa.Table:
    """Read a CSV file. Columns are read as text first, so that 001.png and the label 007 keep their zeros."""
    delimiter = "\t" if file.path.lower().endswith(".tsv") else ","
    options = pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    content = _text(file)
    with pyarrow.csv.open_csv(pa.BufferReader(content), parse_options=options) as opened:
        columns = opened.schema.names
    as_text = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=True, null_values=MISSING
    )
    table = pyarrow.csv.read_csv(pa.BufferReader(content), parse_options=options, convert_options=as_text)
    return pa.table([_typed(column) for column in table.columns], names=table.column_names)


def _text(file: TableFile) -> bytes:
    """Return the content of a CSV file, or raise DataError if it is not UTF-8."""
    with file.filesystem.open_input_stream(file.path) as source:
        content = source.read()
    try:
        content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{file.path} is not UTF-8; save it as UTF-8") from None
    return content


def _typed(column: pa.ChunkedArray) -> pa.Array:
    """Convert a column of texts to numbers if all texts are numbers.

    Whole numbers must be canonical (7, not 007). Floats need a decimal point in at least one text. Other columns remain
    texts, without the spaces around them.
    """
    texts = [None if text is None else text.strip() for text in column.to_pylist()]
    if texts and all(_is_canonical(text) for text in texts):
        return pa.array([int(text) for text in texts if text])
    if texts and _are_fractions(texts):
        return pa.array([None if text is None else float(text) for text in texts])
    return pa.array(texts, pa.string())


def _is_canonical(text: str | None) -> bool:
    """Return whether a text is a canonical whole number: 7, not 007, with at most 18 digits, which an int64 holds."""
    return text is not None and re.fullmatch(r"0|-?[1-9][0-9]{0,17}", text) is not None


def _are_fractions(texts: Sequence[str | None]) -> bool:
    """Return whether all texts are numbers and at least one has a decimal point."""
    present = [text for text in texts if text is not None]
    with contextlib.suppress(ValueError):
        return any("." in text for text in present) and all(math.isfinite(float(text)) for text in present)
    return False
