"""Images in the rows of tables: Parquet and its shards, Arrow as `datasets.save_to_disk` writes it, CSV with paths."""

from __future__ import annotations

import contextlib
import fnmatch
import glob
import json
import math
import os
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from PIL import Image

from population.config import DataConfig
from population.data.encoded import EncodedImages
from population.data.folders import PARTS, is_hidden, read_file
from population.data.labels import encode_labels
from population.data.pictures import LFS_POINTER, decode
from population.errors import DataError, UnreadableImageError

Kind = Literal["parquet", "arrow", "csv"]

KINDS: dict[str, Kind] = {".parquet": "parquet", ".pq": "parquet", ".arrow": "arrow", ".csv": "csv", ".tsv": "csv"}
"""What a table is, by the end of its name in lower case."""

IMAGE_COLUMNS = (
    *("image", "img", "picture", "jpg", "png", "image_path", "file_name", "filename", "file_path", "filepath", "path"),
    *("file", "photo", "image_name", "image_id", "id"),
)
"""Names of the column of images, the likeliest first."""

LABEL_COLUMNS = ("label", "fine_label", "labels", "class", "target", "category", "class_name")
"""Names of the column of labels, the likeliest first."""

CAMERA_COLUMNS = ("camera", "camera_id")

METADATA = ("metadata.csv", "metadata.parquet", "labels.csv")
"""Tables beside the images of a folder, as the Hub's image folders have them."""

ROWS_A_GROUP = 1024
"""Rows of an Arrow or CSV table that are shuffled together, as a Parquet row group is."""


@dataclass(frozen=True, kw_only=True)
class TableFile:
    """One file of a table."""

    filesystem: pafs.FileSystem = field(repr=False)
    path: str
    kind: Kind


def table_kind(path: str) -> Kind | None:
    """What a file is by the end of its name; None where it is no table."""
    return KINDS.get(posixpath.splitext(path)[1].lower())


def open_table(files: Sequence[TableFile], config: DataConfig, *, name: str) -> EncodedImages:
    """Images and labels of a table in one or several files.

    Args:
        files: In the order of their rows.
        config: Names of columns and classes.
        name: What the caller named, for errors.

    Raises:
        DataError: a file cannot be read, a column is missing, or labels cannot be used; names file and row.
    """
    readers = [_Reader(file) for file in files]
    columns = readers[0].columns()
    image_column = _chosen(columns, config.image_column, IMAGE_COLUMNS, "image", name)
    label_column = _chosen(columns, config.label_column, LABEL_COLUMNS, "label", name)
    for reader in readers[1:]:
        missing = {image_column, label_column} - set(reader.columns())
        if missing:
            raise DataError(f"{reader.file.path} has no column {missing.pop()!r}, which {readers[0].file.path} has")
    labels = _column(readers, label_column)
    if len(labels) == 0:
        raise DataError(f"{name} has no images")
    every = [_class_names(reader.metadata(), label_column, name) for reader in readers]
    for reader, others in zip(readers, every, strict=True):
        if others != every[0]:
            raise DataError(f"{reader.file.path} names other classes than {readers[0].file.path}: {others}, {every[0]}")
    names = every[0]
    if names is None and config.class_names and not _is_text(labels.type):
        names = list(config.class_names)
    numbers, class_names = encode_labels(labels, name=f"{name}, column {label_column!r}", class_names=names)
    notes: tuple[str, ...] = ()
    camera_column = next((column for column in CAMERA_COLUMNS if column in columns), None)
    cameras = None
    if camera_column is not None:
        found = _column(readers, camera_column)
        if not found.null_count and pa.types.is_integer(found.type):
            cameras = found.to_numpy().astype(np.int64)
        else:  # cameras count in retrieval only, and may be texts elsewhere
            notes += (f"{name}: column {camera_column!r} holds no whole numbers, and is not used",)
    sizes = [size for reader in readers for size in reader.group_sizes()]
    return EncodedImages(
        name=name,
        labels=numbers,
        class_names=class_names,
        read=_Rows(files, image_column, [reader.group_sizes() for reader in readers], config.image_folder, name),
        groups=np.repeat(np.arange(len(sizes)), sizes),
        cameras=cameras,
        notes=notes,
    )


def shards(
    filesystem: pafs.FileSystem, path: str, files: Sequence[str], *, split: str
) -> tuple[list[TableFile], list[str]]:
    """The Parquet files directly in a folder, or in its folder data, that belong to a part: those named by it, where
    files are named by parts (train-00000-of-00002.parquet), else all.

    Args:
        filesystem: Where the folder lies.
        path: The folder.
        files: Paths in it, relative.
        split: train, validation, test or query.

    Returns:
        The files, sorted by name, and the names of those that belong to other parts.
    """
    found = sorted(file for file in files if table_kind(file) == "parquet" and not is_hidden(file))
    in_top = [file for file in found if "/" not in file] or [file for file in found if file.startswith("data/")]
    in_top = [file for file in in_top if file not in METADATA]
    parts = {file: _part_of(file) for file in in_top}
    chosen = [file for file in in_top if parts[file] == split] if any(parts.values()) else in_top
    tables = [TableFile(filesystem=filesystem, path=f"{path.rstrip('/')}/{file}", kind="parquet") for file in chosen]
    return tables, [file for file in in_top if file not in chosen]


def has_part(filesystem: pafs.FileSystem, path: str, *, split: str) -> bool:
    """Whether a folder that `datasets.save_to_disk` wrote holds a part."""
    try:
        return bool(saved_dataset(filesystem, path, ["dataset_dict.json"], split=split))
    except DataError:
        return False


def _part_of(file: str) -> str | None:
    """The part that a shard is named by: train, validation or test."""
    stem = posixpath.basename(file).lower().removesuffix(".parquet").removesuffix(".pq")
    first = stem.split("-")[0].split("_")[0].split(".")[0]
    if first not in PARTS:
        return None
    if first.startswith("train"):
        return "train"
    return "test" if first.startswith(("test", "eval")) else "validation"


def matching(filesystem: pafs.FileSystem, pattern: str) -> list[str]:
    """Paths that a pattern with *, ? or [ matches, sorted."""
    if isinstance(filesystem, pafs.LocalFileSystem):
        folder, _, last = pattern.rpartition("/")
        literal = f"{glob.escape(folder)}/{last}" if os.path.isdir(folder) else pattern
        return sorted(glob.glob(literal, recursive=True))
    base = pattern[: min(pattern.find(mark) for mark in "*?[" if mark in pattern)].rpartition("/")[0]
    found = filesystem.get_file_info(pafs.FileSelector(base, recursive=True, allow_not_found=True))
    return sorted(info.path for info in found if fnmatch.fnmatchcase(info.path, pattern))


def saved_dataset(filesystem: pafs.FileSystem, path: str, files: Sequence[str], *, split: str) -> list[TableFile]:
    """The Arrow files of a folder that `datasets.save_to_disk` wrote, of its part `split` where it holds several; empty
    where it is no such folder.

    Raises:
        DataError: the folder's own files cannot be read, or it has no such part.
    """
    if "dataset_dict.json" in files:
        parts = _json(read_file(filesystem, f"{path}/dataset_dict.json"), f"{path}/dataset_dict.json").get("splits", [])
        chosen = next((part for part in parts if _part_of(f"{part}.parquet") == split), None)
        if chosen is None:
            raise DataError(f"data.{split}: {path} holds the parts {', '.join(parts)}, none of them for {split}")
        return _saved(filesystem, f"{path}/{chosen}")
    return _saved(filesystem, path) if {"state.json", "dataset_info.json"} <= set(files) else []


def _saved(filesystem: pafs.FileSystem, path: str) -> list[TableFile]:
    state = _json(read_file(filesystem, f"{path}/state.json"), f"{path}/state.json")
    names = [entry.get("filename", "") for entry in state.get("_data_files", [])]
    if not names:
        raise DataError(f"{path}/state.json names no data files")
    return [TableFile(filesystem=filesystem, path=f"{path}/{name}", kind="arrow") for name in names]


def _json(content: bytes, name: str) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError as error:
        raise DataError(f"{name} cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"{name} must hold a JSON object")
    return found


def _chosen(columns: Sequence[str], given: str | None, usual: Sequence[str], kind: str, name: str) -> str:
    twice = next((column for column in columns if list(columns).count(column) > 1), None)
    if twice is not None:
        raise DataError(f"{name} has two columns called {twice!r}; rename one of them")
    if given is not None:
        if given not in columns:
            raise DataError(f"{name} has no column {given!r} (data.{kind}_column); it has {', '.join(columns)}")
        return given
    found = next((column for column in usual if column in columns), None)
    if found is None:
        raise DataError(
            f"{name} has no column that is known to hold {kind}s; it has {', '.join(columns)}; "
            f"name it by data.{kind}_column"
        )
    return found


def _column(readers: Sequence[_Reader], column: str) -> pa.Array:
    parts = [reader.column(column) for reader in readers]
    kinds = {part.type for part in parts}
    if len(kinds) > 1:
        parts = [part.cast(part.type.value_type) if pa.types.is_dictionary(part.type) else part for part in parts]
        if all(pa.types.is_integer(part.type) for part in parts):
            parts = [part.cast(pa.int64()) for part in parts]
        elif all(_is_text(part.type) for part in parts):
            parts = [part.cast(pa.large_string()) for part in parts]
    try:
        found = pa.chunked_array([chunk for part in parts for chunk in part.chunks], type=parts[0].type)
    except (pa.ArrowException, TypeError) as error:
        raise DataError(f"column {column!r} is of several types: {', '.join(map(str, kinds))}") from error
    if pa.types.is_dictionary(found.type):
        found = found.unify_dictionaries()
    whole = found.combine_chunks()
    return whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _class_names(metadata: Mapping[bytes, bytes], label_column: str, name: str) -> list[str] | None:
    """From plain metadata `class_names`, or from Hugging Face's own `huggingface` entry; metadata of another form says
    nothing."""
    if b"class_names" in metadata:
        try:
            found = json.loads(metadata[b"class_names"])
        except ValueError as error:
            raise DataError(f"{name}: the metadata class_names is no JSON list: {error}") from error
        if not isinstance(found, list):
            raise DataError(f"{name}: the metadata class_names must be a JSON list")
        return [str(entry) for entry in found]
    try:
        found = json.loads(metadata.get(b"huggingface", b"{}"))
    except ValueError:
        return None
    for key in ("info", "features", label_column, "names"):
        found = found.get(key) if isinstance(found, dict) else None
    return [str(entry) for entry in found] if isinstance(found, list) and found else None


class _Reader:
    """One file of a table, open in this process."""

    def __init__(self, file: TableFile) -> None:
        self.file = file
        self._table: pa.Table | None = None
        try:
            if file.kind == "parquet":
                self._parquet = pq.ParquetFile(file.path, filesystem=file.filesystem)
            else:
                self._table = _read_table(file)
        except (pa.ArrowException, OSError) as error:
            said = "it does not exist" if isinstance(error, FileNotFoundError) else error
            if _is_pointer(file):
                said = "it is a Git LFS pointer, not the table itself; fetch it by git lfs pull"
            raise DataError(f"{file.path} cannot be read as {file.kind}: {said}") from error

    def columns(self) -> list[str]:
        return list(self._table.column_names if self._table is not None else self._parquet.schema_arrow.names)

    def metadata(self) -> Mapping[bytes, bytes]:
        schema = self._table.schema if self._table is not None else self._parquet.schema_arrow
        return schema.metadata or {}

    def group_sizes(self) -> list[int]:
        """Rows of each group."""
        if self._table is None:
            found = self._parquet.metadata
            return [found.row_group(index).num_rows for index in range(found.num_row_groups)]
        starts = range(0, len(self._table), ROWS_A_GROUP)
        return [min(ROWS_A_GROUP, len(self._table) - start) for start in starts]

    def column(self, name: str) -> pa.ChunkedArray:
        try:
            return self._table.column(name) if self._table is not None else self._parquet.read(columns=[name]).column(0)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.file.path}: column {name!r} cannot be read: {error}") from error

    def group(self, index: int, column: str) -> pa.ChunkedArray:
        """A column of one group."""
        if self._table is None:
            return self._parquet.read_row_group(index, columns=[column]).column(0)
        return self._table.column(column).slice(index * ROWS_A_GROUP, ROWS_A_GROUP)


def _is_pointer(file: TableFile) -> bool:
    try:
        with file.filesystem.open_input_stream(file.path) as source:
            return source.read(len(LFS_POINTER)) == LFS_POINTER
    except OSError:
        return False


def _read_table(file: TableFile) -> pa.Table:
    if file.kind == "csv":
        options = pyarrow.csv.ParseOptions(delimiter="\t" if file.path.lower().endswith(".tsv") else ",")
        content = _text(file)
        with pyarrow.csv.open_csv(pa.BufferReader(content), parse_options=options) as opened:
            columns = opened.schema.names
        # Texts stay texts: 001.png is not 1, and True is a name as good as any.
        kinds = pyarrow.csv.ConvertOptions(
            column_types={column: pa.string() for column in columns if column not in CAMERA_COLUMNS},
            strings_can_be_null=True,
            null_values=["", "NA", "N/A", "NaN", "nan", "null", "None"],
        )
        table = pyarrow.csv.read_csv(pa.BufferReader(content), parse_options=options, convert_options=kinds)
        return _numbered(table)
    is_local = isinstance(file.filesystem, pafs.LocalFileSystem)
    source = pa.memory_map(file.path) if is_local else file.filesystem.open_input_file(file.path)
    if source.read(6) == b"ARROW1":
        source.seek(0)
        return pa.ipc.open_file(source).read_all()
    source.seek(0)
    return pa.ipc.open_stream(source).read_all()


def _text(file: TableFile) -> bytes:
    """The content of a CSV file. Raises DataError where it is no UTF-8."""
    with file.filesystem.open_input_stream(file.path) as source:
        content = source.read()
    try:
        content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{file.path} is not UTF-8; save it as UTF-8") from None
    return content


def _numbered(table: pa.Table) -> pa.Table:
    """A CSV's columns, those of canonical whole numbers (7, not 007) as numbers; spaces around texts are dropped."""
    columns = []
    for column in table.columns:
        if pa.types.is_string(column.type):
            texts = [None if text is None else text.strip() for text in column.to_pylist()]
            are_numbers = all(
                text is not None and text.lstrip("-").isdigit() and str(int(text)) == text for text in texts
            )
            if texts and are_numbers:
                column = pa.array([int(text) for text in texts if text])
            elif texts and _are_fractions(texts):
                column = pa.array([None if text is None else float(text) for text in texts])
            else:
                column = pa.array(texts, pa.string())
        columns.append(column)
    return pa.table(columns, names=table.column_names)


def _is_canonical(text: str | None) -> bool:
    """Whether a text is a whole number as it is printed: 7 and not 007."""
    return text is not None and text.isascii() and text.lstrip("-").isdigit() and str(int(text)) == text


def _are_fractions(texts: Sequence[str | None]) -> bool:
    """Whether texts are all numbers, some of them written with a point: measurements, not names."""
    given = [text for text in texts if text is not None]
    with contextlib.suppress(ValueError):
        return any("." in text for text in given) and all(math.isfinite(float(text)) for text in given)
    return False


class _Rows:
    """Reads images of a table by number, keeping the newest groups; picklable, so that loader workers can."""

    KEPT = 8

    def __init__(
        self, files: Sequence[TableFile], column: str, sizes: Sequence[Sequence[int]], folder: str | None, name: str
    ) -> None:
        """Args: files; column of the images; rows of each group of each file; folder of paths, the
        file's own where None; name for errors."""
        self._files, self._column, self._folder, self._name = list(files), column, folder, name
        self._places = [(file, group) for file, of in enumerate(sizes) for group in range(len(of))]
        self._starts = np.concatenate([[0], np.cumsum([size for of in sizes for size in of])])
        self._kept: dict[int, pa.ChunkedArray] = {}
        self._open: tuple[int, dict[int, _Reader]] = (os.getpid(), {})

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": {}, "_open": (0, {})}

    def __call__(self, index: int) -> Image.Image:
        group = int(np.searchsorted(self._starts, index, side="right")) - 1
        value = self._group(group)[index - int(self._starts[group])].as_py()
        name = f"{self._name}, row {index}"
        content = value.get("bytes") if isinstance(value, dict) else value
        if isinstance(content, (bytes, bytearray)):
            return decode(bytes(content), name)
        path = value.get("path") if isinstance(value, dict) else value
        if isinstance(path, list):
            raise DataError(f"{self._name}: column {self._column!r} holds lists, not encoded images or paths")
        if isinstance(path, (str, int)) and str(path).strip():
            return self._at(str(path).strip(), self._files[self._places[group][0]], name)
        raise UnreadableImageError(f"{name} has no image")

    def _at(self, path: str, file: TableFile, name: str) -> Image.Image:
        """The image that a row of a file names by its path."""
        if "://" in path:
            try:
                filesystem, found = pafs.FileSystem.from_uri(path)
            except Exception as error:  # each file system has errors of its own
                raise DataError(
                    f"{name}: {path} cannot be opened ({error}); download images that lie on the web"
                ) from error
        else:
            filesystem = file.filesystem
            folder = file.path.rpartition("/")[0] if self._folder is None else os.path.expanduser(self._folder)
            found = path if posixpath.isabs(path) else posixpath.join(folder, path)
            if not posixpath.splitext(found)[1]:  # a name without its suffix
                found = next(
                    (f"{found}{end}" for end in (".jpg", ".jpeg", ".png") if _is_there(filesystem, f"{found}{end}")),
                    found,
                )
        return decode(read_file(filesystem, found), f"{name} ({found})")

    def _group(self, group: int) -> pa.ChunkedArray:
        if self._open[0] != os.getpid():  # each process opens the files for itself
            self._open, self._kept = (os.getpid(), {}), {}
        if group not in self._kept:
            file, index = self._places[group]
            while len(self._kept) >= self.KEPT:
                self._kept.pop(next(iter(self._kept)))
            readers = self._open[1]
            if file not in readers:
                readers[file] = _Reader(self._files[file])
            try:
                self._kept[group] = readers[file].group(index, self._column)
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"{self._files[file].path}: row group {index} cannot be read: {error}") from error
        return self._kept[group]


def _is_there(filesystem: pafs.FileSystem, path: str) -> bool:
    return filesystem.get_file_info(path).type == pafs.FileType.File
