"""Alpha, blending and layer-level grafts: reference vectors, laws and bitwise equality."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from inarch.population import GraftConfig, ModelConfig, StalenessConfig, adaptive_weight, graft, graft_units
from inarch.population.errors import ConfigError, NotFiniteError, StructureError
from inarch.population.evaluation.filter_statistics import measure_filters
from inarch.population.grafting.blending import BLOCK_VALUES, blend_
from inarch.population.grafting.criteria import measure
from inarch.population.grafting.local_scions import internal_scion, noise_scion
from inarch.population.grafting.reference import graft_published, published_alpha, published_units
from inarch.population.grafting.units import Units, graft_units_of_state
from inarch.population.membership.staleness import discounted_alpha, staleness_discount, staleness_limit
from inarch.population.models import build
from inarch.population.state.state_dict import named_tensors

finite = st.floats(-1e6, 1e6)


def state_of(vectors, prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): torch.from_numpy(np.array(v))
        for name, v in vectors.items()
        if name.startswith(prefix)
    }


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(
            actual[key].double(), value.double(), rtol=1e-6, atol=1e-8, msg=lambda m, k=key: f"{k}: {m}"
        )


@pytest.mark.parametrize("setting", ["a0.4_c500", "a0.4_c1", "a0.4_c100", "a0.2_c5", "a1.0_c50", "a0.0_c500"])
def test_alpha_equals_the_public_code(vectors, setting: str) -> None:
    a, c = (float(part) for part in setting[1:].split("_c"))
    own, scion = vectors["alpha/own"], vectors["alpha/scion"]
    np.testing.assert_allclose(adaptive_weight(own, scion, a, c), vectors[f"alpha/{setting}/exact"], rtol=1e-6)
    rounded = [published_alpha(float(x), float(y), a, c) for x, y in zip(own, scion, strict=True)]
    np.testing.assert_allclose(rounded, vectors[f"alpha/{setting}/rounded"], rtol=1e-12)
    alphas_of_scalars = [adaptive_weight(float(x), float(y), a, c) for x, y in zip(own, scion, strict=True)]
    np.testing.assert_array_equal(alphas_of_scalars, adaptive_weight(own, scion, a, c))


@pytest.mark.parametrize("network_id", [0, 1, 2])
def test_published_graft_of_a_ring_equals_the_public_code(vectors, network_id: int) -> None:
    own = state_of(vectors, f"ring3/{network_id}/before/")
    scion = state_of(vectors, f"ring3/{(network_id - 1) % 3}/before/")
    result = graft_published(own, scion)
    assert_same(result.state, state_of(vectors, f"ring3/{network_id}/after/"))


@given(own=finite, scion=finite, a=st.floats(0, 1), c=st.floats(0, 1e4))
def test_alpha_stays_in_range_and_a_pair_adds_up_to_one(own: float, scion: float, a: float, c: float) -> None:
    alpha = adaptive_weight(own, scion, a, c)
    assert 0.5 - a / 2 - 1e-9 <= alpha <= 0.5 + a / 2 + 1e-9
    assert alpha + adaptive_weight(scion, own, a, c) == 1.0
    assert (alpha >= 0.5) == (own >= scion) or abs(alpha - 0.5) < 1e-9


@given(
    alpha=st.floats(0, 1),
    fresh=st.floats(0, 50),
    added=st.floats(0, 50),
    rate=st.floats(0, 5),
    policy=st.sampled_from(["none", "polynomial", "exponential"]),
)
def test_discounted_alpha_never_falls_with_staleness(
    alpha: float, fresh: float, added: float, rate: float, policy
) -> None:
    config = StalenessConfig(policy=policy, rate=rate)
    first, second = discounted_alpha(alpha, fresh, config), discounted_alpha(alpha, fresh + added, config)
    assert alpha - 1e-12 <= first <= second + 1e-12 <= 1.0 + 2e-12
    assert discounted_alpha(alpha, 0.0, config) == pytest.approx(alpha)
    assert 0.0 <= staleness_discount(fresh, config) <= 1.0


def test_staleness_discount_and_limit_match_values_by_hand() -> None:
    assert staleness_discount(3.0, StalenessConfig(policy="polynomial", rate=0.5)) == pytest.approx(0.5)
    assert staleness_discount(8.0, StalenessConfig(policy="exponential", rate=0.0)) == 1.0
    assert staleness_discount(8.1, StalenessConfig(policy="exponential", rate=0.0)) == 0.0
    assert discounted_alpha(0.3, 9.0, StalenessConfig(policy="exponential")) == 1.0
    assert staleness_limit(StalenessConfig(), num_intervals=200) == 10.0
    assert staleness_limit(StalenessConfig(), num_intervals=5) == 2.0
    assert staleness_limit(StalenessConfig(max_intervals=3.0), num_intervals=200) == 3.0


@pytest.mark.parametrize("criterion", ["entropy", "l1"])
@pytest.mark.parametrize("architecture", ["resnet20", "mobilenetv2", "vgg16"])
def test_graft_of_a_network_with_itself_changes_nothing(architecture: str, criterion: str) -> None:
    state = build(ModelConfig(architecture=architecture), num_classes=10, seed=0).state_dict()
    result = graft(state, state, GraftConfig(criterion=criterion))
    assert all(torch.equal(result.state[key], state[key]) for key in state)
    assert {record.alpha for record in result.layers} == {0.5}


def test_graft_of_a_pair_in_both_directions_gives_the_same_bits() -> None:
    first_state, second_state = (
        build(ModelConfig(architecture="resnet20"), num_classes=10, seed=seed).state_dict() for seed in (0, 1)
    )
    first, second = graft(first_state, second_state), graft(second_state, first_state)
    assert all(torch.equal(first.state[key], second.state[key]) for key in first_state)
    assert any(not torch.equal(first_state[key], second_state[key]) for key in first_state)


def test_graft_does_not_modify_its_inputs() -> None:
    rootstock, scion = (
        build(ModelConfig(architecture="resnet8"), num_classes=10, seed=seed).state_dict() for seed in (0, 1)
    )
    copies = [{key: value.clone() for key, value in state.items()} for state in (rootstock, scion)]
    graft(rootstock, scion)
    for state, copy in zip((rootstock, scion), copies, strict=True):
        assert all(torch.equal(state[key], copy[key]) for key in state)


def test_graft_with_batch_norm_keep_keeps_the_statistics() -> None:
    rootstock, scion = (
        build(ModelConfig(architecture="resnet8"), num_classes=10, seed=seed).state_dict() for seed in (0, 1)
    )
    scion["bn1.running_mean"] += 1.0
    assert torch.equal(
        graft(rootstock, scion, GraftConfig(batch_norm="keep")).state["bn1.running_mean"], rootstock["bn1.running_mean"]
    )
    assert not torch.equal(graft(rootstock, scion).state["bn1.running_mean"], rootstock["bn1.running_mean"])


@pytest.mark.parametrize("size", [1, BLOCK_VALUES, BLOCK_VALUES + 1, 3 * BLOCK_VALUES + 7])
def test_blend_in_blocks_equals_the_plain_formula(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    own, scion = torch.randn(size, generator=generator), torch.randn(size, generator=generator)
    expected = own * 0.3 + scion * (1.0 - 0.3)
    scion_before = scion.clone()
    blend_(own, scion, 0.3)
    assert torch.equal(own, expected)
    assert torch.equal(scion, scion_before)


def test_blend_of_mixed_memory_formats_equals_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    own = torch.randn(128, 64, 3, 3, generator=generator).to(memory_format=torch.channels_last)
    scion = torch.randn(128, 64, 3, 3, generator=generator)
    expected = own * 0.6 + scion * (1.0 - 0.6)
    blend_(own, scion, 0.6)
    assert torch.equal(own, expected)


def test_graft_of_another_structure_names_the_entry() -> None:
    rootstock = build(ModelConfig(architecture="resnet8"), num_classes=10, seed=0).state_dict()
    scion = build(ModelConfig(architecture="resnet8"), num_classes=11, seed=0).state_dict()
    with pytest.raises(StructureError, match=r"linear\.weight \(11, 64\), the rootstock \(10, 64\)"):
        graft(rootstock, scion)
    deeper = build(ModelConfig(architecture="resnet14"), num_classes=10, seed=0).state_dict()
    with pytest.raises(StructureError, match="grafting needs one architecture"):
        graft(rootstock, deeper)


def test_graft_of_a_nonfinite_scion_names_side_and_layer() -> None:
    rootstock = build(ModelConfig(architecture="resnet8"), num_classes=10, seed=0).state_dict()
    scion = {key: value.clone() for key, value in rootstock.items()}
    scion["layer2.0.conv1.weight"][0, 0, 0, 0] = torch.nan
    with pytest.raises(NotFiniteError, match=r"scion: layer2\.0\.conv1\.weight"):
        graft(rootstock, scion)
    scion = {key: value.clone() for key, value in rootstock.items()}
    scion["bn1.running_var"][3] = torch.inf
    for config in (GraftConfig(), GraftConfig(criterion="constant")):
        with pytest.raises(NotFiniteError, match=r"scion: bn1\.running_var has a value that is NaN or infinite"):
            graft(rootstock, scion, config)
    masked = rootstock | {"mask": torch.tensor([0.0, -torch.inf])}
    assert torch.equal(graft(masked, masked).state["mask"], masked["mask"])


def test_graft_units_do_not_depend_on_module_names() -> None:
    vgg = build(ModelConfig(architecture="vgg16"), num_classes=10, seed=0)
    units = graft_units(vgg)
    assert len(units) == 13
    assert units[0].name == "features.0.weight"
    assert units[0].keys[:3] == ("features.0.weight", "features.0.bias", "features.1.weight")
    assert units[-1].keys[-2:] == ("classifier.weight", "classifier.bias")
    assert units == graft_units_of_state(vgg.state_dict())


def test_graft_units_add_shortcut_and_head_to_the_layer_before() -> None:
    mobile = build(ModelConfig(architecture="mobilenetv2"), num_classes=10, seed=0)
    unit_of = {key: unit.name for unit in graft_units(mobile) for key in unit.keys}
    published = {key: unit.name for unit in published_units(mobile.state_dict()) for key in unit.keys}
    assert unit_of == published
    assert unit_of["layers.0.shortcut.0.weight"] == "layers.0.conv3.weight"
    assert unit_of["linear.bias"] == "conv2.weight"


def test_graft_units_contain_every_entry_exactly_once() -> None:
    cases: dict[str, Units] = {
        "resnet8": "convolutions",
        "mobilenetv2": "matrices",
        "torchvision:vit_b_16": "matrices",
    }
    for architecture, units in cases.items():
        model = build(ModelConfig(architecture=architecture), num_classes=10, seed=0)
        keys = [key for unit in graft_units(model, units) for key in unit.keys]
        assert sorted(keys) == sorted(named_tensors(model))


def test_graft_units_without_convolutions_names_the_remedy() -> None:
    linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    with pytest.raises(ConfigError, match=r"graft\.units=matrices"):
        graft_units(linear, "convolutions")
    for units in ("matrices", "auto"):
        assert [unit.name for unit in graft_units(linear, units)] == ["1.weight"]


def test_named_tensors_of_tied_weights_has_a_single_entry() -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = torch.nn.Conv2d(4, 4, 3)
            self.two = torch.nn.Conv2d(4, 4, 3)
            self.two.weight = self.one.weight

    assert list(named_tensors(Tied())) == ["one.weight", "one.bias", "two.bias"]


@pytest.mark.parametrize(("a", "c"), [(1.5, 1.0), (-0.1, 1.0), (0.4, -1.0)])
def test_alpha_refuses_settings_out_of_range(a: float, c: float) -> None:
    with pytest.raises(ValueError, match="must"):
        adaptive_weight(0.0, 0.0, a, c)


def two_ways(groups: int) -> tuple[torch.nn.Module, torch.nn.Module]:
    """A transposed convolution, and a convolution whose weight has the same filters along its first dimension."""
    torch.manual_seed(0)
    layer, other = torch.nn.ConvTranspose2d(4, 6, 3, groups=groups), torch.nn.Conv2d(4, 6, 3, groups=groups)
    with torch.no_grad():
        weight = layer.weight  # (inputs, outputs of a group, 3, 3)
        weight[:, 1] *= 1e-4  # an invalid filter in each group
        for group in range(groups):
            inputs, outputs = (slice(group * count // groups, (group + 1) * count // groups) for count in (4, 6))
            other.weight[outputs] = weight[inputs].transpose(0, 1)
    return torch.nn.Sequential(layer, torch.nn.BatchNorm2d(6)), torch.nn.Sequential(other, torch.nn.BatchNorm2d(6))


@pytest.mark.parametrize("groups", [1, 2])
def test_filters_of_transposed_convolutions_are_their_outputs(groups: int) -> None:
    modules = two_ways(groups)
    (unit,), (plain_unit,) = (graft_units(module) for module in modules)
    state, plain = (named_tensors(module) for module in modules)
    assert torch.equal(unit.filters(state["0.weight"]), plain["0.weight"])
    for criterion in ("entropy", "l1", "summed_entropy", "orthogonality", "effective_rank", "batch_norm"):
        config = GraftConfig(criterion=criterion)
        assert measure(state, [unit], config) == pytest.approx(measure(plain, [plain_unit], config), rel=1e-5)
    (row,), (plain_row,) = (
        measure_filters(tensors, [one], {}).rows() for tensors, one in ((state, unit), (plain, plain_unit))
    )
    assert row == pytest.approx(plain_row) and row["filters"] == 6
    for graft_once in (
        lambda tensors, one: internal_scion(tensors, [one], GraftConfig(threshold=0.5)),
        lambda tensors, one: noise_scion(
            tensors, [one], GraftConfig(threshold=0.5), epoch=1.0, random=np.random.default_rng(0)
        ),
    ):
        copies = [{key: tensor.detach().clone() for key, tensor in tensors.items()} for tensors in (state, plain)]
        (record,), (plain_record,) = graft_once(copies[0], unit), graft_once(copies[1], plain_unit)
        assert record == plain_record and record.alpha == 1 - groups / 6
        assert torch.equal(unit.filters(copies[0]["0.weight"]), copies[1]["0.weight"])
        assert not torch.equal(copies[0]["0.weight"], state["0.weight"])
