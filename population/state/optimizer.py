"""Create a network's optimizer, and save and load its state by parameter names, without pickle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from inarch.population.config import OptimizerConfig, RunConfig
from inarch.population.config.per_network import number
from inarch.population.errors import ConfigError

MOMENTUM_SLOTS = {"sgd": ("momentum_buffer",), "adamw": ("exp_avg", "exp_avg_sq")}
"""Running averages of gradients that each optimizer holds, by torch's names."""


INITIAL_COUNTERS = {"step": 0, "mu_product": 1}
"""Entries of optimizers' states that are no running averages, by torch's names, with their values before the first
step."""


def make_optimizer(module: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    """Return a new optimizer of a network's trainable parameters.

    Args:
        module: The network.
        config: Configuration of the network, as `network_config`. Its section `optimizer` is read.
    """
    settings = config.optimizer
    # With the gradient scaler of float16, only a fused optimizer decides on the GPU whether to skip a step.
    is_scaled = config.device.precision == "float16"
    fused = True if is_scaled and next(module.parameters()).device.type == "cuda" else None
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    rate, weight_decay = number(settings.learning_rate), number(settings.weight_decay)
    if settings.name == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=weight_decay, fused=fused)
    return torch.optim.SGD(
        parameters,
        lr=rate,
        momentum=number(settings.momentum),
        weight_decay=weight_decay,
        nesterov=settings.nesterov,
        fused=fused,
    )


def set_numbers(optimizer: torch.optim.Optimizer, settings: OptimizerConfig) -> None:
    """Give an optimizer of `make_optimizer` other numbers. Its learning rate is set at each step.

    Args:
        optimizer: The optimizer.
        settings: Section `optimizer` of the network's configuration.
    """
    for group in optimizer.param_groups:
        group["weight_decay"] = number(settings.weight_decay)
        if settings.name == "sgd":
            group["momentum"] = number(settings.momentum)


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> dict[str, Tensor]:
    """Return an optimizer's state, not copied, with keys `optimizer.<slot>.<parameter name>`.

    Args:
        optimizer: The optimizer.
        names: Name of each of its parameters, by the parameter's `id`.
    """
    return {
        f"optimizer.{slot}.{names[id(parameter)]}": value
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
    step_devices = {p: _step_device(group, p) for group in optimizer.param_groups for p in group["params"]}
    optimizer.state.clear()
    for key, value in tensors.items():
        kind, _, rest = key.partition(".")
        slot, _, name = rest.partition(".")
        if kind == "optimizer" and name in parameters:
            parameter = parameters[name]
            has_same_shape = value.shape == parameter.shape
            # In the parameter's memory order, the optimizer computes the same bits as before the checkpoint.
            own = torch.empty_like(parameter, dtype=value.dtype) if has_same_shape else torch.empty_like(value)
            if slot == "step":
                own = own.to(step_devices[parameter])
            optimizer.state[parameter][slot] = own.detach().copy_(value)


def _step_device(group: Mapping[str, Any], parameter: Tensor) -> torch.device:
    """Return where an optimizer keeps its counter of steps: with the parameter if it is fused, else on the CPU."""
    is_with_parameter = group.get("fused") or group.get("capturable")
    return parameter.device if is_with_parameter else torch.device("cpu")


def count_steps(optimizer: torch.optim.Optimizer, steps: float) -> None:
    """Set the number of steps behind an optimizer's running averages. It matters for their bias correction.

    Args:
        optimizer: The optimizer. It is changed. One without step counters stays as it is.
        steps: Steps behind the averages, rounded to an integer.
    """
    for state in optimizer.state.values():
        if "step" in state:
            state["step"].fill_(round(steps))


def moment_slots(config: OptimizerConfig) -> tuple[str, ...]:
    """Return the running averages that an optimizer holds for each parameter, by torch's names.

    Args:
        config: Settings of the optimizer of one network. SGD without momentum has no averages.
    """
    return MOMENTUM_SLOTS[config.name] if config.name != "sgd" or number(config.momentum) > 0 else ()


def moment_buffers(
    optimizer: torch.optim.Optimizer, names: Mapping[int, str], slots: tuple[str, ...] | None
) -> Iterator[tuple[str, str, Tensor]]:
    """Yield the running averages of an optimizer.

    Args:
        optimizer: The optimizer. The tensors are its own.
        names: Name of each of its parameters, by the parameter's `id`. Parameters that are not in it are left out.
        slots: Averages of each parameter. Those that do not exist yet, because no step was taken, are created as zeros.
            None: all that the optimizer's state holds, which are its tensors of the parameter's shape.

    Yields:
        Slot, parameter name and tensor of each average.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if id(parameter) not in names:
                continue
            state = optimizer.state[parameter]
            for slot in _observed_slots(parameter, state) if slots is None else slots:
                if state.get(slot) is None:
                    state[slot] = torch.zeros_like(parameter)
                    if slot == "exp_avg":
                        state["step"] = torch.zeros((), device=_step_device(group, parameter))
                yield slot, names[id(parameter)], state[slot]


def _observed_slots(parameter: Tensor, state: Mapping[str, object]) -> list[str]:
    return [
        slot
        for slot, value in state.items()
        if isinstance(value, Tensor) and value.shape == parameter.shape and value.is_floating_point()
        if slot != "step"  # of a parameter without dimensions it has the same shape
    ]


def create_state(optimizer: torch.optim.Optimizer) -> None:
    """Give an optimizer that has taken no step the state with which it would take the first.

    A second optimizer of the same class takes a step on zeros. Its state is copied, with its counters set back. The
    parameters stay as they are.

    Args:
        optimizer: The optimizer. Parameters that have a state keep it.

    Raises:
        ConfigError: An optimizer of this class cannot be created from its parameter groups alone, or its state has
            entries whose initial values are not known.
    """
    fresh = [
        [p for p in group["params"] if p.requires_grad and p not in optimizer.state] for group in _groups(optimizer)
    ]
    groups, pairs = [], []
    for group, parameters in zip(_groups(optimizer), fresh, strict=True):
        twins = [torch.zeros_like(parameter, requires_grad=True) for parameter in parameters]
        pairs += list(zip(parameters, twins, strict=True))
        if twins:
            groups.append({name: value for name, value in group.items() if name != "params"} | {"params": twins})
    if not pairs:
        return
    try:
        twin = cast("Callable[[list[dict[str, Any]]], torch.optim.Optimizer]", type(optimizer))(groups)
        for _, parameter in pairs:
            parameter.grad = torch.zeros_like(parameter)
        twin.step()
    except Exception as error:  # of any optimizer's own code
        raise _unknown_state(optimizer, f"{type(error).__name__}: {error}") from error
    for parameter, copy in pairs:
        state = twin.state[copy]
        averages = _observed_slots(copy, state)
        unknown = [slot for slot in state if slot not in averages and slot not in INITIAL_COUNTERS]
        if unknown:
            raise _unknown_state(optimizer, f"its state has {unknown[0]}")
        for slot, value in state.items():
            if slot not in averages:
                first = INITIAL_COUNTERS[slot]
                value = torch.full_like(value, first) if isinstance(value, Tensor) else first
            optimizer.state[parameter][slot] = value


def _unknown_state(optimizer: torch.optim.Optimizer, reason: str) -> ConfigError:
    return ConfigError(
        f"graft.momentum=blend: the running averages of {type(optimizer).__name__} are not known before its first step "
        f"({reason}); take a step before, or use keep or reset"
    )


def _groups(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    return optimizer.param_groups
