"""Channels followed through networks, grafting filter by filter, and alignment."""

from __future__ import annotations

import dataclasses
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
from tests.population.exchange.test_rules import arrival, rootstock, state

HEAVY = {"wrn28-10", "densenet100", "resnext29", "resnet110", "resnet56", "resnet44", "resnet32"}


def lively(name: str, *, seed: int = 0, channels: int = 3) -> nn.Module:
    """A network whose batch norms are not what they begin as, so that a channel in a wrong place shows."""
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


def shuffled(channels: Channels, seed: int = 0) -> np.ndarray:
    random, places = np.random.default_rng(seed), np.arange(channels.num_classes)
    for kind in channels.permutation_groups:
        places[list(kind)] = random.permutation(kind)
    return places


def plain(model: nn.Module) -> dict[str, Tensor]:
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
def test_moving_the_channels_of_a_kind_leaves_the_function_as_it_is(name: str) -> None:
    side = 64 if name.startswith("torchvision") else 32
    model, images = lively(name), torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    before = model(images)
    channels = find_channels(model, (3, side, side))
    places = shuffled(channels)
    assert (places != np.arange(len(places))).sum() > 0.5 * len(places)
    model.load_state_dict(moved(plain(model), channels, places))
    torch.testing.assert_close(model(images), before, rtol=1e-3, atol=1e-4 * float(before.abs().max()))


@torch.no_grad()
def test_moving_channels_of_different_kinds_changes_the_function() -> None:
    model, images = lively("resnet8"), torch.randn(2, 3, 32, 32)
    channels = find_channels(model, (3, 32, 32))
    sizes = [len(kind) for kind in channels.permutation_groups]
    one, other = (channels.permutation_groups[index] for index in np.argsort(sizes)[-2:])
    before = model(images)
    wrong = np.arange(channels.num_classes)
    inside = [channels.permutation_groups[0][0], channels.permutation_groups[0][1]]
    wrong[inside] = wrong[inside[::-1]]
    state_ = plain(model)
    changed = moved(state_, channels, wrong)
    del changed["conv1.weight"]
    model.load_state_dict(state_ | changed)
    assert not torch.allclose(model(images), before, atol=1e-3) and set(one).isdisjoint(other)


def test_every_entry_of_a_convolutional_network_has_its_channels() -> None:
    model = build(ModelConfig(architecture="mobilenetv2"), num_classes=10)
    channels = find_channels(model, (3, 32, 32))
    found = {(axis.key, axis.dim) for axis in channels.axes}
    for key, value in named_tensors(model).items():
        assert key.endswith("num_batches_tracked") or (key, 0) in found
        assert value.dim() < 2 or (key, 1) in found or value.shape[1] == 1
    of = {axis.key: axis.classes for axis in channels.axes if axis.dim == 0}
    assert set(of["linear.weight"]) == {UNTRACKED}
    first = next(axis.classes for axis in channels.axes if axis.key == "conv1.weight" and axis.dim == 1)
    assert set(first) == {UNTRACKED}
    depthwise = of["layers.0.conv2.weight"]
    assert np.array_equal(depthwise, of["layers.0.conv1.weight"])


def test_a_residual_stream_is_one() -> None:
    channels = find_channels(build(ModelConfig(architecture="resnet20"), num_classes=10), (3, 32, 32))
    of = {axis.key: axis.classes for axis in channels.axes if axis.dim == 0}
    assert np.array_equal(of["conv1.weight"], of["layer1.2.conv2.weight"])
    assert np.array_equal(of["layer2.0.conv2.weight"][8:24], of["conv1.weight"])
    assert not np.isin(of["layer1.0.conv1.weight"], of["conv1.weight"]).any()


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
    """Decides by its input."""

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
    """Hands on what torch.fx tells no shape of."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, images: Tensor) -> Tensor:
        one, other = self.conv(images).chunk(2, 1)
        return (one * other).mean((2, 3))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Shuffle(), "through view"),
        (Branching(), "cannot trace"),
        (Normed(), r"through norm \(GroupNorm\)"),
        (Halves(), "through getitem"),
    ],
)
def test_what_cannot_be_followed_is_a_named_error(model: nn.Module, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_channels(model, (3, 16, 16))


class Attending(nn.Module):
    """Weighs all channels by one map, on either side of the product."""

    def __init__(self, *, map_first: bool) -> None:
        super().__init__()
        self.map_first = map_first
        self.first, self.map, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 1, 1), nn.Conv2d(8, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.first(images)
        weights = torch.sigmoid(self.map(hidden))
        return self.second(weights * hidden if self.map_first else hidden * weights).mean((2, 3))


@pytest.mark.parametrize("map_first", [False, True])
def test_a_map_for_all_channels_is_of_none_of_them(map_first: bool) -> None:
    channels = find_channels(Attending(map_first=map_first), (3, 8, 8))
    of = {(axis.key, axis.dim): axis.classes.tolist() for axis in channels.axes}
    assert of["second.weight", 1] == of["first.weight", 0] == list(range(8))


class Scaled(nn.Module):
    """Channels that torch.fx cannot follow: scaled by a parameter of its own."""

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
def test_channels_that_cannot_be_followed_may_be_declared() -> None:
    with pytest.raises(ConfigError, match=r"mul: it uses scale; the network may declare its channel_groups"):
        find_channels(Scaled(), (3, 8, 8))
    model = Scaled(channel_groups=(GROUP,)).eval()
    model.norm.weight.copy_(torch.linspace(-1.0, 1.0, 6))
    channels = find_channels(model, (3, 8, 8))
    assert channels.num_classes == 6 and channels.permutation_groups == (tuple(range(6)),)
    assert all(channels.scales[c] == (("norm.weight", c),) for c in range(6))
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    before = model(images)
    changed = moved(plain(model), channels, shuffled(channels, seed=2))
    assert not torch.equal(changed["scale"], model.scale)
    own = plain(model)
    model.load_state_dict(changed)
    torch.testing.assert_close(model(images), before)
    found = moved(changed, channels, match_channels(own, changed, channels))
    assert all(torch.equal(found[key], value) for key, value in own.items())


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
def test_groups_that_cannot_be_are_refused(groups: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        declared_channels(Scaled(), groups)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.again(self.first(x))).mean((2, 3))


def test_a_layer_that_is_called_twice_is_named() -> None:
    with pytest.raises(ConfigError, match="through again, called twice"):
        find_channels(Twice(), (3, 8, 8))


def test_fused_networks_have_no_filter_level() -> None:
    fusion = FusionConfig(mode="stable", rates=(0.5,))
    model = build(ModelConfig(architecture="resnet8"), num_classes=10, fusion=fusion)
    with pytest.raises(ConfigError, match=r"fused convolutions.*use level layer$"):
        find_channels(model, (3, 32, 32))


def test_published_filter_graft(vectors) -> None:
    own, scion, expected = (
        {
            name.removeprefix(f"graft_filter/{side}/"): torch.from_numpy(np.array(value))
            for name, value in vectors.items()
            if name.startswith(f"graft_filter/{side}/")
        }
        for side in ("own", "scion", "result")
    )
    rule = PublishedGraftRule(GraftConfig(level="filter", criterion="batch_norm"), StalenessConfig(policy="none"))
    stock = rootstock(0, {key: value.clone() for key, value in own.items()}, rule)
    stock.units = tuple(GraftUnit(name=key, keys=(key,)) for key, value in own.items() if value.dim() == 4)
    (taken,) = rule.apply(stock, [arrival(1, scion, rule)])
    for key, value in expected.items():
        torch.testing.assert_close(stock.state[key], value, rtol=1e-6, atol=1e-7, msg=lambda m, k=key: f"{k}: {m}")
    for layer in taken.layers:
        gap = (own[layer.layer] - scion[layer.layer]).double()
        kept = (stock.state[layer.layer] - scion[layer.layer]).double() / gap
        assert layer.alpha == pytest.approx(float(kept.mean()), abs=1e-3)


def test_published_filter_graft_is_of_chains_and_divides_by_no_zero() -> None:
    chain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    own = {key: value.clone() for key, value in chain.state_dict().items()}
    own["1.weight"].zero_()
    found, kept = published_filter_graft(own, own)
    assert kept == {"0.weight": 0.5} and all(bool(value.isfinite().all()) for value in found.values())
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


def grafted(config: GraftConfig, *, left: float = 1.0) -> tuple[dict[str, Tensor], ...]:
    """Own, scion and result of a filter-level graft of two resnet8, and the channels' alphas by hand."""
    networks = [lively("resnet8", seed=seed) for seed in (1, 2)]
    channels = find_channels(networks[0], (3, 32, 32))
    own, scion = (plain(model) for model in networks)
    result = {key: value.clone() for key, value in own.items()}
    alphas = filter_alphas(own, scion, channels, config)
    blend_filters(result, scion, channels, alphas, config, discount=left)
    made = {
        axis.key: torch.from_numpy(alphas[axis.classes])
        for axis in channels.axes
        if axis.dim == 0 and UNTRACKED not in axis.classes
    }
    return own, scion, result, made


@pytest.mark.parametrize("crossing", ["product", "mean", "output"])
def test_each_entry_keeps_what_its_filters_keep(crossing: Any) -> None:
    own, scion, result, made = grafted(GraftConfig(level="filter", criterion="batch_norm", weight_alpha=crossing))
    hidden, stream = made["layer1.0.conv1.weight"], made["conv1.weight"]
    gammas = [side["layer1.0.bn1.weight"].abs().double() for side in (own, scion)]
    torch.testing.assert_close(hidden, gammas[0] / (gammas[0] + gammas[1]))
    makes, reads = hidden[:, None, None, None], stream[None, :, None, None]
    kept = {"product": makes * reads, "mean": (makes + reads) / 2, "output": makes.expand(-1, 16, 1, 1)}[crossing]
    expected = kept * own["layer1.0.conv1.weight"] + (1 - kept) * scion["layer1.0.conv1.weight"]
    torch.testing.assert_close(result["layer1.0.conv1.weight"].double(), expected, rtol=1e-5, atol=1e-7)
    for entry in ("weight", "bias", "running_mean", "running_var"):
        key = f"layer1.0.bn1.{entry}"
        expected = hidden * own[key] + (1 - hidden) * scion[key]
        torch.testing.assert_close(result[key].double(), expected, rtol=1e-5, atol=1e-7)
    assert torch.equal(result["linear.bias"], own["linear.bias"])
    first = stream[:, None, None, None]
    expected = first * own["conv1.weight"] + (1 - first) * scion["conv1.weight"]
    torch.testing.assert_close(result["conv1.weight"].double(), expected, rtol=1e-5, atol=1e-7)


def test_a_stream_is_judged_by_all_that_make_it() -> None:
    config = GraftConfig(level="filter", criterion="entropy", a=0.4, c=5.0)
    own, scion, _, made = grafted(config)
    assert all(bool(((alpha > 0.3) & (alpha < 0.7)).all()) for alpha in made.values())
    told = [filter_entropy(side["layer1.0.conv1.weight"]) for side in (own, scion)]
    expected = 0.5 + 0.4 / np.pi * torch.atan(5.0 * (told[0] - told[1]))
    torch.testing.assert_close(made["layer1.0.conv1.weight"], expected, rtol=1e-6, atol=1e-9)


def test_age_leaves_less_of_the_scion() -> None:
    config = GraftConfig(level="filter", criterion="constant", weight_alpha="output")
    own, _, gone, _ = grafted(config, left=0.0)
    assert all(torch.equal(value, own[key]) for key, value in gone.items())
    own, scion, half, _ = grafted(config, left=0.5)
    torch.testing.assert_close(half["conv1.weight"], 0.75 * own["conv1.weight"] + 0.25 * scion["conv1.weight"])


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet8", "vgg16", "mobilenetv2", "resnext11", "densenet40"])
def test_alignment_finds_a_shuffled_copys_channels(name: str) -> None:
    model = lively(name)
    channels = find_channels(model, (3, 32, 32))
    own = plain(model)
    scion = moved(own, channels, shuffled(channels, seed=3))
    found = moved(scion, channels, match_channels(own, scion, channels))
    far = {key for key, value in own.items() if not torch.equal(found[key], value)}
    before = {key for key, value in own.items() if not torch.equal(scion[key], value)}
    assert len(before) > 0.5 * len(own)
    assert not far, sorted(far)[:5]


def test_alignment_never_makes_networks_less_alike() -> None:
    networks = [lively("resnet8", seed=seed) for seed in (1, 2)]
    channels = find_channels(networks[0], (3, 32, 32))
    own, scion = (plain(model) for model in networks)

    def likeness(other: dict[str, Tensor]) -> float:
        return sum(float((own[key] * other[key]).sum()) for key in own if key.endswith((".weight", ".bias")))

    assert likeness(moved(scion, channels, match_channels(own, scion, channels))) > likeness(scion)


def test_networks_that_matched_their_channels_are_averaged_in_one_order() -> None:
    config = small_config(graft=GraftConfig(channel_matching="weights"))
    task = tiny_task(config)
    model = task.build(0)
    channels = find_channels(model, task.image_shape)
    own = {key: value.clone() for key, value in model.state_dict().items()}
    copies = [own, *(moved(own, channels, shuffled(channels, seed=seed)) for seed in (1, 2))]
    assert not torch.equal(soup(copies)["conv1.weight"], own["conv1.weight"])
    for key, value in soup(task.align_states(copies)).items():
        torch.testing.assert_close(value, own[key], msg=key)
    unmatched = tiny_task(small_config())
    assert all(one is other for one, other in zip(unmatched.align_states(copies), copies, strict=True))


OPTIONS: dict[str, dict[str, Any]] = {
    "batch norm": {"graft": GraftConfig(level="filter", criterion="batch_norm")},
    "entropy, mean": {"graft": GraftConfig(level="filter", weight_alpha="mean")},
    "two donors": {"graft": GraftConfig(level="filter", criterion="l1"), "exchange": ExchangeConfig(num_donors=2)},
    "aligned filters": {"graft": GraftConfig(level="filter", criterion="batch_norm", channel_matching="weights")},
    "aligned layers": {"graft": GraftConfig(channel_matching="weights")},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_populations_graft_filters(name: str) -> None:
    config = small_config(population=PopulationConfig(size=3), **OPTIONS[name])
    splits = tiny_splits(config)
    results = [Simulator(config, lambda: tiny_task(config, splits)).run() for _ in range(2)]
    assert [line.outcome for line in results[0].ledger].count(ExchangeOutcome.GRAFTED) >= 8
    for model, trainer in results[0].trainers.items():
        other = named_tensors(results[1].trainers[model].module)
        assert all(torch.equal(value, other[key]) for key, value in named_tensors(trainer.module).items())
        assert all(bool(torch.isfinite(value).all()) for value in named_tensors(trainer.module).values())


def test_several_donors_give_the_mean_of_the_blends() -> None:
    model = build(ModelConfig(architecture="resnet8"), num_classes=4, in_channels=1, seed=0)
    channels = find_channels(model, (1, 32, 32))
    rule = GraftRule(GraftConfig(level="filter", criterion="l1"), StalenessConfig(), channels)
    arrivals = [arrival(number, state(number + 1), rule) for number in (1, 2)]
    blends = []
    for chosen in ([arrivals[0]], [arrivals[1]], arrivals):
        own = state(1)
        rule.apply(rootstock(0, own, rule), chosen)
        blends.append(own)
    for key in blends[0]:
        expected = (blends[0][key].double() + blends[1][key].double()) / 2
        torch.testing.assert_close(blends[2][key].double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("donors", "age"), [(1, 0.0), (1, 1.0), (2, 1.0)])
@pytest.mark.parametrize("crossing", ["product", "mean", "output"])
def test_history_tells_what_each_layer_kept(donors: int, age: float, crossing: Any) -> None:
    model = build(ModelConfig(architecture="resnet8"), num_classes=4, in_channels=1, seed=0)
    channels = find_channels(model, (1, 32, 32))
    config = GraftConfig(level="filter", criterion="constant", weight_alpha=crossing)
    rule = GraftRule(config, StalenessConfig(policy="polynomial", rate=1.0), channels)
    old = Staleness(intervals=age, steps=age, seconds=0.0)
    scion, own = state(2), state(1)
    before = {key: tensor.clone() for key, tensor in own.items()}
    arrivals = [dataclasses.replace(arrival(number, scion, rule), staleness=old) for number in range(1, donors + 1)]
    taken = rule.apply(rootstock(0, own, rule), arrivals)
    shares = []
    for layer, *of_donors in zip(*(one.layers for one in taken), strict=True):
        key = layer.layer
        gap = (before[key] - scion[key]).double()
        kept = float(((own[key] - scion[key]).double() * gap).sum() / (gap * gap).sum())
        told = 1.0 - (1.0 - layer.alpha) - sum(1.0 - other.alpha for other in of_donors)
        assert told == pytest.approx(kept, abs=1e-5), key
        shares.append(1.0 - kept)
    left = 1.0 / (1.0 + age)
    inner = {"product": 1.0 - 0.75 * left, "mean": 1.0 - 0.5 * left, "output": 1.0 - 0.5 * left}[crossing]
    alphas = {layer.layer: 1.0 - (1.0 - layer.alpha) * donors for layer in taken[0].layers}
    assert alphas["layer1.0.conv1.weight"] == pytest.approx(inner)
    assert alphas["conv1.weight"] == pytest.approx(1.0 - 0.5 * left)
    assert sum(one.scion_weight for one in taken) == pytest.approx(sum(shares) / len(shares), abs=1e-5)


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
def test_settings_that_do_not_go_with_filters_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"graft\."):
        GraftConfig(level="filter", **fields)
