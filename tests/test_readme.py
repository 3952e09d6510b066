"""Commands, flags, links and the program of README.md and the docs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import tyro

from inarch.actors import PopulationRun
from inarch.experiments import recipes
from inarch.experiments.cli import USAGE, main
from inarch.population import RunConfig

ROOT = Path(__file__).resolve().parents[1]
DOCS = [page for page in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in page.parts]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    """Return the `inarch train` commands of all pages, each on one line."""
    train_commands = []
    for page in PAGES:
        for block in blocks(page, ""):
            lines = block.replace("\\\n", " ").splitlines()
            train_commands += [line.split("#")[0].strip() for line in lines if line.startswith("inarch train")]
    return train_commands


def test_readme_has_at_most_150_lines() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_train_commands_in_pages_are_accepted() -> None:
    assert len(commands()) >= 4
    for command in commands():
        words = shlex.split(command)[2:]
        name = words.pop(0) if words and not words[0].startswith("-") else recipes.DEFAULT
        tyro.cli(RunConfig, default=recipes.recipe(name), args=words)


COMMANDS = [name for name in re.findall(r"^  inarch (\w+)", USAGE, re.MULTILINE) if name != "train"]
"""All commands but train."""
assert len(COMMANDS) >= 12


def test_lines_of_code_blocks_have_one_command_each() -> None:
    """Such a block is pasted into a shell as it is."""
    lines = [line for page in PAGES for block in blocks(page, r"\w*") for line in block.splitlines()]
    assert sum(line.startswith("inarch ") for line in lines) >= 40
    assert [line for line in lines if re.search(r"^inarch [^#]*\binarch ", line)] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_in_pages_have_known_flags(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = "\n".join(page.read_text().replace("\\\n", " ") for page in PAGES)
    uses = re.findall(rf"inarch {command}((?: [^\s#`]+)*)", text)
    assert uses
    for use in uses:
        name = use.split()[:1] if command == "bench" and use.split()[:1] in (["chaos"], ["scale"]) else []
        with pytest.raises(SystemExit, match="0"):
            main([command, *name, "--help"])
        printed = capsys.readouterr().out
        for flag in re.findall(r"--[a-z][\w.-]*", use):
            assert flag in printed, f"inarch {command}{use}"


def test_flags_in_exchange_table_are_accepted() -> None:
    rows = re.findall(r"^\| .* \| `(--[^`]*)`", (ROOT / "docs" / "concepts" / "exchange.md").read_text(), re.MULTILINE)
    assert len(rows) >= 10
    for flags in rows:
        tyro.cli(RunConfig, default=recipes.recipe("cifar10-resnet20"), args=shlex.split(flags))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_links_have_existing_targets(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert "://" in target or (page.parent / target).exists(), target


@pytest.mark.ray
def test_readme_program_prints_the_accuracy(cluster: str, tmp_path: Path, monkeypatch, capsys) -> None:
    program, _ = blocks(ROOT / "README.md", "python")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(program, names)
    assert float(capsys.readouterr().out) >= 0.95
    assert [network.network_id for network in names["run"].status().networks] == [0, 1, 2], "it grew to three"
    names["run"].close()


@pytest.mark.ray
def test_readme_loop_joins_a_population(cluster: str, tmp_path: Path, monkeypatch) -> None:
    _, loop = blocks(ROOT / "README.md", "python")
    monkeypatch.chdir(tmp_path)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 4))
    names: dict[str, Any] = {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.01),
        "loader": [(torch.zeros(4, 1, 8, 8), torch.arange(4))] * 250,
        "cross_entropy": torch.nn.functional.cross_entropy,
    }
    run = PopulationRun.open("loops")
    exec(loop, names)
    assert names["member"].interval == 2
    assert [network.state for network in run.status().networks] == ["retired"]
    run.stop()
    run.close()
