"""Plans of a resumed run: the networks that restart, and the interval from which each of them resumes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from inarch.actors.coordinator.resumption.resume_plan import (
    common_resume_interval,
    resumable_members,
    start_plans,
    vanished_networks,
)
from inarch.actors.coordinator.run_metadata import write_members
from inarch.population.errors import MissingError, RunError, RunExistsError, StorageError
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


def trained(storage: Storage, *, size: int) -> CheckpointStore:
    """A run of so many networks, each of which has started, and committed one interval."""
    store, members = CheckpointStore(storage), Members()
    for number in range(size):
        members.restore(dataclasses.replace(members.add(is_initial=True), ever_started=True))
        store.acquire_fence(number, 1)
        store.commit(_of(number, 1))
    record(storage, members)
    return store


def test_network_whose_folder_vanished_does_not_begin_anew(storage: Storage) -> None:
    trained(storage, size=3)
    storage.delete("networks/1")
    members = resumable_members(storage, run="run")
    assert [member.state for member in members] == [MemberState.STARTING, MemberState.FAILED, MemberState.STARTING]
    (reason,) = vanished_networks(storage, members).values()
    assert "network 1 has trained, but its checkpoints are gone from" in reason and "networks/1" in reason


def test_checkpoints_that_vanished_behind_rows_are_missed(storage: Storage) -> None:
    store = trained(storage, size=2)
    storage.delete(f"networks/0/{store.list(0)[0].name}")
    members = resumable_members(storage, run="run")
    assert [member.state for member in members] == [MemberState.FAILED, MemberState.STARTING]


def test_run_whose_networks_all_vanished_is_refused(storage: Storage) -> None:
    trained(storage, size=2)
    storage.delete("networks")
    with pytest.raises(RunError, match=r"cannot be resumed: network 0 has trained, but its checkpoints are gone"):
        resumable_members(storage, run="run")


def test_network_that_died_before_its_first_checkpoint_begins(storage: Storage) -> None:
    members = Members()
    for number in range(2):
        members.restore(dataclasses.replace(members.add(is_initial=True), ever_started=number == 0))
    CheckpointStore(storage).acquire_fence(0, 1)
    record(storage, members)
    assert [member.state for member in resumable_members(storage, run="run")] == [MemberState.STARTING] * 2


def test_folder_that_vanished_in_mid_run_is_not_made_anew(storage: Storage) -> None:
    storage.write("claims/0001-mine.json", b"{}")
    store = CheckpointStore(storage, token="mine")
    store.acquire_fence(0, 1)
    assert store.commit(checkpoint(1))
    storage.delete("")
    assert not store.commit(checkpoint(2))
    with pytest.raises(RunExistsError, match="or it was deleted"):
        write_members(storage, token="mine", state="training", message="", members=Members(), placement=None, began=0.0)
    assert not storage.exists("")
