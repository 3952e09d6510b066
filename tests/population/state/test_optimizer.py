"""The state of optimizers before their first step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from inarch.population.errors import ConfigError
from inarch.population.state.optimizer import create_state, load_optimizer, moment_buffers


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.arange(8.0).view(2, 4)).square().mean().backward()
    optimizer.step()


OPTIMIZERS: dict[str, tuple[Callable[..., torch.optim.Optimizer], set[str]]] = {
    "sgd": (lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=0.1), {"momentum_buffer"}),
    "plain": (lambda p: torch.optim.SGD(p, lr=0.01), set()),
    "adamw": (lambda p: torch.optim.AdamW(p, lr=0.01), {"exp_avg", "exp_avg_sq"}),
    "amsgrad": (lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True), {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"}),
    "rmsprop": (lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9), {"square_avg", "momentum_buffer"}),
    "nadam": (lambda p: torch.optim.NAdam(p, lr=0.01), {"exp_avg", "exp_avg_sq"}),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_created_state_is_that_before_the_first_step(name: str) -> None:
    make, slots = OPTIMIZERS[name]
    first, second = network(), network()
    plain, created = make(first.parameters()), make(second.parameters())
    create_state(created)
    assert all(torch.equal(own, other) for own, other in zip(first.parameters(), second.parameters(), strict=True))
    names = {id(parameter): key for key, parameter in second.named_parameters()}
    buffers = list(moment_buffers(created, names, None))
    assert {slot for slot, _, _ in buffers} == slots
    assert all(not tensor.any() for _, _, tensor in buffers)
    for _ in range(3):
        step(first, plain)
        step(second, created)
    for own, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.allclose(own, other, atol=1e-7), name


@pytest.mark.parametrize(("fused", "place"), [(True, "meta"), (None, "cpu")])
def test_step_counter_lies_where_the_optimizer_needs_it(fused: bool | None, place: str) -> None:
    """A fused optimizer on a GPU needs its counter there. Here the device meta stands for the GPU."""
    parameter = torch.nn.Parameter(torch.zeros(3, device="meta"))
    optimizer = torch.optim.AdamW([parameter])
    optimizer.param_groups[0]["fused"] = fused
    names = {id(parameter): "x"}
    list(moment_buffers(optimizer, names, ("exp_avg", "exp_avg_sq")))
    assert optimizer.state[parameter]["step"].device.type == place
    saved = {"optimizer.step.x": torch.tensor(3.0), "optimizer.exp_avg.x": torch.zeros(3)}
    load_optimizer(optimizer, names, saved)
    assert optimizer.state[parameter]["step"].device.type == place
    assert optimizer.state[parameter]["exp_avg"].device.type == "meta"


def test_parameters_without_a_name_are_left_out() -> None:
    """A loop may exchange a part of the model that its optimizer trains."""
    model, other = network(), torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([*model.parameters(), other], lr=0.1, momentum=0.9)
    create_state(optimizer)
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    assert {name for _, name, _ in moment_buffers(optimizer, names, None)} == set(names.values())


def test_state_that_exists_is_kept() -> None:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    step(model, optimizer)
    weight: Any = model[0].weight
    before = optimizer.state[weight]["exp_avg"].clone()
    create_state(optimizer)
    assert torch.equal(optimizer.state[weight]["exp_avg"], before)


class Stubborn(torch.optim.SGD):
    """An optimizer that cannot be created from its parameter groups alone."""

    def __init__(self, params: Any, secret: str) -> None:
        super().__init__(params, lr=0.1)


def test_state_with_unknown_entries_is_an_error() -> None:
    with pytest.raises(ConfigError, match="its state has eta"):
        create_state(torch.optim.ASGD(network().parameters(), lr=0.1))


def test_optimizer_that_cannot_be_copied_is_an_error() -> None:
    with pytest.raises(ConfigError, match="running averages of Stubborn are not known before its first step"):
        create_state(Stubborn(network().parameters(), "secret"))
