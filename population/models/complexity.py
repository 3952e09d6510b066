"""What a network costs: its parameters, and the multiply-adds of one image."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from inarch.population.config import FusionConfig, NetworkConfig
from inarch.population.models import NetworkFactory, build


@dataclass(frozen=True, kw_only=True)
class Cost:
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
def network_cost(network: nn.Module, image_shape: tuple[int, int, int]) -> Cost:
    """The cost of a network for images (channels, height, width); runs it once and puts its mode back."""
    was_training, parameter = network.training, next(network.parameters())
    with FlopCounterMode(display=False) as counted:
        network.eval()(torch.zeros(1, *image_shape, device=parameter.device))
    network.train(was_training)
    return Cost(
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        multiply_adds=counted.get_total_flops() // 2,
    )


def cost_of(
    network: NetworkConfig | NetworkFactory,
    fusion: FusionConfig,
    *,
    num_classes: int,
    image_shape: tuple[int, int, int],
) -> Cost:
    """The cost of a network by its configuration; of one that fuses its filters, as the compact one that it becomes.

    Raises:
        ConfigError: as `population.networks.build`.
    """
    if isinstance(network, NetworkConfig):
        network = dataclasses.replace(network, weights=None)
    built = build(
        network,
        num_classes=num_classes,
        in_channels=image_shape[0],
        image_shape=image_shape,
        seed=0,
        fusion=fusion,
        form="compact",
    )
    return network_cost(built, image_shape)
