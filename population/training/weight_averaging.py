"""Weight averaging, EMA or SWA: a running mean of one network's own weights, evaluated and saved instead of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from inarch.population.config import WeightAveragingConfig
from inarch.population.errors import ConfigError
from inarch.population.extension.user_code import shortened
from inarch.population.persistence.checkpoint import average_of
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
        self._model: AveragedModel | None = None
        if config.kind != "none":
            is_ema = config.kind == "ema"
            sparse = [name for name, buffer in module.named_buffers() if buffer.layout != torch.strided]
            if is_ema and sparse:
                raise ConfigError(
                    f"weight_averaging.kind ema averages buffers too, and {sparse[0]!r} is sparse; use swa"
                )
            try:
                self._model = AveragedModel(
                    module, multi_avg_fn=get_ema_multi_avg_fn(config.decay) if is_ema else None, use_buffers=is_ema
                )
            except (
                RuntimeError,
                TypeError,
                NotImplementedError,
            ) as error:  # what copy.deepcopy raises
                raise ConfigError(
                    f"weight_averaging.kind {config.kind} needs a copy of the network, and copy.deepcopy failed; "
                    "instead of torch.nn.utils.weight_norm use torch.nn.utils.parametrizations.weight_norm: "
                    f"{shortened(str(error))}"
                ) from error
            own, mean, constants = named_tensors(module), named_tensors(self._model.module), constant_buffers(module)
            self._private = [(own[name], mean[name]) for name in own if is_structural(name) or name in constants]

    @property
    def begun(self) -> nn.Module | None:
        """The averaged network, which is evaluated and saved instead of the network that trains.

        None before the first update.
        """
        return self._model.module if self._model is not None and bool(self._model.n_averaged > 0) else None

    def after_step(self, module: nn.Module, *, progress: float, ends_epoch: bool) -> None:
        """Update the mean if an update is due. The trainer calls this after each step.

        Args:
            module: The network that trains.
            progress: Completed share of the schedule, in (0, 1].
            ends_epoch: Whether the step was the last of an epoch.
        """
        if self._model is None:
            return
        if self._config.kind == "ema" or (ends_epoch and progress > self._config.start):
            self._model.update_parameters(module)
            for own, mean in self._private:  # structural buffers and masks are copied, not averaged
                mean.copy_(own)

    def recalibrate(self, images: Iterable[Tensor]) -> None:
        """Measure batch norm's statistics before an evaluation. Only kind swa needs this, because ema averages them.

        Args:
            images: Batches of training images, augmented as in training, on the network's device.
        """
        if self._config.kind == "swa" and self._model is not None:
            update_bn(images, self._model.module)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that a checkpoint needs, as copies on the CPU. Empty if there is no mean."""
        if self._model is None:
            return {}
        mean = named_tensors(self._model.module)
        copies = {f"average.{name}": tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in mean.items()}
        return copies | {"average_count": self._model.n_averaged.detach().cpu().clone()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the mean from a checkpoint. A checkpoint without a mean changes nothing.

        Args:
            tensors: Tensors of the checkpoint, as in `Checkpoint.tensors`.
        """
        state = average_of(tensors)
        if state and self._model is not None:
            load_tensors(self._model.module, state)
            with torch.no_grad():
                self._model.n_averaged.copy_(tensors["average_count"])
