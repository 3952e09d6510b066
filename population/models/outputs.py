"""Find the logits in a model's output: a tensor, a tuple with auxiliary heads, a mapping or an output object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from inarch.population.errors import ConfigError

KEYS = ("logits", "out", "output")
"""Names under which a mapping or an output object may hold its logits, the likeliest first."""


def logits_of(output: Any) -> Tensor:
    """Return the logits in a model's output.

    Args:
        output: A tensor, a tuple or list, a mapping, or an object with attributes. In a tuple or list the first entry
            holds the logits, and auxiliary heads follow it. In a mapping or object the first name of KEYS that it has
            holds them.

    Raises:
        ConfigError: The output holds no tensor in that place.
    """
    if isinstance(output, Tensor):
        return output
    logits = None
    for key in KEYS:
        if logits is None:
            logits = output.get(key) if isinstance(output, Mapping) else getattr(output, key, None)
    if logits is None and isinstance(output, (tuple, list)) and len(output):
        logits = output[0]
    if not isinstance(logits, Tensor):
        keys = f" with {', '.join(map(str, output))}" if isinstance(output, Mapping) else ""
        raise ConfigError(
            f"the network must give logits, as a tensor, the first entry of a tuple, or under the name logits; it gave "
            f"{type(output).__name__}{keys}"
        )
    return logits


def give_logits(model: nn.Module) -> None:
    """Register a forward hook, so that every call of the model returns its logits alone."""
    model.register_forward_hook(_only_logits)


def _only_logits(model: nn.Module, inputs: Any, output: Any) -> Tensor:
    return logits_of(output)
