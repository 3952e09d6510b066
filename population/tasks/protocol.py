"""Interfaces of tasks: what networks learn, before and after it is bound to data and a device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from inarch.population.config import RunConfig
from inarch.population.errors import ConfigError
from inarch.population.evaluation.metrics import Metric, Scores
from inarch.population.models.model_names import ModelFactory
from inarch.population.persistence.storage import Storage

if TYPE_CHECKING:  # a driver and a coordinator read this file without torch
    from torch import Tensor, nn

    from inarch.population.evaluation.protocol import EvaluationSet
    from inarch.population.fusion import LayerFusion
    from inarch.population.grafting.channels import Channels
    from inarch.population.models.complexity import ModelComplexity
    from inarch.population.state.precision import TrainingInput
    from inarch.population.state.state_dict import State


@dataclass(frozen=True, kw_only=True)
class TaskDescription:
    """What a bound task knows of its data and its model."""

    train_examples: int
    """Training examples, without those held out for validation."""
    data_fingerprint: str
    """Hash of the data and of their split. A resumed run must have the same."""
    data_bytes: int = 0
    """Bytes of the data in the object store."""
    parameters: int
    """Parameters of a network."""
    multiply_adds: int | None = None
    """Multiply-adds of a network for one example. None: not counted."""
    compact: ModelComplexity | None = None
    """Size and computation of the compact form of a network that fuses its filters. None without fusion."""
    lines: tuple[str, ...] = ()
    """Lines that describe the data, shown before the run trains."""
    unreadable: tuple[str, ...] = ()
    """Names of examples that were left out because they cannot be read."""
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Facts that the task needs again to read a run's folder, as JSON types."""


class BoundTask(Protocol):
    """A task bound to its data and a device: the network, its batches, its loss and its evaluation.

    The trainer, the simulator and the evaluation of a run use it.
    """

    @property
    def config(self) -> RunConfig:
        """Configuration of the run, or of the network that it was configured for."""
        ...

    @property
    def metrics(self) -> Sequence[Metric]:
        """Metrics of an evaluation. The first ranks networks."""
        ...

    @property
    def steps_per_epoch(self) -> int:
        """Training steps of one pass over the data."""
        ...

    @property
    def input_shape(self) -> Sequence[int] | None:
        """Shape of one input of the model, without the batch, to trace channels. None: channels are not traced."""
        ...

    def configure(self, config: RunConfig) -> None:
        """Use the numbers of one network from now on, such as its label smoothing.

        The trainer calls it before the network's first step, and if an exchange changes a number.

        Args:
            config: Configuration of the network, as `network_config`. Only numbers that may differ between networks
                differ from the run's.
        """
        ...

    def build(self, seed: int) -> nn.Module:
        """Return a new network on the task's device.

        Args:
            seed: Decides the initial weights.
        """
        ...

    def epoch(self, *, order_seed: int, augment_seed: int, epoch: int, first: int) -> Iterator[Any]:
        """Yield the training batches of an epoch. They are a pure function of the arguments.

        Args:
            order_seed: Decides the order of the examples.
            augment_seed: Decides the augmentation.
            epoch: Number of the epoch, from 0.
            first: Number of the first batch, from 0.
        """
        ...

    def num_examples(self, batch: Any) -> int:
        """Return the number of examples in a batch.

        Args:
            batch: A batch of `epoch`.
        """
        ...

    def begin_epoch(self, model: nn.Module, *, epoch: int, random: np.random.Generator) -> Sequence[LayerFusion]:
        """Make the changes to a network that its first step of an epoch needs, such as new filter mixtures.

        Args:
            model: The network. It is changed.
            epoch: Number of the epoch, from 0.
            random: Random numbers of this network and epoch.

        Returns:
            Records of the changes for the history, one for each fused layer.
        """
        ...

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the loss of a batch, and further training metrics.

        Args:
            model: The network, in training mode.
            batch: A batch of `epoch`.

        Returns:
            The loss and metrics by name. Each is 0-dimensional, on the task's device, and a mean over the examples. The
            loss has a gradient.
        """
        ...

    def set_peers(self, peers: Sequence[State]) -> None:
        """Set the peers whose predictions the loss includes from now on. They replace earlier peers.

        Args:
            peers: Weights of each peer, which are copied. Empty: no peers.
        """
        ...

    def batch_norm_inputs(self) -> Iterator[TrainingInput]:
        """Yield some batches of training inputs, augmented as in training, to measure batch norm's statistics.

        If a model needs more than a tensor, yield functions that pass a batch through the network instead.
        """
        ...

    def validate(self, model: nn.Module) -> Scores | None:
        """Return the scores of a network on the validation data, or None if there are none.

        Args:
            model: The network. Its batch norm statistics may be measured again first.
        """
        ...

    def part(self, name: str) -> EvaluationSet | None:
        """Return the evaluation set of a split, or None if there are no such data.

        Args:
            name: Split: validation or test.
        """
        ...

    def align_states(self, states: Sequence[State]) -> list[State]:
        """Return state dicts with a common order of channels, as averages and comparisons of weights need them.

        Args:
            states: State dicts of networks of this run. They are only read.
        """
        ...

    def check(self, *, num_examples: int | None = None) -> None:
        """Build a network and try it: train it on batches, and evaluate it.

        Args:
            num_examples: Number of training examples, if the task is bound to stand-in data. None: those of its data.

        Raises:
            ConfigError: Model, data and configuration do not fit.
            UserCodeError: The caller's code raised.
        """
        ...

    def describe(self) -> TaskDescription:
        """Return what the task knows of its data and its model."""
        ...


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A task bound to stand-in data on the CPU, to try the model before Ray starts."""

    bind: Callable[[], BoundTask]
    """Returns the bound task. It may take seconds, because it imports torch and builds a model."""
    num_examples: int
    """Training examples that the run will have."""


class Task(ABC):
    """What networks learn, before it is bound to data. A run sends it to each of its processes by pickle.

    `TensorTask` is a subclass that needs less code.
    """

    def check_config(self, config: RunConfig, *, has_model: bool) -> None:
        """Raise ConfigError if the task cannot use a configuration. The driver calls it before anything starts.

        Args:
            config: Configuration of the run.
            has_model: Whether the caller passed a model factory.
        """
        if has_model:
            raise ConfigError(f"model: the task {type(self).__name__} builds its own model; leave model out")
        require_no_image_settings(config, type(self).__name__)

    def complete_config(self, config: RunConfig, data: Any, storage: Storage) -> RunConfig:
        """Return the configuration with the caller's data, at paths that every node can read.

        Args:
            config: Configuration of the run.
            data: As passed to `PopulationRun.start`. None: the configuration's own data.
            storage: The run's folder.

        Raises:
            ConfigError: The task takes no data from the caller.
        """
        if data is not None:
            raise ConfigError(f"data: the task {type(self).__name__} loads its own data; leave data out")
        return config

    def trial(self, config: RunConfig, model: ModelFactory | None) -> Trial | None:
        """Return the task bound to stand-in data on the CPU, to try the model before Ray starts.

        Args:
            config: Configuration of the run.
            model: The caller's model factory. None: there is none.

        Returns:
            The trial. None: the model is tried only on the cluster, with the real data.

        Raises:
            DataError: The data cannot be read.
        """
        return None

    @abstractmethod
    def load_data(self, config: RunConfig) -> Any:
        """Return the data of a run. It is called once, on the cluster. Every network receives the result.

        Args:
            config: Configuration of the run.

        Returns:
            A value that can be pickled. NumPy arrays in it are shared between the networks of a node.

        Raises:
            DataError: The data cannot be used.
        """

    @abstractmethod
    def bind(
        self,
        config: RunConfig,
        data: Any,
        *,
        model: ModelFactory | None = None,
        device: Any = "cpu",
        begins_trained: bool = True,
    ) -> BoundTask:
        """Return the task bound to data and a device.

        Args:
            config: Configuration of the run.
            data: Data of the run, as from `load_data`.
            model: The caller's model factory. None: the configuration's model.
            device: Device of the networks and batches.
            begins_trained: Whether networks are built with the pretrained model.weights. False saves loading them if
                the weights are overwritten anyway.
        """


def task_channels(task: BoundTask, model: nn.Module) -> Channels:
    """Return the channels of a task's network.

    Args:
        task: The task.
        model: A network of the task.

    Raises:
        ConfigError: The task has no input to trace channels with, or as `find_channels`.
    """
    shape = task.input_shape
    if shape is None:
        raise ConfigError(
            "graft.level filter and graft.channel_matching need a task whose channels can be traced; this task gives "
            "no input_shape: use graft.level layer and graft.channel_matching none"
        )
    from inarch.population.grafting.channel_tracing import find_channels

    return find_channels(model, shape)


STRENGTHS = ("mixup", "cutmix", "erasing")
"""Fields of `RegularizationConfig` that change images unless they are 0."""


def require_no_image_settings(config: RunConfig, task: str) -> None:
    """Raise ConfigError if a configuration has settings that only tasks on images have.

    Args:
        config: Configuration of the run.
        task: Name of the task, for the message.
    """
    for field_name, is_unused, default in (
        ("fusion.mode", config.fusion.mode == "off", "off"),
        ("distillation.teachers", not config.distillation.teachers, "empty"),
        ("exchange.rule", config.exchange.rule != "dml", "another rule than dml"),
        ("weights", config.model.weights is None, "None"),
        ("optimizer.label_smoothing", config.optimizer.label_smoothing == 0, "0"),
        *((f"regularization.{name}", getattr(config.regularization, name) == 0, "0") for name in STRENGTHS),
    ):
        if not is_unused:
            name = "model.weights" if field_name == "weights" else field_name
            raise ConfigError(f"{name} is for classification; with task {task} it must be {default}")
