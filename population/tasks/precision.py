"""The precision of forward passes."""

from __future__ import annotations

import torch


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return a context in which a network runs in the configured precision.

    Args:
        precision: As `DeviceConfig.precision`. auto: bfloat16 on GPUs that support it.
        device: Device of the network.
    """
    if precision == "auto":
        usable = device.type == "cuda" and torch.cuda.is_bf16_supported()
        precision = "bfloat16" if usable else "float32"
    dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
