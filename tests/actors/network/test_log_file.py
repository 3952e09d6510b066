"""The log of a process: in the run's folder, on standard error, and copied to a bucket."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from inarch.actors.network.log_file import LogFile
from inarch.population.persistence.storage import Storage


def test_lines_are_in_the_folder_and_on_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = LogFile(Storage(str(tmp_path)), "network-0")
    log.logger.info("interval %d", 3)
    assert "INFO interval 3" in (tmp_path / "logs" / "network-0.log").read_text()
    assert "INFO interval 3" in capsys.readouterr().err


def test_lines_in_background_are_written_by_close(tmp_path: Path) -> None:
    log = LogFile(Storage(str(tmp_path)), "coordinator", in_background=True)
    for number in range(100):
        log.logger.info("event %d", number)
    log.close()
    assert len((tmp_path / "logs" / "coordinator.log").read_text().splitlines()) == 100
    log.close()


HANGING = """
import sys, threading
from pathlib import Path
from inarch.actors.network import watchdog
from inarch.actors.network.log_file import LogFile
from inarch.population.persistence.storage import Storage

class Hanging(LogFile):
    def sync(self):
        threading.Event().wait()  # as a write into a folder that hangs

watchdog.LOG_SECONDS = 0.5
log = Hanging(Storage(sys.argv[1]), "network-0", in_background=True)
watchdog.limit_building(log, seconds=0.2)
threading.Event().wait()
"""


def test_process_that_hangs_ends_although_its_log_hangs(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", HANGING, str(tmp_path)], timeout=60, capture_output=True, text=True)
    assert ended.returncode == 1 and "the network was not built within 0.2 s: the process ends" in ended.stderr


def test_log_of_a_run_on_a_bucket_is_copied_by_sync(bucket: str) -> None:
    storage = Storage(f"s3://logs/run{bucket}")
    log = LogFile(storage, "network-1")
    log.logger.info("first")
    (local,) = [handler for handler in log.logger.handlers if isinstance(handler, logging.FileHandler)]
    assert Path(local.baseFilename).stat().st_mode & 0o777 == 0o600, "only this user may read the copy on the machine"
    log.sync()
    log.logger.info("second")
    assert not storage.read("logs/network-1.log").endswith(b"second\n")
    log.sync()
    assert storage.read("logs/network-1.log").endswith(b"second\n")


def test_sync_waits_for_lines_in_background(bucket: str) -> None:
    """The last line of a network that failed is the traceback, and its process may be gone a moment later."""
    storage = Storage(f"s3://logs/last{bucket}")
    log = LogFile(storage, "network-2", in_background=True)
    for number in range(300):
        log.logger.info("line %d", number)
    log.sync()
    assert len(storage.read("logs/network-2.log").splitlines()) == 300
    log.close()
