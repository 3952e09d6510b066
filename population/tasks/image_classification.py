"""Image classification bound to its images, with image retrieval as a variant of its evaluation."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inarch.population import models
from inarch.population.config import FusionConfig, ModelConfig, RunConfig
from inarch.population.config.per_network import number
from inarch.population.data import Batch, EpochSpec, MemorySplits, Splits
from inarch.population.data.memory_batches import epoch_steps
from inarch.population.data.regularization import Regularization
from inarch.population.errors import ConfigError
from inarch.population.evaluation import classification, retrieval
from inarch.population.evaluation.evaluation_set import check_queries, evaluation_set
from inarch.population.evaluation.metrics import Metric, Scores
from inarch.population.evaluation.protocol import EvaluationSet
from inarch.population.evaluation.retrieval import embeddings
from inarch.population.fusion import LayerFusion, update_fusion
from inarch.population.grafting.channel_tracing import find_channels
from inarch.population.grafting.weight_matching import in_common_order
from inarch.population.models.complexity import complexity_of
from inarch.population.state.memory_order import to_channels_last
from inarch.population.state.precision import autocast, measure_batch_norm
from inarch.population.state.state_dict import load_tensors, named_tensors
from inarch.population.tasks.distillation import distillation_loss, load_teacher, mutual_loss
from inarch.population.tasks.image_check import accepts_channels_last, check_network
from inarch.population.tasks.protocol import TaskDescription

STATISTICS_BATCHES = 8
"""Training batches, augmented as in training, from which batch norm's statistics of averaged weights are measured if
schedule.batch_norm_batches is 0."""


class ImageClassification:
    """Networks learn classes of images by cross-entropy. It implements `BoundTask`.

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
        self._num_train = len(train)
        self._validation = self.part("validation")
        self.peers: list[nn.Module] = []
        self._accepts_channels_last: bool | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Training steps of one epoch."""
        return epoch_steps(len(self._train), self.config.schedule)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        return self.splits.image_shape

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Metrics of classification or of retrieval."""
        return retrieval.METRICS if self.config.task == "retrieval" else classification.METRICS

    def configure(self, config: RunConfig) -> None:
        """Use the numbers of one network from now on, as `BoundTask.configure`."""
        self.config = dataclasses.replace(config, model=self.config.model)

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
        return to_channels_last(model) if self._is_channels_last(model) else model

    def _is_channels_last(self, model: nn.Module) -> bool:
        """Return whether networks are in channels_last order. With auto, the first network is tried in that order."""
        setting = self.config.device.channels_last
        if setting != "auto":
            return setting == "on"
        if self._accepts_channels_last is None:
            self._accepts_channels_last = accepts_channels_last(model, self.splits.image_shape)
        return self._accepts_channels_last

    def _autocast(self) -> torch.autocast:
        return autocast(self.config.device.precision, self.device, on_cpu=True)

    def epoch(self, *, order_seed: int, augment_seed: int, epoch: int, first: int) -> Iterator[Batch]:
        """Yield the training batches of an epoch, mixed and erased as configured, as `Task.epoch`."""
        settings = self.config.regularization
        regularization = None
        if settings.is_on:
            regularization = Regularization(config=settings, num_classes=self.splits.num_classes, seed=augment_seed)
        return self._epoch(
            order_seed=order_seed, augment_seed=augment_seed, epoch=epoch, first=first, regularization=regularization
        )

    def _epoch(
        self, *, order_seed: int, augment_seed: int, epoch: int, first: int, regularization: Regularization | None
    ) -> Iterator[Batch]:
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
            regularization=regularization,
        )
        return self._train.epoch(spec)

    def num_examples(self, batch: Batch) -> int:
        """Return the number of images in a batch."""
        return len(batch[1])

    def begin_epoch(self, model: nn.Module, *, epoch: int, random: np.random.Generator) -> Sequence[LayerFusion]:
        """Update a network's filter fusion for an epoch, if fusion is on. Return the records, as `Task.begin_epoch`."""
        if self.config.fusion.mode == "off":
            return ()
        return update_fusion(model, self.config.fusion, epoch=epoch, epochs=self.config.schedule.epochs, random=random)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch, including that of teachers and peers, and the accuracy.

        Args:
            model: The network, in training mode.
            batch: Images, and labels or the shares of the classes. Teachers and peers see the same images.

        Returns:
            0-dimensional tensors on the task's device, means over the images. The loss has a gradient. The accuracy is
            of type float64, so that sums over many batches are exact. A prediction of a mixed image is right if it is
            the class with the largest share.

        Raises:
            ConfigError: The logits have a wrong shape, or a teacher cannot be loaded.
        """
        images, labels = batch
        with self._autocast():
            logits = model(images)
        if tuple(logits.shape) != (len(labels), self.splits.num_classes):
            raise ConfigError(
                f"the network must map images {tuple(images.shape)} to logits ({len(labels)}, "
                f"{self.splits.num_classes}), it gave {tuple(logits.shape)}"
            )
        logits = logits.float()
        loss = F.cross_entropy(logits, labels, label_smoothing=number(self.config.optimizer.label_smoothing))
        settings = self.config.distillation
        if settings.teachers:
            teacher_logits = [self._predictions(teacher, images) for teacher in self.teachers]
            loss = loss + settings.weight * distillation_loss(logits, teacher_logits, temperature=settings.temperature)
        if self.peers:
            loss = loss + settings.weight * mutual_loss(
                logits, [self._predictions(peer, images) for peer in self.peers]
            )
        classes = labels if labels.ndim == 1 else labels.argmax(1)
        return loss, {"accuracy": (logits.detach().argmax(1) == classes).double().mean()}

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
                data=self.splits.report,
                device=self.device,
            )
            for path in self.config.distillation.teachers
        ]

    def set_peers(self, peers: Sequence[Mapping[str, Tensor]]) -> None:
        """Set the peers whose predictions the loss includes, as `Task.set_peers`."""
        while len(self.peers) < len(peers):
            self.peers.append(self.build(0).requires_grad_(False))
        del self.peers[len(peers) :]
        for module, state in zip(self.peers, peers, strict=True):
            load_tensors(module.eval(), named_tensors(module) | dict(state))  # snapshots hold no masks

    @torch.no_grad()
    def _predictions(self, model: nn.Module, images: Tensor) -> Tensor:
        with self._autocast():
            return model(images).float()

    def batch_norm_inputs(self) -> Iterator[Tensor]:
        """Yield some batches of training images, to measure batch norm's statistics.

        They are cropped and mirrored as in training, but neither mixed nor erased.
        """
        batches = self._epoch(order_seed=0, augment_seed=0, epoch=0, first=0, regularization=None)
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
        return self._validation.evaluator.evaluate(model, self._validation.batches())

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
        return in_common_order(states, find_channels(self.build(0), self.input_shape))

    def part(self, name: str) -> EvaluationSet | None:
        """Return the evaluation set of a split, or None if the split has no images.

        Args:
            name: Split: validation or test.
        """
        return evaluation_set(self.config, self.splits, name, device=self.device)

    def _measure_statistics(self, model: nn.Module) -> None:
        """Measure a network's batch norm statistics again, in place, if schedule.batch_norm_batches is above 0."""
        if self.config.schedule.batch_norm_batches:
            measure_batch_norm(self.batch_norm_inputs(), model)

    def check(self, *, num_examples: int | None = None) -> None:
        """Try a network, as `BoundTask.check`, and check that teachers, embeddings and queries fit the data."""
        try:
            self._check(self._num_train if num_examples is None else num_examples)
        finally:
            self._train.close()  # the process that tries a network need not be one that trains

    def _check(self, num_images: int) -> None:
        check_network(self, num_images=num_images, num_classes=self.splits.num_classes)
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

    def describe(self) -> TaskDescription:
        """Return the facts about images and model, as `BoundTask.describe`."""
        splits, fusion = self.splits, self.config.fusion
        size: dict[str, Any] = {"num_classes": splits.num_classes, "image_shape": splits.image_shape}
        is_fused = fusion.mode != "off"
        whole = complexity_of(self._network, FusionConfig(), **size)
        return TaskDescription(
            train_examples=self._num_train,
            data_fingerprint=splits.fingerprint,
            data_bytes=splits.nbytes if isinstance(splits, MemorySplits) else 0,
            parameters=whole.parameters,
            multiply_adds=whole.multiply_adds,
            compact=complexity_of(self._network, fusion, **size) if is_fused else None,
            lines=tuple(splits.report.lines()),
            unreadable=splits.report.unreadable,
            facts=size | {"data": dataclasses.asdict(splits.report)},
        )
