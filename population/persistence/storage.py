"""A folder or bucket that holds a run, over pyarrow.fs: whole files written and read, every call with a deadline.

Nothing here relies on an atomic rename: object stores have none.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from inarch.population.errors import MissingError, StorageError

T = TypeVar("T")


def absolute(uri: str) -> str:
    """A local path made absolute; other URIs as they are."""
    return uri if "://" in uri else str(Path(uri).expanduser().absolute())


def joined(uri: str, relative: str) -> str:
    """A path below a folder or URI; what follows a `?` stays at the end: `s3://b/runs?region=r` and `x` give
    `s3://b/runs/x?region=r`."""
    folder, mark, query = uri.partition("?") if "://" in uri else (uri, "", "")
    return f"{folder.rstrip('/')}/{relative}{mark}{query}"


class Storage:
    """One folder. Paths are relative to it."""

    def __init__(self, uri: str, *, filesystem: pafs.FileSystem | None = None, deadline_seconds: float = 120.0) -> None:
        """Args: uri, a path or URI; filesystem, given by tests and by users with one of their own; a call's deadline.

        Raises:
            StorageError: the URI cannot be opened.
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
        self._calls = concurrent.futures.ThreadPoolExecutor(max_workers=4, thread_name_prefix="storage")

    @property
    def filesystem(self) -> pafs.FileSystem:
        """For readers of whole tables."""
        return self._filesystem

    def path(self, relative: str) -> str:
        """A relative path as the file system wants it."""
        return f"{self._root.rstrip('/')}/{relative}" if relative else self._root

    def write(self, relative: str, content: bytes) -> None:
        """Write a file whole; its folder is made. A crash may leave a part: readers check sizes and checksums."""

        def call() -> None:
            path = self.path(relative)
            self._filesystem.create_dir(path.rpartition("/")[0], recursive=True)
            with self._filesystem.open_output_stream(path) as sink:
                sink.write(content)

        self._within_deadline(call, f"write {relative}")

    def replace(self, relative: str, content: bytes) -> None:
        """Write a file whole in place of an earlier one. On a local disk a crash leaves the one or the other."""
        if not isinstance(self._filesystem, pafs.LocalFileSystem):
            self.write(relative, content)
            return
        part = f"{relative}.part"
        self.write(part, content)
        self._within_deadline(
            lambda: self._filesystem.move(self.path(part), self.path(relative)), f"replace {relative}"
        )

    def read(self, relative: str) -> bytes:
        """The content of a file.

        Raises:
            MissingError: it is not there.
            StorageError: it cannot be read, or not within the deadline.
        """

        def call() -> bytes:
            with self._filesystem.open_input_file(self.path(relative)) as source:
                return source.read()

        return self._within_deadline(call, f"read {relative}")

    def exists(self, relative: str) -> bool:
        """Whether a file or folder is there."""
        info = self._within_deadline(lambda: self._filesystem.get_file_info(self.path(relative)), f"look up {relative}")
        return info.type != pafs.FileType.NotFound

    def size(self, relative: str) -> int | None:
        """Bytes of a file; None where there is none."""
        info = self._within_deadline(lambda: self._filesystem.get_file_info(self.path(relative)), f"look up {relative}")
        return info.size if info.type == pafs.FileType.File else None

    def names(self, relative: str) -> list[str]:
        """Names in a folder, sorted; none where there is no folder."""
        selector = pafs.FileSelector(self.path(relative), allow_not_found=True)
        found = self._within_deadline(lambda: self._filesystem.get_file_info(selector), f"list {relative}")
        return sorted(info.base_name for info in found)

    def delete(self, relative: str) -> None:
        """Delete a folder with all in it, or a file; nothing where it is gone already."""

        def call() -> None:
            info = self._filesystem.get_file_info(self.path(relative))
            if info.type == pafs.FileType.Directory:
                self._filesystem.delete_dir(self.path(relative))
            elif info.type == pafs.FileType.File:
                self._filesystem.delete_file(self.path(relative))

        self._within_deadline(call, f"delete {relative}")

    def make(self, relative: str) -> None:
        """Make a folder."""
        self._within_deadline(lambda: self._filesystem.create_dir(self.path(relative), recursive=True), "make a folder")

    def check_writable(self) -> None:
        """Raises StorageError unless a file can be written here, read back and deleted."""
        self.write(".writable", b"inarch")
        if self.read(".writable") != b"inarch":
            raise StorageError(f"storage {self.uri!r} does not give back what was written to it")
        self.delete(".writable")

    def _within_deadline(self, call: Callable[[], T], what: str) -> T:
        future = self._calls.submit(call)
        try:
            return future.result(timeout=self._deadline)
        except concurrent.futures.TimeoutError:
            raise StorageError(f"storage {self.uri!r} did not {what} within {self._deadline:g} s") from None
        except (OSError, pa.ArrowException) as error:
            kind = MissingError if isinstance(error, FileNotFoundError) else StorageError
            raise kind(f"storage {self.uri!r} could not {what}: {error}") from error
