"""Storage of a run in a folder or bucket, through pyarrow.fs. Files are written and read whole.

Every call has a deadline. Nothing here relies on an atomic rename, because object stores have none.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from inarch.population.errors import MissingError, StorageError
from inarch.population.persistence.paths import absolute

T = TypeVar("T")

READ_BYTES = 1 << 26
"""Bytes that are read at a time."""

PART = ".part"
"""Ending of a file that `Storage.replace` has not renamed yet."""

PARTS = (f".json{PART}", f".parquet{PART}")
"""Endings of the parts that `Storage.delete_parts` deletes. Runs replace no other files, and users' files stay."""


class _PartCounter:
    """Counts the parts of a file that were written or read."""

    def __init__(self) -> None:
        self.parts = 0

    def advance(self) -> None:
        self.parts += 1


def _in_background(call: Callable[[], T]) -> concurrent.futures.Future[T]:
    """Call a function on a thread of its own. A call that hangs does not keep the process from ending."""
    future: concurrent.futures.Future[T] = concurrent.futures.Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="storage", daemon=True).start()
    return future


class Storage:
    """One folder, local or in a bucket. All paths of its methods are relative to it."""

    def __init__(self, uri: str, *, filesystem: pafs.FileSystem | None = None, deadline_seconds: float = 120.0) -> None:
        """Open a folder. The folder need not exist.

        Args:
            uri: A path or URI.
            filesystem: File system that holds `uri`, for tests and for users with their own file system. None: the
                file system that the URI names.
            deadline_seconds: Limit of each call, in seconds.

        Raises:
            StorageError: The URI cannot be opened.
        """
        self.uri = absolute(uri)
        self._deadline = deadline_seconds
        if filesystem is not None:
            self._filesystem, self._root = filesystem, self.uri
        elif "://" in self.uri:
            try:
                self._filesystem, self._root = pafs.FileSystem.from_uri(self.uri)
            except (pa.ArrowInvalid, OSError) as error:
                raise StorageError(f"storage {uri!r} cannot be opened: {error}") from error
        else:
            self._filesystem, self._root = pafs.LocalFileSystem(), self.uri

    @property
    def filesystem(self) -> pafs.FileSystem:
        """The file system, for readers of whole tables."""
        return self._filesystem

    def path(self, relative: str) -> str:
        """Return a path in the form that the file system takes.

        Args:
            relative: Path relative to the folder. Empty: the folder itself.
        """
        return f"{self._root.rstrip('/')}/{relative}" if relative else self._root

    def write(self, relative: str, content: bytes) -> None:
        """Write a whole file, as `write_parts`.

        Args:
            relative: Path of the file.
            content: All bytes of the file.

        Raises:
            StorageError: The file cannot be written, or not within the deadline.
        """
        self.write_parts(relative, (content,))

    def write_parts(self, relative: str, parts: Iterable[bytes | memoryview]) -> None:
        """Write a whole file piece by piece, and create its folder if needed.

        A crash may leave a part of the file, so readers check sizes and checksums.

        Args:
            relative: Path of the file.
            parts: All bytes of the file, in order. The deadline holds for each part, not for the file.

        Raises:
            StorageError: The file cannot be written, or a part not within the deadline.
        """
        counter = _PartCounter()

        def call() -> None:
            path = self.path(relative)
            self._filesystem.create_dir(path.rpartition("/")[0], recursive=True)
            with self._filesystem.open_output_stream(path) as sink:
                for part in parts:
                    sink.write(part)
                    counter.advance()

        self._within_deadline(call, f"write {relative}", counter)

    def replace(self, relative: str, content: bytes) -> None:
        """Replace a file by a new version. On a local disk, a crash leaves either the old or the new version.

        Args:
            relative: Path of the file, which need not exist.
            content: All bytes of the new version.

        Raises:
            StorageError: The file cannot be written, or not within the deadline.
        """
        if not isinstance(self._filesystem, pafs.LocalFileSystem):
            self.write(relative, content)
            return
        part = f"{relative}{PART}"
        try:
            self.write(part, content)
        except StorageError as error:
            if error.__cause__ is not None:  # else the storage hangs, and a second call would hang as long
                with contextlib.suppress(StorageError):
                    self.delete(part)
            raise
        self._within_deadline(
            lambda: self._filesystem.move(self.path(part), self.path(relative)), f"replace {relative}"
        )

    def delete_parts(self) -> None:
        """Delete the parts that processes left when they were killed within `replace`.

        Parts lie in the folder, or one level below. No process may be within `replace` meanwhile.

        Raises:
            StorageError: A part cannot be deleted, or not within the deadline.
        """
        if not isinstance(self._filesystem, pafs.LocalFileSystem):
            return

        def listed(path: str) -> list[pafs.FileInfo]:
            return self._filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True))

        def call() -> None:
            top = listed(self._root)
            below = [info for entry in top if entry.type == pafs.FileType.Directory for info in listed(entry.path)]
            for info in (*top, *below):
                if info.type == pafs.FileType.File and info.path.endswith(PARTS):
                    self._filesystem.delete_file(info.path)

        self._within_deadline(call, "delete parts of files")

    def read(self, relative: str) -> bytes:
        """Return the content of a file.

        Args:
            relative: Path of the file.

        Raises:
            MissingError: The file does not exist.
            StorageError: The file cannot be read, or a part of it not within the deadline.
        """
        counter = _PartCounter()

        def call() -> bytes:
            with self._filesystem.open_input_file(self.path(relative)) as source:
                if source.size() <= READ_BYTES:
                    return source.read()
                parts = []
                while part := source.read(READ_BYTES):
                    parts.append(part)
                    counter.advance()
                return b"".join(parts)

        return self._within_deadline(call, f"read {relative}", counter)

    def exists(self, relative: str) -> bool:
        """Return whether a file or folder exists.

        Args:
            relative: Path of the file or folder.

        Raises:
            StorageError: The storage fails, or does not answer within the deadline.
        """
        info = self._within_deadline(lambda: self._filesystem.get_file_info(self.path(relative)), f"look up {relative}")
        return info.type != pafs.FileType.NotFound

    def size(self, relative: str) -> int | None:
        """Return the size of a file in bytes, or None if there is no such file.

        Args:
            relative: Path of the file.

        Raises:
            StorageError: The storage fails, or does not answer within the deadline.
        """
        info = self._within_deadline(lambda: self._filesystem.get_file_info(self.path(relative)), f"look up {relative}")
        return info.size if info.type == pafs.FileType.File else None

    def names(self, relative: str) -> list[str]:
        """Return the sorted names of the entries in a folder. The list is empty if the folder does not exist.

        Args:
            relative: Path of the folder.

        Raises:
            StorageError: The folder cannot be listed, or not within the deadline.
        """
        selector = pafs.FileSelector(self.path(relative), allow_not_found=True)
        infos = self._within_deadline(lambda: self._filesystem.get_file_info(selector), f"list {relative}")
        return sorted(info.base_name for info in infos)

    def delete(self, relative: str) -> None:
        """Delete a file, or a folder with all its content. Do nothing if it does not exist.

        Args:
            relative: Path of the file or folder.

        Raises:
            StorageError: The entry cannot be deleted, or not within the deadline.
        """

        def call() -> None:
            info = self._filesystem.get_file_info(self.path(relative))
            if info.type == pafs.FileType.Directory:
                self._filesystem.delete_dir(self.path(relative))
            elif info.type == pafs.FileType.File:
                self._filesystem.delete_file(self.path(relative))

        self._within_deadline(call, f"delete {relative}")

    def make(self, relative: str) -> None:
        """Create a folder and its parents. Do nothing if it exists.

        Args:
            relative: Path of the folder.

        Raises:
            StorageError: The folder cannot be created, or not within the deadline.
        """
        self._within_deadline(
            lambda: self._filesystem.create_dir(self.path(relative), recursive=True), "create a folder"
        )

    def check_writable(self) -> None:
        """Write a small file, read it back and delete it.

        Raises:
            StorageError: One of the three failed, or the file that was read differs from the one written.
        """
        self.write(".writable", b"inarch")
        if self.read(".writable") != b"inarch":
            raise StorageError(f"storage {self.uri!r} is unusable: a test file differed when it was read back")
        self.delete(".writable")

    def _within_deadline(self, call: Callable[[], T], what: str, counter: _PartCounter | None = None) -> T:
        """Return the result of a call, or raise StorageError. `what` names the call in the message.

        With a counter, the deadline begins anew with each part.
        """
        future = _in_background(call)
        try:
            while True:
                before = counter.parts if counter else 0
                concurrent.futures.wait((future,), timeout=self._deadline)
                if future.done():
                    return future.result()
                if counter is None or counter.parts == before:
                    raise StorageError(f"storage {self.uri!r} did not {what} within {self._deadline:g} s")
        except (OSError, pa.ArrowException) as error:
            kind = MissingError if isinstance(error, FileNotFoundError) else StorageError
            raise kind(f"storage {self.uri!r} could not {what}: {error}") from error
