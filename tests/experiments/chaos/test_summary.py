"""The table, the verdict and the JSON of chaos runs, and the companions that answer requests."""

from __future__ import annotations

import dataclasses
import io
import json
import os
from pathlib import Path

import pytest
from rich.console import Console

from inarch.experiments.benchmarks.chaos.outcome import ChaosOutcome, Injection
from inarch.experiments.benchmarks.chaos.plan import ChaosSetting, FaultKind
from inarch.experiments.benchmarks.chaos.summary import counts, table, to_json, verdict
from inarch.experiments.benchmarks.processes.companion import Companion

HAPPENED = Injection(kind=FaultKind.KILL_NETWORK, seconds=1.0, target="network 0")
ABSENT = Injection(kind=FaultKind.STOP, seconds=2.0, target="", reason="the run had ended")


def outcome(*problems: str) -> ChaosOutcome:
    injections = (HAPPENED, ABSENT, HAPPENED)
    setting = ChaosSetting(seed=3)
    return ChaosOutcome(
        setting=setting, injections=injections, drivers=2, rows=90, seconds=61.0, problems=tuple(problems)
    )


def test_verdict_says_what_could_not_be_injected() -> None:
    assert verdict(outcome()) == "passed (1 of 3 faults could not be injected)"
    assert verdict(outcome("network 1 is failed")).startswith("FAILED: network 1 is failed (1 of 3")
    assert "and 1 more" in verdict(outcome("a", "b", "c", "d"))


def test_run_without_a_single_fault_does_not_pass() -> None:
    idle = dataclasses.replace(outcome(), injections=(ABSENT,))
    assert not idle.has_passed and "no fault was injected (1 of 1" in verdict(idle)
    Console(quiet=True).print(table([idle]))


def test_table_and_json_count_what_happened() -> None:
    assert counts(outcome()) == {"kill network": 2}
    console = Console(width=200, record=True, quiet=False, file=io.StringIO())
    console.print(table([outcome(), outcome("x")]))
    text = console.export_text()
    assert "1 of 2 passed" in text and "2 kill network" in text and "own, async, images" in text
    content = json.loads(json.dumps(to_json(outcome("x"))))
    assert content["has_passed"] is False and content["problems"] == ["x"] and len(content["injections"]) == 3


MODULE = """
import time
from inarch.experiments.benchmarks.processes.companion import serve
print("a line of Ray")
def answer(name, arguments):
    if name == "sleep":
        time.sleep(arguments["during"])
    if name == "fail":
        raise ValueError("so it is")
    return [name, arguments]
serve(answer)
"""


def test_companion_answers_requests(tmp_path: Path) -> None:
    (tmp_path / "answering.py").write_text(MODULE)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    companion = Companion("answering", [], log=tmp_path / "log", environment=os.environ | {"PYTHONPATH": path})
    try:
        assert companion.ready(seconds=60.0)
        assert companion.ask("add", seconds=30.0, size=3) == ["add", {"size": 3}]
        with pytest.raises(RuntimeError, match="ValueError: so it is"):
            companion.ask("fail", seconds=30.0)
        with pytest.raises(TimeoutError, match="no answer"):
            companion.ask("sleep", seconds=0.05, during=0.5)
        assert companion.ask("next", seconds=30.0) == ["next", {}], "the late answer was not dropped"
        companion.process.kill()
        with pytest.raises(TimeoutError):
            companion.ask("add", seconds=30.0)
    finally:
        companion.close()
    assert "a line of Ray" in (tmp_path / "log").read_text()
