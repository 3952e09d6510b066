"""Runs that are stopped and resumed."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest
import ray

from inarch.actors import PopulationRun
from inarch.actors.driver.discovery import check_folder_not_live
from inarch.actors.driver.process_start import process_start
from inarch.actors.driver.trusted_clusters import TrustedClusters
from inarch.population import (
    DataConfig,
    DebugConfig,
    PopulationConfig,
    ScheduleConfig,
    StragglerConfig,
)
from inarch.population.data import write_arrow
from inarch.population.errors import (
    ConfigError,
    DataError,
    RunError,
    RunExistsError,
    StructureError,
)
from inarch.population.models import CifarResNet
from inarch.population.persistence.checkpoint import CheckpointStore
from inarch.population.persistence.history import read_table
from inarch.population.persistence.storage import Storage
from inarch.population.tasks.run_folder import read_config
from tests.conftest import small_config, tiny_splits
from tests.fakes.damage import KINDS, damaged
from tests.images import write_classes
from tests.integration.runs import (
    assert_same_weights,
    final_weights,
    intervals,
    own_network,
    paced,
    rows_of,
    until,
)

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


@pytest.mark.slow
def test_lockstep_run_after_resume_has_the_same_weights(begin, tmp_path: Path) -> None:
    options = paced(8, 0.05, mode="lockstep")
    whole = begin("whole", **options)
    whole.wait(seconds=90)
    whole.close()
    halves = begin("halves", **options)
    until(lambda: max(intervals(halves.status()).values(), default=0) >= 3)
    halves.stop(seconds=60)
    assert halves.wait(seconds=10).table is None
    halves.close()
    assert max(len(rows) for rows in rows_of(halves).values()) < 8
    resumed = PopulationRun.resume(halves.path)
    assert resumed.wait(seconds=90).is_complete
    resumed.close()
    assert_same_weights(final_weights(whole.path), final_weights(halves.path))
    assert rows_of(halves) == rows_of(whole) == {n: list(range(1, 9)) for n in range(2)}
    grafts = read_table(Storage(halves.path), "grafts")
    assert grafts["rootstock_version"].to_pylist() == grafts["scion_version"].to_pylist()


@pytest.mark.slow
def test_finished_network_donates_after_resume(begin) -> None:
    options = paced(12, 0.03)
    options["debug"] = DebugConfig(straggler=StragglerConfig(step_seconds=0.03, slowdowns=(0.1, 4.0)))
    run = begin("early", **options)
    until(lambda: intervals(run.status()).get(0) == 12 and intervals(run.status())[1] >= 1)
    run.stop(seconds=60)
    stopped_at = intervals(run.status())[1]
    assert stopped_at < 11
    run.close()
    resumed = PopulationRun.resume(run.path)
    assert resumed.wait(seconds=90).is_complete
    resumed.close()
    grafts = read_table(Storage(run.path), "grafts").to_pylist()
    later = [row for row in grafts if row["rootstock"] == 1 and row["interval"] > stopped_at + 1]
    assert later and {row["scion_version"] for row in later} == {12}


@pytest.mark.slow
def test_resume_with_other_structure_or_images_is_refused(begin, tmp_path: Path) -> None:
    run = begin("checked", model=own_network, **paced(200, 0.05))
    until(lambda: min(intervals(run.status()).values(), default=0) >= 1)
    with pytest.raises(RunExistsError, match="choose another name"):
        begin("checked")
    with pytest.raises(RunError, match="is live"):
        PopulationRun.resume(run.path, model=own_network)
    run.stop(seconds=60)
    run.close()
    with pytest.raises(ConfigError, match="was begun with a callable"):
        until(lambda: PopulationRun.resume(run.path) and False, seconds=5)
    with pytest.raises(StructureError, match="was begun with a network of"):
        PopulationRun.resume(
            run.path, model=lambda num_classes: CifarResNet(14, num_classes=num_classes, in_channels=1)
        )
    other = tmp_path / "other.arrow"
    changed = tiny_splits(small_config(), seed=1).test
    assert changed is not None
    write_arrow(changed, pafs.LocalFileSystem(), str(other))
    with pytest.raises(DataError, match="other data"):
        PopulationRun.resume(run.path, model=own_network, data=str(other))


@pytest.mark.ray
def test_resume_is_refused_while_a_driver_lives_elsewhere(cluster: str, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    driver = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        cluster_record: dict[str, Any] = {
            "run": "other",
            "address": f"127.0.0.1:{elsewhere.getsockname()[1]}",
            "is_detached": False,
            "driver": {"host": socket.gethostname(), "process": driver.pid},
        }
        storage.write("cluster.json", json.dumps(cluster_record).encode())
        with pytest.raises(RunError, match=f"run other is live: process {driver.pid} drives it"):
            check_folder_not_live(storage, TrustedClusters())
        started = process_start(driver.pid)
        assert started is not None
        driver_record = cluster_record["driver"] | {"process_started": started - 60.0}  # an earlier process of this id
        storage.write("cluster.json", json.dumps(cluster_record | {"driver": driver_record}).encode())
        check_folder_not_live(storage, TrustedClusters())
        storage.write("cluster.json", json.dumps(cluster_record).encode())
        driver.kill()
        driver.wait(timeout=10)
        check_folder_not_live(storage, TrustedClusters())
    assert ray.is_initialized()


@pytest.mark.slow
def test_finished_and_stopped_runs_resume_in_same_process(begin, tmp_path: Path) -> None:
    run = begin("longer")
    first = run.wait(seconds=90)
    assert first.table is not None
    with pytest.raises(RunError, match=r"inarch resume .*longer --schedule.epochs N"):
        PopulationRun.resume(run.path)
    resumed = PopulationRun.resume(run.path, epochs=9)
    until(lambda: min(intervals(resumed.status()).values(), default=0) >= 5)
    resumed.stop(seconds=60)
    second_resume = PopulationRun.resume(run.path)  # the earlier handle is still open
    result = second_resume.wait(seconds=90)
    second_resume.close()
    assert result.is_complete and result.table is not None
    assert {row["interval"] for row in result.table["networks"]} == {9}
    assert rows_of(second_resume) == {0: list(range(1, 10)), 1: list(range(1, 10))}
    first_result = json.loads(Path(run.path, "results", "4-epochs.json").read_text())
    assert first_result["networks"] == first.table["networks"]


FLIP, CUT = KINDS.index("flip"), KINDS.index("cut")


@pytest.mark.slow
def test_resume_of_a_damaged_folder_names_every_loss(begin) -> None:
    run = begin("torn", **paced(24, 0.1, population=PopulationConfig(size=4)))
    until(lambda: min(intervals(run.status()).values(), default=0) >= 5)
    run.stop(seconds=60)
    run.close()
    folder, store = Path(run.path), CheckpointStore(Storage(run.path))
    models = {n: [folder / "networks" / str(n) / c.name / "model.safetensors" for c in store.list(n)] for n in range(4)}
    part = sorted((folder / "metrics").glob("3-*.parquet"))[0]
    for path in (models[0][-1], *models[2]):
        path.write_bytes(damaged(path.read_bytes(), FLIP))
    for path in (part, folder / "cluster.json"):
        path.write_bytes(damaged(path.read_bytes(), CUT))
    shutil.rmtree(folder / "networks" / "1")
    (folder / "result.json").write_text('{"networks": [{"network": 0, "ended"')

    resumed = PopulationRun.resume(run.path)
    events = list(resumed.events())
    result = resumed.wait(seconds=60)
    resumed.close()
    damages = [(event.network_id, event.detail["reason"]) for event in events if event.kind == "damage"]
    assert [network_id for network_id, _ in damages] == [0] and models[0][-1].parent.name in damages[0][1]
    assert "passed over: " in (folder / "logs" / "network-0.log").read_text()
    assert [network.ended for network in result.networks] == ["done", "failed", "failed", "done"]
    reasons = [network.reason for network in result.networks]
    assert "its checkpoints are gone" in reasons[1] and "none that can be read" in reasons[2]
    written = json.loads((folder / "result.json").read_text())
    assert str(part.relative_to(folder)) in written["damaged_files"]
    assert {str(path.parent.relative_to(folder)) for path in models[2]} <= set(written["damaged_files"])
    assert rows_of(resumed)[0] == list(range(1, 25))


@pytest.mark.slow
def test_resume_with_moved_data_trains_on(tmp_path: Path) -> None:
    train = write_classes(tmp_path / "here" / "train", ("a", "b", "c", "d"), each=8)
    test = write_classes(tmp_path / "here" / "test", ("a", "b", "c", "d"), each=2)
    data = DataConfig(train=train, test=test, augmentation="none", validation=0.25)
    schedule = ScheduleConfig(epochs=2, batch_size=8, lr_decay="constant")
    run = PopulationRun.start(small_config(name="moved", storage=str(tmp_path), data=data, schedule=schedule))
    run.wait(seconds=90)
    run.close()
    shutil.move(tmp_path / "here", tmp_path / "there")
    with pytest.raises(DataError, match="does not exist"):
        PopulationRun.resume(run.path, epochs=4)
    places = {"train": f"{tmp_path}/there/train", "test": f"{tmp_path}/there/test"}
    resumed = PopulationRun.resume(run.path, data=places, epochs=4)
    assert resumed.wait(seconds=90).is_complete
    resumed.close()
    assert rows_of(run) == {network_id: [1, 2, 3, 4] for network_id in (0, 1)}
    assert read_config(Storage(run.path))["config"]["data"]["train"] == places["train"]
