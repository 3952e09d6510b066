"""Take off what other libraries wrap around a model, so that its tensors have the names of the model itself."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import cast

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from inarch.population.errors import StructureError

SHARDED = ("FullyShardedDataParallel", "FSDPModule", "DeepSpeedEngine", "PipelineEngine")
"""Classes whose instances hold only a part of the model's weights."""

DEVICES = ("cpu", "cuda")
"""Kinds of devices from which snapshots can be taken."""

WRAPPERS = ("_FabricModule",)
"""Classes of other libraries that hold the model in the attribute `module`."""


def bare_model(model: nn.Module) -> nn.Module:
    """Return a model without its wrappers.

    Those are DistributedDataParallel, DataParallel, torch.compile and Lightning Fabric.
    Compiled parts inside the model are replaced too. The result is then a copy of the module tree that holds the same
    parameters and buffers.

    Args:
        model: The model as the training loop holds it. It is not changed.

    Raises:
        StructureError: The model's weights are sharded, so that no process holds them all. Or they are on several
            devices, or on one from which no snapshot can be taken.
    """
    _check_whole(model)
    while True:
        if isinstance(model, (DistributedDataParallel, DataParallel)) or type(model).__name__ in WRAPPERS:
            model = cast("nn.Module", model.module)
        elif _is_compiled(model):
            model = _compiled(model)
        else:
            break
    _check_whole(model)
    _check_device(model)
    return _without_compiled(model) if any(_is_compiled(part) for part in model.modules()) else model


def _check_device(model: nn.Module) -> None:
    """Raise StructureError unless all tensors are on the CPU or on one CUDA device."""
    devices = sorted({str(tensor.device) for tensor in (*model.parameters(), *model.buffers())})
    if len(devices) > 1 or any(device.partition(":")[0] not in DEVICES for device in devices):
        raise StructureError(
            f"the model is on {' and '.join(devices)}, and it cannot join a population; put all of it on the CPU or on "
            "one CUDA device"
        )


def _check_whole(model: nn.Module) -> None:
    """Raise StructureError if a part of the model is sharded over processes."""
    for part in model.modules():
        names = {kind.__name__ for kind in type(part).__mro__}
        sharded = next((name for name in SHARDED if name in names), None)
        if sharded is not None:
            raise StructureError(
                f"the model is wrapped in {sharded}, so that no process holds all of its weights, and it cannot join a "
                "population; wrap it in DistributedDataParallel instead"
            )
    sharded_parameter = next((name for name, tensor in _tensors(model) if type(tensor).__name__ == "DTensor"), None)
    if sharded_parameter is not None:
        raise StructureError(
            f"parameter {sharded_parameter} is a DTensor (FSDP2 or tensor parallel), so that no process holds all of "
            "it, and the model cannot join a population; use DistributedDataParallel instead"
        )


def _tensors(model: nn.Module) -> Iterator[tuple[str, object]]:
    for name, parameter in model.named_parameters():
        yield name, getattr(parameter, "data", parameter)
        yield name, parameter


def _is_compiled(model: nn.Module) -> bool:
    return "_orig_mod" in dict(model.named_children())


def _compiled(model: nn.Module) -> nn.Module:
    return dict(model.named_children())["_orig_mod"]


def _without_compiled(model: nn.Module) -> nn.Module:
    """Return a shallow copy of a module tree in which each compiled part is replaced by the module it compiles."""
    twin = copy.copy(model)
    children = {name: _compiled(part) if _is_compiled(part) else part for name, part in model.named_children()}
    twin.__dict__["_modules"] = {name: _without_compiled(part) for name, part in children.items()}
    return twin
