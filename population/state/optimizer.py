"""Create a network's optimizer, and save and load its state by parameter names, without pickle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from inarch.population.config import OptimizerConfig, RunConfig

MOMENTUM_SLOTS = {"sgd": ("momentum_buffer",), "adamw": ("exp_avg", "exp_avg_sq")}
"""Running averages of gradients that each optimizer holds, by torch's names."""


def make_optimizer(module: nn.Module, config: RunConfig, learning_rate: float) -> torch.optim.Optimizer:
    """Return a new optimizer of a network's trainable parameters.

    Args:
        module: The network.
        config: The run's configuration. Its section `optimizer` is read.
        learning_rate: Initial learning rate of this network.
    """
    settings = config.optimizer
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if settings.name == "adamw":
        return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=settings.weight_decay)
    return torch.optim.SGD(
        parameters,
        lr=learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.nesterov,
    )


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> dict[str, Tensor]:
    """Return an optimizer's state as copies on the CPU, with keys `optimizer.<slot>.<parameter name>`.

    Args:
        optimizer: The optimizer.
        names: Name of each of its parameters, by the parameter's `id`.
    """
    return {
        f"optimizer.{slot}.{names[id(parameter)]}": value.detach().to("cpu", copy=True).contiguous()
        for parameter, state in optimizer.state.items()
        for slot, value in state.items()
        if isinstance(value, Tensor)
    }


def load_optimizer(optimizer: torch.optim.Optimizer, names: Mapping[int, str], tensors: Mapping[str, Tensor]) -> None:
    """Load the state that `optimizer_tensors` returned. Entries of unknown parameters are ignored.

    Args:
        optimizer: The optimizer. Its present state is dropped first.
        names: Name of each of its parameters, by the parameter's `id`.
        tensors: The state. It is copied to the parameters' devices.
    """
    parameters = {names[id(parameter)]: parameter for group in optimizer.param_groups for parameter in group["params"]}
    optimizer.state.clear()
    for key, value in tensors.items():
        kind, _, rest = key.partition(".")
        slot, _, name = rest.partition(".")
        if kind == "optimizer" and name in parameters:
            parameter = parameters[name]
            has_same_shape = value.shape == parameter.shape
            # In the parameter's memory order, the optimizer computes the same bits as before the checkpoint.
            own = torch.empty_like(parameter, dtype=value.dtype) if has_same_shape else torch.empty_like(value)
            optimizer.state[parameter][slot] = own.detach().copy_(value)


def count_steps(optimizer: torch.optim.Optimizer, steps: float) -> None:
    """Set the number of steps behind an optimizer's running averages. It matters for their bias correction.

    Args:
        optimizer: The optimizer. It is changed. One without step counters stays as it is.
        steps: Steps behind the averages, rounded to an integer.
    """
    for state in optimizer.state.values():
        if "step" in state:
            state["step"].fill_(round(steps))


def moment_buffers(
    optimizer: torch.optim.Optimizer, names: Mapping[int, str], config: OptimizerConfig
) -> Iterator[tuple[str, str, Tensor]]:
    """Yield the running averages of an optimizer.

    Averages that do not exist yet, because no step was taken, are created as zeros.

    Args:
        optimizer: The optimizer. The tensors are its own.
        names: Name of each of its parameters, by the parameter's `id`.
        config: Settings of the optimizer. SGD without momentum has no averages.

    Yields:
        Slot, parameter name and tensor of each average.
    """
    has_averages = config.name != "sgd" or config.momentum > 0
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            for slot in MOMENTUM_SLOTS[config.name] if has_averages else ():
                if state.get(slot) is None:
                    state[slot] = torch.zeros_like(parameter)
                    if slot == "exp_avg":
                        state["step"] = torch.zeros(())
                yield slot, names[id(parameter)], state[slot]
