"""Each kind of file in a run's folder, damaged in 300 ways: equal content, a named error, or a named loss."""

from __future__ import annotations

import collections
import hashlib
import json
import logging
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from inarch.actors import PopulationRun
from inarch.actors.driver.claiming import CLAIM_FIELDS, claim_existing_folder
from inarch.actors.driver.discovery import read_cluster
from inarch.experiments.saved_runs import open_run
from inarch.population.errors import InarchError
from inarch.population.persistence.checkpoint import CheckpointStore
from inarch.population.persistence.claim import claims
from inarch.population.persistence.history import read_table
from inarch.population.persistence.history_reader import DAMAGED_READS, HistoryReader
from inarch.population.persistence.history_schemas import TABLES
from inarch.population.persistence.json_files import read_json
from inarch.population.persistence.storage import Storage
from inarch.population.report.content import read_content
from inarch.population.tasks.built_in import task_of
from inarch.population.tasks.run_folder import (
    earlier_configs,
    end_state,
    members_of,
    metrics_of,
    read_config,
    read_info,
    read_members,
    read_result,
    recorded_config,
)
from inarch.population.training.replay.record import read_record
from tests.conftest import small_config
from tests.fakes.damage import KINDS, damaged, damages
from tests.integration.runs import ARRAYS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

COUNT = 300
"""Damages of each file."""

OUTPUTS = r"report\.html|logs/.*|data/unreadable\.txt|networks/\d+/incarnation-\d+"
"""Files that no program reads: pages and logs for people, and empty files whose names are their content."""


@pytest.fixture(scope="module")
def whole(cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of two networks, whose data came from Python. The run was made one epoch longer."""
    runs = tmp_path_factory.mktemp("damage")
    with PopulationRun.start(small_config(name="run", storage=str(runs)), data=ARRAYS, quiet=True) as run:
        run.wait()
    with PopulationRun.resume(str(runs / "run"), epochs=5, quiet=True) as run:
        run.wait()
    storage = Storage(str(runs / "run"))
    claim_existing_folder(storage)
    first = CheckpointStore(storage).list(0)[0]
    part = storage.read(f"networks/0/{first.name}/metrics.parquet")
    storage.write("metrics/9-000001-001.parquet", part)  # a file that was not folded
    return runs / "run"


def plain(value: Any) -> str:
    """A text that is equal for equal content, NaN included."""

    def of(other: Any) -> Any:
        if isinstance(other, torch.Tensor):
            digest = hashlib.sha256(other.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
            return [str(other.dtype), list(other.shape), digest.hexdigest()]
        return repr(other)

    return json.dumps(value, default=of, sort_keys=True)


def parts(value: Any) -> list[str]:
    """The parts of which a reader may lose one and keep the others."""
    return [plain(part) for part in value] if isinstance(value, list) else [plain(value)]


def configuration(storage: Storage) -> Any:
    recorded = read_config(storage)
    info = read_info(storage)
    facts = [repr(recorded_config(storage, recorded)), repr(info), repr(metrics_of(storage, recorded))]
    return [*facts, recorded["model"], recorded["config"], end_state(storage, recorded)]


def members(storage: Storage) -> Any:
    record = read_members(storage)
    return record if record is None else [record["state"], repr(members_of(record)), record["events"]]


def checkpoints(storage: Storage) -> Any:
    store = CheckpointStore(storage)
    newest, best = store.newest(0), store.best(0)
    assert newest is not None and best is not None
    return [[newest.id.name, newest.model, newest.tensors, newest.training, newest.best], list(best)]


def tables(storage: Storage) -> Any:
    return [read_table(storage, table).to_pylist() for table in TABLES]


def live_history(storage: Storage) -> Any:
    reader = HistoryReader(storage)
    intervals = [interval for _ in range(DAMAGED_READS + 1) for interval in reader.new_intervals(is_final=True)]
    return {str((interval.network_id, interval.interval)): [interval.row, interval.grafts] for interval in intervals}


def repaired_tables(storage: Storage) -> Any:
    """The tables, after they were lost and made again from the checkpoints."""
    for table in TABLES:
        storage.delete(table)
    CheckpointStore(storage).flush_history()
    return tables(storage)


def data(storage: Storage) -> Any:
    """The data, if they are those of the start. Every command that uses them compares the fingerprints."""
    storage, spec, recorded = open_run(storage.uri, None)
    task = task_of(spec)
    splits = task.load_data(spec.config)
    bound = task.bind(spec.config, splits, begins_trained=False)
    if bound.describe().data_fingerprint != recorded["info"]["data_fingerprint"]:
        raise InarchError(f"{spec.config.data.train}: other data")
    return [splits.train.images, splits.train.labels, splits.validation.images]


def replay_record(storage: Storage) -> Any:
    record = read_record(storage)
    return [repr(sorted(part.items())) for part in (record.births, record.exchanges, record.checkpoints)]


def earlier_configurations(storage: Storage) -> Any:
    return [repr(earlier_configs(storage))]


def earlier_results(storage: Storage) -> Any:
    return read_json(storage, "results/4-epochs.json")


def claim_content(storage: Storage) -> Any:
    return [read_json(storage, claim.path, fields=CLAIM_FIELDS) for claim in claims(storage)]


READERS: dict[str, tuple[Callable[[Storage], Any], ...]] = {
    r"config\.json": (configuration, read_content),
    r"cluster\.json": (read_cluster,),
    r"result\.json": (read_result, read_content),
    r"results/4-epochs\.json": (earlier_results,),
    r"claims/.*\.json": (claim_content,),
    r"members/.*\.json": (members,),
    r"data/train\.arrow": (data,),
    r"configs/.*\.json": (earlier_configurations,),
    r"(metrics|grafts|filters)/.*\.parquet": (tables, live_history),
    r"(births|exchanges)/.*\.parquet": (tables, replay_record),
    r"networks/0/.*/(manifest|training)\.json": (checkpoints,),
    r"networks/0/.*/.*\.safetensors": (checkpoints,),
    r"networks/0/.*/.*\.parquet": (repaired_tables,),
}
"""Readers of each kind of file, by the pattern of its path."""


def readers_of(path: str) -> list[Callable[[Storage], Any]]:
    return [reader for pattern, readers in READERS.items() if re.fullmatch(pattern, path) for reader in readers]


class Warnings(logging.Handler):
    """Collects warnings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@pytest.fixture
def warned() -> Iterator[list[str]]:
    handler = Warnings()
    logging.getLogger("inarch").addHandler(handler)
    yield handler.texts
    logging.getLogger("inarch").removeHandler(handler)


def paths(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def sample(folder: Path) -> list[str]:
    """The newest file of each name in the checkpoints of network 0, and every file outside checkpoints."""
    newest: dict[str, str] = {}
    for path in paths(folder):
        if not re.fullmatch(OUTPUTS, path) and not path.startswith("networks/1/"):
            newest[re.sub(r"^networks/0/[^/]+/", "networks/0/", path)] = path
    return list(newest.values())


def test_damage_fires_in_each_kind() -> None:
    content = bytes(range(256)) * 8
    copies = list(damages(content, count=80))
    assert content not in copies and len(set(copies)) > 60
    assert [damaged(content, number) for number in range(80)] == copies
    lengths = collections.Counter((KINDS[n % len(KINDS)], len(copy) - len(content)) for n, copy in enumerate(copies))
    assert {kind for kind, _ in lengths} == set(KINDS)
    assert all(size < 0 for kind, size in lengths if kind in ("cut", "empty"))
    assert all(size > 0 for kind, size in lengths if kind == "appended")
    with pytest.raises(AssertionError, match="no damage changes"):
        damaged(b"\0\0\0", 3)


def test_every_file_of_a_folder_has_a_reader(whole: Path) -> None:
    unread = [path for path in paths(whole) if not readers_of(path.replace("networks/1/", "networks/0/"))]
    assert [path for path in unread if not re.fullmatch(OUTPUTS, path)] == []
    covered = {pattern for pattern in READERS if any(re.fullmatch(pattern, path) for path in sample(whole))}
    assert covered == set(READERS)


def test_damaged_files_are_equal_or_named(whole: Path, tmp_path: Path, warned: list[str]) -> None:
    wrong: list[str] = []
    seen: collections.Counter[str] = collections.Counter()
    for path in sample(whole):
        folder = tmp_path / "run"
        for reader in readers_of(path):
            wrong += fuzzed(reader, path, whole, folder, warned, seen)
    assert wrong == []
    assert seen["equal"] > 0 and seen["error"] > 1000 and seen["loss"] > 1000, seen


def fuzzed(
    reader: Callable[[Storage], Any],
    path: str,
    whole: Path,
    folder: Path,
    warned: list[str],
    seen: collections.Counter[str],
) -> list[str]:
    """Damage one file in many ways, and return what the reader did wrong. Each result is counted in `seen`."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    storage, content = Storage(str(folder)), (folder / path).read_bytes()
    expected = parts(reader(storage))
    restore(whole, folder, reader)
    (folder / path).unlink()
    try:
        without = parts(reader(storage))
    except InarchError:
        without = [""] * len(expected)
    wrong: list[str] = []
    for number, copy in enumerate(damages(content, count=COUNT if reader is not read_content else COUNT // 10)):
        restore(whole, folder, reader)
        (folder / path).write_bytes(copy)
        warned.clear()
        what = f"{path}, {reader.__name__}, damage {number}"
        try:
            found = parts(reader(storage))
        except InarchError as error:
            seen["error"] += 1
            if not is_named(path, str(error)):
                wrong.append(f"{what}: the error does not name the file: {error}")
        except Exception as error:
            wrong.append(f"{what}: {type(error).__name__}: {error}")
        else:
            if found == expected:
                seen["equal"] += 1
            elif not any(is_named(path, text) for text in warned):
                wrong.append(f"{what}: other content, and no warning")
            elif any(part not in either for part, *either in zip(found, expected, without, strict=True)):
                wrong.append(f"{what}: named, but neither the content nor what is left without the file")
            else:
                seen["loss"] += 1
    return wrong


def is_named(path: str, text: str) -> bool:
    """Return whether a message names a file of a run, or the folder in the run's folder that holds it."""
    folder, name = Path(path).parent.name, Path(path).name
    return name in text or (folder != "" and folder in text)


def restore(whole: Path, folder: Path, reader: Callable[[Storage], Any]) -> None:
    """Bring back the files that a reader may have changed."""
    if reader is repaired_tables:
        for table in TABLES:
            shutil.rmtree(folder / table, ignore_errors=True)
            if (whole / table).exists():
                shutil.copytree(whole / table, folder / table)
