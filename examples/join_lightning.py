"""A Lightning Trainer joins a population by one callback."""

import logging
import warnings

import torch
from digits import BATCH, accuracy, arguments, datasets, network
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from inarch.actors.adapters.lightning import LightningExchange


class Classifier(LightningModule):
    """A classifier of digits, as Lightning wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        return cross_entropy(self.network(images), labels)

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        images, labels = batch
        correct = (self.network(images).argmax(dim=1) == labels).float().mean()
        self.log("validation_accuracy", correct)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def main() -> None:
    options = arguments(__doc__)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    train, validation = datasets()
    exchange = LightningExchange(
        options.run,
        every=options.every,
        monitor="validation_accuracy",
        module=lambda module: module.network,
        name=options.name,
        storage=options.storage,
    )
    trainer = Trainer(
        max_epochs=options.epochs,
        accelerator="cpu",
        callbacks=[exchange],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    classifier = Classifier()
    trainer.fit(classifier, DataLoader(train, BATCH, shuffle=True), DataLoader(validation, 512))
    print(f"accuracy {accuracy(classifier.network, validation):.3f}, {exchange.member}")


if __name__ == "__main__":
    main()
