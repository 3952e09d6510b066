"""Export of compact networks from the folder of a finished run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from inarch.experiments.export import export_network
from inarch.population import DataConfig, ExchangeConfig, FusionConfig, PopulationConfig, ScheduleConfig, Trainer
from inarch.population.config import to_dict
from inarch.population.errors import ConfigError
from inarch.population.evaluation.soups import soup
from inarch.population.fusion import FusedConv2d
from inarch.population.persistence.checkpoint import CheckpointStore
from inarch.population.persistence.storage import Storage
from inarch.population.state.state_dict import load_tensors, named_tensors
from inarch.population.tasks.image_classification import ImageClassification
from inarch.population.tasks.image_task import run_splits
from tests.conftest import small_config
from tests.fakes.runtime import FakeRuntime, live


@pytest.fixture
def compact_run(tmp_path: Path) -> tuple[str, torch.nn.Module]:
    """Return the folder of a finished run of two compact networks, and a model in its form during training."""
    config = small_config(
        name="compact",
        data=DataConfig(train="digits", train_limit=200, test_limit=50, augmentation="none"),
        population=PopulationConfig(size=2, same_initial_weights=True),
        schedule=ScheduleConfig(epochs=2, batch_size=64, lr_decay="cosine"),
        exchange=ExchangeConfig(rule="none"),
        fusion=FusionConfig(mode="stable", rates=(0.5,)),
    )
    folder = tmp_path / "compact"
    store = CheckpointStore(Storage(str(folder)))
    task = ImageClassification(config, run_splits(config))
    for network_id in (0, 1):
        runtime = FakeRuntime()
        live(Trainer(task, config, network_id=network_id), runtime)
        for checkpoint in runtime.checkpoints:
            assert store.commit(checkpoint)
    info = {"facts": {"num_classes": 10, "image_shape": [1, 8, 8]}, "metrics": [{"name": "accuracy"}]}
    (folder / "config.json").write_text(json.dumps({"config": to_dict(config), "model": "resnet8", "info": info}))
    return str(folder), task.build(0)


@torch.no_grad()
@pytest.mark.parametrize("what", ["best", "soup"])
def test_export_of_compact_network_has_the_same_outputs(compact_run: Any, what: Any) -> None:
    folder, trained = compact_run
    candidates = [
        best for network_id in (0, 1) if (best := CheckpointStore(Storage(folder)).best(network_id)) is not None
    ]
    scores = [score or 0.0 for _, score, _ in candidates]
    state = (
        candidates[scores.index(max(scores))][0] if what == "best" else soup([candidate[0] for candidate in candidates])
    )
    load_tensors(trained, state)
    file, snippet = export_network(folder, what=what, out=None)
    assert Path(file).stat().st_size < 0.6 * sum(value.nbytes for value in state.values())
    names: dict[str, Any] = {}
    exec(snippet, names)
    exported = names["model"]
    assert not any(isinstance(module, FusedConv2d) for module in exported.modules())
    images = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    if what == "soup":  # the export recalibrates the batch norm of a soup
        load_tensors(
            trained, state | {k: v for k, v in named_tensors(exported).items() if "running" in k or "tracked" in k}
        )
    torch.testing.assert_close(exported(images), trained.eval()(images), rtol=1e-4, atol=1e-5)
    assert float(exported(images).std()) > 0


def test_export_of_a_compact_user_model_raises_config_error(compact_run: Any) -> None:
    folder, _ = compact_run
    path = Path(folder) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model": "callable"}))
    with pytest.raises(ConfigError, match=r"started with a callable; population\.fusion\.compact_state"):
        export_network(folder, what="best", out=None)


def test_commands_that_read_a_folder_do_not_import_ray() -> None:
    modules = ("saved_runs", "export", "result_commands", "display")
    code = "import sys; " + "; ".join(f"import inarch.experiments.{name}" for name in modules)
    code += "; from inarch.experiments import cli; assert 'ray' not in sys.modules, 'Ray was imported'"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)
