"""Loader processes that live as long as the batches they make.

The process that trains holds threads of Ray and a CUDA context, which do not survive a fork. Workers are therefore
forked from a server process, which has imported what they need and nothing else.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import threading
import types
from collections.abc import Generator, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from inarch.population.data.loader.requests import BatchRequest
from inarch.population.data.loader.worker import BatchMaker
from inarch.population.errors import InarchError

LOADER_SECONDS = 120.0
"""Seconds that loader workers have to deliver a batch. The loader raises an error after that."""


class BatchLoader:
    """Fulfils requests for batches, in worker processes or in this one.

    The workers start with the first request. They end when the loader is closed or garbage-collected, or when this
    process ends in whatever way.
    """

    def __init__(self, maker: BatchMaker, *, workers: int, pin_memory: bool) -> None:
        """Store the settings.

        Args:
            maker: Makes a batch. Each worker receives a copy.
            workers: Worker processes. With 0, this process makes the batches.
            pin_memory: Whether batches lie in page-locked memory, for uploads to a GPU.
        """
        self._requests = _Requests()
        self._workers = workers
        self._loader: DataLoader[Any] | None = None
        self._maker, self._pin_memory = maker, pin_memory

    def begin(self, requests: Iterator[BatchRequest]) -> Iterator[tuple[Tensor, Tensor]]:
        """Return images and labels for some requests. Requests of an earlier call are dropped.

        Args:
            requests: The requests. Workers fulfil some of them ahead.

        Raises:
            InarchError: An image of a batch cannot be read.
            RuntimeError: A worker was killed, or gave no batch within `LOADER_SECONDS`.
        """
        self._requests.current = requests
        if self._loader is None:
            self._loader = self._new_loader()
        with _without_main_module() if self._workers else contextlib.nullcontext():
            results = iter(self._loader)
        return _batches(results)

    def close(self) -> None:
        """End the workers."""
        self._loader = None

    def _new_loader(self) -> DataLoader[Any]:
        return DataLoader(
            self._maker,
            sampler=self._requests,
            batch_size=None,  # a request is a whole batch
            num_workers=self._workers,
            collate_fn=_unchanged,
            timeout=LOADER_SECONDS if self._workers else 0,
            pin_memory=self._pin_memory,
            persistent_workers=self._workers > 0,
            multiprocessing_context=_context() if self._workers else None,
            worker_init_fn=_end_with_parent,
            generator=torch.Generator().manual_seed(0),
        )


class _Requests(Sampler[BatchRequest]):
    """The requests that the loader sends next."""

    def __init__(self) -> None:
        self.current: Iterator[BatchRequest] = iter(())

    def __iter__(self) -> Iterator[BatchRequest]:
        return self.current


def _batches(results: Iterator[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    for result in results:
        if isinstance(result, InarchError):
            raise result
        yield result


def _unchanged(batch: Any) -> Any:
    return batch


def _context() -> Any:
    """Return the forkserver. It imports this module once, and workers share its memory."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _end_with_parent(worker: int) -> None:
    """Let a worker end when the process that trains is gone.

    torch's own check is the parent's process id, which is that of the forkserver.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


@contextlib.contextmanager
def _without_main_module() -> Generator[None]:
    """Keep new processes from importing the main program. They need nothing of it, and it may lack a main guard."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
