"""When a process of this machine started, which tells it from a later process of the same id."""

from __future__ import annotations

import math
import os
import subprocess
import time
from pathlib import Path

PS_SECONDS = 10.0
"""Longest wait for the command `ps`."""


def process_start(process: int) -> float | None:
    """Return the time at which a process started, in seconds of the wall clock.

    Args:
        process: Process id.

    Returns:
        The time. None if there is no such process. NaN if this system does not tell.
    """
    if not Path("/proc/stat").exists():
        return _start_by_ps(process)
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    except PermissionError:
        return math.nan
    (boot,) = (line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime "))
    return float(boot.split()[1]) + int(fields[19]) / os.sysconf("SC_CLK_TCK")  # field 22 of proc(5), starttime


def is_same_process(process: int, started: float | None) -> bool:
    """Return whether a process of this id lives on this machine and is the one that was recorded.

    Args:
        process: Process id.
        started: When the recorded process started, as from `process_start`. None or NaN: not known, so that any living
            process of this id counts.
    """
    now = process_start(process)
    if now is None:
        return False
    return started is None or math.isnan(now) or math.isnan(started) or abs(now - started) < 1.0


def _start_by_ps(process: int) -> float | None:
    """Return the start of a process on a system without /proc, such as macOS."""
    command = ["ps", "-o", "lstart=", "-p", str(process)]
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=PS_SECONDS, env=environment)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return math.nan
    text = answer.stdout.strip()
    return time.mktime(time.strptime(text)) if text else None
