"""Models are taken out of what other libraries wrap around them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from inarch.actors.guest.wrappers import bare_model
from inarch.population.errors import StructureError


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sequential(nn.BatchNorm2d(4), nn.Flatten()), nn.Linear(4, 2))


def test_plain_model_is_returned_as_it_is() -> None:
    model = network()
    assert bare_model(model) is model


def test_wrappers_around_the_model_are_taken_off() -> None:
    model = network()
    assert bare_model(nn.DataParallel(torch.compile(model))) is model  # pyright: ignore[reportArgumentType]


def test_compiled_parts_lose_their_prefix_and_share_tensors() -> None:
    model = network()
    names = list(model.state_dict())
    model[1] = torch.compile(model[1])  # pyright: ignore[reportArgumentType]
    assert list(model.state_dict()) != names
    bare = bare_model(model)
    assert list(bare.state_dict()) == names
    assert "_orig_mod" in dict(model[1].named_children()), "the loop's own model was changed"
    assert all(own is other for own, other in zip(model.parameters(), bare.parameters(), strict=True))
    assert all(own is other for own, other in zip(model.buffers(), bare.buffers(), strict=True))


class FullyShardedDataParallel(nn.Module):
    """A class of the name under which torch's FSDP is known."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def test_sharded_model_is_refused_by_name() -> None:
    with pytest.raises(StructureError, match="wrapped in FullyShardedDataParallel"):
        bare_model(FullyShardedDataParallel(network()))
    with pytest.raises(StructureError, match="wrapped in FullyShardedDataParallel"):
        bare_model(nn.Sequential(FullyShardedDataParallel(network())))


def test_model_must_be_whole_on_one_known_device() -> None:
    with pytest.raises(
        StructureError, match=r"the model is on meta, .* put all of it on the CPU or on one CUDA device"
    ):
        bare_model(network().to("meta"))
    model = network()
    model[2] = nn.Linear(4, 2, device="meta")
    with pytest.raises(StructureError, match="the model is on cpu and meta"):
        bare_model(model)
