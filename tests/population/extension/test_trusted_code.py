"""Tests of the rule which code a run's folder may name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from inarch.population.errors import ConfigError, UntrustedError
from inarch.population.extension.registry import import_object
from inarch.population.extension.trusted_code import (
    check_code_trusted,
    is_remembered,
    remember,
    remember_code,
    untrusted_file,
)
from inarch.population.models import import_factory

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, which holds the module foreign_model, and an empty memory of what the user has named."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    place = tmp_path.resolve() / "work"
    place.mkdir()
    (place / "foreign_model.py").write_text("open('was_run', 'w').close()\nmake = print\n")
    monkeypatch.chdir(place)
    return place


def check(**names: str) -> None:
    check_code_trusted(names, folder="runs/x", remedy="Add --trust")


def test_module_of_the_working_directory_needs_trust(folder: Path) -> None:
    message = rf"runs/x names code .*: model 'foreign_model:make' from {folder}/foreign_model\.py; .*Add --trust"
    with pytest.raises(UntrustedError, match=message):
        check(task="classification", model="foreign_model:make", data="s3://bucket/file")
    assert not (folder / "was_run").exists()


def test_installed_and_imported_modules_need_no_trust(folder: Path) -> None:
    check(task="torchvision:resnet18", model="json.tool:main", rule="pytest:raises", data="no.such.module:x")
    (folder / "json.py").write_text("")  # the interpreter's own is found first
    (folder / "tests.py").write_text("")  # imported already
    check(task="json:dumps", model="tests.conftest:small_config")


@pytest.mark.parametrize("module", ["foreign-model", "foreign_model..x", ".foreign_model", "foreign_model/x", ""])
def test_names_that_need_no_trust_are_not_imported(folder: Path, module: str) -> None:
    """Python would import a file with a hyphen, and the parent of a name with two dots."""
    shutil.copy(folder / "foreign_model.py", folder / "foreign-model.py")
    check(model=f"{module}:make")
    with pytest.raises(ConfigError, match="is not the name of a module"):
        import_factory(f"{module}:make", "model")
    assert not (folder / "was_run").exists()


@pytest.mark.parametrize("name", ["a_package", "a_folder"])
def test_packages_of_the_working_directory_need_trust(folder: Path, name: str) -> None:
    (folder / name).mkdir()
    (folder / name / "inside.py").write_text("")
    if name == "a_package":
        (folder / name / "__init__.py").write_text("open('was_run', 'w').close()")
    with pytest.raises(UntrustedError, match=f"from {folder}/{name}"):
        check(model=f"{name}.inside:make")
    assert not (folder / "was_run").exists()


def test_named_code_is_remembered_with_its_file(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remember_code(["foreign_model:make", "resnet20", "json:dumps"])
    check(model="foreign_model:make")
    with pytest.raises(UntrustedError, match="foreign_model:other"):
        check(model="foreign_model:other")
    lines = (tmp_path / "state" / "inarch" / "named.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [["foreign_model:make", f"{folder}/foreign_model.py"]]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "foreign_model.py").write_text("")
    monkeypatch.chdir(elsewhere)
    with pytest.raises(UntrustedError, match=f"from {elsewhere.resolve()}"):
        check(model="foreign_model:make")


def test_memory_survives_damage_and_missing_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    remember("mlflow=http://a")
    file = tmp_path / "inarch" / "named.jsonl"
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_bytes(b"\xff{cut\n" + file.read_bytes())
    assert is_remembered("mlflow=http://a") and not is_remembered("mlflow=http://b")
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    remember("mlflow=http://a")
    assert not is_remembered("mlflow=http://a")


def test_import_reaches_the_directory_for_new_modules(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import_object("inarch.population.models.vgg:CifarVgg16", "model.architecture")
    assert str(folder) not in sys.path  # other modules of the folder cannot take the place of missing packages
    assert import_factory("foreign_model:make", "--model") is print
    assert str(folder) in sys.path
    monkeypatch.delitem(sys.modules, "foreign_model")
    assert untrusted_file("foreign_model") == f"{folder}/foreign_model.py"  # the entry is inarch's own, not the user's


PROGRAM = "from inarch.population.extension.trusted_code import untrusted_file as f; print(f('foreign_model'))"


@pytest.mark.parametrize(
    ("way", "variable", "needs_trust"),
    [
        ("-c", ".package", True),
        ("script", ".package", False),
        ("-c", "folder:.package", False),
        ("-c", ":.package", True),
    ],
)
def test_trust_follows_how_python_was_started(folder: Path, way: str, variable: str, needs_trust: bool) -> None:
    (folder / "program.py").write_text(PROGRAM)
    words = {"-c": ["-c", PROGRAM], "script": [str(folder / "program.py")]}[way]
    places = {"folder": str(folder), ".package": str(ROOT / ".package"), "": ""}
    path = os.pathsep.join(places[entry] for entry in variable.split(":"))
    output = subprocess.run(
        [sys.executable, *words], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=True
    ).stdout
    assert output.strip() == (f"{folder}/foreign_model.py" if needs_trust else "None")
