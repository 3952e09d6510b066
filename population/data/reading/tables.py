"""Read images and labels from the rows of tables."""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
from PIL import Image

from inarch.population.config import DataConfig
from inarch.population.data.reading.decoding import decode
from inarch.population.data.reading.encoded_images import EncodedImages
from inarch.population.data.reading.folders import read_file
from inarch.population.data.reading.labels import encode_labels
from inarch.population.data.reading.table_files import TableFile, TableReader
from inarch.population.errors import DataError, UnreadableImageError

IMAGE_COLUMNS = (
    *("image", "img", "picture", "jpg", "png", "image_path", "file_name", "filename", "file_path", "filepath", "path"),
    *("file", "photo", "image_name", "image_id", "id"),
)
"""Usual names of the column of images, the most likely first."""

LABEL_COLUMNS = ("label", "fine_label", "labels", "class", "target", "category", "class_name")
"""Usual names of the column of labels, the most likely first."""

CAMERA_COLUMNS = ("camera", "camera_id")
"""Usual names of the column of cameras."""


def open_table(files: Sequence[TableFile], config: DataConfig, *, name: str) -> EncodedImages:
    """Open a table of images and labels, in one or several files.

    Args:
        files: Files of the table, in the order of their rows.
        config: Names of columns and classes, and the folder of image paths.
        name: The table as the caller named it, for error messages.

    Raises:
        DataError: A file cannot be read, a column is missing, files disagree on the classes, or labels cannot be
            used. The message names the file and the row.
    """
    readers = [TableReader(file) for file in files]
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
    all_names = [_class_names(reader.metadata(), label_column, name) for reader in readers]
    for reader, file_names in zip(readers, all_names, strict=True):
        if file_names != all_names[0]:
            raise DataError(
                f"{reader.file.path} names other classes than {readers[0].file.path}: {file_names}, {all_names[0]}"
            )
    names = all_names[0]
    if names is None and config.class_names and not _is_text(labels.type):
        names = list(config.class_names)
    numbers, class_names = encode_labels(labels, name=f"{name}, column {label_column!r}", class_names=names)
    notes: tuple[str, ...] = ()
    camera_column = next((column for column in CAMERA_COLUMNS if column in columns), None)
    cameras = None
    if camera_column is not None:
        camera_values = _column(readers, camera_column)
        if not camera_values.null_count and pa.types.is_integer(camera_values.type):
            cameras = camera_values.to_numpy().astype(np.int64)
        else:  # only retrieval uses cameras; in other tables the column may hold texts
            notes += (f"{name}: column {camera_column!r} does not hold whole numbers and is not used",)
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


def _column(readers: Sequence[TableReader], column: str) -> pa.Array:
    """Return a column of all files as a single array of one type."""
    parts = [reader.column(column) for reader in readers]
    kinds = {part.type for part in parts}
    if len(kinds) > 1:
        parts = [part.cast(part.type.value_type) if pa.types.is_dictionary(part.type) else part for part in parts]
        if all(pa.types.is_integer(part.type) for part in parts):
            parts = [part.cast(pa.int64()) for part in parts]
        elif all(_is_text(part.type) for part in parts):
            parts = [part.cast(pa.large_string()) for part in parts]
    try:
        joined = pa.chunked_array([chunk for part in parts for chunk in part.chunks], type=parts[0].type)
    except (pa.ArrowException, TypeError) as error:
        raise DataError(f"column {column!r} is of several types: {', '.join(map(str, kinds))}") from error
    if pa.types.is_dictionary(joined.type):
        joined = joined.unify_dictionaries()
    whole = joined.combine_chunks()
    return whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


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


class _Rows:
    """Reader of a table's images by number, which caches the newest groups. Loader workers receive it by pickle."""

    KEPT = 8
    """Groups in the cache."""

    def __init__(
        self, files: Sequence[TableFile], column: str, sizes: Sequence[Sequence[int]], folder: str | None, name: str
    ) -> None:
        """Prepare to read images. Files are opened at the first read, in each process.

        Args:
            files: Files of the table.
            column: Column of the images.
            sizes: Number of rows in each group of each file.
            folder: Folder that the paths in rows are relative to. None: the folder of the file.
            name: Name of the table, for error messages.
        """
        self._files, self._column, self._folder, self._name = list(files), column, folder, name
        self._places = [(file, group) for file, group_sizes in enumerate(sizes) for group in range(len(group_sizes))]
        self._starts = np.concatenate([[0], np.cumsum([size for group_sizes in sizes for size in group_sizes])])
        self._kept: dict[int, pa.ChunkedArray] = {}
        self._open: tuple[int, dict[int, TableReader]] = (os.getpid(), {})

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
        """Read the image at the path that a row holds."""
        if "://" in path:
            try:
                filesystem, target = pafs.FileSystem.from_uri(path)
            except Exception as error:  # each file system has errors of its own
                raise DataError(
                    f"{name}: {path} cannot be opened ({error}); download images that are on the web"
                ) from error
        else:
            filesystem = file.filesystem
            folder = file.path.rpartition("/")[0] if self._folder is None else os.path.expanduser(self._folder)
            target = path if posixpath.isabs(path) else posixpath.join(folder, path)
            if not posixpath.splitext(target)[1]:  # a name without its suffix
                target = next(
                    (f"{target}{end}" for end in (".jpg", ".jpeg", ".png") if _is_there(filesystem, f"{target}{end}")),
                    target,
                )
        return decode(read_file(filesystem, target), f"{name} ({target})")

    def _group(self, group: int) -> pa.ChunkedArray:
        """Return the images of a group, from the cache or from its file."""
        if self._open[0] != os.getpid():  # each process opens the files for itself
            self._open, self._kept = (os.getpid(), {}), {}
        if group not in self._kept:
            file, index = self._places[group]
            while len(self._kept) >= self.KEPT:
                self._kept.pop(next(iter(self._kept)))
            readers = self._open[1]
            if file not in readers:
                readers[file] = TableReader(self._files[file])
            try:
                self._kept[group] = readers[file].group(index, self._column)
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"{self._files[file].path}: row group {index} cannot be read: {error}") from error
        return self._kept[group]


def _is_there(filesystem: pafs.FileSystem, path: str) -> bool:
    """Return whether a path is a file."""
    return filesystem.get_file_info(path).type == pafs.FileType.File
