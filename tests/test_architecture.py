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
    "staleness",
    "topology",
    "snapshot",
    "members",
)
ABOVE = ("grafting", "training", "simulator", "task")


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
    wrong = [
        f"population/{value}.py imports {name}"
        for value in VALUES
        for name in imports(ROOT / "population" / f"{value}.py")
        if name.removeprefix("population.") in ABOVE
    ]
    assert wrong == []


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
