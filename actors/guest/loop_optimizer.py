"""The optimizer of a training loop of the caller's own: its steps, its learning rate and its momentum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class LoopOptimizer:
    """Watches an optimizer, and changes what an exchange rule asks for."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        """Read the initial learning rate.

        Args:
            optimizer: The optimizer. Wrappers of accelerate and Lightning are taken off.
        """
        self.optimizer = bare_optimizer(optimizer)
        self._first_rate = self._group().get("initial_lr", self.rate)
        self._hook: torch.utils.hooks.RemovableHandle | None = None

    @property
    def rate(self) -> float:
        """Present learning rate of the first parameter group."""
        return float(self._group()["lr"])

    @property
    def initial_rate(self) -> float:
        """Initial learning rate: what a scheduler has recorded, or else the rate when the loop joined."""
        return float(self._group().get("initial_lr", self._first_rate))

    @property
    def rate_factor(self) -> float:
        """Present learning rate as a share of the initial one, at most 1."""
        return min(1.0, self.rate / self.initial_rate) if self.initial_rate > 0 else 1.0

    def watch(self, after_step: Callable[[], Any]) -> None:
        """Call a function after each step of the optimizer.

        Args:
            after_step: The function.
        """

        def hook(optimizer: torch.optim.Optimizer, arguments: Any, keywords: Any) -> None:
            after_step()

        self._hook = self.optimizer.register_step_post_hook(hook)

    def release(self) -> None:
        """Watch no longer."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def reset_momentum(self) -> None:
        """Drop the optimizer's state. It builds a new one at its next step."""
        self.optimizer.state.clear()

    def scale_rates(self, factor: float) -> None:
        """Multiply the learning rate of every parameter group, and the initial one that a scheduler has recorded.

        Args:
            factor: The factor, above 0.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = group["lr"] * factor
            if "initial_lr" in group:
                group["initial_lr"] = group["initial_lr"] * factor
        self._first_rate = self._first_rate * factor

    def _group(self) -> dict[str, Any]:
        return self.optimizer.param_groups[0]


def bare_optimizer(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Return the optimizer inside the wrappers of accelerate and Lightning, which keep it in `optimizer`.

    Args:
        optimizer: The optimizer as the training loop holds it.
    """
    inner: Any = optimizer
    while isinstance(getattr(inner, "optimizer", None), torch.optim.Optimizer):
        inner = inner.optimizer
    return inner
