"""Channel tracing, grafting at filter level and channel matching."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inarch.population import (
    ExchangeConfig,
    FusionConfig,
    GraftConfig,
    ModelConfig,
    PopulationConfig,
    Simulator,
    StalenessConfig,
    Trainer,
)
from inarch.population.errors import ConfigError
from inarch.population.evaluation.soups import soup
from inarch.population.exchange import GraftRule, PublishedGraftRule
from inarch.population.grafting.channel_tracing import find_channels
from inarch.population.grafting.channels import UNTRACKED, Channels, declared_channels, moved
from inarch.population.grafting.filter_level import blend_filters, filter_alphas
from inarch.population.grafting.information import filter_entropy
from inarch.population.grafting.reference import published_filter_graft
from inarch.population.grafting.units import GraftUnit
from inarch.population.grafting.weight_matching import match_channels
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.membership.staleness import Staleness
from inarch.population.models import architectures, build
from inarch.population.state.state_dict import named_tensors
from tests.conftest import small_config, tiny_splits, tiny_task
from tests.population.exchange.test_rules import make_rootstock, make_scion, state

HEAVY = {"wrn28-10", "densenet100", "resnext29", "resnet110", "resnet56", "resnet44", "resnet32"}


def randomized_model(name: str, *, seed: int = 0, channels: int = 3) -> nn.Module:
    """A model with random batch norms, so that a misplaced channel changes the output."""
    model = build(ModelConfig(architecture=name), num_classes=10, in_channels=channels, seed=seed)
    random = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            count = module.num_features
            module.weight.data.copy_(1 + 0.3 * torch.randn(count, generator=random))
            module.bias.data.copy_(0.3 * torch.randn(count, generator=random))
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.copy_(0.1 * torch.randn(count, generator=random))
            module.running_var.copy_(0.5 + torch.rand(count, generator=random))
    return model.eval()


def random_places(channels: Channels, seed: int = 0) -> np.ndarray:
    """Random places of the channels, each within its own permutation group."""
    random, places = np.random.default_rng(seed), np.arange(channels.num_classes)
    for group in channels.permutation_groups:
        places[list(group)] = random.permutation(group)
    return places


def cloned_state(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


LIGHT = [name for name in architectures() if name not in HEAVY]
LARGE = ["densenet121", "regnet_y_400mf", "vgg11_bn"]
FAMILIES = ["resnet18", "mobilenet_v2", "mobilenet_v3_small", "squeezenet1_1", "efficientnet_b0"]


@pytest.mark.parametrize(
    "name",
    [
        *LIGHT,
        *(f"torchvision:{family}" for family in FAMILIES),
        *(pytest.param(name, marks=pytest.mark.slow) for name in sorted(HEAVY)),
        *(pytest.param(f"torchvision:{name}", marks=pytest.mark.slow) for name in LARGE),
    ],
)
@torch.no_grad()
def test_moved_within_permutation_groups_preserves_the_output(name: str) -> None:
    side = 64 if name.startswith("torchvision") else 32
    model, images = randomized_model(name), torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    before = model(images)
    channels = find_channels(model, (3, side, side))
    places = random_places(channels)
    assert (places != np.arange(len(places))).sum() > 0.5 * len(places)
    model.load_state_dict(moved(cloned_state(model), channels, places))
    torch.testing.assert_close(model(images), before, rtol=1e-3, atol=1e-4 * float(before.abs().max()))


@torch.no_grad()
def test_moved_with_a_layer_left_out_changes_the_output() -> None:
    model, images = randomized_model("resnet8"), torch.randn(2, 3, 32, 32)
    channels = find_channels(model, (3, 32, 32))
    sizes = [len(group) for group in channels.permutation_groups]
    smaller_group, larger_group = (channels.permutation_groups[index] for index in np.argsort(sizes)[-2:])
    before = model(images)
    places = np.arange(channels.num_classes)
    swapped = [channels.permutation_groups[0][0], channels.permutation_groups[0][1]]
    places[swapped] = places[swapped[::-1]]
    state_ = cloned_state(model)
    changed = moved(state_, channels, places)
    del changed["conv1.weight"]
    model.load_state_dict(state_ | changed)
    assert not torch.allclose(model(images), before, atol=1e-3) and set(smaller_group).isdisjoint(larger_group)


def test_find_channels_covers_every_entry_of_mobilenetv2() -> None:
    model = build(ModelConfig(architecture="mobilenetv2"), num_classes=10)
    channels = find_channels(model, (3, 32, 32))
    covered = {(axis.key, axis.dim) for axis in channels.axes}
    for key, value in named_tensors(model).items():
        assert key.endswith("num_batches_tracked") or (key, 0) in covered
        assert value.dim() < 2 or (key, 1) in covered or value.shape[1] == 1
    classes_of = {axis.key: axis.classes for axis in channels.axes if axis.dim == 0}
    assert set(classes_of["linear.weight"]) == {UNTRACKED}
    first = next(axis.classes for axis in channels.axes if axis.key == "conv1.weight" and axis.dim == 1)
    assert set(first) == {UNTRACKED}
    depthwise = classes_of["layers.0.conv2.weight"]
    assert np.array_equal(depthwise, classes_of["layers.0.conv1.weight"])


def test_find_channels_gives_a_residual_stream_shared_channels() -> None:
    channels = find_channels(build(ModelConfig(architecture="resnet20"), num_classes=10), (3, 32, 32))
    classes_of = {axis.key: axis.classes for axis in channels.axes if axis.dim == 0}
    assert np.array_equal(classes_of["conv1.weight"], classes_of["layer1.2.conv2.weight"])
    assert np.array_equal(classes_of["layer2.0.conv2.weight"][8:24], classes_of["conv1.weight"])
    assert not np.isin(classes_of["layer1.0.conv1.weight"], classes_of["conv1.weight"]).any()


class Shuffle(nn.Module):
    """Changes the order of its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.conv(images)
        hidden = hidden.view(hidden.size(0), 2, 4, hidden.size(2), hidden.size(3)).transpose(1, 2)
        return self.head(hidden.flatten(1, 2).mean((2, 3)))


class Branching(nn.Module):
    """Branches on its input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images) if images.sum() > 0 else self.conv(-images)


class Normed(nn.Module):
    """Normalizes over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8)

    def forward(self, images: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(images))).mean((2, 3))


class Halves(nn.Module):
    """Uses a value whose shape torch.fx does not record."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, images: Tensor) -> Tensor:
        first, second = self.conv(images).chunk(2, 1)
        return (first * second).mean((2, 3))


class Parametrized(nn.Module):
    """Computes a weight from others."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3))

    def forward(self, images: Tensor) -> Tensor:
        return F.relu(self.conv(images)).mean((2, 3))


class Tied(nn.Module):
    """Uses one weight in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3)
        self.second.weight = self.first.weight

    def forward(self, images: Tensor) -> Tensor:
        return self.second(self.first(images)).mean((2, 3))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Parametrized(), "through conv, whose weight is computed from others"),
        (Tied(), "through second, whose weight .* belongs to another layer"),
        (Shuffle(), "through view"),
        (Branching(), "cannot trace"),
        (Normed(), r"through norm \(GroupNorm\)"),
        (Halves(), "through getitem"),
    ],
)
def test_find_channels_of_an_untraceable_model_names_the_cause(model: nn.Module, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_channels(model, (3, 16, 16))


class Attending(nn.Module):
    """Multiplies all channels by a single map, which is the first or the second factor."""

    def __init__(self, *, map_first: bool) -> None:
        super().__init__()
        self.map_first = map_first
        self.first, self.map, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 1, 1), nn.Conv2d(8, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.first(images)
        weights = torch.sigmoid(self.map(hidden))
        return self.second(weights * hidden if self.map_first else hidden * weights).mean((2, 3))


@pytest.mark.parametrize("map_first", [False, True])
def test_find_channels_ignores_a_map_shared_by_all_channels(map_first: bool) -> None:
    channels = find_channels(Attending(map_first=map_first), (3, 8, 8))
    classes_of = {(axis.key, axis.dim): axis.classes.tolist() for axis in channels.axes}
    assert classes_of["second.weight", 1] == classes_of["first.weight", 0] == list(range(8))


class Scaled(nn.Module):
    """Scales its channels by a parameter, which channel tracing does not support."""

    def __init__(self, channel_groups: Any = None) -> None:
        super().__init__()
        self.channel_groups = channel_groups
        self.first, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.scale = nn.Parameter(torch.linspace(0.5, 2.0, 6).reshape(1, 6, 1, 1))
        self.gain, self.grouped = nn.Parameter(torch.ones(6, 1, 1)), nn.Conv2d(6, 6, 1, groups=2)
        self.head = nn.Linear(6 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.adaptive_avg_pool2d(self.norm(self.first(x)) * self.scale, 2).flatten(1))


GROUP = (
    ("first.weight", 0),
    ("first.bias", 0),
    *((f"norm.{entry}", 0) for entry in ("weight", "bias", "running_mean", "running_var")),
    ("scale", 1),
    ("head.weight", 1),
)


@torch.no_grad()
def test_find_channels_uses_declared_channel_groups() -> None:
    with pytest.raises(ConfigError, match=r"mul: it uses scale; the network may declare its channel_groups"):
        find_channels(Scaled(), (3, 8, 8))
    model = Scaled(channel_groups=(GROUP,)).eval()
    model.norm.weight.copy_(torch.linspace(-1.0, 1.0, 6))
    channels = find_channels(model, (3, 8, 8))
    assert channels.num_classes == 6 and channels.permutation_groups == (tuple(range(6)),)
    assert all(channels.scales[c] == (("norm.weight", c),) for c in range(6))
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    before = model(images)
    changed = moved(cloned_state(model), channels, random_places(channels, seed=2))
    assert not torch.equal(changed["scale"], model.scale)
    own = cloned_state(model)
    model.load_state_dict(changed)
    torch.testing.assert_close(model(images), before)
    matched = moved(changed, channels, match_channels(own, changed, channels))
    assert all(torch.equal(matched[key], value) for key, value in own.items())


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ((GROUP[1:],), "no weight makes"),
        (((*GROUP, ("nothing.weight", 0)),), "nothing.weight has 0 places"),
        (((*GROUP, ("head.bias", 0)),), "head.bias has 5 places, first.weight makes 6"),
        (((*GROUP, GROUP[0]),), "declared twice"),
        (((*GROUP, ("scale", 2)),), "dimension of scale must be 0 or 1"),
        (((*GROUP, ("grouped.weight", 0)),), "grouped.weight belongs to a grouped convolution"),
        (((("norm.weight", 0), ("gain", 0)),), "no weight makes"),
    ],
)
def test_declared_channels_of_invalid_groups_is_a_config_error(groups: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        declared_channels(Scaled(), groups)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.again(self.first(x))).mean((2, 3))


def test_find_channels_names_a_layer_that_is_called_twice() -> None:
    with pytest.raises(ConfigError, match="through again, called twice"):
        find_channels(Twice(), (3, 8, 8))


def test_find_channels_of_a_fused_network_is_a_config_error() -> None:
    fusion = FusionConfig(mode="stable", rates=(0.5,))
    model = build(ModelConfig(architecture="resnet8"), num_classes=10, fusion=fusion)
    with pytest.raises(ConfigError, match=r"fused convolutions.*graft.channel_matching none$"):
        find_channels(model, (3, 32, 32))


def test_published_filter_graft_equals_the_reference_vector(vectors) -> None:
    own, scion, expected = (
        {
            name.removeprefix(f"graft_filter/{side}/"): torch.from_numpy(np.array(value))
            for name, value in vectors.items()
            if name.startswith(f"graft_filter/{side}/")
        }
        for side in ("own", "scion", "result")
    )
    rule = PublishedGraftRule(GraftConfig(level="filter", criterion="batch_norm"), StalenessConfig(policy="none"))
    rootstock = make_rootstock(0, {key: value.clone() for key, value in own.items()}, rule)
    rootstock.units = tuple(GraftUnit(name=key, keys=(key,)) for key, value in own.items() if value.dim() == 4)
    (contribution,) = rule.apply(rootstock, [make_scion(1, scion, rule)])
    for key, value in expected.items():
        torch.testing.assert_close(rootstock.state[key], value, rtol=1e-6, atol=1e-7, msg=lambda m, k=key: f"{k}: {m}")
    for layer in contribution.layers:
        gap = (own[layer.layer] - scion[layer.layer]).double()
        alphas = (rootstock.state[layer.layer] - scion[layer.layer]).double() / gap
        assert layer.alpha == pytest.approx(float(alphas.mean()), abs=1e-3)


def test_published_filter_graft_without_a_chain_is_an_error() -> None:
    chain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    own = {key: value.clone() for key, value in chain.state_dict().items()}
    own["1.weight"].zero_()
    result, alphas = published_filter_graft(own, own)
    assert alphas == {"0.weight": 0.5} and all(bool(value.isfinite().all()) for value in result.values())
    config = small_config(
        model=ModelConfig(architecture="densenet40"),
        exchange=ExchangeConfig(rule="graft_published"),
        graft=GraftConfig(level="filter", criterion="batch_norm"),
    )
    with pytest.raises(ConfigError, match=r"layers\.0\.conv2\.weight has no batch norm after it"):
        Trainer(tiny_task(config), config, network_id=0).dry_run_exchange()
    double = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)).state_dict()
    with pytest.raises(ConfigError, match=r"0\.weight has no batch norm after it"):
        published_filter_graft(double, double)
    joined = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(8, 2, 3), nn.BatchNorm2d(2)).state_dict()
    with pytest.raises(ConfigError, match=r"2\.weight reads 8 channels, the convolution before it makes 4"):
        published_filter_graft(joined, joined)


def grafted(config: GraftConfig, *, discount: float = 1.0) -> tuple[dict[str, Tensor], ...]:
    """Rootstock, scion and result of a filter-level graft of two resnet8, and the output alphas of each entry."""
    networks = [randomized_model("resnet8", seed=seed) for seed in (1, 2)]
    channels = find_channels(networks[0], (3, 32, 32))
    own, scion = (cloned_state(model) for model in networks)
    result = {key: value.clone() for key, value in own.items()}
    alphas = filter_alphas(own, scion, channels, config)
    blend_filters(result, scion, channels, alphas, config, discount=discount)
    output_alphas = {
        axis.key: torch.from_numpy(alphas[axis.classes])
        for axis in channels.axes
        if axis.dim == 0 and UNTRACKED not in axis.classes
    }
    return own, scion, result, output_alphas


@pytest.mark.parametrize("weight_alpha", ["product", "mean", "output"])
def test_blend_filters_gives_each_entry_its_channels_alpha(weight_alpha: Any) -> None:
    own, scion, result, alphas = grafted(GraftConfig(level="filter", criterion="batch_norm", weight_alpha=weight_alpha))
    hidden, stream = alphas["layer1.0.conv1.weight"], alphas["conv1.weight"]
    gammas = [side["layer1.0.bn1.weight"].abs().double() for side in (own, scion)]
    torch.testing.assert_close(hidden, gammas[0] / (gammas[0] + gammas[1]))
    output_alpha, input_alpha = hidden[:, None, None, None], stream[None, :, None, None]
    alpha = {
        "product": output_alpha * input_alpha,
        "mean": (output_alpha + input_alpha) / 2,
        "output": output_alpha.expand(-1, 16, 1, 1),
    }[weight_alpha]
    expected = alpha * own["layer1.0.conv1.weight"] + (1 - alpha) * scion["layer1.0.conv1.weight"]
    torch.testing.assert_close(result["layer1.0.conv1.weight"].double(), expected, rtol=1e-5, atol=1e-7)
    for entry in ("weight", "bias", "running_mean", "running_var"):
        key = f"layer1.0.bn1.{entry}"
        expected = hidden * own[key] + (1 - hidden) * scion[key]
        torch.testing.assert_close(result[key].double(), expected, rtol=1e-5, atol=1e-7)
    assert torch.equal(result["linear.bias"], own["linear.bias"])
    first = stream[:, None, None, None]
    expected = first * own["conv1.weight"] + (1 - first) * scion["conv1.weight"]
    torch.testing.assert_close(result["conv1.weight"].double(), expected, rtol=1e-5, atol=1e-7)


def test_filter_alphas_by_entropy_match_the_arctan_formula() -> None:
    config = GraftConfig(level="filter", criterion="entropy", a=0.4, c=5.0)
    own, scion, _, alphas = grafted(config)
    assert all(bool(((alpha > 0.3) & (alpha < 0.7)).all()) for alpha in alphas.values())
    entropies = [filter_entropy(side["layer1.0.conv1.weight"]) for side in (own, scion)]
    expected = 0.5 + 0.4 / np.pi * torch.atan(5.0 * (entropies[0] - entropies[1]))
    torch.testing.assert_close(alphas["layer1.0.conv1.weight"], expected, rtol=1e-6, atol=1e-9)


def test_blend_filters_with_a_discount_lowers_the_scion_weight() -> None:
    config = GraftConfig(level="filter", criterion="constant", weight_alpha="output")
    own, _, unchanged, _ = grafted(config, discount=0.0)
    assert all(torch.equal(value, own[key]) for key, value in unchanged.items())
    own, scion, discounted, _ = grafted(config, discount=0.5)
    torch.testing.assert_close(discounted["conv1.weight"], 0.75 * own["conv1.weight"] + 0.25 * scion["conv1.weight"])


@torch.no_grad()
@pytest.mark.parametrize(
    "name",
    [
        "resnet8",
        "resnext11",
        "densenet40",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("vgg16", "mobilenetv2")),
    ],
)
def test_match_channels_recovers_the_order_of_a_shuffled_copy(name: str) -> None:
    model = randomized_model(name)
    channels = find_channels(model, (3, 32, 32))
    own = cloned_state(model)
    scion = moved(own, channels, random_places(channels, seed=3))
    matched = moved(scion, channels, match_channels(own, scion, channels))
    unmatched = {key for key, value in own.items() if not torch.equal(matched[key], value)}
    shuffled = {key for key, value in own.items() if not torch.equal(scion[key], value)}
    assert len(shuffled) > 0.5 * len(own)
    assert not unmatched, sorted(unmatched)[:5]


def test_match_channels_raises_the_similarity_of_two_networks() -> None:
    networks = [randomized_model("resnet8", seed=seed) for seed in (1, 2)]
    channels = find_channels(networks[0], (3, 32, 32))
    own, scion = (cloned_state(model) for model in networks)

    def similarity(other: dict[str, Tensor]) -> float:
        return sum(float((own[key] * other[key]).sum()) for key in own if key.endswith((".weight", ".bias")))

    assert similarity(moved(scion, channels, match_channels(own, scion, channels))) > similarity(scion)


def test_align_states_puts_channels_into_the_same_order() -> None:
    config = small_config(graft=GraftConfig(channel_matching="weights"))
    task = tiny_task(config)
    model = task.build(0)
    channels = find_channels(model, task.input_shape)
    own = {key: value.clone() for key, value in model.state_dict().items()}
    copies = [own, *(moved(own, channels, random_places(channels, seed=seed)) for seed in (1, 2))]
    assert not torch.equal(soup(copies)["conv1.weight"], own["conv1.weight"])
    for key, value in soup(task.align_states(copies)).items():
        torch.testing.assert_close(value, own[key], msg=key)
    unmatched = tiny_task(small_config())
    assert all(aligned is given for aligned, given in zip(unmatched.align_states(copies), copies, strict=True))


OPTIONS: dict[str, dict[str, Any]] = {
    "batch norm": {"graft": GraftConfig(level="filter", criterion="batch_norm")},
    "entropy, mean": {"graft": GraftConfig(level="filter", weight_alpha="mean")},
    "two donors": {"graft": GraftConfig(level="filter", criterion="l1"), "exchange": ExchangeConfig(num_donors=2)},
    "aligned filters": {"graft": GraftConfig(level="filter", criterion="batch_norm", channel_matching="weights")},
    "aligned layers": {"graft": GraftConfig(channel_matching="weights")},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_simulated_population_grafts_filters_reproducibly(name: str) -> None:
    config = small_config(population=PopulationConfig(size=3), **OPTIONS[name])
    splits = tiny_splits(config)
    results = [Simulator(config, lambda: tiny_task(config, splits)).run() for _ in range(2)]
    assert [line.outcome for line in results[0].ledger].count(ExchangeOutcome.GRAFTED) >= 8
    for network_id, trainer in results[0].trainers.items():
        repeated = named_tensors(results[1].trainers[network_id].module)
        assert all(torch.equal(value, repeated[key]) for key, value in named_tensors(trainer.module).items())
        assert all(bool(torch.isfinite(value).all()) for value in named_tensors(trainer.module).values())


def test_filter_graft_of_several_donors_is_the_mean_of_blends() -> None:
    model = build(ModelConfig(architecture="resnet8"), num_classes=4, in_channels=1, seed=0)
    channels = find_channels(model, (1, 32, 32))
    rule = GraftRule(GraftConfig(level="filter", criterion="l1"), StalenessConfig(), channels)
    scions = [make_scion(number, state(number + 1), rule) for number in (1, 2)]
    blends = []
    for chosen in ([scions[0]], [scions[1]], scions):
        own = state(1)
        rule.apply(make_rootstock(0, own, rule), chosen)
        blends.append(own)
    for key in blends[0]:
        expected = (blends[0][key].double() + blends[1][key].double()) / 2
        torch.testing.assert_close(blends[2][key].double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("donors", "staleness"), [(1, 0.0), (1, 1.0), (2, 1.0)])
@pytest.mark.parametrize("weight_alpha", ["product", "mean", "output"])
def test_filter_graft_records_the_alpha_of_each_layer(donors: int, staleness: float, weight_alpha: Any) -> None:
    model = build(ModelConfig(architecture="resnet8"), num_classes=4, in_channels=1, seed=0)
    channels = find_channels(model, (1, 32, 32))
    config = GraftConfig(level="filter", criterion="constant", weight_alpha=weight_alpha)
    rule = GraftRule(config, StalenessConfig(policy="polynomial", rate=1.0), channels)
    staleness_of_scions = Staleness(intervals=staleness, steps=staleness, seconds=0.0)
    scion, own = state(2), state(1)
    before = {key: tensor.clone() for key, tensor in own.items()}
    scions = [
        dataclasses.replace(make_scion(number, scion, rule), staleness=staleness_of_scions)
        for number in range(1, donors + 1)
    ]
    contributions = rule.apply(make_rootstock(0, own, rule), scions)
    scion_weights = []
    for layer, *layers_of_donors in zip(*(contribution.layers for contribution in contributions), strict=True):
        key = layer.layer
        gap = (before[key] - scion[key]).double()
        measured_alpha = float(((own[key] - scion[key]).double() * gap).sum() / (gap * gap).sum())
        recorded_alpha = 1.0 - (1.0 - layer.alpha) - sum(1.0 - other.alpha for other in layers_of_donors)
        assert recorded_alpha == pytest.approx(measured_alpha, abs=1e-5), key
        scion_weights.append(1.0 - measured_alpha)
    discount = 1.0 / (1.0 + staleness)
    inner_alpha = {"product": 1.0 - 0.75 * discount, "mean": 1.0 - 0.5 * discount, "output": 1.0 - 0.5 * discount}[
        weight_alpha
    ]
    alphas = {layer.layer: 1.0 - (1.0 - layer.alpha) * donors for layer in contributions[0].layers}
    assert alphas["layer1.0.conv1.weight"] == pytest.approx(inner_alpha)
    assert alphas["conv1.weight"] == pytest.approx(1.0 - 0.5 * discount)
    assert sum(contribution.scion_weight for contribution in contributions) == pytest.approx(
        sum(scion_weights) / len(scion_weights), abs=1e-5
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"criterion": "robust_entropy"},
        {"momentum": "blend"},
        {"weight_alpha": "sum"},
        {"channel_matching": "optimal"},
        {"multi_donor": "best"},
    ],
)
def test_graft_config_of_filter_level_refuses_layer_settings(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"graft\."):
        GraftConfig(level="filter", **fields)


class Shuffling(torch.nn.Module):
    """A network that does something with the channels, or with the rows, between its two convolutions."""

    def __init__(self, operation: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.LazyConv2d(4, 3)
        self.linear, self.operation = torch.nn.Linear(4, 2), operation

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(self.second(self.operation(torch.relu(self.first(images)))).mean((2, 3)))


OPERATIONS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], bool]] = {
    "rows": (lambda x: x[:, :, 1:], True),
    "rows after an ellipsis": (lambda x: x[..., 1:, :], True),
    "channels joined": (lambda x: torch.cat([x, 2 * x], 1), True),
    "channels joined by name": (lambda x: torch.cat(tensors=[x, 2 * x], dim=-3), True),
    "channels reversed": (lambda x: x[:, [7, 6, 5, 4, 3, 2, 1, 0]], False),
    "some channels": (lambda x: x[:, 2:6], False),
    "rows joined": (lambda x: torch.cat([x, x], 2), False),
    "columns joined by name": (lambda x: torch.cat(tensors=[x, x], dim=3), False),
}


@pytest.mark.parametrize("name", OPERATIONS)
@torch.no_grad()
def test_operations_on_channels_are_followed_or_refused(name: str) -> None:
    operation, is_followed = OPERATIONS[name]
    torch.manual_seed(0)
    model, images = Shuffling(operation).eval(), torch.randn(2, 3, 8, 8)
    before = model(images)
    if not is_followed:
        with pytest.raises(ConfigError, match=r"graft\.channel_matching: channels cannot be followed through"):
            find_channels(model, (3, 8, 8))
        return
    channels = find_channels(model, (3, 8, 8))
    model.load_state_dict(moved(cloned_state(model), channels, random_places(channels)))
    torch.testing.assert_close(model(images), before, rtol=1e-3, atol=1e-5)
