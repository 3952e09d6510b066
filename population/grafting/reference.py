"""Grafting as the public code of Meng et al. 2020 computes it, for parity tests and comparisons."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from inarch.population.errors import ConfigError
from inarch.population.state.state_dict import State, is_convolution


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
