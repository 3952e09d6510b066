"""Staging, entropies and blends on a device, against the CPU or against known values."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from inarch.population.grafting.blending import blend_
from inarch.population.grafting.histogram import entropies_at_once
from inarch.population.grafting.information import layer_entropy
from inarch.population.state.memory_order import FOREACH
from inarch.population.state.snapshot import StagingBuffer, layout_of, unflatten
from inarch.population.state.state_dict import named_tensors
from tests.gpu.devices import ALL, Device, deterministic

TURNS = 200


def convolutions(channels: int) -> nn.Module:
    block = [nn.Conv2d(channels, channels, 3, bias=False), nn.BatchNorm2d(channels)]
    return nn.Sequential(nn.Conv2d(3, channels, 3), nn.BatchNorm2d(channels), *block, nn.Flatten(), nn.Linear(3, 3))


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels-last"])
@pytest.mark.parametrize("device", ALL, indirect=True)
def test_staged_weights_are_those_before_the_next_step(device: Device, channels_last: bool) -> None:
    order = torch.channels_last if channels_last else torch.contiguous_format
    module = convolutions(512 if device.is_real_gpu else 16).to(memory_format=order)
    expected_layout = layout_of(named_tensors(module))
    module = module.to(device.name)
    with torch.no_grad():
        for tensor in named_tensors(module).values():
            tensor.zero_()
    layout = layout_of(named_tensors(module))
    assert layout == expected_layout and layout.channels_last is channels_last
    staging = StagingBuffer(layout, torch.device(device.name))
    if device.kind != "cpu":  # on the CPU the buffer would be the weights themselves
        staging.alias_parameters(module)
    state = named_tensors(module)
    busy = torch.ones(1024 if device.is_real_gpu else 8, 1024 if device.is_real_gpu else 8, device=device.name)
    for turn in range(TURNS):
        torch.mm(busy, busy)  # the copy is still to come when the weights change
        staging.stage(state)
        FOREACH._foreach_add_(list(state.values()), 1)
        staged = unflatten(staging.buffer(), layout)
        assert all(bool((tensor == turn).all()) for tensor in staged.values()), turn
    assert all(bool((tensor == TURNS).all()) for tensor in state.values())


def layers(dtype: torch.dtype) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    outlier = torch.randn(4096, generator=random)
    outlier[17] = 1e4
    return [
        torch.randn(64, 32, 3, 3, generator=random).to(dtype),
        torch.randn(64, 32, 3, 3, generator=random).to(dtype).to(memory_format=torch.channels_last),
        torch.full((300,), 0.25, dtype=dtype),
        outlier.to(dtype),
        torch.rand(7, generator=random).to(dtype),
    ]


@pytest.mark.parametrize("is_deterministic", [False, True], ids=["any", "deterministic"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("device", ALL, indirect=True)
def test_entropies_equal_those_of_the_cpu(device: Device, dtype: torch.dtype, is_deterministic: bool) -> None:
    weights = layers(dtype)
    expected = [float(layer_entropy(weight)) for weight in weights]
    on_device = [weight.to(device.name) for weight in weights]
    if is_deterministic:
        with deterministic():
            entropy, low, high = entropies_at_once(on_device, 10).cpu()
    else:
        entropy, low, high = entropies_at_once(on_device, 10).cpu()
    assert entropy.tolist() == pytest.approx(expected, abs=1e-6)
    assert low.tolist() == [float(weight.min()) for weight in weights]
    assert high.tolist() == [float(weight.max()) for weight in weights]
    assert entropy[2] == 0.0 and entropy[3] < 0.01


@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.6875])
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels-last"])
@pytest.mark.parametrize("device", ALL, indirect=True)
def test_blend_with_swapped_sides_has_equal_bits(device: Device, channels_last: bool, alpha: float) -> None:
    random = torch.Generator().manual_seed(0)
    first, second = (torch.randn(64, 32, 3, 3, generator=random) for _ in range(2))
    expected = first.clone()
    blend_(expected, second, alpha)
    if channels_last:
        first, second = (tensor.to(memory_format=torch.channels_last) for tensor in (first, second))
    own, other = (tensor.to(device.name, copy=True) for tensor in (first, second))
    blend_(own, second.to(device.name), alpha)
    blend_(other, first.to(device.name), 1.0 - alpha)
    assert torch.equal(own.cpu(), other.cpu())
    assert torch.equal(own.cpu(), expected), "products and sum are rounded one by one, as on the CPU"
