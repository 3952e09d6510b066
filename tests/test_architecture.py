"""The house's own rules: which package may import which, and the names it shows."""

from __future__ import annotations

import ast
from pathlib import Path

import actors
import population

ROOT = Path(__file__).resolve().parents[1]

FORBIDDEN = {
    "population": ("ray", "actors", "experiments", "time"),
    "actors": ("experiments",),
}
"""Imports that each package must not have; time: nothing in population reads a wall clock."""

VALUES = (
    "errors",
    "config",
    "seeds",
    "schedule",
    "information",
    "layers",
    "criteria",
    "staleness",
    "topology",
    "snapshot",
    "members",
)
ABOVE = ("grafting", "scions", "exchange", "training", "simulator", "task")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_imports_point_downward() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for package, forbidden in FORBIDDEN.items()
        for path in (ROOT / package).rglob("*.py")
        for name in imports(path)
        if name.split(".")[0] in forbidden
    ]
    assert wrong == []


def test_values_know_nothing_of_what_is_built_on_them() -> None:
    files = [path for value in VALUES for path in _files_of(value)]
    assert len(files) >= len(VALUES)
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files
        for name in imports(path)
        if name.removeprefix("population.").split(".")[0] in ABOVE
    ]
    assert wrong == []


def _files_of(value: str) -> list[Path]:
    """A concept's file, or the files of its folder."""
    single = ROOT / "population" / f"{value}.py"
    return [single] if single.exists() else sorted((ROOT / "population" / value).glob("*.py"))


def test_exported_names_exist_and_are_sorted() -> None:
    for package in (population, actors):
        assert list(package.__all__) == sorted(package.__all__)
        assert all(hasattr(package, name) for name in package.__all__)
    assert {"graft", "adaptive_weight", "GraftConfig", "Simulator", "Trainer", "RunConfig"} <= set(population.__all__)
    assert {"PopulationRun", "NetworkActor", "CoordinatorActor"} <= set(actors.__all__)


def test_no_file_is_called_utils() -> None:
    names = {
        path.stem for package in ("population", "actors", "experiments") for path in (ROOT / package).rglob("*.py")
    }
    assert names.isdisjoint({"utils", "helpers", "common", "base", "misc"})
