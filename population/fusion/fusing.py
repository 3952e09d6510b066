"""Refreshing a network's fused convolutions at the beginning of an epoch, and what that did."""

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
    filters: int
    kept: int
    temperature: float
    """Of distances as they are (published) or in units of their mean; 0 where filters are taken as they are."""
    effective: float
    """Filters mixed into a fused one, exp(entropy of its proxy), a mean over those kept."""
    changed: int
    """Kept filters that were not kept in the epoch before; all that are not among the first ones at the beginning."""
    discarded_gradient: float | None
    """Part of the gradient's norm, at the step before, that reached filters which were not kept; None before a step."""


def update_fusion(
    module: nn.Module, config: FusionConfig, *, epoch: int, epochs: int, random: np.random.Generator
) -> tuple[LayerFusion, ...]:
    """Set the proxies of every fused convolution for an epoch, from its weights as they are.

    Args:
        module: Changed in place; its other modules are left alone.
        config: The mode.
        epoch: From 0.
        epochs: Of the schedule.
        random: Chooses the filters of the mode random, once.

    Returns:
        A record a layer, in order.

    Raises:
        NotFiniteError: a weight is NaN or infinite; names the layer.
    """
    layers = [(name, found) for name, found in module.named_modules() if isinstance(found, FusedConv2d)]
    return tuple(
        _update_fusion(name, layer, config, epoch=epoch, epochs=epochs, random=random) for name, layer in layers
    )


@torch.no_grad()
def _update_fusion(
    name: str, layer: FusedConv2d, config: FusionConfig, *, epoch: int, epochs: int, random: np.random.Generator
) -> LayerFusion:
    gradient = _discarded_gradient(layer)
    before = set(layer.fusion_chosen.tolist())
    if config.mode == "random":
        temperature, proxies = 0.0, torch.eye(len(layer.weight), dtype=torch.float64)
        chosen = torch.from_numpy(np.sort(random.permutation(len(layer.weight))[: layer.kept]))
        chosen = chosen if epoch == 0 else layer.fusion_chosen.cpu()
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
        wanted = target_filters(len(distances), progress) ** config.begin
        temperature = temperature_for(distances, wanted)
        log_p = log_proxies(distances, temperature)
        proxies = log_p.exp()
        scores = importance(log_p) if config.mode == "stable" else distances.sum(1)
        layer.fusion_scores.copy_(scores)
        chosen = _top(scores, layer.kept)
    chosen = _in_their_places(layer.fusion_chosen.cpu(), chosen) if epoch else chosen
    layer.fusion_chosen.copy_(chosen)
    layer.fusion_proxies.copy_(proxies[chosen])
    effective = float(effective_filters(proxies[chosen].double().clamp_min(1e-300).log()).mean())
    return LayerFusion(
        layer=name,
        filters=len(layer.weight),
        kept=layer.kept,
        temperature=temperature,
        effective=effective,
        changed=len(set(chosen.tolist()) - before),
        discarded_gradient=gradient,
    )


def _top(scores: Tensor, count: int) -> Tensor:
    """Ids of the greatest scores, ascending."""
    return scores.topk(count).indices.sort().values


def _in_their_places(before: Tensor, chosen: Tensor) -> Tensor:
    """The chosen ids, each where it was before, new ones where others left: batch norm and the next layer know a
    channel by its place. (The public code orders them anew each epoch.)"""
    staying = torch.isin(before, chosen)
    new = chosen[~torch.isin(chosen, before)]
    placed = before.clone()
    placed[~staying] = new
    return placed


def _discarded_gradient(layer: FusedConv2d) -> float | None:
    if layer.weight.grad is None:
        return None
    norms = layer.weight.grad.detach().flatten(1).double().square().sum(1)
    total = float(norms.sum())
    kept = float(norms[layer.fusion_chosen].sum())
    return float(np.sqrt(max(0.0, total - kept) / total)) if total > 0 else 0.0
