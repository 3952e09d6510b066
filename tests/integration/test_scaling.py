"""Populations that grow and shrink while they run."""

from __future__ import annotations

from pathlib import Path

import pytest

from inarch.actors import PopulationRun
from inarch.population import (
    PopulationConfig,
)
from inarch.population.errors import (
    ConfigError,
)
from inarch.population.persistence.checkpoint import CheckpointStore
from inarch.population.persistence.storage import Storage
from inarch.population.tasks.run_folder import read_members
from tests.integration.runs import (
    intervals,
    paced,
    rows_of,
    until,
)

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


@pytest.mark.slow
def test_scale_grows_and_shrinks_a_running_population(begin, tmp_path: Path) -> None:
    run = begin("elastic", **paced(200, 0.1, population=PopulationConfig(size=2, max_size=3)))
    until(lambda: min(intervals(run.status()).values(), default=0) >= 2)
    attached = PopulationRun.attach("elastic", storage=str(tmp_path))
    attached.scale(3)
    status = until(lambda: (s := run.status()) and sum(n.state == "training" for n in s.networks) == 3 and s)
    assert [n.network_id for n in status.networks] == [0, 1, 2]
    until(lambda: min(intervals(run.status()).values()) >= 5)
    with pytest.raises(ConfigError, match="max_size is 3"):
        run.scale(4)
    with pytest.raises(ConfigError, match="at least 1"):
        run.scale(0)
    run.scale(2)
    status = until(lambda: (s := run.status()) and s.networks[2].state == "retired" and s)
    assert [n.state for n in status.networks] == ["training", "training", "retired"]
    run.stop(seconds=60)
    rows = rows_of(run)
    assert all(rows[n] == list(range(1, len(rows[n]) + 1)) and len(rows[n]) >= 5 for n in (0, 1))
    store = CheckpointStore(Storage(run.path))
    assert rows[2] == list(range(rows[2][0], rows[2][-1] + 1))
    assert rows[2][0] > 1
    newest = store.newest(2)
    assert newest is not None and newest.id.interval == rows[2][-1]
    run.close()
    resumed = PopulationRun.resume(run.path)
    until(lambda: resumed.status().state == "training")
    record = read_members(Storage(run.path)) or {}
    assert record["limit"] == 2, "a resumed population may grow to the size that `scale` set, not to max_size"
    resumed.stop(seconds=60)
    resumed.close()


@pytest.mark.slow
def test_newcomer_removed_at_a_barrier_does_not_restart(begin) -> None:
    run = begin("visitor", **paced(3, 5.0, mode="lockstep"))  # a newcomer starts within an interval
    until(lambda: min(intervals(run.status()).values(), default=0) >= 1)
    run.scale(3)
    until(lambda: (s := run.status()) and len(s.networks) == 3 and s.networks[2].state == "training")
    assert max(intervals(run.status()).values()) == 1, "the barrier opened before the newcomer waited"
    run.scale(2)
    run.wait(seconds=120)
    visitor = run.status().networks[2]
    assert (visitor.state, visitor.incarnation) == ("retired", 1)
    assert not [event for event in run.events() if event.network_id == 2 and event.kind in ("loss", "restart")]
    assert rows_of(run).keys() == {0, 1}


@pytest.mark.slow
def test_newcomer_that_starts_after_the_end_is_retired(begin) -> None:
    """The others end while its process starts, so that no interval is left for it (found by chaos seed 301)."""
    run = begin("belated", **paced(3, 0.2))
    until(lambda: min(intervals(run.status()).values(), default=0) >= 2)
    run.scale(3)
    result = run.wait(seconds=120)
    assert {n.network_id: n.ended for n in result.networks} == {0: "done", 1: "done"}
    record = read_members(Storage(run.path))
    assert record is not None and [member["state"] for member in record["members"]] == ["done", "done", "retired"]
    assert result.is_complete and rows_of(run) == {0: [1, 2, 3], 1: [1, 2, 3]}
