"""Plans of a resumed run: the networks that restart, and the interval from which each of them resumes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from inarch.actors.coordinator.resume_plan import common_resume_interval, resumable_members, start_plans
from inarch.actors.coordinator.run_metadata import write_members
from inarch.population.errors import MissingError, RunError, StorageError
from inarch.population.membership.members import Members, MemberState
from inarch.population.persistence.checkpoint import Checkpoint, CheckpointStore
from inarch.population.persistence.storage import Storage
from inarch.population.tasks.run_folder import read_members
from tests.population.persistence.test_checkpoint import checkpoint


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "run"))


def record(storage: Storage, members: Members) -> None:
    write_members(storage, state="training", message="", members=members, placement=None, began=0.0)


@pytest.mark.parametrize(
    ("saved_intervals", "expected"),
    [
        ({0: {4, 5}, 1: {5, 6}}, 5),
        ({0: {4, 5}, 1: {4, 5}}, 5),
        ({0: {1}, 1: set()}, 0),
        ({0: {1}, 1: {1, 2}}, 1),
        ({0: set(), 1: set()}, 0),
        ({0: {3, 49, 50}, 1: {3, 9, 10}, 2: {3, 48, 49}}, 49),
        ({0: {49, 50}, 1: {9, 10}}, 50),
    ],
)
def test_common_resume_interval_ignores_lagging_networks(saved_intervals, expected) -> None:
    assert common_resume_interval(saved_intervals) == expected


def test_start_plans_let_lagging_network_keep_its_interval(storage: Storage) -> None:
    store, members = CheckpointStore(storage), Members()
    for saved_intervals in ((9, 10), (10, 11), (2,)):
        member = members.add(is_initial=True)
        for interval in saved_intervals:
            store.commit(_of(member.id, interval))
    plans = start_plans(storage, list(members), is_lockstep=True)
    assert plans == {0: ("resumed", 10), 1: ("resumed", 10), 2: ("resumed", None)}
    assert set(start_plans(storage, list(members), is_lockstep=False).values()) == {("resumed", None)}


def test_start_plans_let_newcomer_without_checkpoint_join(storage: Storage) -> None:
    members = Members()
    members.add(is_initial=True)
    members.add(is_initial=False)
    plans = start_plans(storage, list(members), is_lockstep=False)
    assert plans == {0: ("resumed", None), 1: ("joined", None)}


def test_resumable_members_restart_failed_but_not_retired(storage: Storage) -> None:
    members = Members()
    for state in (MemberState.FAILED, MemberState.RETIRED, MemberState.TRAINING):
        members.set_state(members.add(is_initial=True).id, state)
    record(storage, members)
    resumable = resumable_members(storage, run="r")
    assert [member.state for member in resumable] == [MemberState.STARTING, MemberState.RETIRED, MemberState.STARTING]
    assert [member.incarnation for member in resumable] == [2, 1, 2]


def test_resumable_members_without_record_raise_run_error(storage: Storage) -> None:
    with pytest.raises(RunError, match="no record of its members"):
        resumable_members(storage, run="r")
    record(storage, Members())
    with pytest.raises(RunError, match="no record of its members"):
        resumable_members(storage, run="r")


def test_read_members_skips_damaged_record_but_needs_one(storage: Storage) -> None:
    assert read_members(storage) is None
    members = Members()
    members.add(is_initial=True)
    record(storage, members)
    record(storage, members)
    storage.write("members/00000001.json", b'{"state": "tra')
    metadata = read_members(storage)
    assert metadata is not None and len(metadata["members"]) == 1
    storage.write("members/00000000.json", b"")
    with pytest.raises(StorageError, match="none of the members' records"):
        read_members(storage)


def test_storage_read_distinguishes_missing_from_failing(storage: Storage) -> None:
    with pytest.raises(MissingError):
        storage.read("nothing.json")
    storage.make("folder")
    with pytest.raises(StorageError) as failure:
        storage.read("folder")
    assert not isinstance(failure.value, MissingError)
    storage.write("a.json", json.dumps({}).encode())
    assert storage.read("a.json") == b"{}"


def _of(network_id: int, interval: int) -> Checkpoint:
    return dataclasses.replace(checkpoint(interval), network_id=network_id)
