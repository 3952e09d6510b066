"""A worker of Ray Train's TorchTrainer joins a population. With several workers, rank 0 is the member."""

import os
import tempfile
import uuid

import torch
from digits import BATCH, accuracy, arguments, datasets, network
from ray.train import Checkpoint, RunConfig, ScalingConfig, get_context, report
from ray.train.torch import TorchTrainer, prepare_model
from torch.nn.functional import cross_entropy
from torch.optim import SGD
from torch.utils.data import DataLoader, DistributedSampler

from inarch import join
from inarch.actors import connect_to_run


def train_worker(options: dict) -> None:
    train, validation = datasets()
    model = prepare_model(network())
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    sampler = DistributedSampler(train) if get_context().get_world_size() > 1 else None
    loader = DataLoader(train, BATCH, shuffle=sampler is None, sampler=sampler)
    with join(
        options["run"], model, optimizer=optimizer, every=options["every"], name=options["name"], begin="clone"
    ) as member:
        for _ in range(options["epochs"]):
            for images, labels in loader:
                loss = cross_entropy(model(images), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                member.tell(loss=loss, examples=len(labels))
            member.tell(score=accuracy(model, validation))
            if member.should_stop:
                break
        metrics = {"accuracy": accuracy(model, validation), "grafts": member.grafts}
        with tempfile.TemporaryDirectory() as folder:
            torch.save({"model": model.state_dict(), "member": member.state_dict()}, f"{folder}/checkpoint.pt")
            report(metrics, checkpoint=Checkpoint.from_directory(folder))


def main() -> None:
    options = arguments(__doc__)
    connect_to_run(options.run, storage=options.storage)
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"run": options.run, "name": options.name, "epochs": options.epochs, "every": options.every},
        scaling_config=ScalingConfig(num_workers=1),
        run_config=RunConfig(
            name=f"{options.run}-{options.name or uuid.uuid4().hex[:8]}",
            storage_path=os.path.join(os.path.abspath(options.storage), "ray_train"),
        ),
    )
    metrics = trainer.fit().metrics or {}
    print(f"accuracy {metrics['accuracy']:.3f}, {metrics['grafts']} grafts")


if __name__ == "__main__":
    main()
