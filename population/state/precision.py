"""How a network's forward pass runs: its precision, and without compilation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage] # the base of all batch norms

from inarch.population.state.state_dict import BATCH_NORM_STATISTICS

TrainingInput = Tensor | Callable[[nn.Module], object]
"""A batch of inputs, or a function that passes a batch through a network."""

Precision = Callable[[], AbstractContextManager[object]]
"""Returns the context in which networks run."""


def autocast(precision: str, device: torch.device, *, on_cpu: bool = False) -> torch.autocast:
    """Return a context in which a network runs in the configured precision.

    Args:
        precision: As `DeviceConfig.precision`. auto: bfloat16 on devices that compute in it, else float32.
        device: Device of the network.
        on_cpu: Whether auto stands for bfloat16 on CPUs too. This is measured for image classification only.
    """
    if precision == "auto":
        precision = "bfloat16" if (on_cpu or device.type != "cpu") and computes_bfloat16(device) else "float32"
    dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def computes_bfloat16(device: torch.device) -> bool:
    """Return whether a device computes in bfloat16. A GPU or CPU that emulates it, such as a T4, is slower with it.

    Args:
        device: A CPU or GPU. Other devices count as unable, and so does a CPU of which torch does not tell.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = getattr(torch.cpu, "get_capabilities", dict) if device.type == "cpu" else dict
    return bool(capabilities().get("avx512_bf16"))


def without_compilation(model: nn.Module) -> nn.Module:
    """Return the network itself if `model` is its compiled form, or else `model`.

    Args:
        model: A network, or what `torch.compile` made of it.
    """
    return getattr(model, "_orig_mod", model)


@torch.no_grad()
def unmeasured_statistics(model: nn.Module) -> frozenset[str]:
    """Return the keys of running statistics that `measure_batch_norm` does not measure.

    They belong to layers that stay in evaluation mode when the network trains, and to other layers than batch norm.

    Args:
        model: The network, or its compiled form. It keeps its mode.
    """
    network = without_compilation(model)
    modes = {layer: layer.training for layer in network.modules()}
    network.train()
    keys = {
        f"{name}.{key}" if name else key
        for name, layer in network.named_modules()
        for key in BATCH_NORM_STATISTICS
        if isinstance(getattr(layer, key, None), Tensor) and not _is_measured(layer)
    }
    for layer, is_training in modes.items():
        layer.training = is_training
    return frozenset(keys)


def _is_measured(layer: nn.Module) -> bool:
    """Whether `measure_batch_norm` measures a layer of a network in training mode."""
    return isinstance(layer, _BatchNorm) and layer.training and layer.track_running_stats


def measure_batch_norm(inputs: Iterable[TrainingInput], model: nn.Module) -> None:
    """Measure a network's batch norm statistics again, in place, as `torch.optim.swa_utils.update_bn`.

    Layers that stay in evaluation mode when the network trains are frozen, and keep their statistics. The network runs
    without compilation: torch would compile each batch norm anew for this, because it counts batches on the CPU.

    Args:
        inputs: Batches of training inputs, on the network's device, or functions that pass a batch through the network.
        model: The network, or its compiled form.
    """
    network = without_compilation(model)
    was_training = network.training
    network.train()
    measured = {
        layer: layer.momentum for layer in network.modules() if isinstance(layer, _BatchNorm) and _is_measured(layer)
    }
    try:
        for layer in measured:
            layer.reset_running_stats()
            layer.momentum = None
        for batch in inputs if measured else ():
            if callable(batch):
                batch(network)
            else:
                network(batch[0] if isinstance(batch, (list, tuple)) else batch)
    finally:
        for layer, momentum in measured.items():
            layer.momentum = momentum
        network.train(was_training)
