"""Weight averaging, EMA or SWA: a running mean of one network's own weights, evaluated and saved instead of them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from inarch.population.config import WeightAveragingConfig
from inarch.population.errors import ConfigError
from inarch.population.extension.user_code import shortened
from inarch.population.persistence.checkpoint import average_of
from inarch.population.state.memory_order import FOREACH, copy_all
from inarch.population.state.precision import TrainingInput, measure_batch_norm
from inarch.population.state.state_dict import constant_buffers, is_structural, load_tensors, named_tensors


class WeightAverage:
    """The running mean of one network's weights.

    With kind none, there is no mean. With kind ema, every step updates the mean, which includes batch norm's
    statistics. With kind swa, every epoch in the last part of the schedule counts equally in the mean. Batch norm's
    statistics are then measured again before each evaluation.

    Source: swa, Izmailov et al. 2018 (arXiv:1803.05407), without its change of the learning rate.
    """

    def __init__(self, module: nn.Module, config: WeightAveragingConfig) -> None:
        """Create the mean. It counts only after its first update.

        Args:
            module: The network. The mean is a copy of it on the same device.
            config: Kind of the mean, its decay and its start.

        Raises:
            ConfigError: The network cannot be copied, or kind is ema and a buffer is sparse.
        """
        self._config = config
        self._mean: nn.Module | None = None
        self._count = 0  # torch's AveragedModel has it as a tensor, which a GPU would have to be asked for at each step
        if config.kind != "none":
            is_ema = config.kind == "ema"
            sparse = [name for name, buffer in module.named_buffers() if buffer.layout != torch.strided]
            if is_ema and sparse:
                raise ConfigError(
                    f"weight_averaging.kind ema averages buffers too, and {sparse[0]!r} is sparse; use swa"
                )
            try:
                self._mean = copy.deepcopy(module)
            except Exception as error:  # of any code of the network's own, which copy.deepcopy calls
                raise ConfigError(
                    f"weight_averaging.kind {config.kind} needs a copy of the network, and copy.deepcopy failed; "
                    "instead of torch.nn.utils.weight_norm use torch.nn.utils.parametrizations.weight_norm: "
                    f"{shortened(str(error))}"
                ) from error
            copied = constant_buffers(module)
            if not is_ema:
                copied |= named_tensors(module).keys() - {name for name, _ in module.named_parameters()}
            self._copied = copied

    @property
    def begun(self) -> nn.Module | None:
        """The averaged network, which is evaluated and saved instead of the network that trains.

        None before the first update.
        """
        return self._mean if self._count else None

    def after_step(self, module: nn.Module, *, progress: float, ends_epoch: bool) -> None:
        """Update the mean if an update is due. The trainer calls this after each step.

        Args:
            module: The network that trains.
            progress: Completed share of the schedule, in (0, 1].
            ends_epoch: Whether the step was the last of an epoch.
        """
        if self._mean is None:
            return
        if self._config.kind == "ema" or (ends_epoch and progress > self._config.start):
            self._update(named_tensors(module), named_tensors(self._mean))

    @torch.no_grad()
    def _update(self, own: Mapping[str, Tensor], mean: Mapping[str, Tensor]) -> None:
        """Move the mean toward the network. Integers, structural buffers and masks are copied, not averaged."""
        averaged = [
            name
            for name, tensor in own.items()
            if self._count and tensor.is_floating_point() and not is_structural(name) and name not in self._copied
        ]
        if averaged:
            share = 1.0 - self._config.decay if self._config.kind == "ema" else 1.0 / (self._count + 1)
            FOREACH._foreach_lerp_([mean[name] for name in averaged], [own[name] for name in averaged], share)
        copied = own.keys() - set(averaged)
        names = [name for name in own if name in copied]
        copy_all([mean[name] for name in names], [own[name] for name in names])
        self._count += 1

    def recalibrate(self, images: Iterable[TrainingInput]) -> None:
        """Measure batch norm's statistics before an evaluation. Only kind swa needs this, because ema averages them.

        Args:
            images: Batches of training images, augmented as in training, on the network's device.
        """
        if self._config.kind == "swa" and self._mean is not None:
            measure_batch_norm(images, self._mean)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that a checkpoint needs, not copied. Empty if there is no mean."""
        if self._mean is None:
            return {}
        mean = {f"average.{name}": tensor for name, tensor in named_tensors(self._mean).items()}
        return mean | {"average_count": torch.tensor(self._count)}

    def load(self, tensors: Mapping[str, Tensor], *, progress: float) -> None:
        """Restore the mean from a checkpoint. A checkpoint without a mean changes nothing.

        A mean of kind swa that began in a shorter schedule is dropped, because the last part of this one is still to
        come.

        Args:
            tensors: Tensors of the checkpoint, as in `Checkpoint.tensors`.
            progress: Completed share of the schedule, in [0, 1].
        """
        state = average_of(tensors)
        if self._config.kind == "swa" and progress <= self._config.start:
            return
        if state and self._mean is not None:
            load_tensors(self._mean, state)
            self._count = int(tensors["average_count"])
