"""Graft filter by filter: each class of channels has its own alpha.

The alpha of a class applies to the filter's weights, to its batch norm's entries, and to the weights that read its
output.
"""

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
    """Return alpha for each class of channels.

    batch_norm: alpha is |own scale| / (|own scale| + |scion's scale|), as in the public code. The scales are means over
    the class's batch norms. If both are 0, alpha is 0.5. entropy and l1: alpha follows eq. 7 from the filters'
    information, a mean over the filters that make the class. constant: alpha is 0.5. random: alpha follows eq. 7 from
    uniform numbers in [0, 1).

    Args:
        own: The rootstock's state dict. It is only read.
        scion: The scion's state dict. It is only read.
        channels: Channels of the networks.
        config: criterion, a, c and bins.
        random: Random numbers for the criterion `random`.

    Returns:
        Shape (classes,), in [0, 1].

    Raises:
        ConfigError: The criterion is batch_norm and a class has no batch norm.
        NotFiniteError: The criterion is entropy and a weight is NaN or infinite.
        ValueError: The criterion is random and no generator is given.

    Source: Meng et al. 2020 (arXiv:2001.05868), eq. 7, and the public code.
    """
    if config.criterion == "constant":
        return np.full(channels.num_classes, 0.5)
    if config.criterion == "random":
        if random is None:
            raise ValueError("criterion random needs a generator")
        random_information = random.random((2, channels.num_classes))
        return np.asarray(adaptive_weight(random_information[0], random_information[1], config.a, config.c))
    own_information, scion_information = (_information(state, channels, config) for state in (own, scion))
    if config.criterion == "batch_norm":
        total = own_information + scion_information
        return np.divide(own_information, total, out=np.full_like(own_information, 0.5), where=total > 0)
    return np.asarray(adaptive_weight(own_information, scion_information, config.a, config.c))


def blend_filters(
    state: State, scion: State, channels: Channels, alphas: np.ndarray, config: GraftConfig, *, discount: float = 1.0
) -> dict[str, float]:
    """Blend the scion into `state` in place. Entries and slices of no class, such as a head's rows, stay as they are.

    Args:
        state: Tensors of the rootstock. They are changed.
        scion: Tensors of the scion, of the same structure. They are only read.
        channels: Channels of the networks.
        alphas: Alpha of each class, shape (classes,).
        config: weight_alpha and batch_norm. The first combines the alphas of a weight between two classes. The second
            determines what happens to running statistics.
        discount: Factor by which staleness lowers the scion's weight, in [0, 1].

    Returns:
        Mean alpha over the weights of each blended entry, by key.
    """
    mean_alphas: dict[str, float] = {}
    axes: dict[str, list[Axis]] = {}
    for axis in channels.axes:
        axes.setdefault(axis.key, []).append(axis)
    for key, entry_axes in axes.items():
        own = state[key]
        entry_alphas = 1.0 - (1.0 - _own_part(entry_axes, alphas, config)) * discount
        if key.endswith(BATCH_NORM_STATISTICS) and config.batch_norm != "blend":
            if config.batch_norm == "reset":
                reset_(own, key, alpha=float(entry_alphas.min()))
            continue
        mean_alphas[key] = float(entry_alphas.mean())
        alpha = torch.from_numpy(entry_alphas).to(own)
        alpha = alpha.reshape(*alpha.shape, *[1] * (own.dim() - alpha.dim()))
        own.mul_(alpha).add_(scion[key].to(own.device) * (1.0 - alpha))
    return mean_alphas


def _own_part(axes: list[Axis], alphas: np.ndarray, config: GraftConfig) -> np.ndarray:
    """Return the alpha of each place of an entry, 1 where a place has no class.

    The shape is (size of dim 0,), or with inputs (size of dim 0 or 1, size of dim 1).
    """
    by_dim = {axis.dim: axis.classes for axis in axes}
    is_tracked = {dim: (classes != UNTRACKED) for dim, classes in by_dim.items()}
    dim_alphas = {dim: np.where(is_tracked[dim], alphas[classes], 1.0) for dim, classes in by_dim.items()}
    if set(by_dim) == {0}:
        return dim_alphas[0]
    if set(by_dim) == {1}:
        return dim_alphas[1] if dim_alphas[1].ndim == 2 else dim_alphas[1][None, :]
    output, has_output, inputs, has_input = dim_alphas[0][:, None], is_tracked[0][:, None], dim_alphas[1], is_tracked[1]
    if config.weight_alpha == "product":
        return output * inputs
    has_both = has_output & has_input
    if config.weight_alpha == "mean":
        return np.where(has_both, (output + inputs) / 2, output * inputs)
    return np.where(has_output, output, 1.0) * np.where(~has_output & has_input, inputs, 1.0)


def _information(state: State, channels: Channels, config: GraftConfig) -> np.ndarray:
    """Return the information of each class: a mean over its filters, or over its scales in batch norms."""
    if config.criterion == "batch_norm":
        places = channels.scales
        producers = next((channels.producers[c] for c, members in enumerate(places) if not members), None)
        if producers is not None:
            raise ConfigError(
                f"graft.criterion batch_norm: the channels that {producers[0][0]} makes have no batch norm"
            )
        values = {key: state[key].detach().abs().double() for members in places for key, _ in members}
    else:
        places = channels.producers
        measure = _MEASURES[config.criterion]
        values = {key: measure(state[key], config.bins) for key in {key for members in places for key, _ in members}}
    information = {key: value.cpu().numpy() for key, value in values.items()}
    return np.array([np.mean([information[key][place] for key, place in members]) for members in places])


_MEASURES = {
    "entropy": lambda weight, bins: filter_entropy(weight, bins),
    "l1": lambda weight, bins: l1_norm(weight).double(),
}
