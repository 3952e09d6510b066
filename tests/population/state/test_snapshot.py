"""Snapshots: the order of values in their buffers, and staging."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from inarch.population.state.host_copies import HostCopies
from inarch.population.state.memory_order import copy_all, has_same_order, in_memory_order, is_channels_last
from inarch.population.state.snapshot import StagingBuffer, layout_of, unflatten
from inarch.population.state.state_dict import named_tensors
from tests.conftest import small_config
from tests.fakes.pretend_cuda import pretend_cuda
from tests.fakes.runtime import FakeRuntime
from tests.population.training.test_trainer import new_trainer


def convolutions() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(4, 2))


def test_buffer_has_the_order_of_a_channels_last_network() -> None:
    module = convolutions().to(memory_format=torch.channels_last)
    state = named_tensors(module)
    layout = layout_of(state)
    assert layout.channels_last and layout.fingerprint == layout_of(named_tensors(convolutions())).fingerprint
    staging = StagingBuffer(layout, torch.device("cpu"))
    staging.alias_parameters(module)
    with torch.no_grad():
        module.get_parameter("0.weight")[2, 1, 0, 2] = 7.0
    buffer = staging.buffer()
    assert float(unflatten(buffer, layout)["0.weight"][2, 1, 0, 2]) == 7.0, "the weights are views of the buffer"
    staging.stage(named_tensors(module))
    for name, tensor in unflatten(staging.buffer(), layout).items():
        assert torch.equal(tensor, named_tensors(module)[name]), name
        assert (
            tensor.stride() == named_tensors(module)[name].stride()
            or tensor.numel() == len(tensor)
            or 1 in tensor.shape
        )


def test_snapshot_of_the_other_order_is_read_by_its_own() -> None:
    contiguous, ordered = convolutions(), convolutions().to(memory_format=torch.channels_last)
    own = layout_of(named_tensors(contiguous))
    staging = StagingBuffer(layout_of(named_tensors(ordered)), torch.device("cpu"))
    staging.stage(named_tensors(ordered))
    found = unflatten(staging.buffer(), own.in_order(channels_last=True))
    assert torch.equal(found["0.weight"], named_tensors(contiguous)["0.weight"])
    assert own.in_order(channels_last=False) is own


def test_memory_order_of_tensors() -> None:
    plain = torch.arange(120.0).view(2, 3, 4, 5)
    ordered = plain.contiguous(memory_format=torch.channels_last)
    assert is_channels_last(ordered) and not is_channels_last(plain)
    assert has_same_order(ordered, ordered.clone()) and not has_same_order(ordered, plain)
    assert not has_same_order(plain.transpose(0, 1), plain.transpose(0, 1))
    assert in_memory_order(ordered).data_ptr() == ordered.data_ptr()
    assert torch.equal(in_memory_order(ordered), ordered.permute(0, 2, 3, 1).reshape(-1))
    depthwise = torch.arange(18.0).view(2, 1, 3, 3).contiguous(memory_format=torch.channels_last)
    assert not is_channels_last(depthwise), "its values lie in both orders at once"


@pytest.mark.parametrize("is_on_gpu", [False, True])
def test_copies_for_a_checkpoint_keep_values_and_order(is_on_gpu: bool) -> None:
    tensors = {"a": torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last), "b": torch.arange(3)}
    if not is_on_gpu:
        copies = HostCopies(torch.device("cpu")).add(tensors)
    else:
        with pretend_cuda() as counts:
            made = HostCopies(torch.device("cuda:0"))
            copies = made.add({name: tensor.to("cuda:0") for name, tensor in tensors.items()})
            before = counts.syncs
            made.wait()
            assert counts.syncs == before + 1
    for name, tensor in tensors.items():
        assert torch.equal(copies[name], tensor) and copies[name].stride() == tensor.stride()
        tensor.zero_()
        assert not torch.equal(copies[name], tensor)


def test_copy_all_copies_each_type() -> None:
    into = [torch.zeros(3), torch.zeros(2, dtype=torch.int64), torch.zeros(0)]
    sources = [torch.ones(3), torch.tensor([4, 5]), torch.zeros(0)]
    copy_all(into, sources)
    assert torch.equal(into[0], sources[0]) and torch.equal(into[1], sources[1])


def test_checkpoint_keeps_its_bits_while_the_network_goes_on() -> None:
    """Weights and past states are lent to a checkpoint, and copied only if it is not written at the next exchange."""
    config = small_config()
    donor = new_trainer(config, network_id=1)
    snapshots = {s.origin.interval: dataclasses.replace(s, buffer=s.buffer.copy()) for s in _published(donor)}
    runtime = KeepingRuntime(lambda own: snapshots[max(1, own.interval - 1)])
    trainer = new_trainer(config)
    for _ in trainer.intervals(runtime):
        pass
    assert len(runtime.checkpoints) == 4
    for checkpoint, expected in zip(runtime.checkpoints, runtime.expected, strict=True):
        for name, tensor in {**checkpoint.model, **checkpoint.tensors}.items():
            assert torch.equal(tensor, expected[name]), (checkpoint.id, name)
    assert any(name.startswith("past.") for name in runtime.expected[1])


def _published(trainer):
    runtime = FakeRuntime()
    for _, snapshot in trainer.intervals(runtime):
        assert snapshot is not None
        yield snapshot


class KeepingRuntime(FakeRuntime):
    """Copies what each checkpoint held when it was committed. It never gives back what was lent."""

    def __init__(self, scion_for) -> None:
        super().__init__(scion_for)
        self.expected: list[dict[str, torch.Tensor]] = []

    def commit(self, report, checkpoint) -> None:
        super().commit(report, checkpoint)
        if checkpoint is not None:
            tensors = {**checkpoint.model, **checkpoint.tensors}
            self.expected.append({name: tensor.clone() for name, tensor in tensors.items()})


def test_returned_loan_is_not_copied() -> None:
    config = small_config()
    donor = new_trainer(config, network_id=1)
    snapshots = {s.origin.interval: dataclasses.replace(s, buffer=s.buffer.copy()) for s in _published(donor)}
    addresses: dict[bool, set[int]] = {}
    for is_returned in (False, True):
        trainer = new_trainer(config)
        runtime = FakeRuntime(lambda own: snapshots[max(1, own.interval - 1)])
        seen: set[int] = set()
        for _ in trainer.intervals(runtime):
            for checkpoint in runtime.checkpoints[-1:]:
                seen.add(checkpoint.model["conv1.weight"].data_ptr())
                if is_returned:
                    checkpoint.release()
        addresses[is_returned] = seen
    assert len(addresses[True]) <= config.compensation < len(addresses[False])
