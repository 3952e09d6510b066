"""Images in the rows of tables: Parquet and its shards, Arrow as `datasets.save_to_disk` writes it, CSV with paths."""

from __future__ import annotations

import fnmatch
import glob
import json
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
    *("file", "image_id", "id"),
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


def open_table(files: Sequence[TableFile], config: DataConfig, *, name: str, folder: str) -> EncodedImages:
    """Images and labels of a table in one or several files.

    Args:
        files: In the order of their rows.
        config: Names of columns and classes.
        name: What the caller named, for errors.
        folder: That paths in rows are relative to.

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
    names = _class_names(readers[0].metadata(), label_column, name)
    if names is None and config.class_names and not pa.types.is_string(labels.type):
        names = config.class_names
    numbers, class_names = encode_labels(labels, name=f"{name}, column {label_column!r}", class_names=names)
    camera_column = next((column for column in CAMERA_COLUMNS if column in columns), None)
    cameras = None
    if camera_column is not None:
        found = _column(readers, camera_column)
        if found.null_count or not pa.types.is_integer(found.type):
            raise DataError(f"{name}: column {camera_column!r} must hold a whole number in each row")
        cameras = found.to_numpy().astype(np.int64)
    sizes = [size for reader in readers for size in reader.group_sizes()]
    return EncodedImages(
        name=name,
        labels=numbers,
        class_names=class_names,
        read=_Rows(files, image_column, [reader.group_sizes() for reader in readers], folder, name),
        groups=np.repeat(np.arange(len(sizes)), sizes),
        cameras=cameras,
    )


def shards(filesystem: pafs.FileSystem, path: str, files: Sequence[str], *, split: str) -> list[TableFile]:
    """The Parquet files directly in a folder that belong to a part: those named by it, where files are named by parts
    (train-00000-of-00002.parquet), else all.

    Args:
        filesystem: Where the folder lies.
        path: The folder.
        files: Paths in it, relative.
        split: train, validation, test or query.

    Returns:
        Sorted by name; empty where the folder has none.
    """
    found = sorted(file for file in files if table_kind(file) == "parquet" and not is_hidden(file))
    in_top = [file for file in found if "/" not in file] or [file for file in found if file.startswith("data/")]
    by_part = {file: _part_of(file) for file in in_top if file not in METADATA}
    if any(by_part.values()):
        by_part = {file: part for file, part in by_part.items() if part == split}
    return [
        TableFile(filesystem=filesystem, path=f"{path.rstrip('/')}/{file}", kind="parquet") for file in sorted(by_part)
    ]


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
        return sorted(glob.glob(pattern, recursive=True))
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
    try:
        found = pa.chunked_array([chunk for part in parts for chunk in part.chunks], type=parts[0].type)
    except (pa.ArrowException, TypeError) as error:
        raise DataError(f"column {column!r} is of several types: {', '.join(map(str, kinds))}") from error
    if pa.types.is_dictionary(found.type):
        found = found.unify_dictionaries()
    whole = found.combine_chunks()
    return whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole


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
        with file.filesystem.open_input_stream(file.path) as source:
            return pyarrow.csv.read_csv(source, parse_options=options)
    is_local = isinstance(file.filesystem, pafs.LocalFileSystem)
    source = pa.memory_map(file.path) if is_local else file.filesystem.open_input_file(file.path)
    if source.read(6) == b"ARROW1":
        source.seek(0)
        return pa.ipc.open_file(source).read_all()
    source.seek(0)
    return pa.ipc.open_stream(source).read_all()


class _Rows:
    """Reads images of a table by number, keeping the newest groups; picklable, so that loader workers can."""

    KEPT = 8

    def __init__(
        self, files: Sequence[TableFile], column: str, sizes: Sequence[Sequence[int]], folder: str, name: str
    ) -> None:
        """Args: files; column of the images; rows of each group of each file; folder of paths; name for errors."""
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
        if isinstance(path, (str, int)):
            return self._at(str(path), name)
        raise UnreadableImageError(f"{name} has no image")

    def _at(self, path: str, name: str) -> Image.Image:
        """The image that a row names by its path."""
        if "://" in path:
            filesystem, found = pafs.FileSystem.from_uri(path)
        else:
            filesystem = self._files[0].filesystem
            found = path if posixpath.isabs(path) else posixpath.join(self._folder, path)
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
