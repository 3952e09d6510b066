"""Count the parameters of a model, and the multiply-adds that it needs for one image."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from inarch.population.config import FusionConfig, ModelConfig
from inarch.population.models import ModelFactory, build


@dataclass(frozen=True, kw_only=True)
class ModelComplexity:
    """Size and computation of one model."""

    parameters: int
    multiply_adds: int
    """Multiply-adds of convolutions and matrix products for one image: half of the count of torch.utils.flop_counter.
    Recurrent layers such as nn.LSTM do not count.
    Published counts of compact networks come from another counter and are up to 1.6 % higher."""

    @property
    def training_flops(self) -> int:
        """Floating-point operations to train on one image. The backward pass counts twice the forward pass."""
        return 6 * self.multiply_adds


@torch.no_grad()
def model_complexity(model: nn.Module, image_shape: tuple[int, int, int]) -> ModelComplexity:
    """Return the complexity of a model.

    The model runs once in evaluation mode. Its former mode is restored.

    Args:
        model: The model, on any device.
        image_shape: (channels, height, width) of the images.
    """
    from torch.utils.flop_counter import FlopCounterMode  # it imports triton, which only this count needs

    was_training, parameter = model.training, next(model.parameters())
    uses_fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the counter knows neither it nor the fused attention
    try:
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            model.eval()(torch.zeros(1, *image_shape, device=parameter.device))
    finally:
        torch.backends.mha.set_fastpath_enabled(uses_fast_path)
    model.train(was_training)
    return ModelComplexity(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        multiply_adds=counter.get_total_flops() // 2,
    )


def complexity_of(
    model: ModelConfig | ModelFactory,
    fusion: FusionConfig,
    *,
    num_classes: int,
    image_shape: tuple[int, int, int],
) -> ModelComplexity:
    """Return the complexity of the model that a configuration describes.

    A model that fuses its filters counts in its compact form.

    Args:
        model: Configuration of the model, or a model factory. Pretrained weights are not loaded.
        fusion: Fusion of the model's filters, which may be off.
        num_classes: Width of the logits.
        image_shape: (channels, height, width) of the images.

    Raises:
        ConfigError: As `population.models.building`.
        UserCodeError: As `population.models.building`.
    """
    if isinstance(model, ModelConfig):
        model = dataclasses.replace(model, weights=None)
    built = build(
        model,
        num_classes=num_classes,
        in_channels=image_shape[0],
        image_shape=image_shape,
        seed=0,
        fusion=fusion,
        form="compact",
    )
    return model_complexity(built, image_shape)
