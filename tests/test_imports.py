"""What a driver, a coordinator and the command import before they need it. Each case is a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.run_folder import run_folder

HEAVY = ("torch", "torchvision", "sklearn", "scipy", "matplotlib")

CHECK = f"import sys; heavy = [name for name in {HEAVY} if name in sys.modules]; assert not heavy, heavy"

EVALUATION = """
import torch
from inarch.population.evaluation.classification import score_probabilities
from inarch.population.evaluation.population import evaluate_population
from inarch.population.tasks.run_evaluation import evaluate_run
score_probabilities(torch.eye(3).double(), torch.arange(3))
import sys; heavy = [name for name in ("matplotlib", "torchmetrics", "sklearn") if name in sys.modules]
assert not heavy, heavy
"""

DRIVER = """
from inarch.actors.driver.inputs import check_here, with_network, with_task
from inarch.experiments.recipes import recipe
config, task, _ = with_task(recipe("digits"), None)
config, factory = with_network(config, task, None)
check_here(config, task, factory, has_own_code=False)
"""


@pytest.mark.parametrize(
    "program",
    [
        "import inarch.actors.driver.population_run",
        "import inarch.actors.coordinator.actor",
        "import inarch.experiments.cli, inarch.experiments.display",
        "from inarch import MLflow, PopulationRun, RunConfig, TensorBoard, WandB",
        DRIVER,
    ],
    ids=["driver", "coordinator", "command", "names", "checks"],
)
def test_torch_is_imported_only_when_needed(program: str) -> None:
    subprocess.run([sys.executable, "-c", f"{program}\n{CHECK}"], check=True, timeout=60)


def test_coordinator_is_imported_quickly() -> None:
    """A killed coordinator is back within the lease of its networks. Ray itself is half of what it imports."""
    program = (
        "import time, inarch.actors.coordinator.actor; seconds = time.process_time(); assert seconds < 1.5, seconds"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_evaluation_imports_no_plotting() -> None:
    subprocess.run([sys.executable, "-c", EVALUATION], check=True, timeout=60)


def test_status_of_a_finished_run_imports_no_torch(tmp_path: Path) -> None:
    storage = run_folder(tmp_path)
    call = f"main(['status', {storage.uri!r}])"
    ends = "except SystemExit as ended:\n    assert ended.code in (0, None), ended.code\n"
    program = f"from inarch.experiments.cli import main\ntry:\n    {call}\n{ends}"
    shown = subprocess.run(
        [sys.executable, "-c", program + CHECK], check=True, timeout=60, capture_output=True, text=True
    )
    assert "mean" in shown.stdout
