"""The site of the documentation: it builds without warnings, and its marked programs run."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from inarch.experiments.cli import USAGE

ROOT = Path(__file__).resolve().parents[1]

PROGRAM = re.compile(r"^<!-- tested -->\n```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
"""A program of a page that needs no Ray. The mark is an HTML comment above it."""


def programs() -> list[tuple[str, str]]:
    """Return the marked programs of all pages, each with its page and line."""
    marked = []
    for page in sorted((ROOT / "docs").rglob("*.md")):
        text = page.read_text()
        for match in PROGRAM.finditer(text):
            line = text[: match.start(1)].count("\n") + 1
            marked.append((f"{page.relative_to(ROOT)}:{line}", match[1]))
    return marked


@pytest.mark.timeout(300)
def test_marked_programs_run(tmp_path: Path) -> None:
    """One process runs them all, each in names of its own: importing torch takes longest."""
    assert len(programs()) >= 8
    script = tmp_path / "programs.py"
    calls = "\n".join(
        f"exec(compile({code!r}, {place!r}, 'exec'), {{'__name__': '__main__'}})" for place, code in programs()
    )
    script.write_text(f"import torch\ntorch.set_num_threads(1)\n{calls}\n")
    ran = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stderr


def test_reference_has_the_help_of_each_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))
    page = importlib.import_module("command_pages").commands()
    commands = re.findall(r"^  inarch (\w+)", USAGE, re.MULTILINE)
    missing = [name for name in commands if name != "train" and f"## `inarch {name}`" not in page]
    assert missing == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_site_builds_without_warnings(tmp_path: Path) -> None:
    pytest.importorskip("sphinx")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", tmp_path]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "index.html").exists()
