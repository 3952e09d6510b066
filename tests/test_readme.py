"""What README.md and the docs promise can be done."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import tyro

from inarch.experiments import recipes
from inarch.population import RunConfig

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    """The `inarch train` commands of all pages, on one line each."""
    found = []
    for page in PAGES:
        for block in blocks(page, ""):
            lines = block.replace("\\\n", " ").splitlines()
            found += [line.split("#")[0].strip() for line in lines if line.startswith("inarch train")]
    return found


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_every_command_that_trains_is_accepted() -> None:
    assert len(commands()) >= 4
    for command in commands():
        words = shlex.split(command)[2:]
        name = words.pop(0) if words and not words[0].startswith("-") else recipes.DEFAULT
        tyro.cli(RunConfig, default=recipes.recipe(name), args=words)


def test_the_flags_of_the_exchange_table_are_accepted() -> None:
    rows = re.findall(r"^\| .* \| `(--[^`]*)`", (ROOT / "docs" / "exchange.md").read_text(), re.MULTILINE)
    assert len(rows) >= 10
    for flags in rows:
        tyro.cli(RunConfig, default=recipes.recipe("cifar10-resnet20"), args=shlex.split(flags))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert "://" in target or (page.parent / target).exists(), target


@pytest.mark.ray
def test_the_program_runs(cluster: str, tmp_path: Path, monkeypatch, capsys) -> None:
    (program,) = blocks(ROOT / "README.md", "python")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(program, names)
    assert "'accuracy'" in capsys.readouterr().out
    names["run"].close()
