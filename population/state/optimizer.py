"""The optimizer of a network: made from the configuration, saved and loaded by parameter names, without pickle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from inarch.population.config import OptimizerConfig, RunConfig

MOMENTUM_SLOTS = {"sgd": ("momentum_buffer",), "adamw": ("exp_avg", "exp_avg_sq")}
"""What each optimizer keeps of past gradients, by torch's own names."""


def make_optimizer(module: nn.Module, config: RunConfig, learning_rate: float) -> torch.optim.Optimizer:
    """A fresh optimizer of a network's trainable parameters.

    Args:
        module: The network.
        config: The run's; `optimizer` tells which and how.
        learning_rate: Initial, of this network.
    """
    wanted = config.optimizer
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if wanted.name == "adamw":
        return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=wanted.weight_decay)
    return torch.optim.SGD(
        parameters,
        lr=learning_rate,
        momentum=wanted.momentum,
        weight_decay=wanted.weight_decay,
        nesterov=wanted.nesterov,
    )


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> dict[str, Tensor]:
    """The optimizer's state by slot and parameter name, as copies on the CPU."""
    return {
        f"optimizer.{slot}.{names[id(parameter)]}": value.detach().to("cpu", copy=True).contiguous()
        for parameter, state in optimizer.state.items()
        for slot, value in state.items()
        if isinstance(value, Tensor)
    }


def load_optimizer(optimizer: torch.optim.Optimizer, names: Mapping[int, str], tensors: Mapping[str, Tensor]) -> None:
    """Take over what `optimizer_tensors` gave; entries of parameters that are not there are passed over.

    Args:
        optimizer: Whose state is dropped first.
        names: Of its parameters, by id.
        tensors: Copied to the parameters' devices.
    """
    parameters = {names[id(parameter)]: parameter for group in optimizer.param_groups for parameter in group["params"]}
    optimizer.state.clear()
    for key, value in tensors.items():
        kind, _, rest = key.partition(".")
        slot, _, name = rest.partition(".")
        if kind == "optimizer" and name in parameters:
            parameter = parameters[name]
            is_alike = value.shape == parameter.shape
            # In the parameter's own memory order: the optimizer's arithmetic then gives the bits that it gave before.
            own = torch.empty_like(parameter, dtype=value.dtype) if is_alike else torch.empty_like(value)
            optimizer.state[parameter][slot] = own.detach().copy_(value)


def count_steps(optimizer: torch.optim.Optimizer, steps: float) -> None:
    """Tell an optimizer that corrects its running averages for their beginning how many steps are behind them."""
    for state in optimizer.state.values():
        if "step" in state:
            state["step"].fill_(round(steps))


def moment_buffers(
    optimizer: torch.optim.Optimizer, names: Mapping[int, str], config: OptimizerConfig
) -> Iterator[tuple[str, str, Tensor]]:
    """Slot, parameter's name and running average of each; averages that no step has made yet are made, as zeros."""
    has_some = config.name != "sgd" or config.momentum > 0
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            for slot in MOMENTUM_SLOTS[config.name] if has_some else ():
                if state.get(slot) is None:
                    state[slot] = torch.zeros_like(parameter)
                    if slot == "exp_avg":
                        state["step"] = torch.zeros(())
                yield slot, names[id(parameter)], state[slot]
