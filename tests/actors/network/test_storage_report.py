"""A network reports at once that storage fails, and that it works again."""

from __future__ import annotations

from pathlib import Path

from inarch.actors.network.storage_report import StorageReport
from tests.actors.coordinator.test_monitor import report
from tests.actors.network.test_async_checkpointer import checkpoint, checkpointer_of, until


def test_failure_and_recovery_are_reported(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "networks").mkdir(parents=True)
    (folder / "networks" / "0").write_text("a file in the place of the network's folder")
    checkpointer = checkpointer_of(folder)
    storage = StorageReport(checkpointer)
    assert storage.added_to(report(1)).storage_failure == ""
    checkpointer.commit(checkpoint(1))
    until(lambda: "networks/0" in checkpointer.trouble().reason)
    failing = storage.added_to(report(1))
    assert "networks/0" in failing.storage_failure and failing.unwritten_seconds >= 0.0
    assert not storage.is_due()
    (folder / "networks" / "0").unlink()
    assert checkpointer.wait()
    assert storage.is_due()
    assert storage.added_to(report(1)).storage_failure == ""
    assert not storage.is_due()
