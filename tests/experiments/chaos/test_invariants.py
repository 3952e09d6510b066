"""Each invariant is broken once, and says so. All hold of a run that ended in order."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from inarch.experiments.benchmarks.chaos.invariants import num_rows, problems
from inarch.population.membership.members import MemberRecord, MemberState
from inarch.population.persistence.claim import Claim
from inarch.population.persistence.history import to_parquet
from inarch.population.persistence.json_files import to_json
from inarch.population.persistence.storage import Storage
from tests.fakes.ended_run import INTERVALS, LAST, commit, ended_run, members, write_members


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return ended_run(tmp_path / "chaos")


def test_all_invariants_hold_of_a_run_that_ended_in_order(storage: Storage) -> None:
    assert problems(storage.uri) == []
    assert num_rows(storage.uri) == sum(map(len, INTERVALS.values()))


def with_state(storage: Storage, network_id: int, state: MemberState) -> None:
    changed = {network_id: state}
    records = [dataclasses.replace(member, state=changed.get(member.id, member.state)) for member in members()]
    write_members(storage, records)


def lose_interval(storage: Storage) -> None:
    storage.delete("metrics/0-000002-001.parquet")
    storage.delete("grafts/0-000002-001.parquet")


def double_interval(storage: Storage) -> None:
    row = {"network": 1, "interval": 3, "incarnation": 1, "outcome": "off"}
    storage.write("metrics/1-again.parquet", to_parquet([row], "metrics"))


def cut_checkpoint(storage: Storage) -> None:
    path = Path(storage.uri) / "networks" / "0" / f"{LAST:06d}-001" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def damage_table(storage: Storage) -> None:
    storage.write("grafts/1-000001-001.parquet", b"no table")


def leave_part_of_checkpoint(storage: Storage) -> None:
    storage.write("networks/0/000003-002/model.safetensors", b"")


BREAKS: dict[str, tuple[Callable[[Storage], None], str]] = {
    "network failed": (lambda s: with_state(s, 1, MemberState.FAILED), "network 1 is failed at interval 4 of 4"),
    "network stopped": (lambda s: with_state(s, 3, MemberState.STOPPED), "network 3 is stopped"),
    "network done too early": (lambda s: with_state(s, 2, MemberState.DONE), "its last row is of interval 2 of 4"),
    "interval missing": (lose_interval, "network 0 lacks interval 2"),
    "interval twice": (double_interval, "network 1 has interval 3 twice"),
    "no member": (lambda s: commit(s, 7, 1), "network 7 has rows, but is no member"),
    "graft without rows": (lambda s: s.delete("grafts/0-000003-001.parquet"), "network 0 grafted at interval 3, but"),
    "rows without graft": (lambda s: commit(s, 0, LAST, outcome="unchanged"), "at interval 4, at which it did not"),
    "table damaged": (damage_table, "grafts/1-000001-001.parquet is damaged"),
    "checkpoint damaged": (cut_checkpoint, "model.safetensors is not what was written"),
    "no checkpoint": (lambda s: s.delete("networks/1"), "network 1 has no checkpoint"),
    "no result": (lambda s: s.delete("result.json"), "result.json is not there"),
    "result cut": (lambda s: s.write("result.json", s.read("result.json")[:-9]), "result.json is not there, or is"),
    "result lacks a network": (
        lambda s: s.write("result.json", to_json({"run": "x", "metrics": [], "networks": [], "damaged_files": []})),
        "result.json lacks network 0",
    ),
    "claim": (lambda s: s.write(Claim(generation=2, token="ab").path, b"{}"), "claim 2 on the folder was not"),
    "part of a file": (lambda s: s.write("cluster.json.part", b""), "cluster.json.part was left behind"),
    "fifo": (lambda s: os.mkfifo(Path(s.uri) / "x"), "x was left behind"),
    "part of a checkpoint": (leave_part_of_checkpoint, "networks/0/000003-002 was not written whole"),
    "no members": (lambda s: s.delete("members"), "no network has ended its schedule"),
    "no configuration": (lambda s: s.delete("config.json"), "unfinished networks:"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_broken_invariant_is_named(storage: Storage, name: str) -> None:
    break_it, message = BREAKS[name]
    break_it(storage)
    assert any(message in problem for problem in problems(storage.uri)), problems(storage.uri)


def test_guest_need_not_end_the_schedule(storage: Storage) -> None:
    guest = MemberRecord(id=4, state=MemberState.GONE, is_initial=False, name="guest")
    write_members(storage, [*members(), guest])
    rows = [{"network": 4, "interval": interval, "incarnation": 1, "outcome": "grafted"} for interval in (1, 3)]
    storage.write("metrics/guests-1.parquet", to_parquet(rows, "metrics"))
    assert problems(storage.uri) == []
