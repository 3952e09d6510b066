"""Grafting filter by filter: a filter, its batch norm's entries and what reads it keep the same part of their own."""

from __future__ import annotations

import numpy as np
import torch

from inarch.population.config import GraftConfig
from inarch.population.errors import ConfigError
from inarch.population.grafting.alpha import adaptive_weight
from inarch.population.grafting.blending import reset_
from inarch.population.grafting.channels import UNTRACKED, Axis, Channels
from inarch.population.grafting.information import filter_entropy, l1_norm
from inarch.population.state.state_dict import BATCH_NORM_STATISTICS, State


def filter_alphas(
    own: State, scion: State, channels: Channels, config: GraftConfig, *, random: np.random.Generator | None = None
) -> np.ndarray:
    """The part of its own weights that each class of channels keeps.

    batch_norm: |own scale| / (|own| + |scion's|), means over the class's batch norms, as the public code; entropy and
    l1: eq. 7 of the filters' information, means over the filters that make the class.

    Args:
        own: The rootstock's state dict.
        scion: The scion's.
        channels: Of their network.
        config: criterion, a, c, bins.
        random: For the criterion random.

    Returns:
        Shape (classes,), in [0, 1].

    Raises:
        ConfigError: criterion batch_norm, and a class has no batch norm.
        NotFiniteError: a weight is NaN or infinite.
    """
    if config.criterion == "constant":
        return np.full(channels.num_classes, 0.5)
    if config.criterion == "random":
        if random is None:
            raise ValueError("criterion random needs a generator")
        drawn = random.random((2, channels.num_classes))
        return np.asarray(adaptive_weight(drawn[0], drawn[1], config.a, config.c))
    mine, theirs = (_information(state, channels, config) for state in (own, scion))
    if config.criterion == "batch_norm":
        total = mine + theirs
        return np.divide(mine, total, out=np.full_like(mine, 0.5), where=total > 0)
    return np.asarray(adaptive_weight(mine, theirs, config.a, config.c))


def blend_filters(
    state: State, scion: State, channels: Channels, alphas: np.ndarray, config: GraftConfig, *, discount: float = 1.0
) -> dict[str, float]:
    """Blend the scion into `state` in place; the scion is only read. Entries and slices of no class, as a head's rows,
    stay as they are.

    Args:
        state: The rootstock's, its own tensors.
        scion: Of the same structure.
        channels: Of their network.
        alphas: Shape (classes,).
        config: crossing: what becomes of a weight between two classes; batch_norm.
        discount: What staleness leaves of the scion's weight, in [0, 1].

    Returns:
        The part of its own that each blended entry kept, a mean over its weights.
    """
    kept_parts: dict[str, float] = {}
    axes: dict[str, list[Axis]] = {}
    for axis in channels.axes:
        axes.setdefault(axis.key, []).append(axis)
    for key, found in axes.items():
        own = state[key]
        part = 1.0 - (1.0 - _own_part(found, alphas, config)) * discount
        if key.endswith(BATCH_NORM_STATISTICS) and config.batch_norm != "blend":
            if config.batch_norm == "reset":
                reset_(own, key, alpha=float(part.min()))
            continue
        kept_parts[key] = float(part.mean())
        kept = torch.from_numpy(part).to(own)
        kept = kept.reshape(*kept.shape, *[1] * (own.dim() - kept.dim()))
        own.mul_(kept).add_(scion[key].to(own.device) * (1.0 - kept))
    return kept_parts


def _own_part(found: list[Axis], alphas: np.ndarray, config: GraftConfig) -> np.ndarray:
    """What each place of an entry keeps: shape (size of dim 0,), or with inputs (size of dim 0 or 1, size of dim 1)."""
    by_dim = {axis.dim: axis.classes for axis in found}
    known = {dim: (classes != UNTRACKED) for dim, classes in by_dim.items()}
    parts = {dim: np.where(known[dim], alphas[classes], 1.0) for dim, classes in by_dim.items()}
    if set(by_dim) == {0}:
        return parts[0]
    if set(by_dim) == {1}:
        return parts[1] if parts[1].ndim == 2 else parts[1][None, :]
    makes, is_made, reads, is_read = parts[0][:, None], known[0][:, None], parts[1], known[1]
    if config.weight_alpha == "product":
        return makes * reads
    both = is_made & is_read
    if config.weight_alpha == "mean":
        return np.where(both, (makes + reads) / 2, makes * reads)
    return np.where(is_made, makes, 1.0) * np.where(~is_made & is_read, reads, 1.0)


def _information(state: State, channels: Channels, config: GraftConfig) -> np.ndarray:
    """Of each class: the mean over what makes it, or over its batch norms."""
    if config.criterion == "batch_norm":
        places = channels.scales
        lacking = next((channels.producers[c] for c, found in enumerate(places) if not found), None)
        if lacking is not None:
            raise ConfigError(f"graft.criterion batch_norm: the channels that {lacking[0][0]} makes have no batch norm")
        values = {key: state[key].detach().abs().double() for found in places for key, _ in found}
    else:
        places = channels.producers
        measure = _MEASURES[config.criterion]
        values = {key: measure(state[key], config.bins) for key in {key for found in places for key, _ in found}}
    told = {key: value.cpu().numpy() for key, value in values.items()}
    return np.array([np.mean([told[key][place] for key, place in found]) for found in places])


_MEASURES = {
    "entropy": lambda weight, bins: filter_entropy(weight, bins),
    "l1": lambda weight, bins: l1_norm(weight).double(),
}
