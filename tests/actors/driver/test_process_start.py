"""The start of a process, compared with psutil."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import psutil
import pytest

from inarch.actors.driver import process_start


def test_start_of_a_process_is_that_of_psutil() -> None:
    for process in (os.getpid(), os.getppid()):
        assert process_start.process_start(process) == pytest.approx(psutil.Process(process).create_time(), abs=0.1)


def test_process_that_has_ended_has_no_start() -> None:
    child = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    assert process_start.process_start(int(child.stdout)) is None


def test_other_process_of_a_recorded_id_is_not_the_same() -> None:
    """A container that starts again has a process 1 as well."""
    started = process_start.process_start(os.getpid())
    assert started is not None
    for recorded in (started, None, math.nan):
        assert process_start.is_same_process(os.getpid(), recorded)
    assert not process_start.is_same_process(os.getpid(), started - 3600.0)
