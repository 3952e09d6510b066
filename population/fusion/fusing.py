"""Update the fused convolutions of a model at the start of an epoch, and record the change."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from inarch.population.config import FusionConfig
from inarch.population.errors import NotFiniteError
from inarch.population.fusion.layer import FusedConv2d
from inarch.population.fusion.proxies import effective_filters, filter_distances, importance, log_proxies, normalized
from inarch.population.fusion.reference import published_importance, published_proxies, published_temperature
from inarch.population.fusion.temperature import target_filters, temperature_for


@dataclass(frozen=True, kw_only=True)
class LayerFusion:
    """How one layer was fused for an epoch."""

    layer: str
    """Name of the fused convolution."""
    filters: int
    """Filters of the full convolution."""
    kept: int
    """Filters that the compact form keeps."""
    temperature: float
    """Temperature of the proxies. It multiplies raw distances in mode published, otherwise distances in units of their
    mean. 0 in mode random, which does not mix filters."""
    effective: float
    """Number of filters that a fused filter mixes: exp(entropy of its proxy), averaged over the kept filters."""
    changed: int
    """Number of kept filters that the previous epoch did not keep. Before epoch 0 the first `kept` filters count as
    kept."""
    discarded_gradient: float | None
    """Share of the gradient norm at filters that were not kept, in the previous step. None before the first step."""


def update_fusion(
    module: nn.Module, config: FusionConfig, *, epoch: int, epochs: int, random: np.random.Generator
) -> tuple[LayerFusion, ...]:
    """Set the proxies of every fused convolution for an epoch, from its current weights.

    Args:
        module: The model. Its fused convolutions are changed in place. Other modules stay as they are.
        config: Mode of the fusion, and its target at the start.
        epoch: Current epoch, from 0.
        epochs: Epochs of the schedule.
        random: Random numbers for mode random, which chooses its filters once. Pass a generator in the same state at
            each epoch, because a network may begin at a later one.

    Returns:
        A record for each fused convolution, in the order of the modules.

    Raises:
        NotFiniteError: A weight is NaN or infinite, in mode stable or mean_distance. The message names the layer.
    """
    layers = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, FusedConv2d)]
    return tuple(
        _update_fusion(name, layer, config, epoch=epoch, epochs=epochs, random=random) for name, layer in layers
    )


@torch.no_grad()
def _update_fusion(
    name: str, layer: FusedConv2d, config: FusionConfig, *, epoch: int, epochs: int, random: np.random.Generator
) -> LayerFusion:
    gradient = _discarded_gradient(layer)
    previous = set(layer.fusion_chosen.tolist())
    if config.mode == "random":
        temperature, proxies = 0.0, torch.eye(len(layer.weight), dtype=torch.float64)
        chosen = torch.from_numpy(np.sort(random.permutation(len(layer.weight))[: layer.kept]))
        earlier = layer.fusion_chosen.cpu()
        if epoch and not torch.equal(earlier, torch.arange(layer.kept)):  # what a new layer has, before any choice
            chosen = earlier
    elif config.mode == "published":
        temperature = published_temperature(epoch, epochs)
        proxies = published_proxies(layer.weight.cpu(), temperature)
        scores = published_importance(proxies)
        if bool(torch.isfinite(scores).all()):
            layer.fusion_scores.copy_(scores)
        chosen = _top(layer.fusion_scores.cpu(), layer.kept)
    else:
        try:
            distances = normalized(filter_distances(layer.weight.cpu()))
        except NotFiniteError as error:
            raise NotFiniteError(f"{name}: {error}") from None
        progress = min(1.0, epoch / max(1, epochs - 1))
        target = target_filters(len(distances), progress) ** config.begin
        temperature = temperature_for(distances, target)
        log_p = log_proxies(distances, temperature)
        proxies = log_p.exp()
        scores = importance(log_p) if config.mode == "stable" else distances.sum(1)
        layer.fusion_scores.copy_(scores)
        chosen = _top(scores, layer.kept)
    if epoch and config.mode != "random":
        chosen = _in_their_places(layer.fusion_chosen.cpu(), chosen)
    layer.fusion_chosen.copy_(chosen)
    layer.fusion_proxies.copy_(proxies[chosen])
    effective = float(effective_filters(proxies[chosen].double().clamp_min(1e-300).log()).mean())
    return LayerFusion(
        layer=name,
        filters=len(layer.weight),
        kept=layer.kept,
        temperature=temperature,
        effective=effective,
        changed=len(set(chosen.tolist()) - previous),
        discarded_gradient=gradient,
    )


def _top(scores: Tensor, count: int) -> Tensor:
    """Return the indices of the greatest scores, ascending."""
    return scores.topk(count).indices.sort().values


def _in_their_places(before: Tensor, chosen: Tensor) -> Tensor:
    """Return the chosen indices, with each index that was chosen before at its former position.

    New indices take the positions of dropped ones, because batch norm and the next layer identify a channel by its
    position. The authors' public code orders the indices anew each epoch.
    """
    is_chosen = torch.isin(before, chosen)
    new = chosen[~torch.isin(chosen, before)]
    placed = before.clone()
    placed[~is_chosen] = new
    return placed


def _discarded_gradient(layer: FusedConv2d) -> float | None:
    """Return the share of the gradient norm at filters that are not kept. None without a gradient."""
    if layer.weight.grad is None:
        return None
    squares = layer.weight.grad.detach().flatten(1).double().square().sum(1)
    total = float(squares.sum())
    reached = float(squares[layer.fusion_chosen].sum())
    return float(np.sqrt(max(0.0, total - reached) / total)) if total > 0 else 0.0
