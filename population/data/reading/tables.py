"""Read images and labels from the rows of tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from inarch.population.config import DataConfig
from inarch.population.data.reading.encoded_images import EncodedImages
from inarch.population.data.reading.labels import encode_labels
from inarch.population.data.reading.table_files import MISSING, TableFile, TableReader
from inarch.population.data.reading.table_rows import TableRows
from inarch.population.errors import DataError

IMAGE_COLUMNS = (
    *("image", "img", "picture", "jpg", "png", "image_path", "file_name", "filename", "file_path", "filepath", "path"),
    *("file", "photo", "image_name", "image_id", "id"),
)
"""Usual names of the column of images, the most likely first."""

LABEL_COLUMNS = ("label", "fine_label", "labels", "class", "target", "category", "class_name")
"""Usual names of the column of labels, the most likely first."""

CAMERA_COLUMNS = ("camera", "camera_id")
"""Usual names of the column of cameras."""


def open_table(files: Sequence[TableFile], config: DataConfig, *, name: str, is_training: bool) -> EncodedImages:
    """Open a table of images and labels, in one or several files.

    Args:
        files: Files of the table, in the order of their rows.
        config: Names of columns and classes, and the folder of image paths.
        name: The table as the caller named it, for error messages.
        is_training: Whether these are training images, as in `encode_labels`.

    Raises:
        DataError: A file cannot be read, a column is missing, files disagree on the classes, or labels cannot be
            used. The message names the file and the row.
    """
    facts: list[_FileFacts] = []
    for file in files:  # a file at a time, because a table may have more files than a process may open
        facts.append(_facts(file, config, name, first=facts[0] if facts else None))
    first = facts[0]
    labels = _joined([part.labels for part in facts], first.label_column)
    if len(labels) == 0:
        raise DataError(f"{name} has no images")
    if labels.null_count and files[0].kind == "csv":
        row = np.flatnonzero(labels.is_null().to_numpy(zero_copy_only=False))[0]
        texts = ", ".join(text for text in MISSING if text)
        raise DataError(f"{name}: row {row} has no label; {texts} count as missing, so rename a class of such a name")
    names = first.class_names
    if names is None and config.class_names and not _is_text(labels.type):
        names = list(config.class_names)
    numbers, class_names = encode_labels(
        labels, name=f"{name}, column {first.label_column!r}", class_names=names, is_training=is_training
    )
    notes: tuple[str, ...] = ()
    cameras = None
    camera_parts = [part.cameras for part in facts if part.cameras is not None]
    if len(camera_parts) == len(facts):
        camera_values = _joined(camera_parts, str(first.camera_column))
        if not camera_values.null_count and pa.types.is_integer(camera_values.type):
            cameras = camera_values.to_numpy().astype(np.int64)
        else:  # only retrieval uses cameras; in other tables the column may hold texts
            notes += (f"{name}: column {first.camera_column!r} does not hold whole numbers and is not used",)
    sizes = [part.group_sizes for part in facts]
    flat_sizes = [size for part in sizes for size in part]
    return EncodedImages(
        name=name,
        labels=numbers,
        class_names=class_names,
        source=TableRows(files, first.image_column, sizes, config.image_folder, name),
        groups=np.repeat(np.arange(len(flat_sizes)), flat_sizes),
        cameras=cameras,
        notes=notes,
    )


@dataclass(frozen=True, kw_only=True)
class _FileFacts:
    """What is known of a file of a table without its images."""

    path: str
    image_column: str
    label_column: str
    camera_column: str | None
    class_names: list[str] | None
    labels: pa.ChunkedArray
    cameras: pa.ChunkedArray | None
    group_sizes: list[int]


def _facts(file: TableFile, config: DataConfig, name: str, *, first: _FileFacts | None) -> _FileFacts:
    """Read labels, cameras and class names of a file, and compare its columns with those of the first file."""
    reader = TableReader(file)
    try:
        columns = reader.columns()
        if first is None:
            image_column = _chosen(columns, config.image_column, IMAGE_COLUMNS, "image", name)
            label_column = _chosen(columns, config.label_column, LABEL_COLUMNS, "label", name)
            camera_column = next((column for column in CAMERA_COLUMNS if column in columns), None)
        else:
            image_column, label_column = first.image_column, first.label_column
            camera_column = first.camera_column
            missing = next((column for column in (image_column, label_column) if column not in columns), None)
            if missing is not None:
                raise DataError(f"{file.path} has no column {missing!r}, which {first.path} has")
        kind = reader.kind(image_column)
        if not _may_be_images(kind):
            raise DataError(f"{file.path}: column {image_column!r} holds {kind}, not encoded images or paths")
        class_names = _class_names(reader.metadata(), label_column, name)
        if first is not None and class_names != first.class_names:
            raise DataError(f"{file.path} names other classes than {first.path}: {class_names}, {first.class_names}")
        return _FileFacts(
            path=file.path,
            image_column=image_column,
            label_column=label_column,
            camera_column=camera_column,
            class_names=class_names,
            labels=reader.column(label_column),
            cameras=None if camera_column is None else reader.column(camera_column),
            group_sizes=reader.group_sizes(),
        )
    finally:
        reader.close()


def _chosen(columns: Sequence[str], given: str | None, usual: Sequence[str], kind: str, name: str) -> str:
    """Return the configured column of images or labels, or the most likely one if none is configured."""
    repeated = next((column for column in columns if list(columns).count(column) > 1), None)
    if repeated is not None:
        raise DataError(f"{name} has two columns called {repeated!r}; rename one of them")
    if given is not None:
        if given not in columns:
            raise DataError(f"{name} has no column {given!r} (data.{kind}_column); it has {', '.join(columns)}")
        return given
    likeliest = next((column for column in usual if column in columns), None)
    if likeliest is None:
        raise DataError(
            f"{name} has no column that is known to hold {kind}s; it has {', '.join(columns)}; "
            f"name the column in data.{kind}_column"
        )
    return likeliest


def _joined(parts: list[pa.ChunkedArray], column: str) -> pa.Array:
    """Return a column of all files as a single array of one type."""
    kinds = {part.type for part in parts}
    if len(kinds) > 1:
        parts = [part.cast(part.type.value_type) if pa.types.is_dictionary(part.type) else part for part in parts]
        if all(pa.types.is_integer(part.type) for part in parts):
            parts = [part.cast(pa.int64()) for part in parts]
        elif all(_is_text(part.type) for part in parts):
            parts = [part.cast(pa.large_string()) for part in parts]
    if all(pa.types.is_dictionary(part.type) for part in parts):
        parts = [_with_wide_indices(part) for part in parts]
    try:
        joined = pa.chunked_array([chunk for part in parts for chunk in part.chunks], type=parts[0].type)
    except (pa.ArrowException, TypeError) as error:
        raise DataError(f"column {column!r} is of several types: {', '.join(map(str, kinds))}") from error
    if pa.types.is_dictionary(joined.type):
        joined = joined.unify_dictionaries()
    whole = joined.combine_chunks()
    return whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole


def _with_wide_indices(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column of categories with indices of 32 bits. All categories together may be too many for those of 8."""
    chunks = [
        pa.DictionaryArray.from_arrays(chunk.indices.cast(pa.int32()), chunk.dictionary, ordered=chunk.type.ordered)
        for chunk in column.chunks
    ]
    kind = pa.dictionary(pa.int32(), column.type.value_type, column.type.ordered)
    return pa.chunked_array(chunks, type=kind)


def _may_be_images(kind: pa.DataType) -> bool:
    """Return whether a column of a type can hold encoded images, paths, or numbers that name files."""
    checks = (
        *(pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary),
        *(_is_text, pa.types.is_integer, pa.types.is_struct, pa.types.is_dictionary, pa.types.is_null),
    )
    return any(check(kind) for check in checks)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _class_names(metadata: Mapping[bytes, bytes], label_column: str, name: str) -> list[str] | None:
    """Return class names from the metadata entry `class_names` or from Hugging Face's entry `huggingface`.

    An entry `huggingface` of another form gives None.
    """
    if b"class_names" in metadata:
        try:
            value = json.loads(metadata[b"class_names"])
        except ValueError as error:
            raise DataError(f"{name}: the metadata class_names is not JSON: {error}") from error
        if not isinstance(value, list):
            raise DataError(f"{name}: the metadata class_names must be a JSON list")
        return [str(entry) for entry in value]
    try:
        value = json.loads(metadata.get(b"huggingface", b"{}"))
    except ValueError:
        return None
    for key in ("info", "features", label_column, "names"):
        value = value.get(key) if isinstance(value, dict) else None
    return [str(entry) for entry in value] if isinstance(value, list) and value else None
