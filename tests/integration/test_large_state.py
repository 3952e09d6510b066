"""A network whose state has an entry beyond 2^31 bytes. See large_state_run.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

PROGRAM = Path(__file__).with_name("large_state_run.py")
ROOT = Path(__file__).resolve().parents[2]
WIDTH = 24_000
"""Width of the large layer, whose weights have 2.3 GB."""

NEEDED_BYTES = 13 * 2**30


def lived(folder: Path, width: int) -> dict[str, Any]:
    """The result of the program with a network of this width."""
    path = os.pathsep.join([str(ROOT), *sys.path])
    environment = os.environ | {"PYTHONPATH": path, "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, str(PROGRAM), str(folder), str(width)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(960)
@pytest.mark.parametrize("width", [300, WIDTH])
def test_large_state_is_exchanged_and_resumed(tmp_path: Path, width: int) -> None:
    if width == WIDTH and psutil.virtual_memory().available < NEEDED_BYTES:
        pytest.skip("needs 13 GiB of free memory")  # with less, the system would kill processes
    result = lived(tmp_path, width)
    print(json.dumps(result))
    assert result["entry_bytes"] == 4 * width**2
    assert result["entry_bytes"] > 2**31 or width < WIDTH
    assert result["fetched"] and result["blended"] and result["resumed"]
    assert 0.0 < result["alpha"] < 1.0
