"""Tasks of one's own: a base class for tasks whose data are arrays, and its binding to data and a device.

A subclass says how to load the data, build the model, compute the loss and score predictions. Everything else has a
default that a subclass may replace. docs/how-to/own-task.md has an example of 40 lines.

Longer than 300 lines: the base class and its binding call each other's methods.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree  # torch has no public module for nested structures

from inarch.population.config import RunConfig
from inarch.population.data.memory_batches import epoch_batches, epoch_steps
from inarch.population.errors import ConfigError, DataError
from inarch.population.evaluation.metrics import Metric, Scores
from inarch.population.evaluation.protocol import EvaluationSet
from inarch.population.extension.user_code import user_code
from inarch.population.fusion import LayerFusion
from inarch.population.grafting.channel_tracing import find_channels
from inarch.population.grafting.weight_matching import in_common_order
from inarch.population.models import ModelFactory
from inarch.population.models.usable import make_usable
from inarch.population.state.hyperparameters import network_config
from inarch.population.state.kept_shapes import check_shapes, shapes_of
from inarch.population.state.precision import autocast, measure_batch_norm
from inarch.population.state.state_dict import State
from inarch.population.tasks.protocol import Task, TaskDescription

SPLITS = ("train", "validation", "test")
"""Parts of a tensor task's data."""

SHOWN_SHAPES = 8
"""Most shapes of arrays that an error shows."""


class TensorTask(Task):
    """A task whose data are arrays in memory. Subclass it for a task of your own.

    The data of each split are an array, or a nested tuple, list or dict of arrays, whose first dimension counts the
    examples. A batch has the same structure, with tensors on the task's device.
    """

    metrics: tuple[Metric, ...] = ()
    """Metrics that `score` returns. The first ranks networks."""

    @abstractmethod
    def load_data(self, config: RunConfig) -> Mapping[str, Any]:
        """Return the data by split. It is called once, on the cluster.

        Args:
            config: Configuration of the run. `config.seed` decides random splits.

        Returns:
            NumPy arrays or tensors on the CPU, in any nesting, under the keys train and, if there are such data,
            validation and test.
        """

    @abstractmethod
    def build_model(self, config: RunConfig, data: Mapping[str, Any]) -> nn.Module:
        """Return a new network with random initial weights, on the CPU.

        Args:
            config: Configuration of the run.
            data: Data as from `load_data`, with NumPy arrays. They must not be changed.
        """

    @abstractmethod
    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the mean loss of a batch, and further training metrics by name.

        Args:
            model: The network, in training mode.
            batch: Batch of training data.

        Returns:
            0-dimensional tensors. The loss has a gradient. The metrics are means over the examples, and may be empty.
        """

    @abstractmethod
    def score(self, outputs: Tensor, targets: Tensor) -> Mapping[str, float]:
        """Return every metric of `metrics` by name.

        Args:
            outputs: Outputs of a network or an ensemble for all examples, on the CPU, shape (examples, ...).
            targets: Targets of the examples, on the CPU, shape (examples, ...).
        """

    def inputs(self, batch: Any) -> Tensor:
        """Return the input of the model. Default: the first element of the batch.

        Args:
            batch: Batch of any split.
        """
        return batch[0]

    def targets(self, batch: Any) -> Tensor:
        """Return the targets that `score` gets, shape (examples, ...). Default: the second element of the batch.

        Args:
            batch: Batch of a split that is evaluated.
        """
        return batch[1]

    def outputs(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the outputs that `score` gets, shape (examples, ...). Default: the model's output, as float32.

        Args:
            model: The network, in evaluation mode.
            batch: Batch of a split that is evaluated.
        """
        return model(self.inputs(batch)).float()

    def combine(self, outputs: Sequence[Tensor]) -> Tensor | None:
        """Return the outputs of an ensemble of networks. Default: None, the task has no ensemble.

        Args:
            outputs: Outputs of each network for the same examples, on the CPU, shape (examples, ...).
        """
        return None

    def predictions(self, outputs: Tensor) -> Tensor | None:
        """Return integers by which the agreement of two networks is measured. Default: None, it is not measured.

        Args:
            outputs: Outputs of a network, on the CPU, shape (examples, ...).
        """
        return None

    def example_scores(self, outputs: Tensor, targets: Tensor) -> Tensor | None:
        """Return the primary metric of each example, negative if lower is better. Default: None, it is not known.

        With it, the end of a run says whether the ensemble is better by more than the noise of the validation data.

        Args:
            outputs: Outputs of a network or an ensemble, on the CPU, shape (examples, ...).
            targets: Targets of the examples, on the CPU, shape (examples, ...).

        Returns:
            A tensor of shape (examples,), whose mean is the metric or its negative.
        """
        return None

    def input_shape(self, data: Mapping[str, Any]) -> Sequence[int] | None:
        """Return the shape of one float input, without the batch, to trace channels. Default: None, no tracing.

        graft.level filter and graft.channel_matching need it.

        Args:
            data: Data as from `load_data`, with NumPy arrays.
        """
        return None

    def bind(
        self,
        config: RunConfig,
        data: Any,
        *,
        model: ModelFactory | None = None,
        device: torch.device | str = "cpu",
        begins_trained: bool = True,
    ) -> BoundTensorTask:
        """Return the task bound to data and a device, as `Task.bind`."""
        return BoundTensorTask(self, config, data, device=device)


class TensorEvaluator:
    """Evaluates networks of a tensor task."""

    def __init__(self, task: TensorTask, config: RunConfig, device: torch.device) -> None:
        """Create the evaluator.

        Args:
            task: The task.
            config: Configuration of the run.
            device: Device of the networks.
        """
        self._task, self._config, self._device = task, config, device

    def evaluate(self, model: nn.Module, batches: Iterable[Any]) -> Scores:
        """Return the scores of a network, as `Evaluator.evaluate`."""
        was_training = model.training
        scores = self.scores(*self.outputs(model, batches))
        model.train(was_training)
        return scores

    @torch.no_grad()
    def outputs(self, model: nn.Module, batches: Iterable[Any]) -> tuple[Tensor, Tensor]:
        """Return the network's outputs and the targets, as `Evaluator.outputs`."""
        model.eval()
        outputs, targets = [], []
        for batch in batches:
            with user_code(f"{_name(self._task)}.outputs"), autocast(self._config.device.precision, self._device):
                outputs.append(self._task.outputs(model, batch).cpu())
            with user_code(f"{_name(self._task)}.targets"):
                targets.append(self._task.targets(batch).cpu())
        return torch.cat(outputs), torch.cat(targets)

    def ensemble(self, outputs: Sequence[Tensor]) -> Tensor | None:
        """Return the ensemble's outputs, as `Evaluator.ensemble`."""
        with user_code(f"{_name(self._task)}.combine"):
            return self._task.combine(outputs)

    def scores(self, outputs: Tensor, targets: Tensor) -> Scores:
        """Return the scores of outputs, as `Evaluator.scores`.

        Args:
            outputs: Outputs of a network or an ensemble.
            targets: Targets of the examples.

        Raises:
            ConfigError: `score` returned other metrics than the task names.
        """
        with user_code(f"{_name(self._task)}.score"):
            values = {name: float(value) for name, value in self._task.score(outputs, targets).items()}
        names = [metric.name for metric in self._task.metrics]
        if sorted(values) != sorted(names):
            raise ConfigError(f"{_name(self._task)}.score must return the metrics {names}, got {sorted(values)}")
        return Scores.of(self._task.metrics, {name: values[name] for name in names}, examples=len(targets))

    def predictions(self, outputs: Tensor, targets: Tensor) -> Tensor | None:
        """Return predictions to compare, as `Evaluator.predictions`."""
        with user_code(f"{_name(self._task)}.predictions"):
            return self._task.predictions(outputs)

    def example_scores(self, outputs: Tensor, targets: Tensor) -> Tensor | None:
        """Return the score of each example, as `ScoresExamples.example_scores`."""
        with user_code(f"{_name(self._task)}.example_scores"):
            return self._task.example_scores(outputs, targets)


class BoundTensorTask:
    """A tensor task bound to its data and a device. It implements `BoundTask`."""

    def __init__(
        self, task: TensorTask, config: RunConfig, data: Mapping[str, Any], *, device: torch.device | str = "cpu"
    ) -> None:
        """Bind a task.

        Args:
            task: The task.
            config: Configuration of the run.
            data: Data of the task, as from `TensorTask.load_data`.
            device: Device of the networks and batches.

        Raises:
            ConfigError: The task names no metrics.
            DataError: The data have no training examples, an unknown split, or arrays of different lengths.
        """
        self.task, self.device = task, torch.device(device)
        self.config = network_config(config, 0)  # until `configure` says which network is built
        if not task.metrics:
            raise ConfigError(f"{_name(task)}.metrics must name at least one metric")
        names = [metric.name for metric in task.metrics]
        if len(set(names)) < len(names):
            raise ConfigError(f"{_name(task)}.metrics must have different names, got {names}")
        if not isinstance(data, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] # what the caller's task returns
            kind = type(data).__name__
            raise DataError(f"{_name(task)}.load_data must return a dict with the key train, got {kind}")
        self._data = {split: _arrays(task, split, data) for split in data}
        if "train" not in data:
            raise DataError(f"{_name(task)}.load_data must return training data under the key train")
        self._sizes = {split: _num_examples(task, split, value) for split, value in self._data.items()}
        self._evaluator = TensorEvaluator(task, config, self.device)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Metrics of the task."""
        return self.task.metrics

    @property
    def steps_per_epoch(self) -> int:
        """Training steps of one epoch."""
        return epoch_steps(self._sizes["train"], self.config.schedule)

    @property
    def input_shape(self) -> Sequence[int] | None:
        """Shape of one input, as the task gives it."""
        return self.task.input_shape(self._data)

    def configure(self, config: RunConfig) -> None:
        """Give `build_model` the configuration of one network, as `BoundTask.configure`."""
        self.config = config

    def build(self, seed: int) -> nn.Module:
        """Return a new network on the task's device.

        Args:
            seed: Decides the initial weights.

        Raises:
            ConfigError: `build_model` returned no module, or one that cannot be trained or saved.
            UserCodeError: `build_model` raised.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            with user_code(f"{_name(self.task)}.build_model"):
                model = self.task.build_model(self.config, self._data)
            if not isinstance(model, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance] # the user's own
                raise ConfigError(f"{_name(self.task)}.build_model must return a torch.nn.Module, got {type(model)}")
            make_usable(model, None)
        return model.to(self.device)

    def epoch(self, *, order_seed: int, augment_seed: int, epoch: int, first: int) -> Iterator[Any]:
        """Yield the training batches of an epoch in a random order, as `BoundTask.epoch`."""
        random = np.random.Generator(np.random.Philox(key=order_seed, counter=[0, 0, 0, epoch]))
        order, size = random.permutation(self._sizes["train"]), self.config.schedule.batch_size
        for index in range(first, self.steps_per_epoch):
            yield self._batch("train", order[index * size : (index + 1) * size])

    def num_examples(self, batch: Any) -> int:
        """Return the number of examples in a batch."""
        return len(pytree.tree_leaves(batch)[0])

    def begin_epoch(self, model: nn.Module, *, epoch: int, random: np.random.Generator) -> Sequence[LayerFusion]:
        """Change nothing: a tensor task has no filter fusion."""
        return ()

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the loss and the training metrics of a batch, as `BoundTask.loss`.

        Args:
            model: The network, in training mode.
            batch: A batch of `epoch`.

        Raises:
            UserCodeError: The task's `loss` raised.
        """
        with user_code(f"{_name(self.task)}.loss"), autocast(self.config.device.precision, self.device):
            return self.task.loss(model, batch)

    def set_peers(self, peers: Sequence[State]) -> None:
        """Refuse peers: `Task.check_config` refuses the rule that sets them."""
        if peers:
            raise ConfigError(f"exchange.rule dml is for classification; {_name(self.task)} has no class predictions")

    def batch_norm_inputs(self) -> Iterator[Callable[[nn.Module], object]]:
        """Yield functions that pass some training batches through a network, as the task's `loss` does."""
        batches = self.epoch(order_seed=0, augment_seed=0, epoch=0, first=0)
        num_batches = self.config.schedule.batch_norm_batches or 8
        return (functools.partial(self._pass, batch) for batch in itertools.islice(batches, num_batches))

    def _pass(self, batch: Any, model: nn.Module) -> None:
        with user_code(f"{_name(self.task)}.loss, measuring batch norm,"):
            self.task.loss(model, batch)

    def validate(self, model: nn.Module) -> Scores | None:
        """Return the scores of a network on the validation data, as `BoundTask.validate`."""
        validation = self.part("validation")
        if validation is None:
            return None
        if self.config.schedule.batch_norm_batches:
            measure_batch_norm(self.batch_norm_inputs(), model)
        return self._evaluator.evaluate(model, validation.batches())

    def part(self, name: str) -> EvaluationSet | None:
        """Return the evaluation set of a split, as `BoundTask.part`."""
        if not self._sizes.get(name):
            return None
        return EvaluationSet(batches=lambda: self._in_order(name), evaluator=self._evaluator)

    def align_states(self, states: Sequence[State]) -> list[State]:
        """Return state dicts with a common order of channels, as `BoundTask.align_states`."""
        is_matched = self.config.exchange.rule == "graft" and self.config.graft.channel_matching != "none"
        if not is_matched or len(states) < 2 or self.input_shape is None:
            return list(states)
        return in_common_order(states, find_channels(self.build(0), self.input_shape))

    def check(self, *, num_examples: int | None = None) -> None:
        """Try a network on the smallest and the largest batch, and evaluate it, as `BoundTask.check`."""
        model = self.build(0)
        addresses = {parameter.data_ptr() for parameter in model.parameters() if parameter.numel()}
        if any(parameter.data_ptr() in addresses for parameter in self.build(1).parameters() if parameter.numel()):
            raise ConfigError(f"{_name(self.task)}.build_model must return a new network each time")
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise ConfigError(f"{_name(self.task)}.build_model must return a network with parameters to train")
        shapes = shapes_of(model)
        for size in sorted(set(epoch_batches(self._sizes["train"], self.config.schedule))):
            loss, metrics = self.loss(model.train(), self._batch("train", np.arange(size)))
            for name, value in {"the loss": loss, **metrics}.items():
                if not isinstance(value, Tensor) or value.dim():  # pyright: ignore[reportUnnecessaryIsInstance]
                    raise ConfigError(f"{_name(self.task)}.loss: {name} must be a 0-dimensional tensor, got {value!r}")
            if "loss" in metrics:
                raise ConfigError(f"{_name(self.task)}.loss: the loss itself is recorded as loss; rename that metric")
            if not loss.requires_grad:
                raise ConfigError(f"{_name(self.task)}.loss: the loss does not depend on any parameter of the network")
            loss.backward()
            model.zero_grad(set_to_none=True)
        measure_batch_norm(itertools.islice(self.batch_norm_inputs(), 1), model)
        check_shapes(model, shapes)
        for split in ("validation", "test"):
            if self._sizes.get(split):
                size = min(self._sizes[split], self.config.schedule.batch_size)
                outputs, targets = self._evaluator.outputs(model, [self._batch(split, np.arange(size))])
                self._evaluator.scores(outputs, targets)
                self._evaluator.predictions(outputs, targets)
                combined = self._evaluator.ensemble([outputs, outputs])
                if combined is not None:
                    self._evaluator.scores(combined, targets)
                single = self._evaluator.example_scores(outputs, targets)
                if single is not None and single.shape != (size,):
                    shape = tuple(single.shape)
                    raise ConfigError(
                        f"{_name(self.task)}.example_scores must return one score for each of {size} examples, got "
                        f"shape {shape}"
                    )

    def describe(self) -> TaskDescription:
        """Return the facts about data and model, as `BoundTask.describe`."""
        model = self.build(0)
        leaves = [leaf for split in sorted(self._data) for leaf in pytree.tree_leaves(self._data[split])]
        digest = hashlib.blake2b(digest_size=16)
        for leaf in leaves:
            digest.update(f"{leaf.dtype} {leaf.shape}".encode() + np.ascontiguousarray(leaf).tobytes())
        sizes = ", ".join(f"{size} {split}" for split, size in self._sizes.items())
        return TaskDescription(
            train_examples=self._sizes["train"],
            data_fingerprint=digest.hexdigest(),
            data_bytes=sum(leaf.nbytes for leaf in leaves),
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            lines=(f"data: {sizes} examples",),
        )

    def _in_order(self, split: str) -> Iterator[Any]:
        size = self.config.schedule.batch_size
        for start in range(0, self._sizes[split], size):
            yield self._batch(split, np.arange(start, min(start + size, self._sizes[split])))

    def _batch(self, split: str, chosen: np.ndarray) -> Any:
        return _map(lambda array: torch.from_numpy(array[chosen]).to(self.device), self._data[split])


def _arrays(task: TensorTask, split: str, data: Mapping[str, Any]) -> Any:
    """Return the data of a split as NumPy arrays."""
    if split not in SPLITS:
        raise DataError(f"{_name(task)}.load_data: {split!r} is not a split; there are {', '.join(SPLITS)}")
    return _map(lambda leaf: _array(leaf, f"{_name(task)}.load_data: {split}"), data[split])


def _array(leaf: Any, name: str) -> np.ndarray:
    """Return numbers as an array that torch can hold, or raise DataError."""
    if isinstance(leaf, Tensor):
        return (leaf.float() if leaf.dtype is torch.bfloat16 else leaf).numpy(force=True)
    array = np.asarray(leaf)
    if array.dtype.kind not in "biufc":
        raise DataError(f"{name} must hold arrays or tensors of numbers, got {array.dtype} ({type(leaf).__name__})")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _num_examples(task: TensorTask, split: str, arrays: Any) -> int:
    leaves = cast("list[np.ndarray]", pytree.tree_leaves(arrays))
    lengths = {len(leaf) if leaf.ndim else None for leaf in leaves}
    if len(lengths) != 1 or None in lengths or (split == "train" and lengths == {0}):
        shapes = [leaf.shape for leaf in leaves]
        shown = ", ".join(map(str, shapes[:SHOWN_SHAPES])) + (", ..." if len(shapes) > SHOWN_SHAPES else "")
        hint = "; lists are structure, so give arrays in place of lists of numbers" if () in shapes else ""
        raise DataError(
            f"{_name(task)}.load_data: the arrays of {split} must have one length, at least 1; got shapes {shown}{hint}"
        )
    return cast("int", lengths.pop())


def _map(function: Callable[[Any], Any], structure: Any) -> Any:
    return pytree.tree_map(function, structure)


def _name(task: object) -> str:
    return type(task).__name__
