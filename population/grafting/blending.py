"""Blend weights of a scion into tensors of the rootstock, in place.

On the CPU, a tensor is blended in blocks that stay in cache, or by compiled loops where they were built
(`compiled_loops`). Both give the same bits. On a GPU, one operation blends all tensors.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from inarch.population.grafting import compiled_loops
from inarch.population.state.memory_order import FOREACH, copy_all, has_same_order, in_memory_order, is_dense

BLOCK_VALUES = 262_144
"""Weights blended at a time on the CPU, so that the products stay in cache."""


@dataclass(frozen=True, kw_only=True)
class Followers:
    """Past states of the rootstock, which follow what an exchange changes. See `delay_compensation`."""

    moved: Sequence[Mapping[str, Tensor]]
    """States that change by what the rootstock changes. They are changed."""
    noted: Mapping[str, Tensor]
    """State that becomes a copy of the rootstock after the exchange. It is overwritten, and may be the scion's past."""

    def moved_with(self, key: str) -> tuple[Tensor, ...]:
        """Return the tensors that change by what an entry of the rootstock changes.

        Args:
            key: Key of the entry.
        """
        return tuple(state[key] for state in self.moved if key in state)

    def note(self, state: Mapping[str, Tensor], *, but: Collection[str] = ()) -> None:
        """Copy the rootstock into the noted state.

        Args:
            state: Tensors of the rootstock.
            but: Keys of entries that were noted before.
        """
        keys = [key for key in self.noted if key not in but]
        copy_all([self.noted[key] for key in keys], [state[key] for key in keys])


class Blend(NamedTuple):
    """One tensor of the rootstock, and what is blended into it: own * alpha + scion * (1 - alpha).

    With a past, the scion is compensated first: it becomes scion + own - past. The blend is then
    own + (scion - past) * (1 - alpha).
    """

    own: Tensor
    """Changed."""
    scion: Tensor
    """Tensor of the same shape, on the same device. It is only read."""
    alpha: float
    """Share of the own values."""
    past: Tensor | None = None
    """The own values when the scion was published."""
    moved: tuple[Tensor, ...] = ()
    """Tensors that change by what `own` changes."""
    noted: Tensor | None = None
    """Tensor that becomes a copy of `own` after the blend. It may be `past`."""


def reset_(statistics: Tensor, key: str, *, alpha: float) -> None:
    """Reset a batch norm's running statistics in place if anything was grafted: mean to 0, variance to 1.

    Args:
        statistics: Running mean or variance. They are changed.
        key: Its key, which ends in running_mean or running_var.
        alpha: Nothing happens at 1.
    """
    if alpha < 1.0:
        statistics.fill_(float(key.endswith("running_var")))


def blend_all(blends: Sequence[Blend]) -> None:
    """Carry out blends, in place.

    Without a past, the two products and the sum are rounded one by one. Exchanging the sides, and alpha for 1 - alpha,
    therefore gives the same bits. lerp and fused multiply-add do not have this property.

    Args:
        blends: Blends of tensors on one device.
    """
    if blends and blends[0].own.device.type != "cpu":
        _blend_on_device([item for item in blends if item.past is None])
        _blend_on_device([item for item in blends if item.past is not None])
        return
    for item in blends:
        _blend_on_cpu(item)


def blend_(own: Tensor, scion: Tensor, alpha: float) -> None:
    """Set own to own * alpha + scion * (1 - alpha), in place, as `blend_all`.

    Args:
        own: Changed.
        scion: Tensor of the same shape, on any device. It is only read.
        alpha: Share of the own values.
    """
    blend_all([Blend(own=own, scion=scion.to(own.device), alpha=alpha)])


def move_all(tensors: Sequence[Tensor], after: Sequence[Tensor], before: Sequence[Tensor]) -> None:
    """Add to each tensor what another one changed: tensor + (after - before), in place.

    Args:
        tensors: Tensors on one device. They are changed.
        after: Values of the other tensors after the change.
        before: Values before it.
    """
    blend_all(
        [
            Blend(own=tensor, scion=new, alpha=0.0, past=old)
            for tensor, new, old in zip(tensors, after, before, strict=True)
        ]
    )


def blend_weighted(
    own: Sequence[Tensor], scions: Sequence[Sequence[Tensor]], weights: Sequence[Sequence[float]]
) -> None:
    """Blend several scions into tensors, in place. The own values keep 1 less the sum of the scions' weights.

    Args:
        own: Tensors on one device. They are changed.
        scions: For each scion its tensors, of the same shapes and on the same device. They are only read.
        weights: For each scion its weight in each tensor.
    """
    own_weights = [1.0 - sum(column) for column in zip(*weights, strict=True)]
    if own and own[0].device.type != "cpu":
        FOREACH._foreach_mul_(list(own), own_weights)
        for tensors, column in zip(scions, weights, strict=True):
            FOREACH._foreach_add_(list(own), FOREACH._foreach_mul(list(tensors), list(column)))
        return
    for index, tensor in enumerate(own):
        tensor.mul_(own_weights[index])
        for tensors, column in zip(scions, weights, strict=True):
            if column[index]:
                tensor.add_(tensors[index], alpha=column[index])


def _blend_on_device(blends: Sequence[Blend]) -> None:
    """Blend all tensors at once. The followers take the change itself, and not the rounded difference it makes."""
    if not blends:
        return
    own, scions = [item.own for item in blends], [item.scion for item in blends]
    alphas = [item.alpha for item in blends]
    shares = [1.0 - alpha for alpha in alphas]
    pasts = [item.past for item in blends if item.past is not None]
    if pasts:
        change = FOREACH._foreach_sub(scions, pasts)
        FOREACH._foreach_mul_(change, shares)
        FOREACH._foreach_add_(own, change)
    else:
        blended = FOREACH._foreach_mul(own, alphas)
        FOREACH._foreach_add_(blended, FOREACH._foreach_mul(scions, shares))
        change = FOREACH._foreach_sub(blended, own)
        copy_all(own, blended)
    for number in range(max(len(item.moved) for item in blends)):
        chosen = [index for index, item in enumerate(blends) if len(item.moved) > number]
        FOREACH._foreach_add_([blends[index].moved[number] for index in chosen], [change[index] for index in chosen])
    noted = [(item.noted, item.own) for item in blends if item.noted is not None]
    copy_all([target for target, _ in noted], [source for _, source in noted])


def _blend_on_cpu(item: Blend) -> None:
    """Blend one tensor, in blocks if the values of all tensors lie in the same order in memory."""
    others = [tensor for tensor in (item.scion, item.past, item.noted, *item.moved) if tensor is not None]
    is_few = len(item.moved) <= compiled_loops.MOST_MOVED
    if compiled_loops.blend is not None and is_few and _have_one_order(item.own, others):
        compiled_loops.blend(item.own, item.scion, item.past, item.moved, item.noted, item.alpha)
        return
    if not all(has_same_order(item.own, tensor) for tensor in others):
        _blend_block(item, torch.empty_like(item.own), torch.empty_like(item.own))
        return
    flat = Blend(
        own=in_memory_order(item.own),
        scion=in_memory_order(item.scion),
        alpha=item.alpha,
        past=None if item.past is None else in_memory_order(item.past),
        moved=tuple(in_memory_order(tensor) for tensor in item.moved),
        noted=None if item.noted is None else in_memory_order(item.noted),
    )
    size = min(BLOCK_VALUES, flat.own.numel())
    before, change = torch.empty(size, dtype=item.own.dtype), torch.empty(size, dtype=item.own.dtype)
    for start in range(0, flat.own.numel(), BLOCK_VALUES):
        chosen = slice(start, start + BLOCK_VALUES)
        block = Blend(
            own=flat.own[chosen],
            scion=flat.scion[chosen],
            alpha=flat.alpha,
            past=None if flat.past is None else flat.past[chosen],
            moved=tuple(tensor[chosen] for tensor in flat.moved),
            noted=None if flat.noted is None else flat.noted[chosen],
        )
        _blend_block(block, before[: len(block.own)], change[: len(block.own)])


def _have_one_order(own: Tensor, others: Sequence[Tensor]) -> bool:
    """Return whether all tensors are of type float32 and of one shape, without gaps, with values in the same order."""
    strides = own.stride()
    if any(tensor.shape != own.shape for tensor in others):
        return False
    for tensor in others:
        if tensor.dtype is not torch.float32 or tensor.stride() != strides:
            return own.dtype is torch.float32 and all(
                tensor.dtype is torch.float32 and has_same_order(own, tensor) for tensor in others
            )
    return own.dtype is torch.float32 and is_dense(own)


def _blend_block(item: Blend, before: Tensor, change: Tensor) -> None:
    """Blend one block. `before` and `change` are memory of its shape."""
    if item.moved:
        before.copy_(item.own)
    if item.past is None:
        torch.mul(item.scion, 1.0 - item.alpha, out=change)
        item.own.mul_(item.alpha).add_(change)
    else:
        torch.sub(item.scion, item.past, out=change)
        item.own.add_(change, alpha=1.0 - item.alpha)
    if item.moved:
        torch.sub(item.own, before, out=change)
    for tensor in item.moved:
        tensor.add_(change)
    if item.noted is not None:
        item.noted.copy_(item.own)
