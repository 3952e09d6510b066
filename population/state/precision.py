"""How a network's forward pass runs: its precision, and without compilation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

Precision = Callable[[], AbstractContextManager[object]]
"""Returns the context in which networks run."""


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return a context in which a network runs in the configured precision.

    Args:
        precision: As `DeviceConfig.precision`. auto: bfloat16 on GPUs that compute in it.
        device: Device of the network.
    """
    if precision == "auto":
        # A GPU that emulates bfloat16, such as a V100 or T4, is slower with it.
        usable = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bfloat16" if usable else "float32"
    dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def without_compilation(model: nn.Module) -> nn.Module:
    """Return the network itself if `model` is its compiled form, or else `model`.

    Args:
        model: A network, or what `torch.compile` made of it.
    """
    return getattr(model, "_orig_mod", model)


def measure_batch_norm(inputs: Iterable[Tensor], model: nn.Module) -> None:
    """Measure a network's batch norm statistics again, in place, as `torch.optim.swa_utils.update_bn`.

    The network runs without compilation: torch would compile each batch norm anew for this, because it counts batches
    on the CPU.

    Args:
        inputs: Batches of training inputs, on the network's device.
        model: The network, or its compiled form.
    """
    update_bn(inputs, without_compilation(model))
