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
"""Names of the column of images, the likeliest first."""

LABEL_COLUMNS = ("label", "fine_label", "labels", "class", "target", "category", "class_name")
"""Names of the column of labels, the likeliest first."""

CAMERA_COLUMNS = ("camera", "camera_id")


def open_table(files: Sequence[TableFile], config: DataConfig, *, name: str) -> EncodedImages:
    """Open a table of images and labels, in one or several files.

    Args:
        files: In the order of their rows.
        config: Names of columns and classes.
        name: What the caller named, for errors.

    Raises:
        DataError: a file cannot be read, a column is missing, or labels cannot be used; names file and row.
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


def _column(readers: Sequence[TableReader], column: str) -> pa.Array:
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
    """Return class names from the metadata `class_names` or from Hugging Face's entry `huggingface`.

    Metadata of another form give None.
    """
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


class _Rows:
    """Reads images of a table by number and caches the newest groups. Loader workers receive it by pickle."""

    KEPT = 8

    def __init__(
        self, files: Sequence[TableFile], column: str, sizes: Sequence[Sequence[int]], folder: str | None, name: str
    ) -> None:
        """Prepare to read images.

        Args:
            files: Of the table.
            column: Of the images.
            sizes: Rows of each group of each file.
            folder: That paths in rows are relative to; None: the folder of the file.
            name: For errors.
        """
        self._files, self._column, self._folder, self._name = list(files), column, folder, name
        self._places = [(file, group) for file, of in enumerate(sizes) for group in range(len(of))]
        self._starts = np.concatenate([[0], np.cumsum([size for of in sizes for size in of])])
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
        """Read the image that a row names by its path."""
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
                readers[file] = TableReader(self._files[file])
            try:
                self._kept[group] = readers[file].group(index, self._column)
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"{self._files[file].path}: row group {index} cannot be read: {error}") from error
        return self._kept[group]


def _is_there(filesystem: pafs.FileSystem, path: str) -> bool:
    return filesystem.get_file_info(path).type == pafs.FileType.File
