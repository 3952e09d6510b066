"""Compare what a run keeps in Ray's object store with the size of the stores. What does not fit is spilled to disk."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import ray

from inarch.population.config import RunConfig
from inarch.population.tasks.run_spec import RunInfo

logger = logging.getLogger("inarch")

KEPT = 2
"""Snapshots of each network in the store of its node: the newest one, and the one before it, which others may fetch."""

LARGE_SHARE = 0.6
"""Share of an object store above which a run is warned. Ray spills objects when 0.8 of a store are in use."""

MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class StoreUse:
    """What a run keeps in the object store of one node, and the size of the smallest store of the cluster."""

    data_bytes: int
    """Bytes of the data set. Each node with networks has a copy."""
    snapshot_bytes: int
    """Bytes of the snapshots of the node's networks."""
    store_bytes: int
    """Bytes of the store. 0 if it is not known."""

    @property
    def share(self) -> float:
        """Share of the store that the run needs, above 1 if it does not fit. 0 if the size is not known."""
        return (self.data_bytes + self.snapshot_bytes) / self.store_bytes if self.store_bytes else 0.0

    def __str__(self) -> str:
        return (
            f"the object store of a node has {self.store_bytes / MIB:,.0f} MiB, and the run needs about "
            f"{self.data_bytes / MIB:,.0f} MiB for its data and {self.snapshot_bytes / MIB:,.0f} MiB for snapshots"
        )


def store_use(info: RunInfo, config: RunConfig, nodes: Iterable[Mapping[str, Any]]) -> StoreUse:
    """Return what a run needs of each node's object store.

    The networks are taken to be spread evenly over the nodes that have CPUs. A head without CPUs has no network. A node
    also has copies of the snapshots that its networks fetch from other nodes.

    Args:
        info: Facts about the run.
        config: Its configuration.
        nodes: The nodes of the cluster, as from `ray.nodes`.
    """
    resources = [node["Resources"] for node in nodes if node["Alive"]]
    stores = [each.get("object_store_memory", 0.0) for each in resources if each.get("CPU", 0.0) > 0]
    size = config.population.max_size or config.population.size
    on_node = math.ceil(size / max(1, len(stores)))
    fetched = min(size - on_node, on_node * config.exchange.donor_limit)
    return StoreUse(
        data_bytes=info.data_bytes,
        snapshot_bytes=(KEPT * on_node + fetched) * info.snapshot_bytes,
        store_bytes=int(min(stores, default=0.0)),
    )


def warn_of_spilling(info: RunInfo, config: RunConfig) -> None:
    """Warn if a run needs a large part of an object store.

    Args:
        info: Facts about the run.
        config: Its configuration.
    """
    use = store_use(info, config, ray.nodes())
    if use.share > LARGE_SHARE:
        logger.warning(
            "run %s: %s; Ray spills what does not fit to disk, which is slow; start Ray with a larger "
            "object_store_memory, or stream the data",
            config.name,
            use,
        )
