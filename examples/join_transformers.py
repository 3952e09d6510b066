"""The Trainer of Hugging Face Transformers joins a population by one callback."""

import tempfile

import numpy as np
from digits import BATCH, accuracy, arguments, datasets, network
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset, TensorDataset
from transformers import EvalPrediction, Trainer, TrainingArguments

from inarch.actors.adapters.transformers import TransformersExchange


class Classifier(nn.Module):
    """A classifier of digits, as the Trainer wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.network(pixel_values)
        return {"loss": cross_entropy(logits, labels), "logits": logits}


class Rows(Dataset[dict[str, Tensor]]):
    """A data set whose items are mappings."""

    def __init__(self, dataset: TensorDataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        image, label = self._dataset[index]
        return {"pixel_values": image, "labels": label}


def share_correct(result: EvalPrediction) -> dict[str, float]:
    """Return the accuracy of an evaluation."""
    return {"accuracy": float((np.argmax(result.predictions, axis=1) == result.label_ids).mean())}


def main() -> None:
    options = arguments(__doc__)
    train, validation = datasets()
    exchange = TransformersExchange(
        options.run,
        every=options.every,
        monitor="eval_accuracy",
        module=lambda model: model.network,
        name=options.name,
        storage=options.storage,
    )
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder,
            num_train_epochs=options.epochs,
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=512,
            learning_rate=3e-3,
            lr_scheduler_type="constant",
            eval_strategy="epoch",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_strategy="steps",
            logging_steps=22,
            use_cpu=True,
            seed=options.seed,
        )
        model = Classifier()
        trainer = Trainer(
            model,
            settings,
            train_dataset=Rows(train),
            eval_dataset=Rows(validation),
            compute_metrics=share_correct,
            callbacks=[exchange],
        )
        trainer.train()
    print(f"accuracy {accuracy(model.network, validation):.3f}, {exchange.member}")


if __name__ == "__main__":
    main()
