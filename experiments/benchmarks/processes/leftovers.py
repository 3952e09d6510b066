"""What a benchmark must not leave behind: processes, shared memory, temporary files."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Mapping
from pathlib import Path

import psutil

TOKEN = "INARCH_BENCHMARK"
"""Environment variable that marks every process of a benchmark, Ray's too, because processes inherit it."""

SHARED_MEMORY = Path("/dev/shm")

FOREIGN = ("pymp-", "torchinductor_")
"""Beginnings of the names of other packages' temporary folders: sockets of Ray's dashboard, which Ray kills, and
PyTorch's cache of compiled code."""

POLL_SECONDS = 0.5


def environment(token: str, scratch: Path, extra: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a benchmark's processes.

    Args:
        token: Marks the processes.
        scratch: Folder for Ray's files, and for the temporary files of all processes (scratch/tmp). Its path is short,
            because Ray's sockets lie there.
        extra: Further variables.
    """
    variables = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return variables | {TOKEN: token, "RAY_TMPDIR": str(scratch), "TMPDIR": str(scratch / "tmp")} | dict(extra)


def marked_processes(token: str) -> list[psutil.Process]:
    """Return the living processes of a benchmark.

    Args:
        token: Marks the processes.
    """
    marked = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(TOKEN) == token:
                marked.append(process)
    return marked


def remaining_processes(token: str, *, seconds: float) -> list[str]:
    """Wait until the processes of a benchmark have ended, and return a line for each that has not. End those.

    Args:
        token: Marks the processes.
        seconds: Longest wait.
    """
    deadline = time.monotonic() + seconds
    while (processes := marked_processes(token)) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    lines = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            lines.append(f"process {process.pid} was left behind: {' '.join(process.cmdline())[:120]}")
            process.kill()
    return lines


def shared_memory() -> set[str]:
    """Return the names of the files in shared memory. Empty on systems that do not list them."""
    return {path.name for path in SHARED_MEMORY.iterdir()} if SHARED_MEMORY.is_dir() else set()


def remaining_shared_memory(before: Collection[str]) -> list[str]:
    """Return a line for each file in shared memory that is new and that no living process holds.

    Args:
        before: Names of the files before the run.
    """
    new = shared_memory() - set(before)
    held = {name for name in new if _is_held(SHARED_MEMORY / name)} if new else set[str]()
    return [f"shared memory was left behind: {SHARED_MEMORY / name}" for name in sorted(new - held)]


def remaining_files(scratch: Path) -> list[str]:
    """Return a line for each temporary file of a benchmark. Those of other packages do not count, see `FOREIGN`.

    Args:
        scratch: As in `environment`.
    """
    names = sorted(path.name for path in (scratch / "tmp").iterdir())
    return [f"a temporary file was left behind: {name}" for name in names if not name.startswith(FOREIGN)]


def _is_held(path: Path) -> bool:
    """Return whether a living process maps a file of shared memory, or has it open."""
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            if str(path) in (process / "maps").read_text():
                return True
        with contextlib.suppress(OSError):
            if any(os.readlink(entry) == str(path) for entry in (process / "fd").iterdir()):
                return True
    return False
