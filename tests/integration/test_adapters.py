"""The callbacks for other libraries' trainers: a resumed training continues the member's place."""

from __future__ import annotations

import dataclasses
import importlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from inarch.actors import PopulationRun
from inarch.population.errors import ConfigError

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("cluster")]


def data() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(32, 1, 8, 8, generator=generator), torch.arange(32) % 10)


@pytest.fixture
def run(open_run: Callable[..., PopulationRun], request: Any, monkeypatch: pytest.MonkeyPatch) -> PopulationRun:
    """An open run, and the folder of the examples on the path of modules."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "examples"))
    return open_run(f"adapter-{request.node.name.partition('_')[2][:20]}", every=4)


def imported(name: str) -> Any:
    """A module of the examples."""
    return importlib.import_module(name)


def test_lightning_checkpoint_holds_the_place(run: PopulationRun, tmp_path: Path) -> None:
    lightning: Any = pytest.importorskip("lightning.pytorch")
    from inarch.actors.adapters.lightning import LightningExchange

    classifier = imported("join_lightning").Classifier

    def fit(epochs: int, monitor: str = "validation_accuracy", checkpoint: str | None = None) -> Any:
        exchange = LightningExchange(run.name, monitor=monitor, module=lambda module: module.network, name="lightning")
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = lightning.Trainer(
            max_epochs=epochs, accelerator="cpu", callbacks=[exchange], default_root_dir=str(tmp_path), **quiet
        )
        loader = DataLoader(data(), 8)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.fit(classifier(), loader, loader, ckpt_path=checkpoint, weights_only=False)
            trainer.save_checkpoint(tmp_path / "lightning.ckpt")
        return exchange.member

    first = fit(2)
    assert (first.interval, first.incarnation) == (2, 1)
    second = fit(5, checkpoint=str(tmp_path / "lightning.ckpt"))
    assert (second.network_id, second.interval, second.incarnation) == (first.network_id, 5, 2)
    (network_status,) = run.status().networks
    assert network_status.state == "retired" and network_status.validation_metrics["score"] is not None
    with pytest.raises(ConfigError, match="monitor='unknown': no such metric was logged"):
        fit(1, monitor="unknown")
    assert run.status().networks[0].state == "stopped"


def test_transformers_checkpoint_holds_the_place(run: PopulationRun, tmp_path: Path) -> None:
    transformers: Any = pytest.importorskip("transformers")
    from inarch.actors.adapters.transformers import TransformersExchange

    example = imported("join_transformers")
    rows = example.Rows(data())

    def train(epochs: int, **options: Any) -> Any:
        exchange = TransformersExchange(
            run.name, monitor="eval_loss", module=lambda model: model.network, name="transformers"
        )
        settings = transformers.TrainingArguments(
            output_dir=str(tmp_path / "transformers"),
            num_train_epochs=epochs,
            per_device_train_batch_size=8,
            eval_strategy="epoch",
            save_strategy="epoch",
            logging_steps=4,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = transformers.Trainer(
            example.Classifier(), settings, train_dataset=rows, eval_dataset=rows, callbacks=[exchange]
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.train(**options)
        return exchange.member

    first = train(2)
    assert (first.interval, first.incarnation) == (2, 1)
    second = train(5, resume_from_checkpoint=True)
    assert (second.network_id, second.interval, second.incarnation) == (first.network_id, 5, 2)
    (status,) = run.status().networks
    assert status.state == "retired" and dataclasses.asdict(status)["train_loss"] is not None
