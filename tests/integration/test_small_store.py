"""A run whose data do not fit into Ray's object store: it is warned, and it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.runs import rows_in

PROGRAM = """
import json, sys
import numpy as np
import ray
from torch import nn
from inarch import PopulationRun
from tests.conftest import small_config
from inarch.population.config import ScheduleConfig, PopulationConfig

ray.init("local", num_cpus=2, object_store_memory=80 * 2**20, include_dashboard=False, namespace="inarch")
images, storage = int(sys.argv[1]), sys.argv[2]
labels = np.arange(images) % 10
data = (np.zeros((images, 1, 32, 32), dtype=np.uint8) + labels[:, None, None, None].astype(np.uint8), labels)
schedule = ScheduleConfig(epochs=3, batch_size=8192, lr_decay="cosine")
config = small_config(name="small", storage=storage, schedule=schedule, population=PopulationConfig(size=3))
def linear(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(32 * 32, num_classes))


run = PopulationRun.start(config, data=data, model=linear, quiet=True)
result = run.wait(seconds=300)
run.close()
print(json.dumps({"is_complete": result.is_complete, "data_bytes": run.info.data_bytes}))
"""


def trained(folder: Path, images: int) -> tuple[dict[str, Any], str]:
    """Train on an object store of 80 MiB, and return what the program found and its standard error."""
    paths = os.pathsep.join([str(Path(__file__).resolve().parents[2]), *filter(None, sys.path)])
    environment = os.environ | {"PYTHONPATH": paths, "RAY_AUTH_MODE": "disabled"}
    words = [sys.executable, "-c", PROGRAM, str(images), str(folder)]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=400, env=environment, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(ended.stdout.splitlines()[-1]), ended.stderr


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(420)
@pytest.mark.parametrize(("images", "is_warned"), [(1_000, False), (150_000, True)], ids=("small", "twice the store"))
def test_data_beyond_the_object_store_are_told(tmp_path: Path, images: int, is_warned: bool) -> None:
    seen, errors = trained(tmp_path, images)
    assert seen["is_complete"] and (seen["data_bytes"] > 80 * 2**20) is is_warned
    assert ("the object store of a node has 80 MiB" in errors) is is_warned
    assert rows_in(tmp_path / "small") == {network_id: [1, 2, 3] for network_id in range(3)}
