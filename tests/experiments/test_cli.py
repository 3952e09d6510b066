"""The command line without a cluster: recipes, help, and short error messages with exit status 2."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import sys

import pytest

from inarch.actors import Event
from inarch.actors.event_text import event_text
from inarch.experiments.cli import main
from inarch.experiments.recipes import RECIPES, recipe
from inarch.population import GraftConfig


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(words)
    captured = capsys.readouterr()
    code = ended.value.code
    return int(code if code is not None else 0), captured.out + captured.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train", "nope"), "there is no recipe 'nope'; there are digits"),
        (("train", "--population.size", "0"), "population.size must be at least 1, got 0"),
        (("train", "--graft.a", "1.5"), "graft.a must lie in [0, 1], got 1.5"),
        (("train", "--nonsense", "1"), "nonsense"),
        (("--debug",), "train populations of networks asynchronously"),
        (("--debug", "frobnicate"), "there is no command 'frobnicate'"),
        (("frobnicate",), "there is no command 'frobnicate'"),
        (("status", "nowhere", "--storage", "/tmp/inarch-none"), "there is no run at"),
        (("resume", "/tmp/inarch-none/run"), "there is no run at"),
        (("resume", "/tmp/inarch-none/run", "--data.train", "x", "--schedule.epochs", "9"), "there is no run at"),
        (("predict", "/tmp/inarch-none/run", "x.png"), "there is no run at"),
        (("evaluate", "/tmp/inarch-none/run"), "there is no run at"),
        (("export", "/tmp/inarch-none/run"), "there is no run at"),
        (("evaluate", "file:///tmp/inarch-none/run"), "there is no run at file:///tmp/inarch-none/run"),
        (("bench", "training", "--out", "/proc/none/x.json"), "/proc/none/x.json cannot be written"),
        (("bench", "scale", "--out", "s3://b/x.json"), "s3://b/x.json is a URI; give the path of a local file"),
        (("dashboard", "--grafana", "/proc/none/x.json"), "/proc/none/x.json cannot be written"),
        (("scale", "nowhere", "3", "--storage", "/tmp/inarch-none"), "there is no run at"),
        (("stop", "nowhere", "--storage", "/tmp/inarch-none"), "there is no run at"),
    ],
)
def test_command_with_invalid_input_prints_a_short_error(capsys, words, message: str) -> None:
    code, output = run(capsys, *words)
    assert code == 2
    assert message in " ".join(output.replace("│", " ").split())
    assert len(output.splitlines()) <= 24
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("staleness", "line"),
    [
        (1.0, "network 2: interval 3, grafted from 1, 1.0 intervals behind"),
        (None, "network 2: interval 3, grafted without a donor"),
    ],
)
def test_describe_handles_grafts_with_and_without_a_donor(staleness: float | None, line: str) -> None:
    event = Event(
        number=1, kind="graft", network_id=2, seconds=0.0, detail={"interval": 3, "scion": 1, "staleness": staleness}
    )
    assert event_text(event) == line


def test_resume_prints_its_action_first(capsys) -> None:
    _, output = run(capsys, "resume", "/tmp/inarch-none/run")
    assert output.startswith("run /tmp/inarch-none/run: starting Ray and reading the data, to resume")


def test_output_to_a_file_is_line_buffered(monkeypatch, tmp_path) -> None:
    with (tmp_path / "out.txt").open("w") as sink:
        monkeypatch.setattr(sys, "stdout", sink)
        with pytest.raises(SystemExit):
            main(["resume", "/tmp/inarch-none/run"])
        assert sink.line_buffering
        assert "starting Ray" in (tmp_path / "out.txt").read_text(), "the line is still in a buffer"


def test_help_lists_commands_and_configuration_fields(capsys) -> None:
    code, output = run(capsys, "--help")
    assert code == 0
    for command in ("train", "status", "scale", "stop", "resume", "evaluate", "export", "predict", "bench"):
        assert f"inarch {command}" in output
    code, output = run(capsys, "train", "cifar10-resnet20", "--help")
    assert code == 0
    for field in ("--data.train", "--population.size", "--schedule.epochs", "--graft.criterion", "--topology.edges"):
        assert field in output


def test_recipes_are_named_after_data_and_architecture() -> None:
    assert {"digits", "cifar10-resnet20", "cifar100-mobilenetv2", "cifar10-vgg16-dlr"} <= set(RECIPES)


def test_lockstep_recipe_has_the_setting_of_the_paper() -> None:
    config, default = recipe("cifar10-resnet20-lockstep"), recipe("cifar10-resnet20")
    assert (config.mode, config.compensation, config.graft) == ("lockstep", 0, GraftConfig(a=0.4, c=500.0))
    assert dataclasses.replace(config, mode="async") == default and default.compensation == 2


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_status:
        main(["--version"])
    assert exit_status.value.code == 0
    assert capsys.readouterr().out == f"inarch {importlib.metadata.version('inarch')}\n"


@pytest.mark.parametrize(
    ("words", "extra"), [(["compare", "two-networks"], "compare"), (["bench", "overhead"], "bench")]
)
def test_command_names_the_extra_that_it_needs(
    words: list[str], extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        main(words)
    assert f"pip install 'inarch[{extra}]'" in capsys.readouterr().err
