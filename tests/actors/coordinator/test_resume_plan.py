"""What a run that goes on begins with."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from inarch.actors.coordinator.resume_plan import common_resume_interval, resumable_members, start_plans
from inarch.actors.coordinator.run_metadata import read_members, write_members
from inarch.population.errors import MissingError, RunError, StorageError
from inarch.population.membership.members import Members, MemberState
from inarch.population.persistence.checkpoint import Checkpoint, CheckpointStore
from inarch.population.persistence.storage import Storage
from tests.population.persistence.test_checkpoint import checkpoint


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "run"))


def record(storage: Storage, members: Members) -> None:
    write_members(storage, state="training", message="", members=members, placement=None, began=0.0)


@pytest.mark.parametrize(
    ("kept", "expected"),
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
def test_networks_in_lockstep_go_on_together_and_nobody_who_was_left_behind_takes_them_back(kept, expected) -> None:
    assert common_resume_interval(kept) == expected


def test_who_was_left_behind_goes_on_where_it_was(storage: Storage) -> None:
    store, members = CheckpointStore(storage), Members()
    for kept in ((9, 10), (10, 11), (2,)):
        member = members.add(is_initial=True)
        for interval in kept:
            store.commit(_of(member.id, interval))
    found = start_plans(storage, list(members), is_lockstep=True)
    assert found == {0: ("resumed", 10), 1: ("resumed", 10), 2: ("resumed", None)}
    assert set(start_plans(storage, list(members), is_lockstep=False).values()) == {("resumed", None)}


def test_a_newcomer_without_a_checkpoint_joins_again(storage: Storage) -> None:
    members = Members()
    members.add(is_initial=True)
    members.add(is_initial=False)
    found = start_plans(storage, list(members), is_lockstep=False)
    assert found == {0: ("resumed", None), 1: ("joined", None)}


def test_members_that_were_given_up_start_again_and_those_that_left_do_not(storage: Storage) -> None:
    members = Members()
    for state in (MemberState.FAILED, MemberState.RETIRED, MemberState.TRAINING):
        members.set_state(members.add(is_initial=True).id, state)
    record(storage, members)
    found = resumable_members(storage, run="r")
    assert [member.state for member in found] == [MemberState.STARTING, MemberState.RETIRED, MemberState.STARTING]
    assert [member.incarnation for member in found] == [2, 1, 2]


def test_a_run_without_members_on_record_is_not_resumed(storage: Storage) -> None:
    with pytest.raises(RunError, match="no record of its members"):
        resumable_members(storage, run="r")
    record(storage, Members())
    with pytest.raises(RunError, match="no record of its members"):
        resumable_members(storage, run="r")


def test_a_half_written_record_is_passed_over_and_nothing_but_damage_is_an_error(storage: Storage) -> None:
    assert read_members(storage) is None
    members = Members()
    members.add(is_initial=True)
    record(storage, members)
    record(storage, members)
    storage.write("members/00000001.json", b'{"state": "tra')
    found = read_members(storage)
    assert found is not None and len(found["members"]) == 1
    storage.write("members/00000000.json", b"")
    with pytest.raises(StorageError, match="none of the members' records"):
        read_members(storage)


def test_a_file_that_is_not_there_is_told_from_a_storage_that_fails(storage: Storage) -> None:
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
