"""Grafting filter by filter: a filter, its batch norm's entries and what reads it keep the same part of their own."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import torch
from inarch.population.channels import FREE, Axis, Channels
from inarch.population.config import GraftConfig
from inarch.population.errors import ConfigError
from inarch.population.grafting import STATISTICS, adaptive_weight, reset_
from inarch.population.information import filter_entropy, is_convolution, l1_norm
from torch import Tensor

State = Mapping[str, Tensor]


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
    state: State, scion: State, channels: Channels, alphas: np.ndarray, config: GraftConfig, *, left: float = 1.0
) -> dict[str, float]:
    """Blend the scion into `state` in place; the scion is only read. Entries and slices of no class, as a head's rows,
    stay as they are.

    Args:
        state: The rootstock's, its own tensors.
        scion: Of the same structure.
        channels: Of their network.
        alphas: Shape (classes,).
        config: crossing: what becomes of a weight between two classes; batch_norm.
        left: What age leaves of the scion's part, in [0, 1].

    Returns:
        The part of its own that each blended entry kept, a mean over its weights.
    """
    kept_parts: dict[str, float] = {}
    axes: dict[str, list[Axis]] = {}
    for axis in channels.axes:
        axes.setdefault(axis.key, []).append(axis)
    for key, found in axes.items():
        own = state[key]
        part = 1.0 - (1.0 - _own_part(found, alphas, config)) * left
        if key.endswith(STATISTICS) and config.batch_norm != "blend":
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
    known = {dim: (classes != FREE) for dim, classes in by_dim.items()}
    parts = {dim: np.where(known[dim], alphas[classes], 1.0) for dim, classes in by_dim.items()}
    if set(by_dim) == {0}:
        return parts[0]
    if set(by_dim) == {1}:
        return parts[1] if parts[1].ndim == 2 else parts[1][None, :]
    makes, is_made, reads, is_read = parts[0][:, None], known[0][:, None], parts[1], known[1]
    if config.crossing == "product":
        return makes * reads
    both = is_made & is_read
    if config.crossing == "mean":
        return np.where(both, (makes + reads) / 2, makes * reads)
    return np.where(is_made, makes, 1.0) * np.where(~is_made & is_read, reads, 1.0)


def _information(state: State, channels: Channels, config: GraftConfig) -> np.ndarray:
    """Of each class: the mean over what makes it, or over its batch norms."""
    if config.criterion == "batch_norm":
        places = channels.scales
        lacking = next((channels.makers[c] for c, found in enumerate(places) if not found), None)
        if lacking is not None:
            raise ConfigError(f"graft.criterion batch_norm: the channels that {lacking[0][0]} makes have no batch norm")
        values = {key: state[key].detach().abs().double() for found in places for key, _ in found}
    else:
        places = channels.makers
        measure = _MEASURES[config.criterion]
        values = {key: measure(state[key], config.bins) for key in {key for found in places for key, _ in found}}
    told = {key: value.cpu().numpy() for key, value in values.items()}
    return np.array([np.mean([told[key][place] for key, place in found]) for found in places])


_MEASURES = {
    "entropy": lambda weight, bins: filter_entropy(weight, bins),
    "l1": lambda weight, bins: l1_norm(weight).double(),
}


def published_filter_graft(own: State, scion: State) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The public code's graft of convolutions with batch norms, each taken to read what the one before it in the state
    dict makes, its faults included.

    A convolution's weight keeps the product of its filter's and its input's parts; its bias, the head and counts stay;
    and batch norm's entries are blended as whole vectors once for each channel, so that next to nothing of the own is
    left. Where both scales are 0, which the public code divides by, a filter keeps a half.

    Args:
        own: The rootstock's state dict, its modules in the order of their calls; only read.
        scion: Of the same structure; only read.

    Returns:
        A new state dict; the part of its own that each convolution's weight kept, a mean over its weights, by key.

    Raises:
        ConfigError: a convolution is without batch norm, or reads more or fewer channels than the one before it makes.

    Source: the public code of Meng et al. 2020; `graft_filter` of the reference vectors.
    """
    result = {key: tensor.clone() for key, tensor in own.items()}
    kept_parts: dict[str, float] = {}
    keys = list(own)
    read: Tensor | None = None
    for place, key in enumerate(keys):
        if not is_convolution(own[key]):
            continue
        after = itertools.takewhile(lambda other: not is_convolution(own[other]), keys[place + 1 :])
        norm = next((k.removesuffix(".running_mean") for k in after if k.endswith(".running_mean")), None)
        if norm is None or f"{norm}.weight" not in own or len(own[f"{norm}.weight"]) != len(own[key]):
            raise ConfigError(f"graft.reference at level filter: {key} has no batch norm after it")
        if read is not None and len(read) != own[key].shape[1]:
            raise ConfigError(
                f"graft.reference at level filter needs convolutions one after the other; {key} reads "
                f"{own[key].shape[1]} channels, the convolution before it makes {len(read)}"
            )
        mine, theirs = (side[f"{norm}.weight"].double().abs().cpu() for side in (own, scion))
        total = mine + theirs
        made = torch.where(total > 0, mine / total, 0.5)
        kept = made.reshape(-1, 1, 1, 1) * (1.0 if read is None else read.reshape(1, -1, 1, 1))
        result[key] = _kept(own[key], scion[key], kept)
        kept_parts[key] = float(kept.mean())
        for entry in ("weight", "bias", "running_mean", "running_var"):
            name = f"{norm}.{entry}"
            result[name] = _kept(own[name], scion[name], made.prod())
        read = made
    return result, kept_parts


def _kept(own: Tensor, scion: Tensor, part: Tensor) -> Tensor:
    """A part of the own and what is left of the scion, computed in double precision."""
    part = part.to(own.device)
    return (own * part + scion.to(own.device) * (1.0 - part)).to(own.dtype)
