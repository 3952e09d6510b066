"""Packed snapshots: bounds of the rounding, what keeps its bits, and values that are not finite."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from inarch.population.state.packing import BLOCK_VALUES, SnapshotPacking
from inarch.population.state.snapshot import Layout, layout_of, unflatten
from inarch.population.state.state_dict import named_tensors

PACKED = ("float16", "bfloat16", "int8")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 40, 3), nn.BatchNorm2d(40), nn.Conv2d(40, 30, 1), nn.Flatten(), nn.Linear(30, 7))


def packed_keys(module: nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if parameter.dim() >= 2}


def buffer_of(state: dict[str, Tensor]) -> tuple[np.ndarray, Layout]:
    layout = layout_of(state)
    buffer = np.zeros(layout.nbytes, dtype=np.uint8)
    for name, view in unflatten(buffer, layout).items():
        view.copy_(state[name])
    return buffer, layout


def received(values: Tensor, precision: str) -> Tensor:
    """A weight as another network reads it."""
    state = {"weight": values.reshape(1, -1)}
    buffer, layout = buffer_of(state)
    return unflatten(SnapshotPacking(layout, precision, keys=state).as_received(buffer), layout)["weight"][0]


def test_float32_publishes_the_same_buffer() -> None:
    buffer, layout = buffer_of(named_tensors(network()))
    packing = SnapshotPacking(layout, "float32", keys=["0.weight"])
    assert packing.is_exact and packing.nbytes == layout.nbytes
    assert packing.pack(buffer) is buffer and packing.widen(buffer) is buffer
    copy = packing.as_received(buffer)
    assert np.array_equal(copy, buffer) and not np.shares_memory(copy, buffer)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("precision", PACKED)
def test_only_weight_matrices_are_rounded(precision: str, memory_format: torch.memory_format) -> None:
    module = network().to(memory_format=memory_format)
    state = named_tensors(module)
    buffer, layout = buffer_of(state)
    packing = SnapshotPacking(layout, precision, keys={name for name, _ in module.named_parameters()})
    found = unflatten(packing.as_received(buffer), layout)
    assert list(found) == list(state)
    for name, tensor in state.items():
        assert torch.equal(found[name], tensor) == (name not in packed_keys(module)), name
        torch.testing.assert_close(found[name], tensor, rtol=0.01, atol=0.01)


@pytest.mark.parametrize(("precision", "share"), [("float16", 0.5), ("bfloat16", 0.5), ("int8", 0.25)])
def test_packed_buffer_is_smaller(precision: str, share: float) -> None:
    buffer, layout = buffer_of({"weight": torch.randn(512, 512)})
    packing = SnapshotPacking(layout, precision, keys={"weight"})
    assert packing.pack(buffer).nbytes == packing.nbytes
    assert share <= packing.nbytes / layout.nbytes <= 1.01 * share


def test_keys_that_are_no_parameters_keep_their_bits() -> None:
    buffer, layout = buffer_of({"weight": torch.randn(8, 8), "momentum_buffer.weight": torch.randn(8, 8)})
    found = SnapshotPacking(layout, "int8", keys={"weight"}).as_received(buffer)
    before, after = unflatten(buffer, layout), unflatten(found, layout)
    assert torch.equal(before["momentum_buffer.weight"], after["momentum_buffer.weight"])
    assert not torch.equal(before["weight"], after["weight"])


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=60, deadline=None)
@given(values=st.lists(FLOATS, min_size=1, max_size=40), repeats=st.integers(1, 60))
def test_rounding_stays_within_its_bounds(values: list[float], repeats: int) -> None:
    weight = torch.tensor(values).repeat(repeats)
    half, brain, codes = (received(weight, precision) for precision in PACKED)
    for rounded, exact, share, least in ((half, 65504.0, 2**-11, 2**-25), (brain, 3.38e38, 2**-8, 2**-134)):
        inside = weight.abs() <= exact
        bound = (share * weight.double().abs()).clamp(min=least) * (1 + 1e-6)
        assert bool(((rounded - weight).double().abs() <= bound)[inside].all())
        assert bool(rounded.isfinite().all()), "a finite weight stays finite"
    for block, found in zip(weight.split(BLOCK_VALUES), codes.split(BLOCK_VALUES), strict=True):
        largest = float(block.abs().double().max())
        bound = largest / 254 * (1 + 1e-3) + 2**-142 + largest * 2**-7 * (largest > 3.3e38)
        assert float((found - block).double().abs().max()) <= bound
        assert bool(found.isfinite().all())


@pytest.mark.parametrize("precision", PACKED)
def test_packing_twice_changes_nothing_more(precision: str) -> None:
    once = received(torch.randn(3000), precision)
    assert torch.equal(received(once, precision), once) or precision == "int8"
    torch.testing.assert_close(received(once, precision), once, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("precision", PACKED)
def test_rounding_has_no_direction(precision: str) -> None:
    weight = torch.randn(200_000, generator=torch.Generator().manual_seed(1))
    error = (received(weight, precision) - weight).double()
    assert abs(float(error.mean())) < 4 * float(error.std()) / 200_000**0.5
    assert abs(float((error * weight.sign()).mean())) < 0.03 * float(error.std()), "nor does it shrink or grow weights"


@pytest.mark.parametrize("precision", PACKED)
@pytest.mark.parametrize("value", [0.0, 0.25, -3.0])
def test_constant_weights_keep_their_value(precision: str, value: float) -> None:
    found = received(torch.full((BLOCK_VALUES + 5,), value), precision)
    torch.testing.assert_close(found, torch.full_like(found, value), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("precision", PACKED)
def test_values_that_are_not_finite_stay_what_they_are(precision: str) -> None:
    weight = torch.randn(3 * BLOCK_VALUES + 100)
    special = {5: float("nan"), 6: float("inf"), BLOCK_VALUES + 1: float("-inf"), 3 * BLOCK_VALUES + 7: float("nan")}
    for place, value in special.items():
        weight[place] = value
    found = received(weight, precision)
    finite = weight.isfinite()
    assert torch.equal(found.isnan(), weight.isnan())
    assert torch.equal(found[weight.isinf()], weight[weight.isinf()])
    torch.testing.assert_close(found[finite], weight[finite], rtol=0.01, atol=0.02)


def test_block_of_infinities_alone_keeps_them() -> None:
    weight = torch.full((BLOCK_VALUES,), -torch.inf)
    assert torch.equal(received(weight, "int8"), weight)


@pytest.mark.parametrize("precision", PACKED)
def test_network_without_matrices_is_published_as_it_is(precision: str) -> None:
    buffer, layout = buffer_of({"weight": torch.randn(8), "count": torch.tensor(3)})
    packing = SnapshotPacking(layout, precision, keys={"weight"})
    assert np.array_equal(packing.as_received(buffer), buffer)
