"""A program of test_large_state.py: a network with an entry beyond 2^31 bytes publishes, grafts, commits and resumes.

A donor publishes to Ray's object store and ends. A second network fetches that snapshot while it trains, grafts it, and
commits a checkpoint, from which a third object resumes. Coordinator and client are Ray's, as in a run. Only the actor
around the trainer is missing, because two such networks do not fit into the memory of a small machine.
"""

from __future__ import annotations

import functools
import gc
import json
import logging
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import ray
import torch
import xxhash
from torch import nn

from inarch.actors.messages import Command
from inarch.actors.network.exchange_backend import RayExchangeBackend
from inarch.actors.network.exchange_client import ExchangeClient
from inarch.population import (
    GraftConfig,
    ImageClassification,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
    StalenessConfig,
    Trainer,
)
from inarch.population.membership.outcome import ExchangeOutcome
from inarch.population.persistence.checkpoint import Checkpoint, CheckpointStore
from inarch.population.persistence.interval_report import IntervalReport
from inarch.population.persistence.storage import Storage
from inarch.population.state.snapshot import Snapshot
from inarch.population.state.snapshot_info import SnapshotInfo
from inarch.population.state.state_dict import named_tensors
from inarch.population.training.runtime import LocalRuntime
from tests.conftest import small_config, tiny_splits

LARGE = "2.weight"
"""Key of the large entry."""

STORE_BYTES = 6 * 2**30
CHUNK_VALUES = 2**22
SECONDS: dict[str, float] = {}
"""Seconds of each phase."""


@ray.remote(num_cpus=0)
class Board:
    """A coordinator that holds one snapshot of each network and gives a network that of another one."""

    def __init__(self) -> None:
        self.published: dict[int, Any] = {}

    def post(self, network_id: int, incarnation: int, reports: list[Any], snapshot: Any) -> Command:
        if snapshot is not None:
            self.published[network_id] = snapshot
        return Command.CONTINUE

    def ask(self, own: SnapshotInfo) -> Any:
        others = tuple(item for number, item in self.published.items() if number != own.network_id)
        return others or ExchangeOutcome.NOTHING_YET


@contextmanager
def timed(phase: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    SECONDS[phase] = round(time.perf_counter() - began, 2)


class Runtime(LocalRuntime):
    """One interval of a network, through an exchange client on Ray."""

    def __init__(self, client: ExchangeClient) -> None:
        self.client = client
        self.scions: tuple[Snapshot, ...] = ()
        self.checkpoint: Checkpoint | None = None

    def now(self) -> float:
        return time.time()

    def should_continue(self) -> bool:
        return False

    def put_early(self, snapshot: Snapshot) -> None:
        self.client.put_early(snapshot)

    def prefetch(self, own: SnapshotInfo) -> None:
        self.client.prefetch(own)

    def fetch_scions(self, own: SnapshotInfo) -> tuple[Snapshot, ...] | ExchangeOutcome:
        with timed("fetch"):
            found: tuple[Snapshot, ...] | ExchangeOutcome = ExchangeOutcome.LATE
            while found is ExchangeOutcome.LATE:
                found = self.client.fetch_scions(own)
        self.scions = () if isinstance(found, ExchangeOutcome) else found
        return found

    def stored(self, snapshot: Snapshot) -> Snapshot | None:
        return self.client.stored(snapshot)

    def commit(self, report: IntervalReport, checkpoint: Checkpoint | None) -> None:
        SECONDS.update({phase: round(value, 2) for phase, value in report.seconds.items()})
        self.checkpoint = checkpoint


def network(width: int, num_classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, width), nn.Linear(width, width, bias=False), nn.Linear(width, num_classes)
    )


def bits(trainer: Trainer) -> str:
    digest = xxhash.xxh3_128()
    for tensor in named_tensors(trainer.module).values():
        digest.update(tensor.detach().contiguous().numpy().data)
    return digest.hexdigest()


def is_blend(after: torch.Tensor, own: torch.Tensor, scion: torch.Tensor, alpha: float) -> bool:
    """Return whether all values are own * alpha + scion * (1 - alpha), bit by bit."""
    flat = [tensor.detach().reshape(-1) for tensor in (after, own, scion)]
    for start in range(0, flat[0].numel(), CHUNK_VALUES):
        found, mine, theirs = (tensor[start : start + CHUNK_VALUES] for tensor in flat)
        if not torch.equal(found, mine * alpha + theirs * (1.0 - alpha)):
            return False
    return True


def main(folder: str, width: int) -> dict[str, Any]:
    config: RunConfig = small_config(
        schedule=ScheduleConfig(epochs=3, batch_size=48),
        optimizer=OptimizerConfig(learning_rate=0.01, momentum=0.0, weight_decay=0.0),
        graft=GraftConfig(units="auto"),
        staleness=StalenessConfig(policy="none", compensation_intervals=1),
    )
    task = ImageClassification(config, tiny_splits(config), factory=functools.partial(network, width))
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=STORE_BYTES,
    )
    board: Any = Board.remote()

    peaks: dict[str, int] = {}

    def live(network_id: int) -> tuple[Trainer, Runtime, Snapshot]:
        """Train one interval, and return the network, its runtime, and a view of what it published."""
        with timed("build"):
            trainer = Trainer(task, config, network_id=network_id)
        client = ExchangeClient(
            RayExchangeBackend(board, network_id, 1),
            config,
            trainer.layout,
            logger=logging.getLogger("large"),
            prepare=trainer.prepare,
            packing=trainer.packing,
        )
        runtime, stored = Runtime(client), None
        for report, snapshot in trainer.intervals(runtime):
            assert snapshot is not None
            client.publish_interval(report, snapshot)
            stored = client.stored(snapshot)
            client.flush(seconds=60.0)
        client.close()
        peaks[f"network {network_id}"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        assert stored is not None
        return trainer, runtime, stored

    donor, runtime, published = live(1)
    nbytes = donor.layout.nbytes
    entry = next(entry for entry in donor.layout.entries if entry.name == LARGE)
    del donor, runtime  # its client and its checkpoint refer to the network
    gc.collect()
    rootstock, runtime, own = live(0)
    checkpoint = runtime.checkpoint
    assert checkpoint is not None
    alphas = {row["layer"]: row["alpha"] for row in checkpoint.rows["grafts"]}
    (scion,) = runtime.scions
    result = {
        "nbytes": nbytes,
        "entry_bytes": entry.nbytes,
        "fetched": bool(np.array_equal(scion.buffer[-4096:], published.buffer[-4096:]))
        and scion.origin.network_id == 1,
        "blended": is_blend(
            rootstock.module.get_parameter(LARGE), own.state()[LARGE], scion.state()[LARGE], alphas[LARGE]
        ),
        "alpha": alphas[LARGE],
    }
    store = CheckpointStore(Storage(folder))
    with timed("commit"):
        store.commit(checkpoint)
    checkpoint.release()
    before = bits(rootstock)
    del rootstock, runtime, checkpoint, scion, own, published
    gc.collect()
    ray.shutdown()  # the snapshots in the store would lie beside the network that resumes
    resumed = Trainer(task, config, network_id=0)
    with timed("read and resume"):
        saved = store.newest(0)
        assert saved is not None
        resumed.resume(saved)
    result |= {
        "resumed": bits(resumed) == before and resumed.interval == 1,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "peaks": peaks,
        "seconds": SECONDS,
    }
    return result


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]))))
