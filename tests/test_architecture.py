"""The rules of the house: which package may import which, the names it shows, the size of its listing."""

from __future__ import annotations

import ast
from pathlib import Path

import inarch
from inarch import actors, population

ROOT = Path(__file__).resolve().parents[1]

PACKAGES = ("population", "actors", "experiments")

FORBIDDEN = {
    "population": ("ray", "inarch.actors", "inarch.experiments", "time"),
    "actors": ("inarch.experiments",),
}
"""Imports that each package must not have. Nothing in population reads a wall clock."""


def imports(path: Path) -> set[str]:
    """The modules that a file imports, at its top or in a function."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return modules


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def test_imports_point_downward() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for package, forbidden in FORBIDDEN.items()
        for path in (ROOT / package).rglob("*.py")
        for module in imports(path)
        if any(is_within(module, name) for name in forbidden)
    ]
    assert wrong == []


def test_no_file_imports_a_package_by_its_folder_alone() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for package in (*PACKAGES, "tests")
        for path in (ROOT / package).rglob("*.py")
        for module in imports(path)
        if any(is_within(module, name) for name in PACKAGES)
    ]
    assert wrong == []


def test_exported_names_exist_and_are_sorted() -> None:
    for package in (inarch, population, actors):
        assert list(package.__all__) == sorted(package.__all__)
        assert all(hasattr(package, name) for name in package.__all__)
    assert {"graft", "adaptive_weight", "GraftConfig", "Simulator", "Trainer", "RunConfig"} <= set(population.__all__)
    assert {"PopulationRun", "NetworkActor", "CoordinatorActor"} <= set(actors.__all__)


def test_no_file_is_called_utils() -> None:
    names = {path.stem for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert names.isdisjoint({"utils", "helpers", "common", "base", "misc"})
