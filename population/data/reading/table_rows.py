"""Read the images of a table row by row: the process that trains reads row groups, loader workers the rest."""

from __future__ import annotations

import hashlib
import os
import posixpath
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs

from inarch.population.data.reading.encoded_images import ContentReader
from inarch.population.data.reading.folders import read_file
from inarch.population.data.reading.table_files import TableFile, TableReader
from inarch.population.errors import DataError, UnreadableImageError

OPEN_FILES = 4
"""Most files of a table that are open at once. CSV files hold no file open, and stay read."""

TableCell = tuple[int, int, Any]
"""Number of a row, number of its file, and its bytes or its path."""


class TableRows:
    """The images of a table by number. It implements `ImageSource`.

    Several threads may read at once, such as one that reads ahead and one that evaluates.
    """

    def __init__(
        self, files: Sequence[TableFile], column: str, sizes: Sequence[Sequence[int]], folder: str | None, name: str
    ) -> None:
        """Prepare to read images. Files are opened when they are needed, in each process.

        Args:
            files: Files of the table.
            column: Column of the images.
            sizes: Number of rows in each group of each file.
            folder: Folder or URI that the paths in rows are relative to. None: the folder of the file.
            name: Name of the table, for error messages.
        """
        self._files, self._column = list(files), column
        num_groups = [len(group_sizes) for group_sizes in sizes]
        self._file_of_group = np.repeat(np.arange(len(files)), num_groups)
        self._first_group = np.concatenate([[0], np.cumsum(num_groups)])
        self._starts = np.concatenate([[0], np.cumsum([size for group_sizes in sizes for size in group_sizes])])
        self._reader = _RowReader(self._files, folder, name)
        self._newest: tuple[int, pa.ChunkedArray] | None = None
        self._open: tuple[int, dict[int, TableReader]] = (os.getpid(), {})
        self._lock = threading.Lock()  # around the newest group and the open files

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in self.__dict__.items() if name != "_lock"}
        return state | {"_newest": None, "_open": (0, {})}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    @property
    def reader(self) -> ContentReader:
        """Function that returns the bytes in a cell, or reads the file that the cell names."""
        return self._reader

    def cells(self, indices: Sequence[int]) -> list[TableCell]:
        """Return the cells of some images. The newest group stays in memory.

        Args:
            indices: Numbers of the images. They are read group by group.
        """
        numbers = np.asarray(indices, dtype=np.int64)
        groups = np.searchsorted(self._starts, numbers, side="right") - 1
        cells: dict[int, TableCell] = {}
        for group in np.unique(groups):
            with self._lock:
                values = self._group(int(group))
            for index in numbers[groups == group].tolist():
                value = values[index - int(self._starts[group])].as_py()
                if isinstance(value, dict):
                    value = value.get("path") if value.get("bytes") is None else value["bytes"]
                cells[index] = (index, int(self._file_of_group[group]), value)
        return [cells[index] for index in numbers.tolist()]

    def identity(self) -> bytes:
        """Return a hash of the files as they are now, the column, the folder of paths and the sizes of the groups."""
        infos = self._files[0].filesystem.get_file_info([file.path for file in self._files])
        states = [(info.path, info.size, info.mtime_ns) for info in infos]
        places = repr((states, self._column, self._reader.place)).encode(errors="surrogateescape")
        return hashlib.sha256(places + self._starts.tobytes()).digest()

    def _group(self, group: int) -> pa.ChunkedArray:
        """Return the images of a group. The caller holds the lock."""
        if self._newest is not None and self._newest[0] == group and self._open[0] == os.getpid():
            return self._newest[1]
        file = int(self._file_of_group[group])
        index = group - int(self._first_group[file])
        self._newest = None
        try:
            values = self._opened(file).group(index, self._column)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self._files[file].path}: row group {index} cannot be read: {error}") from error
        self._newest = (group, values)
        return values

    def _opened(self, file: int) -> TableReader:
        """Return a file that is open in this process. Of too many files the one that was opened first is closed."""
        if self._open[0] != os.getpid():
            self._open = (os.getpid(), {})
        readers = self._open[1]
        if file not in readers:
            open_files = [number for number in readers if self._files[number].kind != "csv"]
            if len(open_files) >= OPEN_FILES:
                readers.pop(open_files[0]).close()
            readers[file] = TableReader(self._files[file])
        return readers[file]


class _RowReader:
    """Function that returns the bytes in a cell, or reads the file that the cell names."""

    def __init__(self, files: Sequence[TableFile], folder: str | None, name: str) -> None:
        self._files, self._name = files, name
        self._folder: tuple[pafs.FileSystem | None, str] | None = None
        if folder is not None:
            opened = _opened(folder, f"data.image_folder {folder!r}") if "://" in folder else None
            self._folder = opened or (None, os.path.expanduser(folder))

    @property
    def place(self) -> str | None:
        """Folder that paths are relative to, with the kind of its file system. None: those of the files."""
        if self._folder is None:
            return None
        filesystem, folder = self._folder
        return folder if filesystem is None else f"{filesystem.type_name}:{folder}"

    def __call__(self, cell: TableCell) -> tuple[bytes, str]:
        row, file, value = cell
        name = f"{self._name}, row {row}"
        if isinstance(value, bytes):
            return value, name
        if isinstance(value, (str, int)) and str(value).strip():
            return self._at(str(value).strip(), self._files[file], name)
        raise UnreadableImageError(f"{name} has no image")

    def _at(self, path: str, file: TableFile, name: str) -> tuple[bytes, str]:
        """Read the file at the path that a row holds."""
        if "://" in path:
            filesystem, target = _opened(path, f"{name}: {path}")
        else:
            opened, folder = self._folder or (None, file.path.rpartition("/")[0])
            filesystem = opened or file.filesystem
            target = path if posixpath.isabs(path) else posixpath.join(folder, path)
            if not posixpath.splitext(target)[1]:  # a name without its suffix
                target = next(
                    (f"{target}{end}" for end in (".jpg", ".jpeg", ".png") if _is_there(filesystem, f"{target}{end}")),
                    target,
                )
        return read_file(filesystem, target), f"{name} ({target})"


def _opened(uri: str, name: str) -> tuple[pafs.FileSystem, str]:
    """Return the file system of a URI, and the path in it."""
    try:
        return pafs.FileSystem.from_uri(uri)
    except Exception as error:  # each file system has errors of its own
        raise DataError(f"{name} cannot be opened ({error}); download images that are on the web") from error


def _is_there(filesystem: pafs.FileSystem, path: str) -> bool:
    """Return whether a path is a file."""
    return filesystem.get_file_info(path).type == pafs.FileType.File
