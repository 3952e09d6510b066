"""A running mean of one network's own weights, which is judged and saved in place of them: EMA and SWA."""

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
    """The mean, and when it takes in what.

    none: there is no mean, and it never begins. ema: after every step, with batch norm's statistics. swa: after every
    epoch of the schedule's last part, an equal mean; batch norm's statistics are measured anew before it is judged.

    Source: swa, Izmailov et al. 2018 (arXiv:1803.05407), without its change of the learning rate.
    """

    def __init__(self, module: nn.Module, config: WeightAveragingConfig) -> None:
        """Args: the network, whose weights the mean begins with; which mean."""
        self._config = config
        self._model: AveragedModel | None = None
        if config.kind != "none":
            is_ema = config.kind == "ema"
            odd = [name for name, buffer in module.named_buffers() if buffer.layout != torch.strided]
            if is_ema and odd:
                raise ConfigError(f"weight_averaging.kind ema averages buffers too, and {odd[0]!r} is sparse; use swa")
            try:
                self._model = AveragedModel(
                    module, multi_avg_fn=get_ema_multi_avg_fn(config.decay) if is_ema else None, use_buffers=is_ema
                )
            except (RuntimeError, TypeError, NotImplementedError) as error:  # what deepcopy of odd tensors raises
                raise ConfigError(
                    f"weight_averaging.kind {config.kind} needs a copy of the network, and copy.deepcopy failed; in place of "
                    "torch.nn.utils.weight_norm use torch.nn.utils.parametrizations.weight_norm: "
                    f"{shortened(str(error))}"
                ) from error
            own, mean, constants = named_tensors(module), named_tensors(self._model.module), constant_buffers(module)
            self._private = [(own[name], mean[name]) for name in own if is_structural(name) or name in constants]

    @property
    def begun(self) -> nn.Module | None:
        """The network of averaged weights, which is judged and saved in place of the one that trains; None before it
        has taken in any weights but the initial ones."""
        return self._model.module if self._model is not None and bool(self._model.n_averaged > 0) else None

    def after_step(self, module: nn.Module, *, progress: float, ends_epoch: bool) -> None:
        """Called after each step.

        Args:
            module: The network that it was made of.
            progress: Part of the schedule that is over, in (0, 1].
            ends_epoch: Whether the step was an epoch's last.
        """
        if self._model is None:
            return
        if self._config.kind == "ema" or (ends_epoch and progress > self._config.start):
            self._model.update_parameters(module)
            for own, mean in self._private:  # what a compact network mixes its filters by, and masks, are not averaged
                mean.copy_(own)

    def recalibrate(self, images: Iterable[Tensor]) -> None:
        """Before it is judged: batch norm's statistics from images, where the mean has none of its own."""
        if self._config.kind == "swa" and self._model is not None:
            update_bn(images, self._model.module)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps of it, as copies on the CPU."""
        if self._model is None:
            return {}
        mean = named_tensors(self._model.module)
        found = {f"average.{name}": tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in mean.items()}
        return found | {"average_count": self._model.n_averaged.detach().cpu().clone()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint; one without a mean leaves it as it is."""
        state = average_of(tensors)
        if state and self._model is not None:
            load_tensors(self._model.module, state)
            with torch.no_grad():
                self._model.n_averaged.copy_(tensors["average_count"])
