"""A pretend GPU: tensors that claim to lie on cuda:0, compute on the CPU, and count what a real GPU would be asked.

As on a real GPU, an operation that mixes them with CPU tensors raises RuntimeError. C++ sees their device as meta, so
that autograd stays on the CPU. Autocast therefore has no effect on them.
"""

from __future__ import annotations

import collections
import contextlib
import sys
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

CUDA = torch.device("cuda:0")

VIEWS = frozenset(
    (
        *("view", "detach", "alias", "slice", "select", "permute", "transpose", "t", "expand", "unsqueeze", "squeeze"),
        *("split", "as_strided", "_unsafe_view", "unbind", "unfold", "split_with_sizes", "chunk", "diagonal"),
    )
)
"""Operations that start nothing on a GPU."""

TAKES_CPU = frozenset(["copy_", "_to_copy", "index", "index_put", "index_put_", "_index_put_impl_", "_pin_memory"])
"""Operations that accept tensors of both devices."""

ALLOCATES = frozenset(["empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"])
"""Operations that only reserve memory."""

WAITS = frozenset(("nonzero", "masked_select", "_unique2", "unique_consecutive", "bincount"))
"""Operations that wait for the GPU, because the size of their result depends on the values."""

COPIES = frozenset(("copy_", "_to_copy"))


@dataclass
class Counts:
    """What the pretend GPU was asked to do."""

    launches: int = 0
    """Operations that start work on the GPU. A `_foreach` operation counts once."""
    syncs: int = 0
    """Times that the CPU waited for the GPU, blocking copies included."""
    uploads: int = 0
    downloads: int = 0
    pinned: int = 0
    """Copies, among those in both directions, from or to pinned memory."""
    places: collections.Counter[str] = field(default_factory=collections.Counter)
    """Number of syncs by the place in inarch that caused them."""
    operations: collections.Counter[str] = field(default_factory=collections.Counter)
    """Number of launches by operation."""

    def wait(self) -> None:
        """Count a sync."""
        self.syncs += 1
        self.places[_place()] += 1

    def taken(self, before: Counts) -> Counts:
        """Return what was added to earlier counts, which `copy.deepcopy` took."""
        return Counts(
            launches=self.launches - before.launches,
            syncs=self.syncs - before.syncs,
            uploads=self.uploads - before.uploads,
            downloads=self.downloads - before.downloads,
            pinned=self.pinned - before.pinned,
            places=self.places - before.places,
            operations=self.operations - before.operations,
        )


_counts = Counts()
_pinned: set[int] = set()
"""Addresses of CPU memory that was pinned."""


def _place() -> str:
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if "/inarch/population/" in name or ("/population/" in name and "/tests/" not in name):
            return f"{name.rpartition('/population/')[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


class PretendTensor(Tensor):
    """A tensor that claims to lie on cuda:0. Its values are those of `held`, on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> PretendTensor:
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=torch.device("meta"),
        )
        made.held = inner
        return made

    device = property(lambda self: CUDA)  # pyright: ignore[reportAssignmentType]
    is_cuda = property(lambda self: True)  # pyright: ignore[reportAssignmentType]
    is_cpu = property(lambda self: False)  # pyright: ignore[reportAssignmentType]
    is_meta = property(lambda self: False)  # pyright: ignore[reportAssignmentType]

    @property
    def data(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        if not isinstance(value, PretendTensor):
            raise RuntimeError("incompatible tensor type")
        Tensor.data.__set__(self, value)  # pyright: ignore[reportAttributeAccessIssue]
        self.held = value.held

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def record_stream(self, s: object) -> None: ...

    def tolist(self) -> Any:
        _counts.wait()
        return self.held.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")
        _counts.wait()
        return self.held.detach().numpy()

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        made = PretendTensor(self.held.detach().clone())
        is_parameter = getattr(self, "_is_param", False)
        return memo.setdefault(id(self), nn.Parameter(made, self.requires_grad) if is_parameter else made)

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"PretendTensor({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """Sees operations without a pretend tensor, such as torch.zeros(device="cuda:0")."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _held(value: Any) -> Any:
    return value.held if isinstance(value, PretendTensor) else value


def _is_pinned(tensor: Tensor) -> bool:
    return tensor.untyped_storage().data_ptr() in _pinned


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation on the CPU, and count what it would ask of a GPU."""
    name, (flat, _) = func.overloadpacket.__name__, tree_flatten((args, kwargs))
    tensors = [item for item in flat if isinstance(item, Tensor)]
    ours = [item for item in tensors if isinstance(item, PretendTensor)]
    others = [item for item in tensors if not isinstance(item, PretendTensor)]
    is_foreach_copy = name in ("_foreach_copy_", "_foreach_copy")
    if ours and name not in TAKES_CPU and not is_foreach_copy and any(item.dim() for item in others):
        raise RuntimeError(f"Expected all tensors to be on the same device, but found cuda:0 and cpu ({name})")
    target = None
    if kwargs.get("device") is not None:
        target = "cuda" if torch.device(kwargs["device"]).type in ("cuda", "meta") else "cpu"
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if kwargs.get("pin_memory"):
        kwargs = {**kwargs, "pin_memory": False}
    if name == "_local_scalar_dense" and ours:
        _counts.wait()
    on_device = isinstance(args[0], PretendTensor) if name == "copy_" else target == "cuda" or (target is None and ours)
    if name in COPIES:
        _count_copy(name, args, kwargs, bool(on_device))
    elif is_foreach_copy and ours and others:
        for into, source in zip(args[0], args[1], strict=True):
            _count_transfer(source, into, isinstance(into, PretendTensor), bool((args[2:] or [False])[0]))
    elif (ours or target == "cuda") and name not in VIEWS | ALLOCATES | {"_local_scalar_dense"}:
        _counts.launches += 1
        _counts.operations[name] += 1
    if name in WAITS and ours:
        _counts.wait()
    out = func(*tree_map(_held, args), **tree_map(_held, kwargs))
    if name == "_local_scalar_dense" or not on_device:
        return args[0] if name == "copy_" else out
    if out is None or not func._schema.returns:
        return None
    wrapped = tree_map(lambda item: PretendTensor(item) if isinstance(item, Tensor) else item, out)
    return return_and_correct_aliasing(func, args, kwargs, wrapped)


def _count_copy(name: str, args: Any, kwargs: dict[str, Any], on_device: bool) -> None:
    source = args[1] if name == "copy_" else args[0]
    from_device = isinstance(source, PretendTensor)
    if from_device and on_device:
        _counts.launches += 1
        _counts.operations[name] += 1
    elif from_device or on_device:
        is_async = bool(kwargs.get("non_blocking") or (len(args) > 2 and name == "copy_" and args[2]))
        _count_transfer(source, args[0] if name == "copy_" else None, on_device, is_async)


def _count_transfer(source: Tensor, into: Tensor | None, to_device: bool, is_async: bool) -> None:
    """Count a copy between the devices. Only asynchronous copies from and to pinned memory do not block."""
    if to_device:
        _counts.uploads += 1
        is_pinned = _is_pinned(source)
    else:
        _counts.downloads += 1
        is_pinned = into is not None and _is_pinned(into)
    _counts.pinned += is_pinned
    if not (is_async and is_pinned):
        _counts.wait()


class _Stream:
    def __init__(self, *args: object, **options: object) -> None: ...
    def wait_stream(self, other: object) -> None: ...
    def wait_event(self, event: object) -> None: ...
    def record_event(self, event: object = None) -> object:
        return event or _Event()

    def synchronize(self) -> None:
        _counts.wait()


class _Event:
    def __init__(self, *args: object, **options: object) -> None:
        self.is_recorded = False

    def record(self, stream: object = None) -> None:
        self.is_recorded = True

    def wait(self, stream: object = None) -> None: ...

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        if self.is_recorded:
            _counts.wait()


def _zeros(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return `torch.zeros` or `torch.empty` with pinned memory that is only noted as pinned."""

    def call(*args: Any, pin_memory: bool = False, **options: Any) -> Tensor:
        made = original(*args, **options)
        if pin_memory:
            _pinned.add(made.untyped_storage().data_ptr())
        return made

    return call


def _tensor(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def call(data: Any, *, device: Any = None, **options: Any) -> Tensor:
        made = original(data, **options)
        if device is None:
            return made
        _counts.wait()  # from pageable memory
        return made.to(device)

    return call


def _pin_memory(tensor: Tensor, device: object = None) -> Tensor:
    made = tensor.clone()
    _pinned.add(made.untyped_storage().data_ptr())
    return made


@contextlib.contextmanager
def _stream(stream: object) -> Iterator[None]:
    yield


@contextlib.contextmanager
def pretend_cuda() -> Generator[Counts]:
    """Within this context, torch has one pretend GPU. Yields the counts, which begin at zero."""
    global _counts
    _counts = Counts()
    _pinned.clear()
    torch._C._ensureCUDADeviceGuardSet()
    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    stream = _Stream()
    state = {"cuda": torch.zeros(16, dtype=torch.uint8)}
    replaced: dict[str, Any] = {
        "torch.cuda.Stream": _Stream,
        "torch.cuda.Event": _Event,
        "torch.cuda.stream": _stream,
        "torch.cuda.current_stream": lambda device=None: stream,
        "torch.cuda.default_stream": lambda device=None: stream,
        "torch.cuda.set_device": lambda device: None,
        "torch.cuda.synchronize": lambda device=None: _counts.wait(),
        "torch.cuda.is_available": lambda: True,
        "torch.cuda.device_count": lambda: 1,
        "torch.cuda._lazy_init": lambda: None,
        "torch.cuda.get_rng_state": lambda device=None: state["cuda"].clone(),
        "torch.cuda.set_rng_state": lambda value, device=None: state.update(cuda=value.clone()),
        "torch.cuda.manual_seed_all": lambda seed: None,
        "torch.cuda.is_bf16_supported": lambda including_emulation=True: True,
        "torch.tensor": _tensor(torch.tensor),
        "torch.zeros": _zeros(torch.zeros),
        "torch.empty": _zeros(torch.empty),
        "torch.Tensor.pin_memory": _pin_memory,
        "torch.Tensor.is_pinned": _is_pinned,
        "torch.empty_like": _zeros(torch.empty_like),
    }
    with contextlib.ExitStack() as stack:
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrites)
        for name, value in replaced.items():
            stack.enter_context(mock.patch(name, value))
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        stack.enter_context(_Mode())
        yield _counts
