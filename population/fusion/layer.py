"""A convolution whose filters are mixtures of more filters than it has outputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from inarch.population.state.state_dict import is_structural


class FusedConv2d(nn.Conv2d):
    """Keeps all `filters`, applies `kept` mixtures of them: gradients reach every filter through its part in them.

    Buffers, set by `fusion.update_fusion`: `fusion_proxies` (kept, filters), the mixtures; `fusion_chosen` (kept,), whose
    proxies they are; `fusion_scores` (filters,), each filter's importance when it was last finite.
    """

    def __init__(self, inputs: int, filters: int, kernel: int, *, kept: int, **options) -> None:
        """Args: input channels; filters; kernel size; outputs, at most filters; what else Conv2d takes (no groups)."""
        if not 1 <= kept <= filters:
            raise ValueError(f"kept must lie in [1, {filters}], got {kept}")
        super().__init__(inputs, filters, kernel, **options)
        self.kept = kept
        self.register_buffer("fusion_proxies", torch.eye(filters)[:kept].clone())
        self.register_buffer("fusion_chosen", torch.arange(kept))
        self.register_buffer("fusion_scores", torch.zeros(filters))

    fusion_proxies: Tensor
    fusion_chosen: Tensor
    fusion_scores: Tensor

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, *self.fused())

    def fused(self) -> tuple[Tensor, Tensor | None]:
        """The weights that are applied: (kept, inputs, kernel, kernel), and the bias (kept,) if there is one."""
        weight = (self.fusion_proxies @ self.weight.flatten(1)).view(self.kept, *self.weight.shape[1:])
        return weight, None if self.bias is None else self.fusion_proxies @ self.bias


def compact_state(module: nn.Module) -> dict[str, Tensor]:
    """The state dict of the compact form of a network: fused filters in place of all, copies."""
    fused = {name: found for name, found in module.named_modules() if isinstance(found, FusedConv2d)}
    state = {}
    for key, tensor in module.state_dict().items():
        owner, _, entry = key.rpartition(".")
        if owner not in fused:
            state[key] = tensor.detach().clone()
        elif not is_structural(key):
            weight, bias = fused[owner].fused()
            found = weight if entry == "weight" else bias
            assert found is not None
            state[key] = found.detach().clone()
    return state
