"""The built-in task: image classification, with image retrieval as a variant of its evaluation."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inarch.population import models
from inarch.population.config import ModelConfig, RunConfig
from inarch.population.data import Batch, EpochSpec, Splits, load_splits
from inarch.population.data.memory_batches import epoch_steps
from inarch.population.errors import ConfigError
from inarch.population.evaluation.evaluation_set import check_queries, evaluation_set
from inarch.population.evaluation.protocol import EvaluationSet, Scores
from inarch.population.evaluation.retrieval import embeddings
from inarch.population.fusion import LayerFusion, update_fusion
from inarch.population.grafting.channel_tracing import find_channels
from inarch.population.grafting.weight_matching import in_common_order
from inarch.population.state.state_dict import load_tensors, named_tensors
from inarch.population.tasks.distillation import distillation_loss, load_teacher, mutual_loss

STATISTICS_BATCHES = 8
"""Training batches, augmented as in training, from which batch norm's statistics of averaged weights are measured if
schedule.batch_norm_batches is 0."""


def run_splits(config: RunConfig) -> Splits:
    """Read the images of a run. In retrieval the test images may be of other classes than the training images.

    Args:
        config: Configuration of the run.

    Raises:
        DataError: As `load_splits`.
    """
    return load_splits(config.data, seed=config.seed, same_classes=config.task == "classification")


class ImageClassification:
    """The task of a run: networks learn classes by cross-entropy. It implements `Task`.

    With task=retrieval, networks are evaluated by their embeddings of images, which may be of other classes.
    """

    def __init__(
        self,
        config: RunConfig,
        splits: Splits,
        *,
        factory: models.ModelFactory | None = None,
        device: torch.device | str = "cpu",
        begins_trained: bool = True,
    ) -> None:
        """Create the task of a run.

        Args:
            config: Configuration of the run.
            splits: Data of the run.
            factory: Model factory. None: the model of config.model.
            device: Device of the networks and batches.
            begins_trained: Whether networks are built with the pretrained model.weights. False saves loading them if
                the weights are overwritten anyway.

        Raises:
            ConfigError: There are no training images.
        """
        if not begins_trained:
            config = dataclasses.replace(config, model=dataclasses.replace(config.model, weights=None))
        self.config, self.splits = config, splits
        self.device = torch.device(device)
        self._network: ModelConfig | models.ModelFactory = factory or config.model
        train = splits.batches("train", self.device)
        if train is None:
            raise ConfigError("there are no training images")
        self._train = train
        self._validation = self.part("validation")
        self._autocast = _autocast_type(config.device.precision, self.device)
        self._peers: list[nn.Module] = []

    @property
    def steps_per_epoch(self) -> int:
        """Training steps of one epoch."""
        return epoch_steps(len(self._train), self.config.schedule)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        return self.splits.image_shape

    def build(self, seed: int) -> nn.Module:
        """Return a new network on the task's device, in the memory format that device.channels_last sets.

        Args:
            seed: Decides the initial weights.

        Raises:
            ConfigError: As `models.build`.
            UserCodeError: As `models.build`.
        """
        model = models.build(
            self._network,
            num_classes=self.splits.num_classes,
            in_channels=self.splits.in_channels,
            image_shape=self.splits.image_shape,
            seed=seed,
            fusion=self.config.fusion,
        ).to(self.device)
        models.give_logits(model)
        channels_last = self.config.device.channels_last
        if channels_last == "on" or (channels_last == "auto" and self.device.type == "cuda"):
            model = model.to(memory_format=torch.channels_last)
        return model

    def epoch(self, *, order_seed: int, augment_seed: int, epoch: int, first: int) -> Iterator[Batch]:
        """Yield the training batches of an epoch, as `Task.epoch`."""
        data = self.config.data
        spec = EpochSpec(
            epoch=epoch,
            order_seed=order_seed,
            augment_seed=augment_seed,
            batch_size=self.config.schedule.batch_size,
            steps=self.steps_per_epoch,
            first=first,
            padding=data.padding if data.augmentation in ("crop", "crop_flip") else 0,
            mirror=data.augmentation in ("crop_flip", "imagenet"),
        )
        return self._train.epoch(spec)

    def begin_epoch(self, model: nn.Module, *, epoch: int, random: np.random.Generator) -> Sequence[LayerFusion]:
        """Update a network's filter fusion for an epoch, if fusion is on. Return the records, as `Task.begin_epoch`."""
        if self.config.fusion.mode == "off":
            return ()
        return update_fusion(model, self.config.fusion, epoch=epoch, epochs=self.config.schedule.epochs, random=random)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the loss of a batch, including that of teachers and peers, and the number of correct predictions.

        Args:
            model: The network, in training mode.
            batch: Images and labels.

        Returns:
            Two 0-dimensional tensors on the task's device. The loss is a mean and has a gradient.

        Raises:
            ConfigError: The logits have a wrong shape, or a teacher cannot be loaded.
        """
        images, labels = batch
        with torch.autocast(self.device.type, dtype=self._autocast, enabled=self._autocast is not None):
            logits = model(images)
        if tuple(logits.shape) != (len(labels), self.splits.num_classes):
            raise ConfigError(
                f"the network must map images {tuple(images.shape)} to logits ({len(labels)}, "
                f"{self.splits.num_classes}), it gave {tuple(logits.shape)}"
            )
        logits = logits.float()
        loss = F.cross_entropy(logits, labels, label_smoothing=self.config.optimizer.label_smoothing)
        settings = self.config.distillation
        if settings.teachers:
            teacher_logits = [self._predictions(teacher, images) for teacher in self.teachers]
            loss = loss + settings.weight * distillation_loss(logits, teacher_logits, temperature=settings.temperature)
        if self._peers:
            loss = loss + settings.weight * mutual_loss(
                logits, [self._predictions(peer, images) for peer in self._peers]
            )
        return loss, (logits.detach().argmax(1) == labels).sum()

    @functools.cached_property
    def teachers(self) -> list[nn.Module]:
        """The configured teachers, loaded on first use.

        Raises:
            ConfigError: As `load_teacher`.
        """
        return [
            load_teacher(
                path,
                num_classes=self.splits.num_classes,
                in_channels=self.splits.in_channels,
                device=self.device,
            )
            for path in self.config.distillation.teachers
        ]

    def set_peers(self, peers: Sequence[Mapping[str, Tensor]]) -> None:
        """Set the peers whose predictions the loss includes, as `Task.set_peers`."""
        while len(self._peers) < len(peers):
            self._peers.append(self.build(0).requires_grad_(False))
        del self._peers[len(peers) :]
        for module, state in zip(self._peers, peers, strict=True):
            load_tensors(module.eval(), named_tensors(module) | dict(state))  # snapshots hold no masks

    @torch.no_grad()
    def _predictions(self, model: nn.Module, images: Tensor) -> Tensor:
        with torch.autocast(self.device.type, dtype=self._autocast, enabled=self._autocast is not None):
            return model(images).float()

    def batch_norm_images(self) -> Iterator[Tensor]:
        """Yield some batches of training images, augmented as in training, to measure batch norm's statistics."""
        batches = self.epoch(order_seed=0, augment_seed=0, epoch=0, first=0)
        num_batches = self.config.schedule.batch_norm_batches or STATISTICS_BATCHES
        return (images for images, _ in itertools.islice(batches, num_batches))

    def validate(self, model: nn.Module) -> Scores | None:
        """Return the scores of a network on the validation images, or None if there are none.

        Args:
            model: The network. Its batch norm statistics are measured again first if schedule.batch_norm_batches is
                above 0.
        """
        if self._validation is None:
            return None
        self._measure_statistics(model)
        return self._validation.measure.evaluate(model, self._validation.batches())

    def align_states(self, states: Sequence[Mapping[str, Tensor]]) -> list[Mapping[str, Tensor]]:
        """Return state dicts with a common order of channels, as averages and comparisons of weights need them.

        Grafts that match channels leave each network its own order. Only then are the channels of the others put into
        the order of the first network.

        Args:
            states: State dicts of networks of this run. They are only read.

        Returns:
            A state dict for each of `states`, in their order. Those that need no change are returned as they are.
        """
        is_matched = self.config.exchange.rule == "graft" and self.config.graft.channel_matching != "none"
        if not is_matched or len(states) < 2:
            return list(states)
        return in_common_order(states, find_channels(self.build(0), self.image_shape))

    def part(self, name: str) -> EvaluationSet | None:
        """Return the evaluation set of a split, or None if the split has no images.

        Args:
            name: Split: validation or test.
        """
        return evaluation_set(self.config, self.splits, name, device=self.device)

    def _measure_statistics(self, model: nn.Module) -> None:
        """Measure a network's batch norm statistics again, in place, if schedule.batch_norm_batches is above 0."""
        if self.config.schedule.batch_norm_batches:
            torch.optim.swa_utils.update_bn(self.batch_norm_images(), model)

    def check(self) -> None:
        """Check that teachers, and in retrieval embeddings and queries, fit the data.

        Raises:
            ConfigError: The message names the teacher, the embedding or the split that does not fit.
        """
        images, labels = next(iter(self.epoch(order_seed=0, augment_seed=0, epoch=0, first=0)))
        for path, teacher in zip(self.config.distillation.teachers, self.teachers, strict=True):
            try:
                self._predictions(teacher, images[:2])
            except (RuntimeError, ValueError) as error:
                shape = tuple(images[:2].shape)
                raise ConfigError(f"distillation.teachers: {path} cannot take images {shape}: {error}") from error
        if self.config.task == "retrieval":
            embeddings(self.build(0), [(images[:2], labels[:2])])
            check_queries(self.splits)


def _autocast_type(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the type of autocast. None: no autocast."""
    if precision == "auto":
        usable = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if usable else None
    return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(precision)
