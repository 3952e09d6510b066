"""The programs in examples/, each against the library that it is about, in populations on one cluster."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from inarch.actors import PopulationRun
from inarch.population.config import OpenConfig, StalenessConfig
from inarch.population.persistence.history import read_table
from inarch.population.persistence.storage import Storage
from tests.integration.runs import until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("cluster")]

ROOT = Path(__file__).resolve().parents[2]

KINDS = ("plain", "lightning", "transformers", "accelerate", "ray_train")


@pytest.fixture
def example(tmp_path: Path, cluster: str) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Yield a function that starts an example as a member of a run on the session's cluster."""
    processes: list[subprocess.Popen[str]] = []

    def start(kind: str, *, run: str, epochs: int, every: int = 22) -> subprocess.Popen[str]:
        pytest.importorskip({"plain": "torch", "ray_train": "ray.train"}.get(kind, kind))
        program = str(ROOT / "examples" / f"join_{kind}.py")
        options = ["--run", run, "--name", kind, "--storage", str(tmp_path), "--epochs", str(epochs)]
        options += ["--every", str(every)]
        environment = os.environ | {"RAY_ADDRESS": cluster, "PYTHONPATH": str(ROOT / ".package")}
        processes.append(
            subprocess.Popen(
                [sys.executable, program, *options], stdout=subprocess.PIPE, text=True, env=environment, cwd=tmp_path
            )
        )
        return processes[-1]

    yield start
    for process in processes:  # of a test that failed
        process.kill()
        process.wait(timeout=30)


def finished(process: subprocess.Popen[str]) -> str:
    """Return what an example has printed, once it has ended well."""
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


@pytest.mark.parametrize("kind", KINDS)
def test_example_trains_and_leaves(kind: str, example, tmp_path: Path) -> None:
    run = PopulationRun.open(f"example-{kind}", OpenConfig(), storage=str(tmp_path))
    output = finished(example(kind, run=run.name, epochs=8))
    accuracy = re.search(r"accuracy (0\.\d+)", output)
    assert accuracy is not None and float(accuracy[1]) > 0.85, output
    (network,) = run.status().networks
    assert (network.state, network.name, network.interval) == ("retired", kind, 8)
    assert network.validation_metrics["score"] == pytest.approx(float(accuracy[1]), abs=0.05)
    assert network.train_loss is not None
    run.stop(seconds=30)
    run.close()


@pytest.mark.timeout(300)
def test_five_kinds_of_loops_graft_from_each_other(example, tmp_path: Path) -> None:
    config = OpenConfig(staleness=StalenessConfig(max_intervals=1e9))
    run = PopulationRun.open("five", config, storage=str(tmp_path))
    processes: list[Any] = []
    for number, kind in enumerate(("ray_train", *KINDS[:-1]), start=1):  # Ray Train takes longest to start
        processes.append(example(kind, run="five", epochs=100_000, every=88))
        until(lambda number=number: len(run.status().networks) == number, seconds=90)
    grafts = {network.name: network.grafts for network in run.status().networks}

    def have_all_grafted() -> bool:
        return all(network.grafts >= grafts[network.name] + 3 for network in run.status().networks)

    until(have_all_grafted, seconds=90)
    networks = run.status().networks
    assert sorted(str(network.name) for network in networks) == sorted(KINDS)
    assert {network.scion for network in networks} == {0, 1, 2, 3, 4}  # the ring: each from the one before it
    run.ask_to_stop()
    for process in processes:
        finished(process)
    run.stop(seconds=30)
    rows = read_table(Storage(run.path), "grafts")
    assert set(rows["rootstock"].to_pylist()) == {0, 1, 2, 3, 4}
    run.close()
