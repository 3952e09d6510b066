"""How a process of a network began: all that a repetition of its training needs besides the run's own files."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import xxhash

from inarch import population
from inarch.population.config import RunConfig, to_dict
from inarch.population.config.fingerprint import config_fingerprint
from inarch.population.persistence.checkpoint import CheckpointId
from inarch.population.state.precision import computes_bfloat16
from inarch.population.state.snapshot_info import SnapshotInfo


@dataclass(frozen=True, kw_only=True)
class StartPoint:
    """What a process of a network starts with."""

    began: Literal["initial", "cloned", "resumed"]
    """initial: with its own initial weights. cloned: with a parent's weights. resumed: from a checkpoint."""
    interval: int
    """Intervals of the schedule completed."""
    step: int = 0
    """Above 0: it began within the next interval, after so many steps of the schedule."""
    parent: int | None = None
    """Id of the network whose weights it began with: the parent's, or its own after a restart."""
    parent_version: int | None = None
    """Interval of the snapshot or the checkpoint."""
    parent_incarnation: int | None = None
    """Incarnation that published the snapshot, or wrote the checkpoint."""

    @property
    def source(self) -> tuple[int, int] | None:
        """Network and incarnation that the weights came from. None: they are its own initial weights."""
        if self.parent is None or self.parent_incarnation is None:
            return None
        return self.parent, self.parent_incarnation

    @property
    def checkpoint(self) -> CheckpointId:
        """Id of the checkpoint that it resumed from."""
        incarnation = self.parent_incarnation or 0
        return CheckpointId(incarnation=incarnation, interval=self.interval, step=self.step)

    @classmethod
    def initial(cls, interval: int = 0) -> StartPoint:
        """Return the start of a network with its own initial weights.

        Args:
            interval: Interval at which it begins.
        """
        return cls(began="initial", interval=interval)

    @classmethod
    def cloned(cls, parent: SnapshotInfo) -> StartPoint:
        """Return the start of a network that cloned another.

        Args:
            parent: Snapshot that it cloned.
        """
        return cls(
            began="cloned",
            interval=parent.interval,
            parent=parent.network_id,
            parent_version=parent.interval,
            parent_incarnation=parent.incarnation,
        )

    @classmethod
    def resumed(cls, network_id: int, checkpoint: CheckpointId) -> StartPoint:
        """Return the start of a network that resumed from a checkpoint of its own.

        Args:
            network_id: Id of the network.
            checkpoint: Id of the checkpoint.
        """
        return cls(
            began="resumed",
            interval=checkpoint.interval,
            step=checkpoint.step,
            parent=network_id,
            parent_version=checkpoint.interval,
            parent_incarnation=checkpoint.incarnation,
        )


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What the numbers of a process depend on, besides its run's files."""

    threads: int
    """Threads that torch computes with."""
    device: str
    """Kind of the device: cpu or cuda."""
    processor: str
    """Kind of the CPU or GPU."""
    torch: str
    """Version of torch."""
    code: str
    """Hash of the source of `inarch.population`."""
    config: str
    """Fingerprint of the configuration, as `config_fingerprint`."""


@dataclass(frozen=True, kw_only=True)
class Birth:
    """How a process of a network began, a row of the history's table of births."""

    start: StartPoint
    environment: Environment
    time: float
    """Seconds of the runtime's clock."""

    def row(self) -> dict[str, Any]:
        """Return the row, without the network and its incarnation."""
        return {**dataclasses.asdict(self.start), **dataclasses.asdict(self.environment), "time": self.time}


def environment(config: RunConfig, device: torch.device) -> Environment:
    """Return what the numbers of this process depend on.

    Args:
        config: Configuration of the run.
        device: Device of the network.
    """
    return Environment(
        threads=torch.get_num_threads(),
        device=device.type,
        processor=processor(device),
        torch=str(torch.__version__),
        code=code_hash(),
        config=config_fingerprint(to_dict(config)),
    )


def processor(device: torch.device) -> str:
    """Return the kind of a CPU or GPU. On CPUs of one kind, torch chooses the same kernels and precision.

    Args:
        device: The device.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    precision = ", bfloat16" if computes_bfloat16(torch.device("cpu")) else ""
    return f"{capabilities.get('cpu_name', 'CPU')}, {torch.backends.cpu.get_cpu_capability()}{precision}"


@functools.cache
def code_hash() -> str:
    """Return a hash of the source of `inarch.population`, where all numbers of a run are computed."""
    (folder,) = map(Path, population.__path__)
    digest = xxhash.xxh3_64()
    for path in sorted([*folder.rglob("*.py"), *folder.rglob("*.c")]):
        digest.update(f"{path.relative_to(folder)}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
