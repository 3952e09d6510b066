"""Trace the channels of a network through the graph of its modules with torch.fx.

An operation that cannot be traced raises an error that names it, unless the network declares its channels.
"""

from __future__ import annotations

import math
import operator
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp, TensorMetadata

from inarch.population.errors import ConfigError
from inarch.population.fusion import FusedConv2d
from inarch.population.grafting.channels import UNTRACKED, Axis, Channels, by_class, declared_channels

NEEDS_CHANNELS = "graft.level filter and graft.channel_matching"
"""Settings that need the channels of a network, for messages."""


def find_channels(module: nn.Module, image_shape: Sequence[int]) -> Channels:
    """Return the channels of a network, traced or, if tracing fails, as the network declares them.

    Args:
        module: The network. It is not changed. Its attribute `channel_groups`, if any, declares its channels. The
            format is that of `declared_channels`.
        image_shape: (channels, height, width) of its input.

    Raises:
        ConfigError: The graph cannot be traced or has an operation whose channels cannot be followed, and the network
            declares no channels. The message names the operation. Or the network has fused convolutions, or declares
            its channels wrongly.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, FusedConv2d):
            raise ConfigError(
                f"{NEEDS_CHANNELS} are not defined for fused convolutions such as {name}; use graft.level layer and "
                "graft.channel_matching none"
            )
    try:
        return _followed(module, image_shape)
    except ConfigError as error:
        groups = getattr(module, "channel_groups", None)
        if groups is None:
            raise ConfigError(f"{NEEDS_CHANNELS}: {error}; the network may declare its channel_groups") from None
        return declared_channels(module, groups)


def _followed(module: nn.Module, image_shape: Sequence[int]) -> Channels:
    """Trace the channels. The network runs once on two black images, in evaluation mode."""
    was_training = module.training
    module.eval()
    try:
        graph = fx.GraphModule(module, _ChannelTracer().trace(module))
        with torch.no_grad():
            device = next(module.parameters()).device
            ShapeProp(graph).propagate(torch.zeros(2, *image_shape, device=device))
    except Exception as error:
        raise ConfigError(f"torch.fx cannot trace the network: {error}") from error
    finally:
        module.train(was_training)
    return _ChannelFollower(module, graph).follow()


class _ChannelTracer(fx.Tracer):
    """A tracer whose leaves are layers, subclasses of torch's layers included."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (nn.Conv2d, nn.Linear, nn.BatchNorm2d)) or super().is_leaf_module(m, module_qualified_name)


class _ChannelFollower:
    """Walks a graph once and joins single channels into classes by union-find."""

    def __init__(self, module: nn.Module, graph: fx.GraphModule) -> None:
        self._module, self._graph = module, graph
        self._parents: list[int] = []
        self._fixed: set[int] = set()
        self._channels: dict[fx.Node, np.ndarray] = {}
        self._axes: list[tuple[str, int, np.ndarray]] = []
        self._blocks: dict[int, list[tuple[str, int]]] = defaultdict(list)
        self._makers: list[tuple[str, np.ndarray]] = []
        self._scales: list[tuple[str, np.ndarray]] = []
        self._modules = dict(module.named_modules())
        self._called: set[str] = set()
        self._names = {name for name, _ in module.named_parameters()}

    def follow(self) -> Channels:
        """Return the channels of the graph.

        Raises:
            ConfigError: The channels of an operation cannot be followed. The message names it.
        """
        for node in self._graph.graph.nodes:
            self._visit(node)
        return self._classes()

    def _visit(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self._channels[node] = self._fix(self._new(_shape(node)[1]))
        elif node.op == "call_module":
            self._layer(node, self._modules[str(node.target)])
        elif node.op == "output":
            for result in node.all_input_nodes:
                self._fix(self._of(result))
        elif node.op in ("call_function", "call_method"):
            self._operation(node)

    def _layer(self, node: fx.Node, layer: nn.Module) -> None:
        name, inputs = str(node.target), self._of(node.all_input_nodes[0])
        if next(layer.parameters(), None) is not None:
            if name in self._called:
                raise ConfigError(f"channels cannot be followed through {name}, called twice")
            self._called.add(name)
        if isinstance(layer, (nn.Conv2d, nn.Linear)) and f"{name}.weight" not in self._names:
            raise ConfigError(
                f"channels cannot be followed through {name}, whose weight is computed from others "
                "(as by weight_norm) or belongs to another layer"
            )
        if isinstance(layer, nn.Conv2d):
            self._channels[node] = self._convolution(name, layer, inputs)
        elif isinstance(layer, nn.BatchNorm2d):
            for entry in ("weight", "bias", "running_mean", "running_var"):
                if getattr(layer, entry) is not None:
                    self._axes.append((f"{name}.{entry}", 0, inputs))
            if layer.affine:
                self._scales.append((f"{name}.weight", inputs))
            self._channels[node] = inputs
        elif isinstance(layer, nn.Linear):
            self._axes.append((f"{name}.weight", 1, inputs))
            outputs = self._new(layer.out_features)
            self._make(name, layer, outputs)
            self._channels[node] = outputs
        elif isinstance(layer, nn.Flatten):
            self._channels[node] = self._flattened(node, inputs)
        elif isinstance(layer, _PASSING):
            self._channels[node] = inputs
        else:
            kind = type(layer).__name__
            raise ConfigError(f"channels cannot be followed through {name} ({kind})")

    def _convolution(self, name: str, layer: nn.Conv2d, inputs: np.ndarray) -> np.ndarray:
        groups, key = layer.groups, f"{name}.weight"
        per_group = layer.in_channels // groups
        if groups == 1:
            self._axes.append((key, 1, inputs))
            outputs = self._new(layer.out_channels)
        elif per_group == 1 and layer.out_channels == layer.in_channels:
            outputs = inputs
        else:
            outputs = self._new(layer.out_channels)
            rows = np.arange(layer.out_channels) // (layer.out_channels // groups)
            self._axes.append((key, 1, inputs[rows[:, None] * per_group + np.arange(per_group)]))
            for place, channel in enumerate(inputs):
                self._blocks[int(channel)].append((f"{key} reads", place // per_group))
            for row, channel in zip(rows, outputs, strict=True):
                self._blocks[int(channel)].append((f"{key} makes", int(row)))
        self._make(name, layer, outputs)
        return outputs

    def _make(self, name: str, layer: nn.Conv2d | nn.Linear, outputs: np.ndarray) -> None:
        self._axes.append((f"{name}.weight", 0, outputs))
        self._makers.append((f"{name}.weight", outputs))
        if layer.bias is not None:
            self._axes.append((f"{name}.bias", 0, outputs))

    def _operation(self, node: fx.Node) -> None:
        if not isinstance(node.meta.get("tensor_meta"), TensorMetadata):
            return  # the node yields a size or another number
        for argument in node.all_input_nodes:
            if argument.op == "get_attr" and math.prod(_shape(argument)) > 1:
                raise ConfigError(f"channels cannot be followed through {node.name}: it uses {argument.target}")
        target = node.target if node.op == "call_method" else _plain(node.target)
        inputs = [argument for argument in node.all_input_nodes if argument in self._channels]
        if target in _JOINING:
            tensors: Any = node.args[0] if node.args else node.kwargs["tensors"]
            dim: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", node.kwargs.get("axis", 0))
            if dim % len(_shape(node)) != 1:
                raise ConfigError(f"channels cannot be followed through {node.name}: it joins dimension {dim}")
            self._channels[node] = np.concatenate([self._of(tensor) for tensor in tensors])
        elif not inputs:
            raise ConfigError(f"channels cannot be followed through {node.name} ({node.target})")
        elif target is operator.getitem and not _keeps_channels(node.args[1], len(_shape(inputs[0]))):
            raise ConfigError(f"channels cannot be followed through {node.name}: it selects or reorders channels")
        elif target in _FLATTENING:
            self._channels[node] = self._flattened(node, self._of(inputs[0]))
        elif target is F.pad:
            self._channels[node] = self._padded(node, self._of(inputs[0]))
        elif target in _ELEMENTWISE:
            operands = [self._of(argument) for argument in inputs if len(_shape(argument)) > 1]
            widest = max(operands, key=len, default=self._of(inputs[0]))  # a single channel is only broadcast
            for other in operands:
                self._join(node, widest, other)
            self._channels[node] = widest
        elif _is_passing(target) and _shape(node)[1] == len(self._of(inputs[0])):
            self._channels[node] = self._of(inputs[0])
        else:
            raise ConfigError(f"channels cannot be followed through {node.name} ({node.target})")

    def _flattened(self, node: fx.Node, inputs: np.ndarray) -> np.ndarray:
        """Channels of a flattened tensor, in which each channel's pixels lie side by side."""
        size = math.prod(_shape(node)[1:])
        if len(_shape(node)) != 2 or size % len(inputs):
            raise ConfigError(f"channels cannot be followed through {node.name} ({node.target})")
        return np.repeat(inputs, size // len(inputs))

    def _padded(self, node: fx.Node, inputs: np.ndarray) -> np.ndarray:
        """Channels after padding. Channels of zeros are new, and join the class of the channels they are added to."""
        pads: Any = node.args[1]
        before, after = (pads[4], pads[5]) if len(pads) > 4 else (0, 0)
        inputs = inputs[max(0, -before) : len(inputs) - max(0, -after)]
        return np.concatenate([self._new(max(0, before)), inputs, self._new(max(0, after))])

    def _join(self, node: fx.Node, first: np.ndarray, second: np.ndarray) -> None:
        """Join the channels of two operands pairwise. A single channel is broadcast and joins none."""
        if len(first) != len(second):
            if 1 in (len(first), len(second)):
                return
            raise ConfigError(f"{node.name} joins {len(first)} and {len(second)} channels")
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            self._parents[self._root(a)] = self._root(b)

    def _new(self, count: int) -> np.ndarray:
        begin = len(self._parents)
        self._parents.extend(range(begin, begin + count))
        return np.arange(begin, begin + count)

    def _fix(self, channels: np.ndarray) -> np.ndarray:
        """Mark channels that must not move."""
        self._fixed.update(channels.tolist())
        return channels

    def _of(self, node: fx.Node) -> np.ndarray:
        if node not in self._channels:
            raise ConfigError(f"channels cannot be followed through {node.name} ({node.target})")
        return self._channels[node]

    def _root(self, channel: int) -> int:
        while self._parents[channel] != channel:
            self._parents[channel] = self._parents[self._parents[channel]]
            channel = self._parents[channel]
        return channel

    def _classes(self) -> Channels:
        roots = [self._root(channel) for channel in range(len(self._parents))]
        fixed = {roots[channel] for channel in self._fixed}
        movable_roots = {roots[channel] for _, outputs in self._makers for channel in outputs.tolist()} - fixed
        class_ids = {root: index for index, root in enumerate(sorted(movable_roots))}
        classes = np.array([class_ids.get(root, UNTRACKED) for root in roots], dtype=np.int64)
        axes = tuple(Axis(key=key, dim=dim, classes=classes[channels]) for key, dim, channels in self._axes)
        return Channels(
            num_classes=len(class_ids),
            axes=axes,
            producers=by_class(self._makers, classes, len(class_ids)),
            scales=by_class(self._scales, classes, len(class_ids)),
            permutation_groups=self._kinds(axes, classes, len(class_ids)),
        )

    def _kinds(self, axes: Sequence[Axis], known: np.ndarray, count: int) -> tuple[tuple[int, ...], ...]:
        """Sets of classes that may be permuted.

        The classes of a set lie equally often along the same axes, and in the same blocks of grouped convolutions.
        """
        occurrences: list[list[Any]] = [[] for _ in range(count)]
        for axis in axes:
            classes, counts = np.unique(axis.classes[axis.classes != UNTRACKED], return_counts=True)
            for class_, num_places in zip(classes.tolist(), counts.tolist(), strict=True):
                occurrences[class_].append((axis.key, axis.dim, num_places))
        for channel, blocks in self._blocks.items():
            if known[channel] != UNTRACKED:
                occurrences[known[channel]].extend(("block", *block) for block in blocks)
        permutation_groups: dict[Any, list[int]] = defaultdict(list)
        for class_, signature in enumerate(occurrences):
            permutation_groups[tuple(sorted(signature, key=repr))].append(class_)
        return tuple(tuple(members) for members in permutation_groups.values())


def _shape(node: fx.Node) -> torch.Size:
    return node.meta["tensor_meta"].shape


def _plain(target: Any) -> Callable[..., Any]:
    """Map an in-place operator to the plain one."""
    plain: dict[Any, Callable[..., Any]] = {operator.iadd: operator.add, operator.imul: operator.mul}
    return plain.get(target) or target


def _keeps_channels(index: Any, num_dims: int) -> bool:
    """Return whether an index leaves dimension 1 of a tensor as it is."""
    parts = list(index) if isinstance(index, tuple) else [index]
    place = next((place for place, part in enumerate(parts) if part is Ellipsis), None)
    if place is not None:
        parts[place : place + 1] = [slice(None)] * (num_dims - len(parts) + 1)
    return isinstance(parts[0], slice) and (len(parts) < 2 or parts[1] == slice(None))


def _is_passing(target: Any) -> bool:
    """Return whether an operation treats each channel by itself, and all in the same way.

    torchvision's stochastic depth is known by its module, so that tracing does not import torchvision.
    """
    module = getattr(target, "__module__", None)
    return module == "torchvision.ops.stochastic_depth" or target in _PASSING_OPERATIONS


_PASSING = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.GELU, nn.ELU, nn.Tanh),
    *(nn.Dropout, nn.Dropout2d, nn.Identity, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
)
"""Layers that treat each channel by itself, and all in the same way."""

_PASSING_OPERATIONS = {
    *(F.relu, F.relu6, F.leaky_relu, F.silu, F.hardswish, F.hardsigmoid, F.gelu, F.elu, torch.relu, torch.sigmoid),
    *(torch.tanh, F.dropout, F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d),
    *(torch.max_pool2d, torch.mean, operator.getitem, "mean", "relu", "relu_", "sigmoid", "contiguous", "tanh"),
    *("clone", "float", "detach"),
}
_ELEMENTWISE = {operator.add, operator.mul, operator.sub, torch.add, torch.mul, "add", "add_", "mul", "mul_"}
_JOINING = {torch.cat, torch.concat}
_FLATTENING = {torch.flatten, "flatten", "view", "reshape", torch.reshape}
