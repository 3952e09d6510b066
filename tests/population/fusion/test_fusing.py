"""DCFF: the reference's numbers, laws of the stable form, compact networks, their sizes, whole compact populations."""

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
from tests.conftest import small_config, tiny_splits, tiny_task

SIZES = json.loads((Path(__file__).resolve().parents[2] / "vectors" / "dcff_sizes.json").read_text())
EPOCHS = (0, 1, 3, 7, 20)


def random_of(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_temperature_is_the_published_one(vectors) -> None:
    for name, expected in vectors.items():
        if name.startswith("dcff/schedule/"):
            epochs, epoch = (int(part[1:]) for part in name.rpartition("/")[2].split("_"))
            assert published_temperature(epoch, epochs) == pytest.approx(float(expected), rel=1e-9)
    assert published_temperature(300, 300) == pytest.approx(1e4)


@pytest.mark.parametrize("case", ["a", "b", "c"])
@pytest.mark.parametrize("epoch", EPOCHS)
def test_published_mode_is_the_published_code(vectors, case: str, epoch: int) -> None:
    weight, bias = (torch.from_numpy(vectors[f"dcff/{case}/{what}"]) for what in ("weight", "bias"))
    kept = int(vectors[f"dcff/{case}/keep"])
    proxies = published_proxies(weight, published_temperature(epoch, 300))
    np.testing.assert_allclose(proxies.numpy(), vectors[f"dcff/{case}/e{epoch}/proxy"], rtol=1e-5, atol=1e-6)
    scores = published_importance(proxies)
    expected = vectors[f"dcff/{case}/e{epoch}/score"]
    assert bool(torch.isfinite(scores).all()) == bool(vectors[f"dcff/{case}/e{epoch}/score_is_finite"])
    if epoch == 0:
        np.testing.assert_allclose(scores.numpy(), expected, rtol=2e-6)
        layer = FusedConv2d(weight.shape[1], weight.shape[0], weight.shape[2], kept=kept)
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


def test_published_mode_freezes_after_its_first_epoch_and_mixes_nothing() -> None:
    """The published code's behavior, in one layer whose weights go on changing."""
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
def test_importance_without_the_cube_is_the_importance(filters: int, temperature: float, seed: int) -> None:
    weight = torch.from_numpy(random_of(seed).normal(size=(filters, 3, 3, 3)))
    log_p = log_proxies(normalized(filter_distances(weight)), temperature)
    p = log_p.exp()
    cube = (p[:, None, :] * (log_p[:, None, :] - log_p[None, :, :])).mean(2).sum(1)
    torch.testing.assert_close(importance(log_p), cube.clamp_min(0.0), rtol=1e-8, atol=1e-10)


def test_direct_importance_is_the_published_one() -> None:
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
def test_stable_mode_is_finite_for_any_finite_weights(name: str, mode: FusionMode) -> None:
    layer = FusedConv2d(4, 8, 3, kept=3)
    with torch.no_grad():
        layer.weight.copy_(EXTREMES[name])
    for epoch in range(6):
        (record,) = update_fusion(
            layer, FusionConfig(mode=mode, rates=(0.6,)), epoch=epoch, epochs=6, random=random_of()
        )
        buffers = (layer.fusion_proxies, layer.fusion_scores, *layer.fused())
        assert all(bool(torch.isfinite(found).all()) for found in buffers if found is not None)
        assert math.isfinite(record.temperature) and 1.0 - 1e-9 <= record.effective <= 8.0 + 1e-9
        torch.testing.assert_close(layer.fusion_proxies.sum(1), torch.ones(3))


def test_weights_that_are_not_finite_are_an_error() -> None:
    layer = FusedConv2d(4, 8, 3, kept=3)
    with torch.no_grad():
        layer.weight[2, 1] = torch.inf
    with pytest.raises(NotFiniteError):
        update_fusion(layer, FusionConfig(mode="stable", rates=(0.6,)), epoch=0, epochs=3, random=random_of())


def test_stable_mode_mixes_as_many_filters_as_wanted_falling_to_one() -> None:
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
def test_the_temperature_found_gives_the_number_wanted(filters: int, part: float, seed: int) -> None:
    distances = normalized(filter_distances(torch.from_numpy(random_of(seed).normal(size=(filters, 5, 3, 3)))))
    wanted = 1.0 + part * (filters - 1.0)
    found = effective_filters(log_proxies(distances, temperature_for(distances, wanted))).mean()
    assert float(found) == pytest.approx(wanted, rel=1e-3)


def test_wanted_filters_fall_by_equal_ratios_from_all_to_one() -> None:
    assert [target_filters(64, progress) for progress in (0.0, 0.5, 1.0)] == [64.0, 8.0, 1.0]
    with pytest.raises(ValueError, match="progress"):
        target_filters(64, 1.5)


def test_distances_are_euclidean_and_do_not_overflow() -> None:
    weight = torch.from_numpy(random_of().normal(size=(9, 4, 3, 3)))
    torch.testing.assert_close(filter_distances(weight), torch.cdist(weight.flatten(1), weight.flatten(1)))
    assert bool(torch.isfinite(filter_distances(weight * 1e200)).all())


def test_channels_keep_their_places_when_others_are_chosen() -> None:
    layer, config = FusedConv2d(4, 16, 3, kept=6), FusionConfig(mode="mean_distance", rates=(0.6,))
    update_fusion(layer, config, epoch=0, epochs=5, random=random_of())
    before = layer.fusion_chosen.tolist()
    other = next(index for index in range(16) if index not in before)
    with torch.no_grad():
        layer.weight[other] += 50.0
    (record,) = update_fusion(layer, config, epoch=1, epochs=5, random=random_of())
    after = layer.fusion_chosen.tolist()
    assert other in after and record.changed >= 1
    assert all(now == then for now, then in zip(after, before, strict=True) if then in after)


def test_gradients_reach_the_filters_that_are_not_kept_while_filters_are_mixed() -> None:
    layer, images = FusedConv2d(3, 16, 3, kept=4), torch.randn(2, 3, 8, 8)
    told = []
    modes: tuple[FusionMode, ...] = ("stable", "random")
    for mode in modes:
        config = FusionConfig(mode=mode, rates=(0.7,))
        update_fusion(layer, config, epoch=0, epochs=4, random=random_of())
        layer.weight.grad = None
        layer(images).square().sum().backward()
        told.append(update_fusion(layer, config, epoch=1, epochs=4, random=random_of())[0].discarded_gradient)
    assert told[0] is not None and told[0] > 0.05 and told[1] == 0.0


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_the_published_ones(name: str) -> None:
    expected, (architecture, rates) = SIZES[name], PRESETS[name]
    assert list(rates) == pytest.approx(eval(expected["rates"]))
    is_large = architecture == "resnet50"
    options = {"num_classes": 1000 if is_large else 10, "fusion": FusionConfig(mode="stable", preset=name)}
    compact = build(ModelConfig(architecture=architecture), form="compact", **options)
    full = build(ModelConfig(architecture=architecture), num_classes=options["num_classes"])
    side = 224 if is_large else 32
    assert _size(compact, side) == (expected["compact_params"], expected["compact_multiply_adds"])
    assert _size(full, side) == (expected["full_params"], expected["full_multiply_adds"])
    channels = [[found.in_channels, found.out_channels] for found in compact.modules() if isinstance(found, nn.Conv2d)]
    assert sorted(channels) == sorted(expected["conv_channels"])


def _size(model: nn.Module, side: int) -> tuple[int, int]:
    cost = model_complexity(model, (3, side, side))
    return cost.parameters, cost.multiply_adds


@pytest.mark.parametrize("architecture", ["vgg16", "googlenet", "resnet8", "resnet50"])
def test_compact_network_alone_gives_the_fused_ones_outputs(architecture: str) -> None:
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
    kinds = [type(found) for found in compact.modules() if isinstance(found, nn.Conv2d)]
    assert set(kinds) == {nn.Conv2d}


def test_full_resnet50_is_torchvisions() -> None:
    import torchvision

    ours, theirs = (
        build(ModelConfig(architecture="resnet50"), num_classes=5),
        torchvision.models.resnet50(num_classes=5),
    )
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(images), theirs.eval()(images))


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
def test_what_cannot_be_fused_is_refused(architecture: str, fusion: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(ModelConfig(architecture=architecture), num_classes=10, fusion=FusionConfig(mode="stable", **fusion))


@pytest.mark.parametrize("fields", [{"mode": "stable"}, {"rates": (0.5,)}, {"mode": "stable", "rates": (1.0,)}])
def test_incomplete_configurations_are_refused(fields: dict) -> None:
    with pytest.raises(ConfigError, match="fusion"):
        FusionConfig(**fields)


def simulate(mode: FusionMode, **changes) -> Simulation:
    config = small_config(fusion=FusionConfig(mode=mode, rates=(0.5,)), population=PopulationConfig(size=2), **changes)
    splits = tiny_splits(config)
    return Simulator(config, lambda: tiny_task(config, splits)).run()


@pytest.mark.parametrize("mode", ["stable", "published", "random", "mean_distance"])
def test_compact_networks_form_populations(mode: FusionMode) -> None:
    result, again = simulate(mode), simulate(mode)
    assert [line.outcome for line in result.ledger].count(ExchangeOutcome.GRAFTED) >= 4
    for model, trainer in result.trainers.items():
        assert min(report.train_loss for report in result.reports[model]) < math.log(4)
        other = named_tensors(again.trainers[model].module)
        assert all(torch.equal(value, other[key]) for key, value in named_tensors(trainer.module).items())
        fused = [found for found in trainer.module.modules() if isinstance(found, FusedConv2d)]
        assert {found.weight.shape[0] for found in fused} == {16, 32, 64}
        rows = trainer._checkpoint().rows["fusion"]
        assert rows == []


def test_fusion_is_told_epoch_by_epoch_and_survives_a_resume() -> None:
    config = small_config(fusion=FusionConfig(mode="stable", rates=(0.5,)))
    trainer = simulate("stable").trainers[0]
    saved = trainer._checkpoint()
    again = Trainer(tiny_task(config), config, network_id=0)
    again.resume(dataclasses.replace(saved, training=dict(saved.training)))
    first, other = named_tensors(trainer.module), named_tensors(again.module)
    assert any(key.endswith("fusion_proxies") for key in first)
    assert all(torch.equal(value, other[key]) for key, value in first.items())


def test_grafting_blends_all_filters_and_leaves_each_its_own_proxies() -> None:
    config = small_config(fusion=FusionConfig(mode="stable", rates=(0.5,)))
    one, two = (Trainer(tiny_task(config), config, network_id=model) for model in (0, 1))
    for trainer in (one, two):
        trainer._begin_epoch(0)
    before = copy.deepcopy(dict(named_tensors(one.module)))
    snapshot = two.snapshot(0.0)
    taken = one._exchange((snapshot,), one.origin(), one.snapshot(0.0), 0.0)
    after = named_tensors(one.module)
    assert taken == "grafted"
    changed = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert {unit.name for unit in graft_units(one.module)} <= changed
    assert not any("fusion_" in key for key in changed)
