"""The callbacks for other libraries' trainers: a resumed training continues the member's place."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, TensorDataset

from inarch.actors import PopulationRun
from inarch.population.config import OpenConfig
from inarch.population.errors import ConfigError

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("cluster")]


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 4))


def data() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(32, 1, 8, 8, generator=generator), torch.arange(32) % 4)


@pytest.fixture
def run(tmp_path: Path, request: Any) -> Iterator[PopulationRun]:
    name = f"adapter-{request.node.name.partition('_')[2][:20]}"
    run = PopulationRun.open(name, OpenConfig(every=4), storage=str(tmp_path))
    yield run
    run.stop(seconds=30)
    run.close()


def test_lightning_checkpoint_holds_the_place(run: PopulationRun, tmp_path: Path) -> None:
    lightning: Any = pytest.importorskip("lightning.pytorch")
    from inarch.actors.adapters.lightning import LightningExchange

    class Classifier(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network()

        def training_step(self, batch: Any) -> Tensor:
            return cross_entropy(self.network(batch[0]), batch[1])

        def validation_step(self, batch: Any) -> None:
            self.log("loss_of_validation", cross_entropy(self.network(batch[0]), batch[1]))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    def fit(epochs: int, monitor: str = "loss_of_validation", checkpoint: str | None = None) -> Any:
        exchange = LightningExchange(run.name, monitor=monitor, module=lambda module: module.network, name="lightning")
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = lightning.Trainer(
            max_epochs=epochs, accelerator="cpu", callbacks=[exchange], default_root_dir=str(tmp_path), **quiet
        )
        loader = DataLoader(data(), 8)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.fit(Classifier(), loader, loader, ckpt_path=checkpoint, weights_only=False)
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

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network()

        def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
            logits = self.network(pixel_values)
            return {"loss": cross_entropy(logits, labels), "logits": logits}

    class Rows(Dataset[dict[str, Tensor]]):
        def __len__(self) -> int:
            return 32

        def __getitem__(self, index: int) -> dict[str, Tensor]:
            image, label = data()[index]
            return {"pixel_values": image, "labels": label}

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
            Classifier(), settings, train_dataset=Rows(), eval_dataset=Rows(), callbacks=[exchange]
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
