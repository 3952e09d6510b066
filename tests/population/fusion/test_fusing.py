"""DCFF: reference vectors, laws of the stable mode, sizes of compact networks and simulated compact populations."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from inarch.population import FusionConfig, ModelConfig, PopulationConfig, Simulation, Simulator, Trainer, graft_units
from inarch.population.config import FusionMode
from inarch.population.errors import ConfigError, NotFiniteError
from inarch.population.fusion import (
    PRESETS,
    FusedConv2d,
    compact_state,
    direct_importance,
    effective_filters,
    filter_distances,
    importance,
    log_proxies,
    normalized,
    published_importance,
    published_proxies,
    published_temperature,
    target_filters,
    temperature_for,
    update_fusion,
)
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.models import build
from inarch.population.models.complexity import model_complexity
from inarch.population.state.state_dict import named_tensors
from tests.conftest import losses, small_config, tiny_splits, tiny_task

SIZES = json.loads((Path(__file__).resolve().parents[2] / "vectors" / "dcff_sizes.json").read_text())
EPOCHS = (0, 1, 3, 7, 20)


def random_of(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_published_temperature_equals_the_reference_schedule(vectors) -> None:
    for name, expected in vectors.items():
        if name.startswith("dcff/schedule/"):
            epochs, epoch = (int(part[1:]) for part in name.rpartition("/")[2].split("_"))
            assert published_temperature(epoch, epochs) == pytest.approx(float(expected), rel=1e-9)
    assert published_temperature(300, 300) == pytest.approx(1e4)


@pytest.mark.parametrize("case", ["a", "b", "c"])
@pytest.mark.parametrize("epoch", EPOCHS)
def test_published_mode_equals_the_published_code(vectors, case: str, epoch: int) -> None:
    weight, bias = (torch.from_numpy(vectors[f"dcff/{case}/{entry}"]) for entry in ("weight", "bias"))
    num_kept = int(vectors[f"dcff/{case}/keep"])
    proxies = published_proxies(weight, published_temperature(epoch, 300))
    np.testing.assert_allclose(proxies.numpy(), vectors[f"dcff/{case}/e{epoch}/proxy"], rtol=1e-5, atol=1e-6)
    scores = published_importance(proxies)
    expected = vectors[f"dcff/{case}/e{epoch}/score"]
    assert bool(torch.isfinite(scores).all()) == bool(vectors[f"dcff/{case}/e{epoch}/score_is_finite"])
    if epoch == 0:
        np.testing.assert_allclose(scores.numpy(), expected, rtol=2e-6)
        layer = FusedConv2d(weight.shape[1], weight.shape[0], weight.shape[2], kept=num_kept)
        with torch.no_grad():
            layer.weight.copy_(weight)
            assert layer.bias is not None
            layer.bias.copy_(bias)
        config = FusionConfig(mode="published", rates=(0.5,))
        (record,) = update_fusion(layer, config, epoch=0, epochs=300, random=random_of())
        assert layer.fusion_chosen.tolist() == vectors[f"dcff/{case}/e0/kept"].tolist()
        fused, fused_bias = layer.fused()
        assert fused_bias is not None and record.temperature == 1.0
        np.testing.assert_allclose(
            fused.detach().numpy(), vectors[f"dcff/{case}/e0/fused_weight_sorted"], rtol=1e-5, atol=1e-6
        )
        np.testing.assert_allclose(
            fused_bias.detach().numpy(), vectors[f"dcff/{case}/e0/fused_bias_sorted"], rtol=1e-5, atol=1e-6
        )


def test_published_mode_after_its_first_epoch_mixes_no_filters() -> None:
    """The published code fixes its choice of filters, although the weights of the layer continue to change."""
    torch.manual_seed(0)
    layer, config = FusedConv2d(16, 32, 3, kept=12), FusionConfig(mode="published", rates=(0.6,))
    chosen = []
    for epoch in range(4):
        (record,) = update_fusion(layer, config, epoch=epoch, epochs=30, random=random_of())
        chosen.append(layer.fusion_chosen.tolist())
        if epoch:
            assert record.effective == pytest.approx(1.0) and record.changed == 0
        else:
            assert record.effective > 10
        with torch.no_grad():
            layer.weight.add_(0.3 * torch.randn_like(layer.weight))
    assert chosen[1:] == chosen[:-1]


@given(st.integers(2, 12), st.floats(0.0, 40.0), st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_importance_equals_the_sum_over_the_full_cube(filters: int, temperature: float, seed: int) -> None:
    weight = torch.from_numpy(random_of(seed).normal(size=(filters, 3, 3, 3)))
    log_p = log_proxies(normalized(filter_distances(weight)), temperature)
    p = log_p.exp()
    cube = (p[:, None, :] * (log_p[:, None, :] - log_p[None, :, :])).mean(2).sum(1)
    torch.testing.assert_close(importance(log_p), cube.clamp_min(0.0), rtol=1e-8, atol=1e-10)


def test_direct_importance_equals_the_published_importance() -> None:
    p = published_proxies(torch.randn(24, 8, 3, 3, generator=torch.Generator().manual_seed(0)), 1.0)
    torch.testing.assert_close(direct_importance(p.double()), published_importance(p), rtol=1e-6, atol=1e-9)


EXTREMES = {
    "equal": torch.ones(8, 4, 3, 3),
    "zeros": torch.zeros(8, 4, 3, 3),
    "huge": torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(0)) * 1e30,
    "tiny": torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(0)) * 1e-30,
    "one apart": torch.cat([torch.zeros(7, 4, 3, 3), torch.ones(1, 4, 3, 3)]),
    "pairs": torch.randn(4, 4, 3, 3, generator=torch.Generator().manual_seed(0)).repeat_interleave(2, 0),
}


@pytest.mark.parametrize("name", EXTREMES)
@pytest.mark.parametrize("mode", ["stable", "mean_distance"])
def test_update_fusion_of_any_finite_weights_is_finite(name: str, mode: FusionMode) -> None:
    layer = FusedConv2d(4, 8, 3, kept=3)
    with torch.no_grad():
        layer.weight.copy_(EXTREMES[name])
    for epoch in range(6):
        (record,) = update_fusion(
            layer, FusionConfig(mode=mode, rates=(0.6,)), epoch=epoch, epochs=6, random=random_of()
        )
        buffers = (layer.fusion_proxies, layer.fusion_scores, *layer.fused())
        assert all(bool(torch.isfinite(buffer).all()) for buffer in buffers if buffer is not None)
        assert math.isfinite(record.temperature) and 1.0 - 1e-9 <= record.effective <= 8.0 + 1e-9
        torch.testing.assert_close(layer.fusion_proxies.sum(1), torch.ones(3))


def test_update_fusion_of_nonfinite_weights_is_an_error() -> None:
    layer = FusedConv2d(4, 8, 3, kept=3)
    with torch.no_grad():
        layer.weight[2, 1] = torch.inf
    with pytest.raises(NotFiniteError):
        update_fusion(layer, FusionConfig(mode="stable", rates=(0.6,)), epoch=0, epochs=3, random=random_of())


def test_stable_mode_lowers_the_effective_filters_to_one() -> None:
    layer = FusedConv2d(16, 64, 3, kept=20)
    config, epochs = FusionConfig(mode="stable", rates=(0.6,), begin=0.5), 12
    records = [
        update_fusion(layer, config, epoch=epoch, epochs=epochs, random=random_of())[0] for epoch in range(epochs)
    ]
    effective = [record.effective for record in records]
    assert effective[0] == pytest.approx(8.0, rel=0.25) and effective[-1] == pytest.approx(1.0, abs=1e-6)
    ratios = [later / earlier for earlier, later in itertools.pairwise(effective)]
    assert all(0.7 < ratio < 0.95 for ratio in ratios), ratios
    temperatures = [record.temperature for record in records]
    assert temperatures == sorted(temperatures)


@given(st.integers(2, 20), st.floats(0.05, 1.0), st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_temperature_for_reaches_the_target_effective_filters(filters: int, fraction: float, seed: int) -> None:
    distances = normalized(filter_distances(torch.from_numpy(random_of(seed).normal(size=(filters, 5, 3, 3)))))
    target = 1.0 + fraction * (filters - 1.0)
    effective = effective_filters(log_proxies(distances, temperature_for(distances, target))).mean()
    assert float(effective) == pytest.approx(target, rel=1e-3)


def test_target_filters_fall_by_equal_ratios_from_all_to_one() -> None:
    assert [target_filters(64, progress) for progress in (0.0, 0.5, 1.0)] == [64.0, 8.0, 1.0]
    with pytest.raises(ValueError, match="progress"):
        target_filters(64, 1.5)


def test_filter_distances_are_euclidean_and_do_not_overflow() -> None:
    weight = torch.from_numpy(random_of().normal(size=(9, 4, 3, 3)))
    torch.testing.assert_close(filter_distances(weight), torch.cdist(weight.flatten(1), weight.flatten(1)))
    assert bool(torch.isfinite(filter_distances(weight * 1e200)).all())


def test_update_fusion_keeps_the_places_of_chosen_channels() -> None:
    layer, config = FusedConv2d(4, 16, 3, kept=6), FusionConfig(mode="mean_distance", rates=(0.6,))
    update_fusion(layer, config, epoch=0, epochs=5, random=random_of())
    before = layer.fusion_chosen.tolist()
    other = next(index for index in range(16) if index not in before)
    with torch.no_grad():
        layer.weight[other] += 50.0
    (record,) = update_fusion(layer, config, epoch=1, epochs=5, random=random_of())
    after = layer.fusion_chosen.tolist()
    assert other in after and record.changed >= 1
    assert all(
        index_after == index_before
        for index_after, index_before in zip(after, before, strict=True)
        if index_before in after
    )


def test_gradients_reach_discarded_filters_only_in_stable_mode() -> None:
    layer, images = FusedConv2d(3, 16, 3, kept=4), torch.randn(2, 3, 8, 8)
    discarded_gradients = []
    modes: tuple[FusionMode, ...] = ("stable", "random")
    for mode in modes:
        config = FusionConfig(mode=mode, rates=(0.7,))
        update_fusion(layer, config, epoch=0, epochs=4, random=random_of())
        layer.weight.grad = None
        layer(images).square().sum().backward()
        discarded_gradients.append(
            update_fusion(layer, config, epoch=1, epochs=4, random=random_of())[0].discarded_gradient
        )
    assert discarded_gradients[0] is not None and discarded_gradients[0] > 0.05 and discarded_gradients[1] == 0.0


@pytest.mark.parametrize("name", SIZES)
def test_preset_networks_have_the_published_sizes(name: str) -> None:
    expected, (architecture, rates) = SIZES[name], PRESETS[name]
    assert list(rates) == pytest.approx(eval(expected["rates"]))
    is_large = architecture == "resnet50"
    options = {"num_classes": 1000 if is_large else 10, "fusion": FusionConfig(mode="stable", preset=name)}
    compact = build(ModelConfig(architecture=architecture), form="compact", **options)
    full = build(ModelConfig(architecture=architecture), num_classes=options["num_classes"])
    side = 224 if is_large else 32
    assert _size(compact, side) == (expected["compact_params"], expected["compact_multiply_adds"])
    assert _size(full, side) == (expected["full_params"], expected["full_multiply_adds"])
    channels = [
        [module.in_channels, module.out_channels] for module in compact.modules() if isinstance(module, nn.Conv2d)
    ]
    assert sorted(channels) == sorted(expected["conv_channels"])


def _size(model: nn.Module, side: int) -> tuple[int, int]:
    cost = model_complexity(model, (3, side, side))
    return cost.parameters, cost.multiply_adds


@pytest.mark.parametrize("architecture", ["vgg16", "googlenet", "resnet8", "resnet50"])
def test_compact_network_gives_the_output_of_the_fused_network(architecture: str) -> None:
    fusion = FusionConfig(mode="random" if architecture == "resnet50" else "stable", rates=(0.5,))
    options = {"num_classes": 7, "seed": 3, "fusion": fusion}
    model = build(ModelConfig(architecture=architecture), **options)
    update_fusion(model, fusion, epoch=0, epochs=4, random=random_of())
    images = torch.randn(3, 3, 32, 32)
    model(images)
    compact = build(ModelConfig(architecture=architecture), form="compact", **options)
    compact.load_state_dict(compact_state(model))
    with torch.no_grad():
        torch.testing.assert_close(compact.eval()(images), model.eval()(images), rtol=1e-4, atol=1e-5)
    kinds = [type(module) for module in compact.modules() if isinstance(module, nn.Conv2d)]
    assert set(kinds) == {nn.Conv2d}


def test_full_resnet50_equals_the_torchvision_resnet50() -> None:
    import torchvision

    model, reference = (
        build(ModelConfig(architecture="resnet50"), num_classes=5),
        torchvision.models.resnet50(num_classes=5),
    )
    model.load_state_dict(reference.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(images), reference.eval()(images))


@pytest.mark.parametrize(
    ("architecture", "fusion", "message"),
    [
        ("resnet8", {"rates": (0.95,)}, "leaves none of 16 filters"),
        ("resnet8", {"rates": (0.5, 0.5)}, "has 6 places for fusion rates, got 2"),
        ("mobilenetv2", {"rates": (0.5,)}, "fusion is defined for vgg16"),
        ("resnet56", {"preset": "vgg16-step-76.8"}, "is for vgg16"),
        ("resnet56", {"preset": "vgg17"}, "no fusion preset"),
    ],
)
def test_build_with_an_unsupported_fusion_is_a_config_error(architecture: str, fusion: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(ModelConfig(architecture=architecture), num_classes=10, fusion=FusionConfig(mode="stable", **fusion))


@pytest.mark.parametrize("fields", [{"mode": "stable"}, {"rates": (0.5,)}, {"mode": "stable", "rates": (1.0,)}])
def test_incomplete_fusion_config_is_a_config_error(fields: dict) -> None:
    with pytest.raises(ConfigError, match="fusion"):
        FusionConfig(**fields)


def simulate(mode: FusionMode, **changes) -> Simulation:
    config = small_config(fusion=FusionConfig(mode=mode, rates=(0.5,)), population=PopulationConfig(size=2), **changes)
    splits = tiny_splits(config)
    return Simulator(config, lambda: tiny_task(config, splits)).run()


@pytest.mark.parametrize("mode", ["stable", "published", "random", "mean_distance"])
def test_simulated_compact_population_trains_reproducibly(mode: FusionMode) -> None:
    result, repeated = simulate(mode), simulate(mode)
    assert [line.outcome for line in result.ledger].count(ExchangeOutcome.GRAFTED) >= 4
    for network_id, trainer in result.trainers.items():
        own = losses(result.reports[network_id])
        assert own[-1] < 0.9 * own[0]
        repeated_tensors = named_tensors(repeated.trainers[network_id].module)
        assert all(torch.equal(value, repeated_tensors[key]) for key, value in named_tensors(trainer.module).items())
        fused_layers = [module for module in trainer.module.modules() if isinstance(module, FusedConv2d)]
        assert {module.weight.shape[0] for module in fused_layers} == {16, 32, 64}
        rows = trainer.checkpoint().rows["fusion"]
        assert rows == []


@pytest.mark.parametrize("is_same", [True, False])
def test_late_networks_choose_random_filters_as_early_ones(is_same: bool) -> None:
    config = small_config(
        fusion=FusionConfig(mode="random", rates=(0.5,)),
        population=PopulationConfig(size=2, same_initial_weights=is_same),
    )

    def chosen(network_id: int, *epochs: int) -> torch.Tensor:
        trainer = Trainer(tiny_task(config), config, network_id=network_id)
        for epoch in epochs:
            trainer.begin_epoch(epoch)
        layers = [module for module in trainer.module.modules() if isinstance(module, FusedConv2d)]
        assert all(not torch.equal(layer.fusion_chosen, torch.arange(layer.kept)) for layer in layers)
        return torch.cat([layer.fusion_chosen for layer in layers])

    early, late = chosen(0, 0, 1, 2), chosen(1, 2, 3)
    assert torch.equal(late, chosen(1, 0)) and torch.equal(early, late) == is_same


def test_resume_restores_the_fusion_buffers() -> None:
    config = small_config(fusion=FusionConfig(mode="stable", rates=(0.5,)))
    trainer = simulate("stable").trainers[0]
    saved = trainer.checkpoint()
    resumed = Trainer(tiny_task(config), config, network_id=0)
    resumed.resume(dataclasses.replace(saved, training=dict(saved.training)))
    expected, actual = named_tensors(trainer.module), named_tensors(resumed.module)
    assert any(key.endswith("fusion_proxies") for key in expected)
    assert all(torch.equal(value, actual[key]) for key, value in expected.items())


def test_graft_of_fused_networks_blends_filters_but_not_proxies() -> None:
    config = small_config(fusion=FusionConfig(mode="stable", rates=(0.5,)))
    rootstock, donor = (Trainer(tiny_task(config), config, network_id=network_id) for network_id in (0, 1))
    for trainer in (rootstock, donor):
        trainer.begin_epoch(0)
    before = copy.deepcopy(dict(named_tensors(rootstock.module)))
    snapshot = donor.snapshot(0.0)
    outcome = rootstock.exchange((snapshot,), rootstock.origin(), rootstock.snapshot(0.0), 0.0)
    after = named_tensors(rootstock.module)
    assert outcome == "grafted"
    changed = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert {unit.name for unit in graft_units(rootstock.module)} <= changed
    assert not any("fusion_" in key for key in changed)
