"""Learn from other networks' predictions: from teachers of earlier runs, and from peers that train at the same time."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inarch.population import models
from inarch.population.config import FusionConfig, ModelConfig, from_dict
from inarch.population.data.report import DataReport, report_from
from inarch.population.errors import ConfigError, StorageError
from inarch.population.evaluation.metrics import rank
from inarch.population.persistence.checkpoint import CheckpointStore
from inarch.population.persistence.storage import Storage
from inarch.population.state.state_dict import load_tensors
from inarch.population.tasks.chosen_weights import chosen_weights, population_of
from inarch.population.tasks.run_folder import read_config, read_result

logger = logging.getLogger("inarch")


def distillation_loss(logits: Tensor, taught: Sequence[Tensor], *, temperature: float) -> Tensor:
    """Return the distillation loss of a student from the mean prediction of its teachers.

    The loss is the cross-entropy of the softened probabilities, times the squared temperature.

    Args:
        logits: Logits of the student, shape (batch, classes).
        taught: Logits of each teacher, of the same shape, without gradient. At least one.
        temperature: Divides all logits, above 0.

    Returns:
        0-dimensional, the mean over the batch.

    Source: Cheng et al. 2020 (arXiv:2004.12311), Grafting+: L_KD with tau = 2.
    """
    target = torch.stack([(teacher_logits / temperature).softmax(1) for teacher_logits in taught]).mean(0)
    return -(temperature**2) * (target * (logits / temperature).log_softmax(1)).sum(1).mean()


def mutual_loss(logits: Tensor, peers: Sequence[Tensor]) -> Tensor:
    """Return the Kullback-Leibler divergence of a network's probabilities from those of its peers.

    Args:
        logits: Logits of the network, shape (batch, classes).
        peers: Logits of each peer, of the same shape, without gradient. At least one.

    Returns:
        0-dimensional, the mean over the peers and the batch.

    Source: Zhang et al. 2018 (arXiv:1706.00384), deep mutual learning: KL(p_peer || p_own).
    """
    own = logits.log_softmax(1)
    divergences = [
        F.kl_div(own, peer_logits.log_softmax(1), reduction="batchmean", log_target=True) for peer_logits in peers
    ]
    return torch.stack(divergences).mean()


def load_teacher(
    path: str,
    *,
    num_classes: int,
    in_channels: int,
    data: DataReport | None = None,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """Load a network of another run as a teacher.

    Args:
        path: A run's folder for its best network, or folder#id for the network with this id. Both have the weights that
            the result of that run uses. folder#id@interval: the weights after that interval, if the run kept the
            checkpoint.
        num_classes: Number of classes of the student. The teacher must have as many.
        in_channels: Channels of the student's images. The teacher must have as many.
        data: The student's data. Its classes must not be the teacher's in another order. None: not compared.
        device: Device of the teacher.

    Returns:
        The teacher, frozen and in evaluation mode. It takes the student's normalized images. If its own were normalized
        otherwise, it converts them first.

    Raises:
        ConfigError: There is no such run, network or checkpoint, its classes, their order or its channels differ, or
            its model came from a callable.
        StorageError: The run's folder or the checkpoint cannot be read.
    """
    folder = path.partition("#")[0]
    storage = Storage(folder)
    try:
        recorded = read_config(storage)
    except StorageError as error:
        raise ConfigError(f"distillation.teachers: there is no run at {folder!r}: {error}") from error
    name, facts = recorded["model"], recorded["info"].get("facts", {})
    if "num_classes" not in facts:
        task = recorded["config"].get("task")
        raise ConfigError(f"distillation.teachers: {folder!r} has the task {task!r}; a teacher must classify images")
    if name == "callable":
        raise ConfigError(
            f"distillation.teachers: {folder!r} was started with a callable; a teacher must have a named model"
        )
    if (facts["num_classes"], facts["image_shape"][0]) != (num_classes, in_channels):
        raise ConfigError(
            f"distillation.teachers: {folder!r} has {facts['num_classes']} classes and {facts['image_shape'][0]} "
            f"channels, the student {num_classes} and {in_channels}"
        )
    taught = report_from(facts["data"]) if data is not None and "data" in facts else None
    if data is not None and taught is not None:
        _check_class_order(folder, taught.class_names, data.class_names)
    state = _taught_by(storage, path)
    module = models.build(
        from_dict(ModelConfig, recorded["config"]["model"] | {"weights": None}),
        num_classes=num_classes,
        in_channels=in_channels,
        image_shape=tuple(facts["image_shape"]),
        seed=0,
        fusion=from_dict(FusionConfig, recorded["config"].get("fusion", {})),
    )
    models.give_logits(module)
    load_tensors(module, state)
    if data is not None and taught is not None and (taught.mean, taught.deviation) != (data.mean, data.deviation):
        module = nn.Sequential(_Renormalize(data, taught), module)
    return module.to(device).eval().requires_grad_(False)


def _check_class_order(folder: str, taught: Sequence[str], own: Sequence[str]) -> None:
    """Raise ConfigError if a teacher has the student's classes in another order. Warn if it has others.

    Names that are only the numbers of the labels are not compared.
    """
    placeholders = [str(number) for number in range(len(own))]
    if list(taught) == list(own) or placeholders in (list(taught), list(own)):
        return
    shown = [
        ", ".join(repr(name) for name in names[:4]) + (", ..." if len(names) > 4 else "") for names in (taught, own)
    ]
    if set(taught) == set(own):
        raise ConfigError(
            f"distillation.teachers: {folder!r} has the student's classes in another order: {shown[0]}; the student "
            f"has {shown[1]}"
        )
    logger.warning(
        "distillation.teachers: the classes of %s have other names (%s) than the student's (%s); they are taught in "
        "this order",
        *(folder, *shown),
    )


class _Renormalize(nn.Module):
    """Converts images that were normalized for the student to images that are normalized for the teacher."""

    def __init__(self, own: DataReport, taught: DataReport) -> None:
        super().__init__()
        values = [
            torch.tensor(value).view(-1, 1, 1) for value in (own.mean, own.deviation, taught.mean, taught.deviation)
        ]
        mean, deviation, taught_mean, taught_deviation = values
        self.register_buffer("scale", deviation / taught_deviation)
        self.register_buffer("shift", (mean - taught_mean) / taught_deviation)

    scale: Tensor
    shift: Tensor

    def forward(self, images: Tensor) -> Tensor:
        return images * self.scale + self.shift


def _taught_by(storage: Storage, path: str) -> Mapping[str, Tensor]:
    """Return the weights that a path names."""
    store = CheckpointStore(storage)
    folder, _, selector = path.partition("#")
    id_text, at, interval = selector.partition("@")
    result = read_result(storage)
    networks = chosen_weights(store, result)
    if id_text.isdecimal():
        teacher_id = int(id_text)
    else:
        members = population_of(networks, result)
        teacher_id = max(members, key=lambda key: rank(networks[key].score, key), default=None)
    if teacher_id not in networks or (id_text and not id_text.isdecimal()):
        raise ConfigError(
            f"distillation.teachers: {path!r} names no network; {folder!r} has the networks {sorted(networks)}"
        )
    if not at:
        return networks[teacher_id].state
    checkpoints = {checkpoint.interval: checkpoint for checkpoint in store.list(teacher_id) if not checkpoint.step}
    if not interval.isdecimal() or int(interval) not in checkpoints:
        raise ConfigError(
            f"distillation.teachers: {path!r} names no checkpoint; network {teacher_id} of {folder!r} has those of "
            f"intervals {sorted(checkpoints)} (checkpoint.keep)"
        )
    return store.load(teacher_id, checkpoints[int(interval)]).evaluated_state
