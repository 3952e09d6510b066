"""Blends of single tensors, by torch and by compiled loops, with the past states that follow."""

from __future__ import annotations

import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from inarch.population.grafting import blending, compiled_loops
from inarch.population.grafting.blending import BLOCK_VALUES, Blend, Followers, blend_all
from inarch.population.grafting.information import entropies_on_device, layer_entropies, layer_entropy

HAS_COMPILER = (
    bool(shutil.which("cc") or shutil.which("gcc")) and Path(sysconfig.get_path("include"), "Python.h").exists()
)


@pytest.fixture(params=["torch"] if compiled_loops.blend is None else ["torch", "compiled"])
def path(request, monkeypatch) -> Iterator[str]:
    if request.param == "torch":
        monkeypatch.setattr(compiled_loops, "blend", None)
        monkeypatch.setattr(compiled_loops, "count", None)
    yield request.param


def tensors(*shape: int, count: int, channels_last: bool = False) -> list[Tensor]:
    random = torch.Generator().manual_seed(sum(shape))
    made = [torch.randn(*shape, generator=random) for _ in range(count)]
    return [tensor.contiguous(memory_format=torch.channels_last) for tensor in made] if channels_last else made


def test_compiled_loops_are_built_where_there_is_a_compiler() -> None:
    assert compiled_loops.path_taken() == "compiled" or not HAS_COMPILER


def expected_blend(item: Blend) -> tuple[Tensor, list[Tensor], Tensor | None]:
    """The definition, in whole tensors: own, moved and noted afterwards."""
    if item.past is None:
        own = item.own * item.alpha + item.scion * (1.0 - item.alpha)
    else:
        own = item.own.add(item.scion - item.past, alpha=1.0 - item.alpha)
    return own, [tensor + (own - item.own) for tensor in item.moved], None if item.noted is None else own


@pytest.mark.parametrize(
    ("shape", "channels_last"),
    [
        *(((size,), False) for size in (1, 7, 4097, BLOCK_VALUES + 5)),
        *(((64, 32, 3, 3), channels_last) for channels_last in (False, True)),
    ],
)
@pytest.mark.parametrize("kind", ["plain", "past", "past is noted", "past is moved", "two moved", "not followed"])
def test_blend_changes_own_and_followers_in_one_pass(path: str, shape, channels_last: bool, kind: str) -> None:
    own, scion, past, moved, noted, more = tensors(*shape, count=6, channels_last=channels_last)
    item = {
        "plain": Blend(own=own, scion=scion, alpha=0.37, moved=(moved,), noted=noted),
        "past": Blend(own=own, scion=scion, alpha=0.37, past=past, moved=(moved,), noted=noted),
        "past is noted": Blend(own=own, scion=scion, alpha=0.37, past=noted, moved=(moved,), noted=noted),
        "past is moved": Blend(own=own, scion=scion, alpha=0.37, past=moved, moved=(moved,), noted=noted),
        "two moved": Blend(own=own, scion=scion, alpha=0.37, past=past, moved=(moved, more), noted=noted),
        "not followed": Blend(own=own, scion=scion, alpha=0.37, past=past),
    }[kind]
    expected = expected_blend(item)
    blend_all([item])
    assert torch.equal(own, expected[0])
    for tensor, value in zip(item.moved, expected[1], strict=True):
        assert torch.equal(tensor, value)
    assert item.noted is None or torch.equal(item.noted, own)


def test_blend_of_tensors_in_different_orders_matches_by_index(path: str) -> None:
    own, scion, past, moved, noted = tensors(8, 4, 3, 3, count=5)
    expected = expected_blend(Blend(own=own, scion=scion, alpha=0.2, past=past, moved=(moved,), noted=noted))
    other = [tensor.contiguous(memory_format=torch.channels_last) for tensor in (scion, moved)]
    blend_all([Blend(own=own, scion=other[0], alpha=0.2, past=past, moved=(other[1],), noted=noted)])
    assert torch.equal(own, expected[0]) and torch.equal(other[1], expected[1][0]) and torch.equal(noted, own)


def test_followers_note_entries_that_were_not_blended() -> None:
    state = {"a": torch.tensor([1.0]), "b": torch.tensor([2.0])}
    followers = Followers(moved=[{"a": torch.zeros(1)}], noted={"a": torch.zeros(1), "b": torch.zeros(1)})
    followers.note(state, but={"a"})
    assert float(followers.noted["a"]) == 0.0 and float(followers.noted["b"]) == 2.0
    assert len(followers.moved_with("a")) == 1 and followers.moved_with("b") == ()


def test_blend_of_other_types_takes_torch() -> None:
    for dtype in (torch.float64, torch.bfloat16):
        own, scion = (tensor.to(dtype) for tensor in tensors(100, count=2))
        expected = own * 0.25 + scion * 0.75
        blending.blend_(own, scion, 0.25)
        torch.testing.assert_close(own, expected)


@pytest.mark.parametrize("bins", [2, 10, 31])
def test_entropies_of_layers_are_those_of_each_layer(path: str, bins: int) -> None:
    weights = [*tensors(5000, count=2), *tensors(16, 8, 3, 3, count=1, channels_last=True), torch.full((9,), 0.5)]
    found = layer_entropies(weights, bins)
    assert found == tuple(float(layer_entropy(weight, bins)) for weight in weights)
    assert found[-1] == 0.0 and 0 < found[0] < 3.5


def test_counts_of_both_paths_are_equal(monkeypatch) -> None:
    weights = [torch.randn(size) * 10.0**exponent for size, exponent in ((1, 0), (17, -20), (70_000, 3), (33, -38))]
    compiled = [float(layer_entropy(weight)) for weight in weights]
    monkeypatch.setattr(compiled_loops, "count", None)
    assert [float(layer_entropy(weight)) for weight in weights] == compiled


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_entropies_computed_at_once_equal_those_of_each_layer(dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(4)
    weights = [torch.randn(size, generator=random).to(dtype) for size in (1, 2, 9, 1000, 20_000)]
    weights += [torch.full((50,), 0.25, dtype=dtype), torch.zeros(7, dtype=dtype)]
    outlier = torch.zeros(1000, dtype=dtype)
    outlier[3] = 100.0
    weights.append(outlier)
    names = [str(index) for index in range(len(weights))]
    found = entropies_on_device(weights, 10, names)
    assert found == pytest.approx([float(layer_entropy(weight)) for weight in weights], abs=1e-12)


def test_large_layers_are_measured_in_groups(monkeypatch) -> None:
    monkeypatch.setattr("inarch.population.grafting.information.GROUP_VALUES", 1000)
    weights = [*tensors(600, count=3), *tensors(5000, count=1)]
    found = entropies_on_device(weights, 10, ["a", "b", "c", "d"])
    assert found == pytest.approx([float(layer_entropy(weight)) for weight in weights], abs=1e-12)
