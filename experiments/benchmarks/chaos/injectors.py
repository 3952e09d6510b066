"""Injectors of faults. Each says whether its fault has happened, so that a plan which did nothing does not pass."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil

SIGNAL_SECONDS = 20.0
"""Longest wait until a process has obeyed a signal."""

STORAGE_BYTES = 96 << 20
"""Size of the file system on which the run's folder lies, if one can be mounted."""

LIMIT_BYTES = 4096
"""Size beyond which no file grows while storage is full, where no file system can be mounted."""

FILLER = ".filler"
"""File that fills the file system."""


def kill(process: int) -> str:
    """Kill a process with SIGKILL, and wait for its end.

    Args:
        process: Process id.

    Returns:
        Why it was not killed. Empty if it was.
    """

    def call(victim: psutil.Process) -> None:
        victim.kill()
        victim.wait(SIGNAL_SECONDS)

    return _inflict(process, call)


def freeze(process: int) -> str:
    """Stop a process with SIGSTOP, and wait until it stands.

    Args:
        process: Process id.

    Returns:
        Why it was not stopped. Empty if it was.
    """

    def call(victim: psutil.Process) -> None:
        victim.suspend()
        deadline = time.monotonic() + SIGNAL_SECONDS
        while victim.status() != psutil.STATUS_STOPPED:
            if time.monotonic() > deadline:
                raise psutil.TimeoutExpired(SIGNAL_SECONDS, process)
            time.sleep(0.01)

    return _inflict(process, call)


def _inflict(process: int, call: Callable[[psutil.Process], None]) -> str:
    """Call a function that sends a signal to a process and waits. Return why it had no effect, or an empty text."""
    try:
        call(psutil.Process(process))
    except psutil.NoSuchProcess:
        return f"process {process} had ended"
    except psutil.TimeoutExpired:
        return f"process {process} did not obey a signal within {SIGNAL_SECONDS:g} s"
    return ""


def thaw(process: int) -> bool:
    """Continue a process with SIGCONT, and return whether it was still there.

    Args:
        process: Process id.
    """
    try:
        os.kill(process, signal.SIGCONT)
    except ProcessLookupError:
        return False
    return True


@contextlib.contextmanager
def small_file_system(folder: Path) -> Iterator[bool]:
    """Mount a file system of `STORAGE_BYTES` in memory on a folder, where this process may.

    Args:
        folder: The folder, which exists.

    Yields:
        Whether it is mounted. Only root may mount, and only on Linux.
    """
    is_mounted = False
    if sys.platform == "linux" and os.geteuid() == 0:
        words = ["mount", "-t", "tmpfs", "-o", f"size={STORAGE_BYTES}", "inarch-chaos", str(folder)]
        with contextlib.suppress(OSError):
            is_mounted = subprocess.run(words, capture_output=True, check=False).returncode == 0
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False)


class FullStorage:
    """Storage that is full from `begin` to `end`.

    On a small file system, a file fills it. Elsewhere on Linux, the processes that write may write no more than
    `LIMIT_BYTES` into a file. Both need no right that the processes' user lacks.
    """

    def __init__(self, folder: Path, *, is_small: bool) -> None:
        """Create an injector that has done nothing.

        Args:
            folder: Folder in which nothing can be written any more.
            is_small: Whether the folder lies on a file system of its own, as from `small_file_system`.
        """
        self._folder, self._is_small = folder, is_small
        self._limits: dict[int, tuple[int, int]] = {}

    def begin(self, processes: Mapping[str, int]) -> str:
        """Fill the storage.

        Args:
            processes: Ids of the processes that write, by name. Not needed on a small file system.

        Returns:
            Why the storage is not full. Empty if it is.
        """
        if self._is_small:
            return self._fill()
        if not hasattr(resource, "prlimit"):
            return "the storage cannot be filled on this system"
        for process in set(processes.values()) - set(self._limits):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                before = resource.prlimit(process, resource.RLIMIT_FSIZE)
                resource.prlimit(process, resource.RLIMIT_FSIZE, (LIMIT_BYTES, before[1]))
                self._limits[process] = before
        return "" if self._limits else "no process could be limited"

    def end(self) -> None:
        """Make room again. Do nothing if there is."""
        (self._folder / FILLER).unlink(missing_ok=True)
        for process, before in self._limits.items():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                resource.prlimit(process, resource.RLIMIT_FSIZE, before)
        self._limits.clear()

    def _fill(self) -> str:
        with (self._folder / FILLER).open("wb", buffering=0) as filler:
            for size in (1 << 20, 1 << 12, 1):
                try:
                    while filler.write(bytes(size)) == size:
                        pass
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
        free = os.statvfs(self._folder).f_bavail
        return f"{free} blocks are free" if free else ""


class SlowWrite:
    """A file of a checkpoint whose write hangs from its beginning until `end`, and then succeeds.

    A FIFO lies at the file's place. The writer waits there for a reader.
    """

    def __init__(self, folder: Path, *, network_id: int, incarnation: int, interval: int) -> None:
        """Choose the file. Nothing is done yet.

        Args:
            folder: The run's folder.
            network_id: Id of the network.
            incarnation: Its incarnation.
            interval: An interval that it has not ended yet.
        """
        name = f"{interval:06d}-{incarnation:03d}"
        self._path = folder / "networks" / str(network_id) / name / "model.safetensors"

    def begin(self) -> str:
        """Put the FIFO in the file's place.

        Returns:
            Why it could not be put there. Empty if it was.
        """
        try:
            self._path.parent.mkdir(parents=True)
            os.mkfifo(self._path)
        except OSError as error:
            return f"no FIFO could be made: {error}"
        return ""

    def end(self) -> str:
        """Let the write finish, and put a file with its bytes in the place of the FIFO.

        Returns:
            Why no write was slow. Empty if a write was.
        """
        if not _is_fifo(self._path):
            return "the checkpoint's folder was deleted before its write"
        content = _drained(self._path)
        if content is None:
            with contextlib.suppress(OSError):
                self._path.unlink()
                self._path.parent.rmdir()
            return "no checkpoint was written at that interval"
        part = self._path.with_suffix(".chaos")
        with contextlib.suppress(OSError):  # the folder was deleted meanwhile
            part.write_bytes(content)
            part.replace(self._path)
        return ""


def _is_fifo(path: Path) -> bool:
    try:
        return stat.S_ISFIFO(path.stat().st_mode)
    except OSError:
        return False


def _drained(path: Path) -> bytes | None:
    """Read a FIFO until its writer closes it. None: it has no writer."""
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    parts: list[bytes] = []
    has_writer = False
    try:
        while True:
            try:
                part = os.read(reader, 1 << 20)
            except BlockingIOError:
                has_writer = True
                time.sleep(0.001)
                continue
            if not part:
                return b"".join(parts) if has_writer or parts else None
            parts.append(part)
    finally:
        os.close(reader)
