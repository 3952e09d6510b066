"""The storage of a live run that is full, read-only, hangs, or vanishes."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from inarch.experiments.benchmarks.chaos.injectors import FullStorage, small_file_system
from inarch.experiments.benchmarks.chaos.invariants import stray_files
from inarch.population import PopulationConfig, TimeoutsConfig
from inarch.population.errors import RunError
from inarch.population.membership.members import MemberState
from inarch.population.persistence.checkpoint import CheckpointStore
from inarch.population.persistence.storage import Storage
from inarch.population.tasks.run_folder import members_of, read_members
from tests.fakes.storage_faults import HangingFolder, read_only
from tests.integration.runs import intervals, paced, rows_of, until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("cluster")]


@contextlib.contextmanager
def full(folder: Path) -> Iterator[None]:
    """Fill the file system of a folder. A network may have freed room meanwhile, so it is filled until it is full."""
    storage = FullStorage(folder, is_small=True)
    try:
        until(lambda: not storage.begin({}), seconds=20)
        yield
    finally:
        storage.end()


@pytest.mark.parametrize("fault", [full, read_only])
def test_failing_storage_is_reported_and_loses_nothing(begin, tmp_path: Path, fault) -> None:
    with small_file_system(tmp_path) as is_small:
        if not is_small:
            pytest.skip("this user may not mount a file system")  # only root may, and only on Linux
        run = begin("failing", **paced(60, 0.1))
        until(lambda: min(intervals(run.status()).values(), default=0) >= 3)
        with fault(tmp_path):
            status = until(lambda: (s := run.status()) and all(n.storage_failure for n in s.networks) and s)
            before = intervals(status)
            until(lambda: all(now >= before[n] + 8 for n, now in intervals(run.status()).items()))
            assert all(network.storage_failure for network in run.status().networks)
        until(lambda: not any(network.storage_failure for network in run.status().networks))
        told = [(e.network_id, e.detail["is_failing"]) for e in run.events() if e.kind == "storage"]
        result = run.wait(seconds=60)
        assert result.is_complete and result.table is not None
        for network_id, row in enumerate(result.table["networks"]):
            assert [is_failing for network, is_failing in told if network == network_id] == [True, False]
            assert row["storage_failures"] == 1
        assert rows_of(run) == {network_id: list(range(1, 61)) for network_id in (0, 1)}
        assert list(stray_files(Storage(run.path))) == []
        run.close()


def is_quiet(folder: Path) -> bool:
    """Return whether each network has just completed a checkpoint, so that none is due within an interval of 3 s."""
    store = CheckpointStore(Storage(str(folder)))
    newest = [folder / "networks" / str(n) / store.list(n)[-1].name / "manifest.json" for n in store.networks()]
    return all(0.2 < time.time() - manifest.stat().st_mtime < 2.4 for manifest in newest)


def test_run_whose_folder_vanished_fails_and_says_so(begin) -> None:
    timeouts = TimeoutsConfig(lease_seconds=8.0)
    run = begin("vanished", population=PopulationConfig(size=2, max_size=3), **paced(200, 1.0, timeouts=timeouts))
    until(lambda: min(intervals(run.status()).values(), default=0) >= 2)
    until(lambda: is_quiet(Path(run.path)))
    shutil.rmtree(run.path)
    began = time.monotonic()
    run.scale(3)
    with pytest.raises(RunError, match=r"not this run's folder any more: .*, or it was deleted"):
        run.wait(seconds=30)
    assert time.monotonic() - began < 8.0
    time.sleep(5.0)  # networks that still trained would have written a checkpoint by now
    assert [
        name for name in ("networks", "members", "config.json", "result.json") if Path(run.path, name).exists()
    ] == []


def test_hanging_members_record_holds_nobody_up(begin) -> None:
    run = begin("hanging", population=PopulationConfig(size=2, max_size=3), **paced(60, 0.1))
    until(lambda: min(intervals(run.status()).values(), default=0) >= 2)
    members = HangingFolder(Path(run.path, "members"))
    try:
        members.begin()
    except OSError as error:
        pytest.skip(f"files cannot be made to hang: {error}")  # only root may, and only on Linux
    try:
        began = time.monotonic()
        run.scale(3)
        assert time.monotonic() - began < 5.0
        until(lambda: members.num_hanging() > 0)
        for _ in range(10):
            began = time.monotonic()
            run.status()
            assert time.monotonic() - began < 2.0
        joined = until(lambda: (s := intervals(run.status())) and s.get(2, 0) > 1 and s)
        until(lambda: all(now >= joined[n] + 3 for n, now in intervals(run.status()).items()))
        assert members.num_hanging() == 1, "one record is written at a time"
    finally:
        members.end()
    result = run.wait(seconds=90)
    assert result.is_complete and len(result.networks) == 3
    record = read_members(Storage(run.path))
    assert record is not None and record["state"] == "finished"
    assert {member.id: member.state for member in members_of(record)} == dict.fromkeys(range(3), MemberState.DONE)
