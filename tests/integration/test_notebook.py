"""README's program in a notebook."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]


def test_readme_program_runs_in_a_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat: Any = pytest.importorskip("nbformat")
    nbclient: Any = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    program = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)[0]
    body, last = program.split("run.scale(3)\n")
    cells = [
        body.replace("data=data)", "data=data, quiet=True)"),
        "run",
        "result = run.show()",
        "result.ensemble.accuracy",
    ]
    assert "run.wait()" in last
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / ".package"), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute(cwd=str(tmp_path))
    shown, shown_later, accuracy = (notebook.cells[number].outputs for number in (1, 2, 3))
    assert "<table>" in shown[0]["data"]["text/html"]
    assert "finished" in shown_later[0]["data"]["text/html"]
    assert float(accuracy[0]["data"]["text/plain"]) >= 0.95
