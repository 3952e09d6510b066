"""Built-in and torchvision architectures: parameter counts, forward pass, graft and resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn

from inarch.population import GraftConfig, ModelConfig, graft
from inarch.population.errors import ConfigError
from inarch.population.grafting.units import graft_units
from inarch.population.models import CifarResNet, architectures, build
from inarch.population.models.cifar_resnet import BasicBlock
from inarch.population.models.complexity import model_complexity
from inarch.population.models.mobilenetv2 import InvertedResidual
from inarch.population.models.pretrained import without_input_transform
from inarch.population.persistence.checkpoint import Checkpoint, CheckpointId, CheckpointStore
from inarch.population.persistence.storage import Storage
from inarch.population.state.state_dict import load_tensors, named_tensors


@pytest.mark.parametrize(
    ("architecture", "parameters"),
    [
        ("resnet20", 269_722),
        ("resnet32", 464_154),
        ("resnet56", 853_018),
        ("resnet110", 1_727_962),
        ("mobilenetv2", 2_296_922),
        ("vgg16", 14_728_266),
        ("googlenet", 6_166_250),
        ("wrn28-10", 36_479_194),
        ("densenet100", 769_162),
        ("resnext29", 34_426_698),
    ],
)
def test_build_gives_the_published_number_of_parameters(architecture: str, parameters: int) -> None:
    model = build(ModelConfig(architecture=architecture), num_classes=10)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize("architecture", architectures())
@pytest.mark.parametrize("channels", [1, 3])
def test_built_in_models_map_images_to_logits(architecture: str, channels: int) -> None:
    model = build(ModelConfig(architecture=architecture), num_classes=7, in_channels=channels, seed=0).eval()
    with torch.no_grad():
        assert model(torch.randn(2, channels, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize("architecture", ["resnet8", "resnet14", "mobilenetv2-0.25", "resnet50", "wrn16-4"])
def test_gradients_keep_the_layout_of_channels_last(architecture: str) -> None:
    model = build(ModelConfig(architecture=architecture), num_classes=7, seed=0).to(memory_format=torch.channels_last)
    other: set[str] = set()

    def watch(name: str, output: torch.Tensor) -> None:
        def check(gradient: torch.Tensor) -> None:
            if not gradient.is_contiguous(memory_format=torch.channels_last):
                other.add(name)

        if output.dim() == 4:
            output.register_hook(check)

    for name, module in model.named_modules():
        module.register_forward_hook(lambda _module, _inputs, output, name=name: watch(name, output))
    model(torch.randn(2, 3, 32, 32).contiguous(memory_format=torch.channels_last)).sum().backward()
    assert {name.split(".")[0] for name in other} <= {"layer3"}  # the last, of which the mean over pixels is taken
    assert len(other) <= 2


def test_shortcut_takes_every_second_pixel_whatever_the_size() -> None:
    block = build(ModelConfig(architecture="resnet8"), num_classes=7, seed=0).get_submodule("layer2.0").eval()
    assert isinstance(block, BasicBlock)
    for size in (8, 9):
        images = torch.randn(2, 16, size, size, requires_grad=True)
        branch = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(images)))))
        strided = torch.nn.functional.pad(images[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8))
        expected = torch.relu(branch + strided)
        (gradient,) = torch.autograd.grad(expected.sum(), images, retain_graph=True)
        output = block(images)
        assert torch.equal(output, expected)
        assert torch.equal(torch.autograd.grad(output.sum(), images)[0], gradient)


def test_mobilenet_has_the_strides_of_the_reference() -> None:
    model = build(ModelConfig(architecture="mobilenetv2"), num_classes=10)
    strides = [module.stride[0] for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert sum(stride == 2 for stride in strides) == 3


@pytest.mark.parametrize(("architecture", "width"), [("mobilenetv2-0.5", 0.5), ("mobilenetv2-0.25", 0.25)])
def test_narrow_mobilenets_have_the_channels_of_torchvision(architecture: str, width: float) -> None:
    ours = build(ModelConfig(architecture=architecture), num_classes=10)
    theirs = torchvision.models.mobilenet_v2(width_mult=width, num_classes=10)
    channels = [block.conv3.out_channels for block in ours.modules() if isinstance(block, InvertedResidual)]
    expected = [block.out_channels for block in theirs.features[1:-1]]
    assert channels == expected
    depthwise = [module.groups for module in ours.modules() if isinstance(module, nn.Conv2d) and module.groups > 1]
    assert depthwise == [
        module.groups for module in theirs.modules() if isinstance(module, nn.Conv2d) and module.groups > 1
    ]


def test_leaky_activation_changes_the_resnet_output() -> None:
    plain, leaky = (build(ModelConfig(architecture="resnet8", leaky=on), num_classes=4, seed=0) for on in (False, True))
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(plain(images), leaky(images))
    with pytest.raises(ConfigError, match="leaky is for the CIFAR ResNets"):
        build(ModelConfig(architecture="vgg16", leaky=True), num_classes=4)


def test_build_seed_sets_weights_and_keeps_global_rng_state() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    model, same_seed_model, other_seed_model = (
        build(ModelConfig(architecture="resnet8"), num_classes=4, seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(model.state_dict()["conv1.weight"], same_seed_model.state_dict()["conv1.weight"])
    assert not torch.equal(model.state_dict()["conv1.weight"], other_seed_model.state_dict()["conv1.weight"])


SHAPE: dict[str, Any] = {"in_channels": 1, "image_shape": (1, 8, 8)}


def own_network(num_classes: int) -> nn.Module:
    """A user-defined model, named as `module:function`."""
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.LazyLinear(num_classes))


def not_a_network(num_classes: int) -> int:
    return num_classes


def test_build_accepts_user_models_and_refuses_unknown_names() -> None:
    by_name = build(
        ModelConfig(architecture="tests.population.models.test_building:own_network"), num_classes=3, seed=0, **SHAPE
    )
    assert by_name(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
    assert isinstance(build(lambda: CifarResNet(8, num_classes=2), num_classes=2), CifarResNet)
    with pytest.raises(ConfigError, match=r"must give a torch\.nn\.Module, got int"):
        build(ModelConfig(architecture="tests.population.models.test_building:not_a_network"), num_classes=3)
    with pytest.raises(ConfigError, match="cannot be imported"):
        build(ModelConfig(architecture="tests.population.models.test_building:nothing"), num_classes=3)
    with pytest.raises(
        ConfigError, match=r"'resnet21' is unknown; there are resnet8, .*, else torchvision:NAME or module:function"
    ):
        build(ModelConfig(architecture="resnet21"), num_classes=3)
    with pytest.raises(ConfigError, match="torchvision has no classifier 'resnet19'"):
        build(ModelConfig(architecture="torchvision:resnet19"), num_classes=3)
    with pytest.raises(ValueError, match="6n \\+ 2"):
        CifarResNet(9, num_classes=2)


FAMILIES = {
    "alexnet": 64,
    "convnext_tiny": 32,
    "densenet121": 32,
    "efficientnet_b0": 32,
    "googlenet": 32,
    "inception_v3": 75,
    "maxvit_t": 224,
    "mnasnet0_5": 32,
    "mobilenet_v2": 32,
    "mobilenet_v3_small": 32,
    "regnet_x_400mf": 32,
    "resnet18": 32,
    "resnext50_32x4d": 32,
    "shufflenet_v2_x0_5": 32,
    "squeezenet1_1": 32,
    "swin_t": 32,
    "vgg11_bn": 32,
    "vit_b_16": 224,
    "wide_resnet50_2": 32,
}
"""A model of each torchvision family, with the side in pixels of the images that it accepts."""

HEAVY = frozenset(
    {
        "swin_t",
        "convnext_tiny",
        "resnext50_32x4d",
        "maxvit_t",
        "vit_b_16",
        "wide_resnet50_2",
        "inception_v3",
        "vgg11_bn",
        "alexnet",
    }
)


def test_families_cover_every_torchvision_module() -> None:
    modules = {torchvision.models.get_model_builder(name).__module__ for name in FAMILIES}
    present = {
        torchvision.models.get_model_builder(name).__module__
        for name in torchvision.models.list_models(module=torchvision.models)
    }
    assert modules == present


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in HEAVY else []) for name in FAMILIES]
)
def test_torchvision_family_forward_graft_and_resume(name: str, tmp_path) -> None:
    config = ModelConfig(architecture=f"torchvision:{name}")
    rootstock, donor = (build(config, num_classes=5, seed=seed) for seed in (0, 1))
    units = "matrices" if name in ("vit_b_16", "swin_t") else "convolutions"
    result = graft(
        rootstock.state_dict(), donor.state_dict(), GraftConfig(units=units), units=graft_units(rootstock, units)
    )
    rootstock.load_state_dict(result.state)
    images = torch.randn(2, 3, FAMILIES[name], FAMILIES[name], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = rootstock.eval()(images)
    assert logits.shape == (2, 5) and bool(torch.isfinite(logits).all())
    store = CheckpointStore(Storage(str(tmp_path)))
    identity = CheckpointId(incarnation=1, interval=1)
    store.commit(Checkpoint(network_id=0, id=identity, model=named_tensors(rootstock), tensors={}, training={}))
    loaded = store.newest(0)
    assert loaded is not None
    load_tensors(donor, loaded.model)
    with torch.no_grad():
        assert torch.equal(donor.eval()(images), logits)


@pytest.mark.parametrize("name", ["inception_v3", "googlenet"])
def test_pretrained_weights_need_no_transform_of_the_input(name: str) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {"weights": None, "init_weights": False, "aux_logits": False}
    expected = torchvision.models.get_model(name, transform_input=True, **options).eval()
    plain = torchvision.models.get_model(name, transform_input=False, **options).eval()
    plain.load_state_dict(without_input_transform(expected.state_dict()))
    first = "Conv2d_1a_3x3" if name == "inception_v3" else "conv1"
    images = torch.randn(2, 3, 75, 75)
    with torch.no_grad():
        inner = []
        for model in (expected, plain):
            stem, found = getattr(model, first), list[torch.Tensor]()
            stem.register_forward_hook(
                lambda *call, found=found: found.append(call[2][:, :, 2:-2, 2:-2])
            )  # GoogLeNet pads
            model(images)
            inner += found
        torch.testing.assert_close(*inner, rtol=1e-4, atol=1e-5)
        untransformed = getattr(expected, first)(images)[:, :, 2:-2, 2:-2]
    assert float((untransformed - inner[0]).abs().mean()) > 0.01


def test_pretrained_weights_load_except_a_wider_classifier(tmp_path: Path) -> None:
    plain = ModelConfig(architecture="resnet8")
    trained = build(plain, num_classes=5, seed=1)
    file = str(tmp_path / "weights.safetensors")
    safetensors.torch.save_model(trained, file)
    config = ModelConfig(architecture="resnet8", weights=file)
    same = build(config, num_classes=5, seed=2)
    assert all(torch.equal(same.state_dict()[key], value) for key, value in trained.state_dict().items())
    wider, fresh = build(config, num_classes=9, seed=2), build(plain, num_classes=9, seed=2)
    head = [name for name, module in wider.named_modules() if isinstance(module, nn.Linear)][-1]
    for key, value in wider.state_dict().items():
        expected = fresh if key.startswith(head) else trained
        assert torch.equal(value, expected.state_dict()[key]), key


@pytest.mark.parametrize(
    ("architecture", "weights", "message"),
    [
        ("resnet8", "nowhere.safetensors", "does not exist"),
        ("torchvision:resnet18", "IMAGENET1K_V9", "IMAGENET1K_V1"),
        ("resnet14", "weights.safetensors", "are not those of resnet14"),
        ("resnet8", "broken", "cannot be read as safetensors"),
    ],
)
def test_build_refuses_invalid_pretrained_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str, weights: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    safetensors.torch.save_model(build(ModelConfig(architecture="resnet8"), num_classes=5), "weights.safetensors")
    Path("broken").write_bytes(b"no weights")
    with pytest.raises(ConfigError, match=message):
        build(ModelConfig(architecture=architecture, weights=weights), num_classes=5, seed=0)


class Attends(nn.Module):
    """A transformer encoder. By default, torch evaluates it by a fused operation."""

    def __init__(self, width: int, inner: int, layers: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 2, inner, batch_first=True)
        self.encoder, self.width = nn.TransformerEncoder(layer, layers), width
        self.head = nn.Linear(width, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = images.flatten(2).transpose(1, 2).repeat(1, 1, self.width)
        return self.head(self.encoder(tokens).mean(1))


def test_multiply_adds_of_attention_match_values_by_hand() -> None:
    tokens, width, inner, layers = 64, 16, 32, 2
    complexity = model_complexity(Attends(width, inner, layers), (1, 8, 8))
    projections, attention, feed_forward = 4 * tokens * width**2, 2 * tokens**2 * width, 2 * tokens * width * inner
    assert complexity.multiply_adds == layers * (projections + attention + feed_forward) + 3 * width
    assert torch.backends.mha.get_fastpath_enabled()


def test_matrices_without_values_open_no_unit() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    module.register_parameter("empty", nn.Parameter(torch.zeros(0, 4)))
    assert [unit.name for unit in graft_units(module, "matrices")] == ["0.weight", "1.weight"]
