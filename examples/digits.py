"""What the examples have in common: the digits of scikit-learn, a small network, and the command line."""

from __future__ import annotations

import argparse

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import TensorDataset

BATCH = 64
"""Images of a training step. An epoch has 22 steps."""


def arguments(description: str | None) -> argparse.Namespace:
    """Read the options that every example has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--run", default="examples", help="name of the run, opened by `inarch open NAME`")
    parser.add_argument("--name", default=None, help="name of this member across restarts")
    parser.add_argument("--storage", default="runs", help="folder that holds runs")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--every", type=int, default=22, help="steps from one exchange to the next; an epoch has 22")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)
    return options


def datasets() -> tuple[TensorDataset, TensorDataset]:
    """Return training and validation images, each of shape (1, 8, 8), with their labels."""
    pixels, digits = load_digits(return_X_y=True)
    images = torch.tensor(np.asarray(pixels) / 16.0, dtype=torch.float32).view(-1, 1, 8, 8)
    labels = torch.tensor(np.asarray(digits))
    return TensorDataset(images[:1400], labels[:1400]), TensorDataset(images[1400:], labels[1400:])


def network() -> nn.Module:
    """Return the network. All members of a population need the same one."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, stride=2),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 10),
    )


def accuracy(model: nn.Module, dataset: TensorDataset) -> float:
    """Return the share of images that a network classifies correctly."""
    images, labels = dataset.tensors
    was_training = model.training
    model.eval()
    with torch.no_grad():
        predictions: Tensor = model(images).argmax(dim=1)
    model.train(was_training)
    return float((predictions == labels).float().mean())
