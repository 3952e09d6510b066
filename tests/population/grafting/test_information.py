"""L1 norms and entropies of filters and layers: reference vectors, values by hand and laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inarch.population import filter_entropy, l1_norm, layer_entropy, layer_information
from inarch.population.errors import NotFiniteError
from inarch.population.grafting.information import invalid_filters, summed_filter_entropy
from inarch.population.grafting.reference import published_filter_entropy, published_layer_entropy

CASES = ("normal", "uniform", "two_values", "heavy_tail", "tiny", "offset", "ints", "depthwise")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("bins", [5, 10, 32])
def test_published_layer_entropy_equals_the_public_code(vectors, case: str, bins: int) -> None:
    weight = torch.from_numpy(vectors[f"entropy/{case}/weight"])
    expected = float(vectors[f"entropy/{case}/bins{bins}"])
    assert float(published_layer_entropy(weight, bins)) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_published_filter_entropy_equals_the_public_code(vectors, case: str) -> None:
    weight = torch.from_numpy(vectors[f"entropy/{case}/weight"])
    entropies = published_filter_entropy(weight).numpy()
    np.testing.assert_allclose(entropies, vectors[f"entropy/{case}/filters"], rtol=1e-6, atol=1e-6)


def test_invalid_filters_equal_the_public_count(vectors) -> None:
    weight = torch.from_numpy(vectors["invalid/weight"])
    np.testing.assert_allclose(l1_norm(weight).numpy(), vectors["invalid/l1"], rtol=1e-6)
    for threshold in (0.01, 0.1, 1.0):
        invalid = invalid_filters({"conv.weight": weight, "fc.weight": torch.zeros(4, 4)}, threshold)
        assert invalid.keys() == {"conv.weight"}
        assert int(invalid["conv.weight"].sum()) == int(vectors[f"invalid/count_{threshold}"])


def test_layer_entropy_matches_values_by_hand() -> None:
    quarters = torch.tensor([0.0, 1.0, 2.0, 3.0])
    assert float(layer_entropy(quarters, 4)) == pytest.approx(math.log(4))
    assert float(layer_entropy(torch.tensor([0.0, 0.0, 0.0, 1.0]), 2)) == pytest.approx(
        -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    )


def test_layer_entropy_counts_the_maximum_unless_published() -> None:
    weight = torch.tensor([0.0, 0.5, 1.0])
    assert float(layer_entropy(weight, 2)) == pytest.approx(-(1 / 3 * math.log(1 / 3) + 2 / 3 * math.log(2 / 3)))
    assert float(published_layer_entropy(weight, 2)) == pytest.approx(-2 / 3 * math.log(1 / 3))


def test_constant_layer_has_entropy_zero() -> None:
    constant = torch.full((3, 2, 3, 3), 0.7)
    assert float(layer_entropy(constant)) == 0.0
    assert filter_entropy(constant).tolist() == [0.0, 0.0, 0.0]
    assert float(summed_filter_entropy(constant)) == 0.0
    assert float(published_layer_entropy(constant)) == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_information_of_a_nonfinite_weight_names_the_layer(bad: float) -> None:
    weight = torch.zeros(4, 3)
    weight[2, 1] = bad
    with pytest.raises(NotFiniteError, match=r"layer3\.conv"):
        layer_entropy(weight, name="layer3.conv")
    with pytest.raises(NotFiniteError, match="layer3"):
        layer_information(weight, "l1", name="layer3")
    with pytest.raises(ValueError, match="NaN or infinite"):
        filter_entropy(weight)


def test_information_arguments_out_of_range_are_errors() -> None:
    with pytest.raises(ValueError, match="bins must be at least 2"):
        layer_entropy(torch.ones(3), 1)
    with pytest.raises(ValueError, match="at least one value"):
        layer_entropy(torch.ones(0))
    with pytest.raises(ValueError, match="threshold"):
        invalid_filters({}, -1.0)


@given(
    values=st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=200),
    bins=st.integers(2, 16),
)
def test_layer_entropy_equals_that_of_a_numpy_histogram(values: list[float], bins: int) -> None:
    weight = torch.tensor(values)
    entropy = float(layer_entropy(weight, bins))
    assert -1e-12 <= entropy <= math.log(bins) + 1e-9
    low, high = weight.min(), weight.max()
    if low < high:
        edges = np.array([float(low + i * ((high - low) / bins)) for i in range(bins)] + [np.inf], dtype=np.float32)
        cells = np.histogram(weight.numpy(), edges)[0] / len(values)
        expected = -sum(cell * math.log(cell) for cell in cells if cell)
        assert entropy == pytest.approx(expected, abs=1e-9)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), shift=st.integers(-3, 3))
def test_layer_entropy_is_invariant_to_scale_and_filter_order(seed: int, shift: int) -> None:
    weight = torch.randn(8, 3, 3, 3, generator=torch.Generator().manual_seed(seed))
    entropy = float(layer_entropy(weight))
    assert float(layer_entropy(weight * 2.0**shift)) == entropy
    assert float(layer_entropy(weight.flip(0))) == entropy


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_entropy_of_any_dtype_equals_that_of_its_float_copy(dtype: torch.dtype) -> None:
    weight = torch.randn(16, 8, 3, 3, generator=torch.Generator().manual_seed(1)).to(dtype)
    float_copy = weight.float() if dtype != torch.float64 else weight
    assert float(layer_entropy(weight)) == float(layer_entropy(float_copy))
    torch.testing.assert_close(filter_entropy(weight), filter_entropy(float_copy))


def test_entropy_of_a_large_layer_ignores_the_memory_format() -> None:
    weight = torch.randn(64, 128, 3, 3, generator=torch.Generator().manual_seed(2))
    entropy = float(layer_entropy(weight))
    assert float(layer_entropy(weight.to(memory_format=torch.channels_last))) == entropy
    assert float(layer_entropy(weight.permute(3, 1, 0, 2))) == entropy
    flat_entropy = filter_entropy(weight.reshape(1, -1))
    assert float(flat_entropy[0]) == pytest.approx(entropy, rel=1e-12)


def test_summed_filter_entropy_is_the_sum_of_the_filters() -> None:
    weight = torch.randn(5, 4, 3, 3, generator=torch.Generator().manual_seed(3))
    assert float(summed_filter_entropy(weight)) == pytest.approx(float(filter_entropy(weight).sum()))


def test_layer_information_l1_is_the_sum_of_absolute_weights() -> None:
    weight = torch.tensor([[1.0, -2.0], [3.0, -4.0]])
    assert layer_information(weight, "l1") == 10.0
    assert l1_norm(weight).tolist() == [3.0, 7.0]
    assert l1_norm(torch.tensor([-1.0, 2.0])).tolist() == [1.0, 2.0]
