"""Try a network of an image task, on batches of the sizes that training and evaluation will have."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

import torch
from torch import Tensor, nn

from inarch.population.data.memory_batches import epoch_batches
from inarch.population.errors import ConfigError
from inarch.population.extension.user_code import user_code
from inarch.population.models.complexity import model_complexity
from inarch.population.state.kept_shapes import check_shapes, shapes_of
from inarch.population.state.memory_order import in_default_order, to_channels_last
from inarch.population.tasks.protocol import BoundTask

TRIAL_FLOPS = 40_000_000_000
"""Most floating-point operations of the trial step on a full batch: some seconds on a laptop. A batch that needs more
is tried with fewer images."""


def check_network(task: BoundTask, *, num_images: int, num_classes: int) -> None:
    """Build a task's network and try it: evaluate it, then train it on the smallest batch and on a full batch.

    Args:
        task: Builds the network and supplies its batches and its loss.
        num_images: Number of training images. It decides the size of the last batch of an epoch.
        num_classes: Number of classes.

    Raises:
        ConfigError: The logits have a wrong shape, there is nothing to train, the loss depends on no parameter, or two
            networks share their weights.
        UserCodeError: The network raised. The message names the batch.
    """
    model = task.build(0)
    addresses = {parameter.data_ptr() for parameter in model.parameters() if parameter.numel()}
    if any(parameter.data_ptr() in addresses for parameter in task.build(1).parameters() if parameter.numel()):
        raise ConfigError(
            "the network function gives the same network, or the same weights, each time; it must make a new one"
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(
            "the network has no parameter to train: all are frozen (requires_grad=False), or there are none"
        )
    shapes = shapes_of(model)
    images, labels = next(iter(task.epoch(order_seed=0, augment_seed=0, epoch=0, first=0)))
    for size in (2, 1):
        _check_logits(_evaluated(model, images[:size]), images[:size], num_classes)
    channels, height, width = images.shape[1:]
    schedule = task.config.schedule
    smallest_size = epoch_batches(num_images, schedule)[-1]
    _train(task, model, images[:smallest_size], labels[:smallest_size])
    flops = max(1, model_complexity(model, (channels, height, width)).training_flops)
    full_size = min(len(images), schedule.batch_size, max(2, TRIAL_FLOPS // flops))
    if full_size > smallest_size:
        _train(task, model, images[:full_size], labels[:full_size])
    check_shapes(model, shapes)


@torch.no_grad()
def accepts_channels_last(model: nn.Module, image_shape: tuple[int, int, int]) -> bool:
    """Put a network into channels_last order if it can compute in that order, and return whether it can.

    A network cannot if it takes views such as `x.view(len(x), -1)` of images, which need the default order.

    Args:
        model: The network. It keeps its mode, and is in default order if it cannot compute in the other.
        image_shape: Channels, height and width of an image.
    """
    parameter = next(model.parameters(), None)
    if parameter is None:
        return False
    was_training = model.training
    images = torch.zeros(2, *image_shape, device=parameter.device)
    with torch.random.fork_rng(devices=[]), _kept_buffers(model):
        can = _runs(to_channels_last(model).eval(), images)
        if can and not _runs(model.train(), images):  # auxiliary heads run in training only
            can = not _runs(in_default_order(model), images)  # a forward pass that needs more than images fails always
    model.train(was_training)
    if can:
        to_channels_last(model)
    else:
        in_default_order(model)
    return can


def _runs(model: nn.Module, images: Tensor) -> bool:
    try:
        model(images)
    except Exception:  # of any type, since it is the caller's code
        return False
    return True


@contextlib.contextmanager
def _kept_buffers(model: nn.Module) -> Generator[None]:
    """Restore the buffers of a network at the end, also those that a forward pass replaced."""
    kept = [
        (owner, name, buffer, buffer.clone())
        for owner in model.modules()
        for name, buffer in owner.named_buffers(recurse=False)
        if buffer.layout == torch.strided
    ]
    try:
        yield
    finally:
        for owner, name, buffer, values in kept:
            setattr(owner, name, buffer)
            buffer.copy_(values)


@torch.no_grad()
def _evaluated(model: nn.Module, images: Tensor) -> Any:
    try:
        with user_code(f"the network, evaluating images {tuple(images.shape)},"):
            return model.eval()(images)
    finally:
        model.train()


def _check_logits(logits: Any, images: Tensor, num_classes: int) -> None:
    expected = (len(images), num_classes)
    if tuple(logits.shape) != expected:
        raise ConfigError(
            f"the network must map {len(images)} images {tuple(images.shape)} to logits {expected}, it gave "
            f"{tuple(logits.shape)}"
        )


def _train(task: BoundTask, model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Compute loss and gradients of a batch, then delete the gradients."""
    remedy = ""
    if len(images) == 1:
        remedy = "batch norm needs two images: schedule.drop_last=on, or another schedule.batch_size"
    model.train()
    with user_code(f"the network, training on a batch of images {tuple(images.shape)},", remedy=remedy):
        loss, _ = task.loss(model, (images, labels))
        if not loss.requires_grad:
            raise ConfigError("the loss does not depend on any parameter of the network; does it detach its output?")
        loss.backward()
    model.zero_grad(set_to_none=True)
