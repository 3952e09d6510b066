"""A user-defined model either trains or is refused before the run starts, with a remedy in the message."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from inarch.actors.driver.inputs import with_network
from inarch.population import (
    DataConfig,
    ExchangeConfig,
    GraftConfig,
    ImageClassification,
    ModelConfig,
    RunConfig,
    ScheduleConfig,
    Simulator,
    WeightAveragingConfig,
)
from inarch.population.data import image_set, memory_splits
from inarch.population.data.memory_batches import epoch_batches, epoch_steps
from inarch.population.errors import ConfigError, InarchError, UserCodeError
from inarch.population.evaluation.deployment import InferenceCost
from inarch.population.evaluation.population import EvaluationData, evaluate_population
from inarch.population.evaluation.soups import Candidate
from inarch.population.grafting.units import chosen_units, graft_units
from inarch.population.models import ModelFactory, build, check_factory, logits_of
from inarch.population.persistence.checkpoint import Checkpoint, CheckpointStore
from inarch.population.persistence.storage import Storage
from inarch.population.state.state_dict import named_tensors
from inarch.population.tasks.image_shape import DataShape, data_shape
from inarch.population.tasks.image_task import ImageTask, run_splits
from inarch.population.tasks.image_trial import stand_in_task
from inarch.population.training.run_preparation import describe_run, try_task
from tests.conftest import small_config, tiny_splits
from tests.fakes.runtime import FakeRuntime, live

SHAPE = DataShape(num_images=86, image_shape=(1, 8, 8), num_classes=4)


def try_network(config: RunConfig, factory: ModelFactory, shape: DataShape) -> None:
    try_task(stand_in_task(config, factory, shape), num_examples=shape.num_images)


def body(*more: nn.Module, num_classes: int = 4) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        *more,
        nn.Linear(8, num_classes),
    )


class Wrapped(nn.Module):
    """A model whose output is a given function of its logits."""

    def __init__(self, make: Callable[[Any, Tensor], Any], *, lazy: bool = False) -> None:
        super().__init__()
        self.body, self.make = body(), make
        if lazy:
            self.lazy = nn.LazyLinear(4)
        self.auxiliary = nn.Linear(4, 4)

    def forward(self, images: Tensor) -> Any:
        return self.make(self, self.body(images))


def tie_convolutions(module: nn.Module) -> None:
    first, second = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3)
    second.weight = first.weight
    module.add_module("first", first)
    module.add_module("second", second)


def share_buffer(module: nn.Module) -> None:
    table = torch.arange(6.0)
    for name in ("first", "second"):
        part = nn.Module()
        part.register_buffer("table", table)
        module.add_module(name, part)


class With(nn.Module):
    """A model with an additional buffer or parameter."""

    def __init__(self, change: Callable[[nn.Module], Any]) -> None:
        super().__init__()
        self.body = body()
        change(self)

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images)


class Output(dict):
    """A mapping with attributes, like the model outputs of Transformers."""

    @property
    def logits(self) -> Tensor:
        return self["logits"]


def lazy() -> nn.Module:
    return nn.Sequential(
        nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.LazyConv2d(8, 3), nn.Flatten(), nn.LazyLinear(4)
    )


def tied() -> nn.Module:
    model = body(nn.Linear(8, 8), nn.Linear(8, 8))
    model[6].weight = model[5].weight
    return model


def weight_norm(*, several: bool = True) -> nn.Module:
    model = body()
    for place in (0, 2) if several else (0,):
        nn.utils.parametrizations.weight_norm(model[place])
    return model


def old_weight_norm() -> nn.Module:
    model = body()
    with pytest.warns(FutureWarning):
        nn.utils.weight_norm(model[0])
    return model


def mlp(num_classes: int = 4) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, num_classes))


def mask(module: nn.Module) -> None:
    module.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(16))


def frozen_but_head() -> nn.Module:
    model = body()
    model[0].requires_grad_(False)
    return model


WORKS: dict[str, Callable[[], nn.Module]] = {
    "tuple": lambda: Wrapped(lambda module, logits: (logits, module.auxiliary(logits))),
    "auxiliary head in training": lambda: Wrapped(
        lambda module, logits: (logits, module.auxiliary(logits)) if module.training else logits
    ),
    "mapping": lambda: Wrapped(lambda module, logits: {"loss": None, "logits": logits}),
    "mapping with key out": lambda: Wrapped(lambda module, logits: {"out": logits, "aux": module.auxiliary(logits)}),
    "model output": lambda: Wrapped(lambda module, logits: Output(logits=logits)),
    "infinite mask": lambda: With(mask),
    "NaN buffer": lambda: With(lambda module: module.register_buffer("unset", torch.full((3,), torch.nan))),
    "lazy": lazy,
    "tied": tied,
    "expanded buffer": lambda: With(lambda module: module.register_buffer("ones", torch.ones(1, 1).expand(3, 5))),
    "expanded parameter": lambda: With(
        lambda module: module.register_parameter("scale", nn.Parameter(torch.ones(1).expand(4)))
    ),
    "integer and empty buffers": lambda: With(
        lambda module: [
            module.register_buffer(str(n), t)
            for n, t in enumerate((torch.arange(3), torch.zeros(0), torch.tensor(True)))
        ]
    ),
    "sparse buffer that is not saved": lambda: With(
        lambda module: module.register_buffer("graph", torch.eye(3).to_sparse(), persistent=False)
    ),
    "complex buffer": lambda: With(
        lambda module: module.register_buffer("phase", torch.ones(3, dtype=torch.complex64))
    ),
    "weight norm": weight_norm,
    "weight norm on one of two convolutions": lambda: weight_norm(several=False),
    "spectral norm": lambda: nn.Sequential(
        nn.utils.parametrizations.spectral_norm(nn.Conv2d(1, 8, 3)), nn.Flatten(), nn.Linear(288, 4)
    ),
    "old weight norm": old_weight_norm,
    "MLP": mlp,
    "partly frozen": frozen_but_head,
    "tied convolutions with biases": lambda: With(tie_convolutions),
    "buffer shared by two modules": lambda: With(share_buffer),
    "lazy head used only in training": lambda: Wrapped(
        lambda module, logits: (logits, module.lazy(logits)) if module.training else logits, lazy=True
    ),
    "batch norm on features": lambda: body(nn.BatchNorm1d(8)),
}


def changed(**fields: Any) -> RunConfig:
    return small_config(schedule=ScheduleConfig(epochs=3, batch_size=32), **fields)


@pytest.mark.parametrize("name", WORKS)
@pytest.mark.parametrize("averaging", ["none", "ema"])
def test_supported_model_trains_grafts_resumes_and_evaluates(tmp_path, name: str, averaging: Any) -> None:
    config = changed(weight_averaging=WeightAveragingConfig(kind=averaging, decay=0.5))
    splits = tiny_splits(config)

    def factory() -> nn.Module:
        return WORKS[name]()

    refused = {
        "old weight norm": r"weight_averaging.kind ema needs a copy .* use torch.nn.utils.parametrizations.weight_norm",
        "sparse buffer that is not saved": "weight_averaging.kind ema averages buffers too, and 'graph' is sparse",
    }
    if averaging == "ema" and name in refused:
        with pytest.raises(ConfigError, match=refused[name]):
            try_network(config, factory, SHAPE)
        return
    try_network(config, factory, SHAPE)
    simulator = Simulator(config, lambda: ImageClassification(config, splits, factory=factory))
    result = simulator.run()
    assert "grafted" in {line.outcome for line in result.ledger}
    trainers = result.trainers
    for trainer in trainers.values():
        state = named_tensors(trainer.module)
        finite = [key for key in state if not key.endswith(("mask", "unset"))]
        assert all(torch.isfinite(state[key]).all() for key in finite if state[key].is_floating_point())
    runtime = FakeRuntime()
    task = ImageClassification(config, splits, factory=factory)
    fresh = type(trainers[0])(task, config, network_id=0)
    live(fresh, runtime)
    store = CheckpointStore(Storage(str(tmp_path)))
    assert store.commit(runtime.checkpoints[-1])
    saved = store.newest(0)
    assert isinstance(saved, Checkpoint)
    resumed = type(trainers[0])(ImageClassification(config, splits, factory=factory), config, network_id=0)
    resumed.resume(saved)
    for key, tensor in named_tensors(fresh.module).items():
        assert torch.equal(tensor.nan_to_num(), named_tensors(resumed.module)[key].nan_to_num()), key
    test = task.part("test")
    assert test is not None
    candidates = [Candidate(network_id=n, state=saved.evaluated_state, validation_score=0.5) for n in (0, 1)]
    parts = EvaluationData(
        evaluated=test,
        validation=task.part("validation"),
        statistics=task.batch_norm_inputs,
        metric=task.metrics[0],
        cost=InferenceCost(parameters=1),
    )
    scores = evaluate_population(task.build(0), candidates, parts)
    assert scores["mean"]["accuracy"] == scores["each"][0]["accuracy"] > 0.4, "chance is 0.25"


@pytest.mark.parametrize("rule", ["papa", "wash", "pbt", "dml", "none"])
@pytest.mark.parametrize("name", ["MLP", "infinite mask", "no matrix"])
def test_rules_without_grafting_accept_any_model(rule: Any, name: str) -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4))

        def forward(self, images: Tensor) -> Tensor:
            return images.float().unfold(2, 4, 4).unfold(3, 4, 4).mean((-1, -2)).flatten(1) * self.scale

    config = changed(exchange=ExchangeConfig(rule=rule))
    splits = tiny_splits(config)
    factory = Scale if name == "no matrix" else WORKS[name]
    try_network(config, factory, SHAPE)
    result = Simulator(config, lambda: ImageClassification(config, splits, factory=factory)).run()
    outcomes = {line.outcome for line in result.ledger}
    assert outcomes == {"off"} if rule == "none" else outcomes & {"grafted", "unchanged"}
    if name == "infinite mask":
        for trainer in result.trainers.values():
            assert torch.equal(trainer.module.get_buffer("mask"), nn.Transformer.generate_square_subsequent_mask(16))


def sharing(module: nn.Module) -> None:
    weight = nn.Parameter(torch.ones(4, 6))
    module.register_parameter("first", weight)
    module.register_parameter("second", nn.Parameter(weight.data.t()))


class Copying(With):
    def __init__(self) -> None:
        super().__init__(lambda module: None)

    def state_dict(self, *args: Any, **options: Any) -> Any:
        return {name: tensor.clone() for name, tensor in super().state_dict(*args, **options).items()}


class Omitting(With):
    def __init__(self) -> None:
        super().__init__(lambda module: None)

    def state_dict(self, *args: Any, **options: Any) -> Any:
        return {name: t for name, t in super().state_dict(*args, **options).items() if not name.startswith("body.5")}


def extra(module: nn.Module) -> None:
    module.add_module("extra", type("Extra", (nn.Module,), {"get_extra_state": lambda self: {"step": 1}})())


SAME = body()

REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "features only": (
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3)),
        r"must map 2 images \(2, 1, 8, 8\) to logits \(2, 4\), it gave \(2, 4, 6, 6\)",
    ),
    "wrong number of outputs": (lambda: body(num_classes=3), r"to logits \(2, 4\), it gave \(2, 3\)"),
    "3 input channels": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3)),
        r"the network, evaluating images \(2, 1, 8, 8\), raised",
    ),
    "mapping without logits": (
        lambda: Wrapped(lambda module, logits: {"features": logits}),
        "the network must give logits, .*; it gave dict with features",
    ),
    "all parameters frozen": (lambda: body().requires_grad_(False), "no parameter to train: all are frozen"),
    "no parameters": (nn.Flatten, "no parameter to train"),
    "detached": (lambda: Wrapped(lambda module, logits: logits.detach()), "the loss does not depend on any parameter"),
    "complex": (
        lambda: With(lambda module: module.register_parameter("f", nn.Parameter(torch.ones(2, dtype=torch.complex64)))),
        "parameter 'f' is complex; keep it as a real parameter .*view_as_complex",
    ),
    "sparse": (
        lambda: With(lambda module: module.register_buffer("graph", torch.eye(3).to_sparse())),
        r"buffer 'graph' is sparse \(sparse_coo\) and cannot be shared or saved; .*persistent=False",
    ),
    "quantized": (
        lambda: With(
            lambda module: module.register_buffer("q", torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8))
        ),
        "buffer 'q' is quantized",
    ),
    "float8": (
        lambda: With(lambda module: module.register_buffer("small", torch.ones(3).to(torch.float8_e4m3fn))),
        r"buffer 'small' has type torch.float8_e4m3fn",
    ),
    "meta": (
        lambda: With(lambda module: module.register_buffer("m", torch.ones(3, device="meta"))),
        "buffer 'm' is on device meta",
    ),
    "parameters of overlapping memory": (
        lambda: With(sharing),
        "'first' and 'second' are different tensors of the same memory",
    ),
    "extra state": (lambda: With(extra), r"'extra._extra_state' of the network's state_dict is extra state"),
    "the same instance": (lambda: SAME, "gives the same network, or the same weights, each time"),
    "the same weights": (lambda: nn.Sequential(SAME, nn.Identity()), "the same weights, each time"),
    "TorchScript": (lambda: torch.jit.script(body()), "the network is TorchScript"),
    "state_dict returns copies": (Copying, "state_dict gives a copy of 'body.0.weight'"),
    "state_dict omits weights": (Omitting, "state_dict lacks 'body.5.weight'"),
    "unused lazy layer": (
        lambda: With(lambda module: module.add_module("unused", nn.LazyLinear(3))),
        r"lazy layer 'unused.weight' got no size",
    ),
    "factory returns None": (lambda: None, r"must give a torch\.nn\.Module, got NoneType"),
}


@pytest.mark.filterwarnings(
    "ignore:torch.quantize_per_tensor", "ignore:.*quantize.*:UserWarning", "ignore:Sparse", "ignore:.*jit"
)
@pytest.mark.parametrize("name", REFUSED)
def test_unsupported_model_is_refused_with_a_remedy(name: str) -> None:
    factory, message = REFUSED[name]
    with pytest.raises(InarchError, match=message) as raised:
        try_network(changed(), factory, SHAPE)
    assert str(raised.value).count("\n") <= 9


def test_model_factory_with_invalid_arguments_is_refused() -> None:
    cases: list[tuple[Any, str]] = [
        (lambda classes: body(), r"cannot be called with no arguments: missing a required argument: 'classes'"),
        (lambda num_classes, width: body(), r"cannot be called with num_classes: missing a required argument: 'width'"),
        (body(), "an instance of Sequential; give the class, or a function"),
    ]
    for factory, message in cases:
        with pytest.raises(ConfigError, match=message):
            try_network(changed(), factory, SHAPE)
    for wrong, message in ((body(), "instance of Sequential"), (3, "got int")):
        with pytest.raises(ConfigError, match=message):
            check_factory(wrong)
    with pytest.raises(
        ConfigError, match="cannot be called with no arguments: missing a required argument: 'in_features'"
    ):
        build(ModelConfig(architecture="torch.nn:Linear"), num_classes=3)


def test_unpicklable_factory_error_names_the_captured_object() -> None:
    lock, width = threading.Lock(), 8

    def locked(num_classes: int) -> nn.Module:
        with lock:
            return nn.Linear(width, num_classes)

    with pytest.raises(ConfigError, match=r"locked cannot be sent to the cluster because of 'lock': cannot pickle"):
        with_network(RunConfig(), ImageTask(), locked)
    assert with_network(RunConfig(), ImageTask(), mlp)[1] is mlp


def test_factory_error_shows_only_the_users_frames() -> None:
    def factory(num_classes: int) -> nn.Module:
        raise RuntimeError("weights are on the other disk")

    with pytest.raises(UserCodeError) as raised:
        try_network(changed(), factory, SHAPE)
    message = str(raised.value)
    assert "the network function" in message and "raised RuntimeError: weights are on the other disk" in message
    assert "test_user_models.py" in message and "extension/user_code.py" not in message


@pytest.mark.parametrize(("images", "batch_size"), [(58, 19), (65, 32), (33, 32), (64, 32), (3, 2)])
@pytest.mark.parametrize("drop_last", ["auto", "on", "off"])
def test_last_batch_of_one_image_is_dropped_for_batch_norm(images: int, batch_size: int, drop_last: Any) -> None:
    schedule = ScheduleConfig(epochs=1, batch_size=batch_size, drop_last=drop_last)
    config = small_config(schedule=schedule, data=DataConfig(augmentation="none", validation=0.0))
    splits = tiny_splits(config, images=images, classes=2)
    task = ImageClassification(config, splits, factory=lambda: body(nn.BatchNorm1d(8), num_classes=2))
    sizes = [len(labels) for _, labels in task.epoch(order_seed=0, augment_seed=0, epoch=0, first=0)]
    full, rest = divmod(images, batch_size)
    drops = rest and (drop_last == "on" or (drop_last == "auto" and rest == 1))
    assert sizes == [batch_size] * full + ([rest] if rest and not drops else [])
    assert len(sizes) == epoch_steps(images, schedule) == task.steps_per_epoch
    assert {sizes[0], sizes[-1]} == set(epoch_batches(images, schedule))
    if sizes[-1] == 1:
        with pytest.raises(UserCodeError, match=r"batch of images \(1, 1, 8, 8\).*schedule.drop_last=on"):
            task.check(num_examples=images)
    else:
        task.check(num_examples=images)


def test_try_network_covers_each_task_and_kind_of_data() -> None:
    data = DataConfig(train="x", test="y", query="z", augmentation="imagenet", stream="always", channels="gray")
    try_network(changed(task="retrieval", data=data), body, SHAPE)
    own = DataConfig(train="x", validation_set="v", class_names=("a", "b"), image_size=8, skip_unreadable=3)
    try_network(changed(data=own), body, SHAPE)


def test_batch_size_of_one_is_refused_only_with_batch_norm() -> None:
    config = small_config(schedule=ScheduleConfig(epochs=1, batch_size=1))
    try_network(config, body, SHAPE)
    with pytest.raises(UserCodeError, match="batch norm needs two images"):
        try_network(config, lambda: body(nn.BatchNorm1d(8)), SHAPE)


def test_try_network_accepts_auxiliary_heads_of_torchvision() -> None:
    shape = DataShape(num_images=40, image_shape=(3, 64, 64), num_classes=4)
    config = small_config(schedule=ScheduleConfig(epochs=1, batch_size=4), exchange=ExchangeConfig(rule="none"))

    def googlenet(num_classes: int) -> nn.Module:
        return torchvision.models.googlenet(weights=None, num_classes=num_classes, aux_logits=True, init_weights=False)

    try_network(config, googlenet, shape)


def test_logits_of_extracts_logits_from_each_output_type() -> None:
    logits = torch.ones(2, 3)
    for output in (logits, (logits, None), [logits], {"logits": logits}, Output(logits=logits), {"out": logits}):
        assert logits_of(output) is logits
    for output in ((), {"x": logits}, None, (None, logits)):
        with pytest.raises(ConfigError, match="must give logits"):
            logits_of(output)


def test_graft_units_include_parametrized_convolutions() -> None:
    assert [unit.name for unit in graft_units(weight_norm())] == [
        "0.parametrizations.weight.original1",
        "2.parametrizations.weight.original1",
    ]
    mixed = graft_units(weight_norm(several=False))
    assert [unit.name for unit in mixed] == ["0.parametrizations.weight.original1", "2.weight"]
    assert {key.split(".")[0] for key in mixed[0].keys} == {"0"}
    assert [unit.name for unit in graft_units(old_weight_norm())] == ["0.weight_v", "2.weight"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vit_b_16", "matrices"),
        ("swin_t", "matrices"),
        ("resnet18", "convolutions"),
        ("vgg11", "convolutions"),
        ("alexnet", "convolutions"),
        ("mobilenet_v2", "convolutions"),
        ("densenet121", "convolutions"),
        ("convnext_tiny", "convolutions"),
    ],
)
def test_chosen_units_are_matrices_only_for_transformers(name: str, expected: str) -> None:
    with torch.device("meta"):
        module = torchvision.models.get_model(name, weights=None)
    assert chosen_units(module) == expected
    if expected == "matrices":
        num_matrices = sum(parameter.dim() >= 2 for parameter in module.parameters())
        assert num_matrices > 40
        real = torchvision.models.get_model(name, weights=None, num_classes=4)
        assert len(graft_units(real)) == num_matrices and len(graft_units(real, "convolutions")) == 1
    assert GraftConfig().units == "auto"


def test_data_shape_matches_the_splits_of_the_run(tmp_path) -> None:
    from tests.images import write_classes

    for data in (
        DataConfig(),
        DataConfig(train=write_classes(tmp_path / "a", ("cat", "dog", "owl"), each=7), validation=0.2, image_size=9),
        DataConfig(train=str(tmp_path / "a"), channels="gray", train_limit=12),
        DataConfig(train=str(tmp_path / "a"), stream="always", image_size=(20, 10), validation=0.0),
    ):
        config = RunConfig(data=data)
        splits, shape = run_splits(config), data_shape(config)
        train = splits.batches("train", "cpu")
        assert train is not None and shape is not None
        assert (len(train), splits.image_shape, splits.num_classes) == (
            shape.num_images,
            shape.image_shape,
            shape.num_classes,
        )
    fetched = data_shape(RunConfig(data=DataConfig(train="cifar100", channels="gray")))
    assert fetched == DataShape(num_images=45_000, image_shape=(1, 32, 32), num_classes=100)


@pytest.mark.parametrize("num_gray", [1, 70])
def test_data_shape_of_mixed_gray_and_color_data_is_not_gray(tmp_path, num_gray: int) -> None:
    from tests.images import picture, write_classes

    train = write_classes(tmp_path / "train", ("ant", "bee"), each=num_gray)
    for index in range(num_gray):
        picture(9, mode="L").save(tmp_path / "train" / "ant" / f"{index}.png")
    shape = data_shape(RunConfig(data=DataConfig(train=train)))
    assert shape is None if num_gray > 64 else shape is not None and shape.image_shape == (3, 12, 12)
    gray = write_classes(tmp_path / "gray", ("ant", "bee"), each=2)
    for place in (tmp_path / "gray").rglob("*.png"):
        picture(9, mode="L").save(place)
    for test, channels in ((None, 1), (gray, 1), (train, None if num_gray > 64 else 3)):
        combined_shape = data_shape(RunConfig(data=DataConfig(train=gray, test=test)))
        assert (combined_shape and combined_shape.image_shape[0]) == channels
    large = RunConfig(data=DataConfig(train=train, memory_gib=1e-9))
    streamed = data_shape(large)
    assert streamed is not None and streamed.image_shape == (3, 224, 224)


def test_check_network_accepts_float_images() -> None:
    config = changed()
    images = np.random.default_rng(0).random((40, 1, 8, 8), dtype=np.float32)
    splits = memory_splits(image_set(images, np.arange(40) % 4), None, config.data, seed=0)
    ImageClassification(config, splits).check(num_examples=36)


class Queue(torch.nn.Module):
    """A network with a buffer that grows while it trains."""

    def __init__(self, num_classes: int, *, is_saved: bool) -> None:
        super().__init__()
        self.body = body(num_classes=num_classes)
        self.register_buffer("seen", torch.zeros(0), persistent=is_saved)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen = torch.cat([self.seen, images.detach().mean((1, 2, 3))])
        return self.body(images)


def test_buffer_that_changes_its_shape_is_refused_at_once() -> None:
    config = changed()
    images = np.random.default_rng(0).random((40, 1, 8, 8), dtype=np.float32)
    splits = memory_splits(image_set(images, np.arange(40) % 4), None, config.data, seed=0)
    with pytest.raises(ConfigError, match=r"buffer seen had shape \(0,\) .* register it with persistent=False"):
        ImageClassification(config, splits, factory=partial(Queue, is_saved=True)).check(num_examples=36)
    ImageClassification(config, splits, factory=partial(Queue, is_saved=False)).check(num_examples=36)


@pytest.mark.filterwarnings("ignore")
def test_lightning_module_trains_and_its_unused_code_is_named() -> None:
    from lightning.pytorch import LightningModule

    class Plain(LightningModule):
        def __init__(self, num_classes: int) -> None:
            super().__init__()
            self.body = body(num_classes=num_classes)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.body(images)

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            raise AssertionError("inarch has a loss of its own")

    config = changed()
    task = ImageClassification(config, tiny_splits(config), factory=Plain)
    (note,) = [line for line in describe_run(task).description if line.startswith("model: ")]
    assert "Plain is a LightningModule" in note and "training_step" in note and "LightningExchange" in note
    plain = ImageClassification(config, tiny_splits(config), factory=body)
    assert not [line for line in describe_run(plain).description if line.startswith("model: ")]
