"""Learning from other networks' predictions: teachers that were trained before, and peers that train now."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inarch.population import models
from inarch.population.config import FusionConfig, ModelConfig, from_dict
from inarch.population.errors import ConfigError, StorageError
from inarch.population.persistence.checkpoint import CheckpointStore
from inarch.population.persistence.storage import Storage
from inarch.population.state.state_dict import load_tensors


def distillation_loss(logits: Tensor, taught: Sequence[Tensor], *, temperature: float) -> Tensor:
    """Cross-entropy of a student's softened probabilities with the mean of its teachers', times temperature squared.

    Args:
        logits: The student's, shape (batch, classes).
        taught: Each teacher's, alike, without gradient.
        temperature: Above 0; divides all logits.

    Returns:
        0-dimensional; a mean over the batch.

    Source: Cheng et al. 2020 (arXiv:2004.12311), Grafting+: L_KD with tau = 2.
    """
    target = torch.stack([(one / temperature).softmax(1) for one in taught]).mean(0)
    return -(temperature**2) * (target * (logits / temperature).log_softmax(1)).sum(1).mean()


def mutual_loss(logits: Tensor, peers: Sequence[Tensor]) -> Tensor:
    """Kullback-Leibler divergence of a network's probabilities from each peer's, a mean over peers and the batch.

    Args:
        logits: The network's, shape (batch, classes).
        peers: Each peer's, alike, without gradient.

    Source: Zhang et al. 2018 (arXiv:1706.00384), deep mutual learning: KL(p_peer || p_own).
    """
    own = logits.log_softmax(1)
    found = [F.kl_div(own, one.log_softmax(1), reduction="batchmean", log_target=True) for one in peers]
    return torch.stack(found).mean()


def load_teacher(path: str, *, num_classes: int, in_channels: int, device: torch.device | str = "cpu") -> nn.Module:
    """A network of another run, with the weights that were best by validation or those of an interval, in evaluation
    mode and frozen.

    Args:
        path: A run's folder (its best network), folder#id, or folder#id@interval: as it was then, where the run kept
            that checkpoint.
        num_classes: Of the student; the teacher must have as many.
        in_channels: Alike.
        device: Where it lives.

    Raises:
        ConfigError: there is no such run, network or checkpoint, it has other classes or channels, or its network was a
            callable.
    """
    folder = path.partition("#")[0]
    storage = Storage(folder)
    try:
        recorded = json.loads(storage.read("config.json"))
    except StorageError as error:
        raise ConfigError(f"distillation.teachers: there is no run at {folder!r}: {error}") from error
    info, name = recorded["info"], recorded["model"]
    if name == "callable":
        raise ConfigError(
            f"distillation.teachers: {folder!r} was begun with a callable; a teacher needs a named network"
        )
    if (info["num_classes"], info["image_shape"][0]) != (num_classes, in_channels):
        raise ConfigError(
            f"distillation.teachers: {folder!r} has {info['num_classes']} classes and {info['image_shape'][0]} "
            f"channels, the student {num_classes} and {in_channels}"
        )
    state = _taught_by(CheckpointStore(storage), path)
    module = models.build(
        from_dict(ModelConfig, recorded["config"]["model"] | {"weights": None}),
        num_classes=num_classes,
        in_channels=in_channels,
        seed=0,
        fusion=from_dict(FusionConfig, recorded["config"].get("fusion", {})),
    )
    load_tensors(module, state)
    return module.to(device).eval().requires_grad_(False)


def _taught_by(store: CheckpointStore, path: str) -> Mapping[str, Tensor]:
    """The weights that a path names."""
    folder, _, chosen = path.partition("#")
    chosen, at, interval = chosen.partition("@")
    found = {model: best for model in store.networks() if (best := store.best(model)) is not None}
    wanted = int(chosen) if chosen.isdigit() else max(found, key=lambda one: (found[one][1] or 0.0, -one), default=None)
    if wanted not in found or (chosen and not chosen.isdigit()):
        raise ConfigError(f"distillation.teachers: {path!r} names no network; {folder!r} has {sorted(found)}")
    if not at:
        return found[wanted][0]
    kept = {one.interval: one for one in store.list(wanted) if not one.step}
    if not interval.isdigit() or int(interval) not in kept:
        raise ConfigError(
            f"distillation.teachers: {path!r} names no checkpoint; network {wanted} of {folder!r} has those of "
            f"intervals {sorted(kept)} (checkpoint.keep)"
        )
    return store.load(wanted, kept[int(interval)]).evaluated_state
