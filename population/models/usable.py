"""Prepare models for exchange and checkpoints, or raise an error that names the tensor at fault."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from inarch.population.errors import ConfigError
from inarch.population.extension.user_code import user_code

TYPES = frozenset(
    {
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
        *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
        *(torch.complex64,),
    }
)
"""Types of tensors that snapshots and checkpoints can hold."""


def make_usable(model: nn.Module, image_shape: tuple[int, int, int] | None) -> None:
    """Prepare a model for training, exchange and checkpoints, or raise ConfigError if that is impossible.

    A forward pass materializes lazy layers. Shared buffers and expanded tensors get memory of their own.

    Args:
        model: The model, changed in place. It still computes the same function.
        image_shape: (channels, height, width) of the images, which lazy layers need. None: not known.

    Raises:
        ConfigError: The model cannot be trained, exchanged or saved. The message names the tensor and the remedy.
        UserCodeError: The forward pass that materializes lazy layers, or the model's state_dict, raised an error.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise ConfigError("the network is TorchScript, which cannot be used here; give the module that was scripted")
    _materialize(model, image_shape)
    for name, owner, entry, tensor in _tensors(model):
        _check(name, owner, entry, tensor)
    _separate_buffers(model)
    for _, owner, entry, tensor in _tensors(model):
        if _overlaps_itself(tensor):
            with torch.no_grad():
                contiguous = tensor.detach().clone(memory_format=torch.contiguous_format)
            if isinstance(tensor, nn.Parameter):
                tensor.data = contiguous
            else:
                setattr(owner, entry, contiguous)
    _check_sharing(model)
    _check_state(model)


def ignored_code(model: nn.Module) -> str | None:
    """Return a line that says what inarch does not use of a LightningModule. None for other models.

    Args:
        model: The model.
    """
    is_lightning = any(
        kind.__name__ == "LightningModule" and kind.__module__.partition(".")[0] in ("lightning", "pytorch_lightning")
        for kind in type(model).__mro__
    )
    if not is_lightning:
        return None
    return (
        f"model: {type(model).__name__} is a LightningModule; its forward is trained, and its training_step, "
        "optimizers, schedulers and data are not used; to keep them, train with your Trainer and LightningExchange "
        "(docs/how-to/join.md)"
    )


def _materialize(model: nn.Module, image_shape: tuple[int, int, int] | None) -> None:
    if not any(is_lazy(tensor) for _, _, _, tensor in _tensors(model)):
        return
    if image_shape is None:
        raise ConfigError("the network has lazy layers, but the shape of the images is not known; declare their sizes")
    was_training = model.training
    with torch.no_grad(), user_code("the first forward pass, which sets the sizes of lazy layers,"):
        model.eval()(torch.zeros(2, *image_shape))
        if any(is_lazy(tensor) for _, _, _, tensor in _tensors(model)):  # some layers run in training mode only
            model.train()(torch.zeros(2, *image_shape))
    model.train(was_training)
    unsized = [name for name, _, _, tensor in _tensors(model) if is_lazy(tensor)]
    if unsized:
        raise ConfigError(f"lazy layer {unsized[0]!r} got no size, because no image passes through it; remove it")


def _tensors(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, Tensor]]:
    """Yield name, owner, entry and tensor of each parameter and buffer. A shared tensor is yielded once."""
    seen: set[int] = set()
    for stem, owner in model.named_modules():
        named_tensors = [*owner.named_parameters(recurse=False), *owner.named_buffers(recurse=False)]
        for entry, tensor in named_tensors:
            if id(tensor) not in seen:
                seen.add(id(tensor))
                yield f"{stem}.{entry}" if stem else entry, owner, entry, tensor


def _check(name: str, owner: nn.Module, entry: str, tensor: Tensor) -> None:
    kind = "parameter" if isinstance(tensor, nn.Parameter) else "buffer"
    is_saved = kind == "parameter" or entry not in owner._non_persistent_buffers_set  # pyright: ignore[reportPrivateUsage]
    if tensor.is_complex() and kind == "parameter":
        raise ConfigError(
            f"parameter {name!r} is complex; keep it as a real parameter with a last dimension of 2, and use "
            "torch.view_as_complex where it is read"
        )
    if tensor.device.type == "meta":
        raise ConfigError(f"{kind} {name!r} is on device meta and has no values; build the network on the CPU")
    if is_saved and (tensor.layout != torch.strided or tensor.is_quantized):
        layout = "quantized" if tensor.is_quantized else f"sparse ({tensor.layout})".replace("torch.", "")
        remedy = "keep it dense" if kind == "parameter" else "keep it dense, or register it with persistent=False"
        raise ConfigError(f"{kind} {name!r} is {layout} and cannot be shared or saved; {remedy}")
    other = "complex64" if tensor.is_complex() else "float16"
    if is_saved and tensor.dtype not in TYPES:
        raise ConfigError(f"{kind} {name!r} has type {tensor.dtype}, which cannot be shared or saved; use {other}")


def _separate_buffers(model: nn.Module) -> None:
    """Give each module its own copy of a shared buffer.

    A move to another device would separate shared buffers anyway, and so change the model's structure.
    """
    seen: set[int] = set()
    for owner in model.modules():
        for entry, buffer in list(owner.named_buffers(recurse=False)):
            if id(buffer) in seen and buffer.numel():
                setattr(owner, entry, buffer.clone())
            seen.add(id(buffer))


def _check_state(model: nn.Module) -> None:
    """Raise ConfigError if the model's state_dict lacks or copies a parameter or buffer, or holds extra state.

    Checkpoints and exchange read and write the tensors of the state_dict.
    """
    with user_code("the network's state_dict"):
        state = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor) or name.endswith("_extra_state"):
            raise ConfigError(
                f"{name!r} of the network's state_dict is extra state, which checkpoints omit; keep it in a buffer"
            )
    for name, owner, entry, tensor in _tensors(model):
        if isinstance(tensor, nn.Parameter) or entry not in owner._non_persistent_buffers_set:  # pyright: ignore[reportPrivateUsage]
            if name not in state:
                raise ConfigError(f"the network's state_dict lacks {name!r}, which checkpoints would lose; include it")
            if tensor.numel() and state[name].data_ptr() != tensor.data_ptr():
                raise ConfigError(
                    f"the network's state_dict gives a copy of {name!r}; inarch exchanges and "
                    "resumes weights through it, so it must hold the tensor itself"
                )


def _overlaps_itself(tensor: Tensor) -> bool:
    """Return whether elements of a tensor share memory, as in an expanded tensor."""
    is_strided = tensor.layout == torch.strided and not tensor.is_quantized
    return is_strided and any(size > 1 and step == 0 for size, step in zip(tensor.shape, tensor.stride(), strict=True))


def _check_sharing(model: nn.Module) -> None:
    """Raise ConfigError if two different tensors share memory. A checkpoint would separate them."""
    spans = sorted(
        (tensor.data_ptr(), tensor.data_ptr() + _span(tensor), name)
        for name, _, _, tensor in _tensors(model)
        if tensor.layout == torch.strided and not tensor.is_quantized and tensor.numel()
    )
    for (_, end, first), (start, _, second) in itertools.pairwise(spans):
        if start < end:
            raise ConfigError(
                f"{first!r} and {second!r} are different tensors of the same memory; use one Parameter for both "
                "(second.weight = first.weight, transposed where it is used), or copy one with clone()"
            )


def _span(tensor: Tensor) -> int:
    """Return the bytes from a tensor's first element to the end of its last."""
    steps = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return (steps + 1) * tensor.element_size()
