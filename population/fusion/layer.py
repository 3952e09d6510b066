"""A convolution that mixes all its filters into fewer output channels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from inarch.population.state.state_dict import is_structural


class FusedConv2d(nn.Conv2d):
    """A convolution with all `filters` that applies only `kept` mixtures of them.

    Gradients reach every filter through its share in the mixtures. `fusion.update_fusion` sets the buffers.
    """

    def __init__(self, inputs: int, filters: int, kernel: int, *, kept: int, **options: Any) -> None:
        """Create the convolution, with the first `kept` filters unmixed.

        Args:
            inputs: Input channels.
            filters: Filters that are trained.
            kernel: Kernel size.
            kept: Output channels, from 1 to `filters`.
            **options: Further arguments of Conv2d, except groups.

        Raises:
            ValueError: `kept` is out of range.
        """
        if not 1 <= kept <= filters:
            raise ValueError(f"kept must lie in [1, {filters}], got {kept}")
        super().__init__(inputs, filters, kernel, **options)
        self.kept = kept
        self.register_buffer("fusion_proxies", torch.eye(filters)[:kept].clone())
        self.register_buffer("fusion_chosen", torch.arange(kept))
        self.register_buffer("fusion_scores", torch.zeros(filters))

    fusion_proxies: Tensor
    """The mixtures, shape (kept, filters)."""
    fusion_chosen: Tensor
    """Index of the filter that each mixture is the proxy of, shape (kept,)."""
    fusion_scores: Tensor
    """Latest finite importance of each filter, shape (filters,)."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply the fused convolution to a batch."""
        return self._conv_forward(input, *self.fused())

    def fused(self) -> tuple[Tensor, Tensor | None]:
        """Return the applied weight (kept, inputs, kernel, kernel), and the applied bias (kept,) if there is one."""
        weight = (self.fusion_proxies @ self.weight.flatten(1)).view(self.kept, *self.weight.shape[1:])
        return weight, None if self.bias is None else self.fusion_proxies @ self.bias


def compact_state(module: nn.Module) -> dict[str, Tensor]:
    """Return the state dict of a model's compact form: the mixtures in place of all filters.

    Args:
        module: Model in fused form.

    Returns:
        Copies of the tensors, with the keys of the compact form.
    """
    fused = {name: layer for name, layer in module.named_modules() if isinstance(layer, FusedConv2d)}
    state = {}
    for key, tensor in module.state_dict().items():
        owner, _, entry = key.rpartition(".")
        if owner not in fused:
            state[key] = tensor.detach().clone()
        elif not is_structural(key):
            weight, bias = fused[owner].fused()
            mixture = weight if entry == "weight" else bias
            assert mixture is not None
            state[key] = mixture.detach().clone()
    return state
