"""What a network costs: its parameters, and the multiply-adds of one image."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from inarch.population.config import FusionConfig, ModelConfig
from inarch.population.models import ModelFactory, build


@dataclass(frozen=True, kw_only=True)
class ModelComplexity:
    """Of one network."""

    parameters: int
    multiply_adds: int
    """Of convolutions and matrix products for one image; half of what torch.utils.flop_counter counts. Published counts
    of compact networks come from another counter and are up to 1.6 % higher."""

    @property
    def training_flops(self) -> int:
        """Floating-point operations to train on one image: forward, and twice as many backward."""
        return 6 * self.multiply_adds


@torch.no_grad()
def model_complexity(model: nn.Module, image_shape: tuple[int, int, int]) -> ModelComplexity:
    """The cost of a network for images (channels, height, width); runs it once and puts its mode back."""
    was_training, parameter = model.training, next(model.parameters())
    with FlopCounterMode(display=False) as counted:
        model.eval()(torch.zeros(1, *image_shape, device=parameter.device))
    model.train(was_training)
    return ModelComplexity(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        multiply_adds=counted.get_total_flops() // 2,
    )


def complexity_of(
    model: ModelConfig | ModelFactory,
    fusion: FusionConfig,
    *,
    num_classes: int,
    image_shape: tuple[int, int, int],
) -> ModelComplexity:
    """The cost of a network by its configuration; of one that fuses its filters, as the compact one that it becomes.

    Raises:
        ConfigError: as `population.networks.build`.
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
