"""Precision of forward passes, compilation with fixed shapes, and batch norm measured without compilation."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn

from inarch.population import DeviceConfig, ImageClassification, ScheduleConfig, Trainer
from inarch.population.evaluation.soups import with_statistics
from inarch.population.state.memory_order import is_channels_last
from inarch.population.state.optimizer import make_optimizer
from inarch.population.state.precision import autocast, measure_batch_norm, without_compilation
from inarch.population.tasks.image_check import accepts_channels_last
from tests.conftest import small_config, tiny_splits, tiny_task
from tests.fakes.runtime import FakeRuntime, live


@pytest.mark.parametrize(("is_native", "expected"), [(True, True), (False, False)])
def test_auto_takes_bfloat16_only_where_it_is_computed(is_native: bool, expected: bool) -> None:
    def is_supported(including_emulation: bool = True) -> bool:
        return including_emulation or is_native

    with mock.patch("torch.cuda.is_bf16_supported", is_supported), mock.patch("torch.autocast") as made:
        autocast("auto", torch.device("cuda:0"))
    assert made.call_args.kwargs["enabled"] is expected


@pytest.mark.parametrize(("on_cpu", "is_native"), [(True, True), (True, False), (False, True)])
def test_auto_takes_bfloat16_on_a_cpu_only_for_images(on_cpu: bool, is_native: bool) -> None:
    with mock.patch("torch.cpu.get_capabilities", lambda: {"avx512_bf16": is_native}):
        chosen = autocast("auto", torch.device("cpu"), on_cpu=on_cpu)
    assert torch.is_autocast_enabled("cpu") is False
    with chosen:
        assert torch.is_autocast_enabled("cpu") is (on_cpu and is_native)
        output = nn.Linear(2, 2)(torch.ones(1, 2))
    assert output.dtype == (torch.bfloat16 if on_cpu and is_native else torch.float32)


def test_auto_of_a_torch_without_capabilities_is_float32() -> None:
    with mock.patch.object(torch, "cpu", object()), autocast("auto", torch.device("cpu"), on_cpu=True):
        assert torch.is_autocast_enabled("cpu") is False


class Views(nn.Module):
    """Networks as in PyTorch's first tutorial. Their view of images needs the default order."""

    def __init__(self) -> None:
        super().__init__()
        first, second = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.convs = nn.Sequential(first, nn.Dropout(), second, nn.BatchNorm2d(3))
        self.five_dimensions = nn.Parameter(torch.zeros(1, 2, 2, 2, 2))
        self.linear = nn.Linear(3 * 8 * 8, 4)

    def flat(self, images: torch.Tensor) -> torch.Tensor:
        return images.view(len(images), -1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        offset = 1e-3 * torch.rand(1) + self.five_dimensions.sum()
        return self.linear(self.flat(self.convs(images))) + offset


class Auxiliary(Views):
    """The head that takes a view runs in training only."""

    def flat(self, images: torch.Tensor) -> torch.Tensor:
        return images.view(len(images), -1) if self.training else images.flatten(1)


class Centering(Views):
    """Its training replaces a buffer, and needs labels that the trial does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(1))

    def flat(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.center = self.center + 1.0
            raise ValueError("training needs labels")
        return images.flatten(1)


class Flattens(Views):
    def flat(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)


@pytest.mark.parametrize(
    ("kind", "expected"), [(Views, False), (Auxiliary, False), (Centering, True), (Flattens, True)]
)
def test_auto_uses_channels_last_where_a_network_can(kind: type[nn.Module], expected: bool) -> None:
    config = small_config(device=DeviceConfig(precision="float32"))
    task = ImageClassification(config, tiny_splits(config), factory=lambda num_classes: kind())
    for _ in range(2):
        model = task.build(0)
        assert is_channels_last(model.get_parameter("convs.2.weight")) is expected and model.training
    model = kind().eval()
    state, before = torch.get_rng_state(), {name: buffer.clone() for name, buffer in model.named_buffers()}
    assert accepts_channels_last(model, (1, 8, 8)) is expected
    assert not accepts_channels_last(nn.Flatten(), (1, 8, 8))  # a later check says that it has no parameters
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert torch.equal(torch.get_rng_state(), state) and not model.training
    if kind is not Centering:
        loss, _ = task.loss(task.build(0), next(iter(task.epoch(order_seed=0, augment_seed=0, epoch=0, first=0))))
        loss.backward()


def test_evaluation_runs_in_the_precision_of_training() -> None:
    config = small_config(device=DeviceConfig(precision="bfloat16"))
    for task_name in ("classification", "retrieval"):
        task = tiny_task(dataclasses.replace(config, task=task_name))
        model = task.build(0)
        seen: set[torch.dtype] = set()

        def note(module: nn.Module, inputs: Any, output: torch.Tensor, seen: set[torch.dtype] = seen) -> None:
            seen.add(output.dtype)

        model.get_submodule("conv1").register_forward_hook(note)
        task.validate(model)
        assert seen == {torch.bfloat16}, task_name


class CountingBackend:
    """A backend of torch.compile that counts graphs and compiles nothing."""

    def __init__(self) -> None:
        self.graphs: list[str] = []

    def __call__(self, graph: Any, inputs: Any) -> Any:
        sizes = [item for item in inputs if isinstance(item, torch.Tensor) and item.dim() == 4]
        self.graphs.append(str(tuple(sizes[0].shape)) if sizes else "")
        has_symbols = any(isinstance(item, torch.SymInt) for item in inputs)
        assert not has_symbols, "a graph for batches of any size"
        return graph.forward


class CompilingRuntime(FakeRuntime):
    """Counts the graphs that are compiled in its context."""

    def __init__(self, backend: CountingBackend) -> None:
        super().__init__()
        self.backend, self.compiled = backend, 0

    @contextlib.contextmanager
    def compiling(self) -> Iterator[None]:
        self.first_passes += 1
        before = len(self.backend.graphs)
        yield
        self.compiled += len(self.backend.graphs) - before


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_mode_of_compilation_is_passed_to_torch(mode: Any) -> None:
    config = small_config(device=DeviceConfig(compile=True, compile_mode=mode))
    with mock.patch("torch.compile") as compiled:
        Trainer(tiny_task(config), config, network_id=0)
    assert compiled.call_args.kwargs == {"dynamic": False, "mode": mode}


def test_live_network_without_compilation_needs_no_context() -> None:
    config = small_config(schedule=ScheduleConfig(epochs=1, batch_size=32))
    runtime = FakeRuntime()
    live(Trainer(tiny_task(config), config, network_id=0), runtime)
    assert runtime.first_passes == 0


@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_compiled_network_keeps_a_graph_for_each_size_of_batch() -> None:
    backend = CountingBackend()
    original = torch.compile
    schedule = ScheduleConfig(epochs=3, batch_size=32, batch_norm_batches=1)
    config = small_config(device=DeviceConfig(compile=True), schedule=schedule)
    with mock.patch("torch.compile", lambda module, **options: original(module, backend=backend, **options)):
        trainer = Trainer(tiny_task(config), config, network_id=0)
        counts, runtime = [], CompilingRuntime(backend)
        for _ in trainer.intervals(runtime):
            counts.append(len(backend.graphs))
    assert counts[0] >= 2 and counts == [counts[0]] * 3, "nothing is compiled after the first epoch"
    assert runtime.compiled == counts[0], "something is compiled outside of the runtime's context"
    assert runtime.first_passes == 3, "full batches, the last batch, and the evaluation"
    torch.compiler.reset()


def test_batch_norm_is_measured_on_the_network_itself() -> None:
    calls: list[str] = []

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn = nn.BatchNorm2d(2)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            calls.append("network")
            return self.bn(images)

    class Compiled(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self._orig_mod = module

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            raise AssertionError("the compiled network must not run")

    network = Network()
    images = torch.randn(16, 2, 3, 3) + 4.0
    measure_batch_norm([images], Compiled(network))
    assert calls == ["network"] and without_compilation(network) is network
    torch.testing.assert_close(network.bn.running_mean, images.mean((0, 2, 3)))


def test_frozen_batch_norm_keeps_its_statistics() -> None:
    class FineTuned(nn.Module):
        """A network whose first batch norm stays in evaluation mode, as in fine-tuning."""

        def __init__(self) -> None:
            super().__init__()
            self.frozen, self.bn = nn.BatchNorm2d(2), nn.BatchNorm2d(2, momentum=None)
            self.frozen.get_buffer("running_mean").add_(5.0)
            self.bn.get_buffer("num_batches_tracked").add_(200)

        def train(self, mode: bool = True) -> FineTuned:
            super().train(mode)
            self.frozen.eval()
            return self

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.bn(self.frozen(images))

    network, images = FineTuned().eval(), torch.randn(16, 2, 3, 3) + 4.0
    measure_batch_norm([images], network)
    frozen = network.get_buffer("frozen.running_mean")
    assert torch.equal(frozen, torch.full((2,), 5.0)) and not network.training
    torch.testing.assert_close(network.bn.running_mean, images.mean((0, 2, 3)) - 5.0, rtol=1e-4, atol=1e-4)
    assert network.bn.num_batches_tracked == 1 and network.bn.momentum is None
    soup = with_statistics(network, [images])
    assert torch.equal(soup.get_buffer("frozen.running_mean"), frozen)


def test_optimizer_of_float16_on_a_gpu_is_fused() -> None:
    config = small_config(device=DeviceConfig(precision="float16"))
    module = nn.Linear(2, 2)
    assert make_optimizer(module, config).defaults["fused"] is None
    with mock.patch("torch.optim.SGD") as made, mock.patch.object(nn.Module, "parameters") as parameters:
        parameter = mock.Mock(requires_grad=True, device=torch.device("cuda:0"))
        parameters.side_effect = lambda: iter([parameter])
        make_optimizer(module, config)
    assert made.call_args.kwargs["fused"] is True


def test_mean_of_the_weights_needs_no_answer_of_the_gpu() -> None:
    from inarch.population import WeightAveragingConfig
    from inarch.population.training.weight_averaging import WeightAverage
    from tests.fakes.pretend_cuda import pretend_cuda

    with pretend_cuda() as counts:
        module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).to("cuda:0")
        average = WeightAverage(module, WeightAveragingConfig(kind="ema"))
        before = counts.syncs
        for _ in range(3):
            average.after_step(module, progress=0.5, ends_epoch=False)
        assert counts.syncs == before and average.begun is not None
