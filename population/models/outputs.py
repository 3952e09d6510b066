"""Find the logits in the output of a network: a tensor, a tuple with auxiliary heads, a mapping, a model output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from inarch.population.errors import ConfigError

KEYS = ("logits", "out", "output")
"""Under which a mapping or a model output holds its logits, the likeliest first."""


def logits_of(output: Any) -> Tensor:
    """Return the logits of a network's output.

    Args:
        output: A tensor; a tuple or list, whose first entry counts (auxiliary heads follow it); a mapping or an object
            with an entry `logits`.

    Raises:
        ConfigError: it holds no tensor there.
    """
    if isinstance(output, Tensor):
        return output
    found = None
    for key in KEYS:
        if found is None:
            found = output.get(key) if isinstance(output, Mapping) else getattr(output, key, None)
    if found is None and isinstance(output, (tuple, list)) and len(output):
        found = output[0]
    if not isinstance(found, Tensor):
        held = f" with {', '.join(map(str, output))}" if isinstance(output, Mapping) else ""
        raise ConfigError(
            f"the network must give logits, as a tensor, the first entry of a tuple, or under the name logits; it gave "
            f"{type(output).__name__}{held}"
        )
    return found


def give_logits(model: nn.Module) -> None:
    """Register a hook by which every call of a network returns its logits alone."""
    model.register_forward_hook(_only_logits)


def _only_logits(model: nn.Module, inputs: Any, output: Any) -> Tensor:
    return logits_of(output)
