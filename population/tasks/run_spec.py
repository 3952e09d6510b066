"""What describes a run: where it is and what it trains, and what is known once its data are read."""

from __future__ import annotations

from dataclasses import dataclass

from inarch.population.config import RunConfig
from inarch.population.data import DataReport
from inarch.population.models import ModelFactory


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """What every process of a run is told."""

    name: str
    folder: str
    """Path or URI of the run's folder."""
    config: RunConfig
    factory: ModelFactory | None = None
    """A callable in place of config.model."""
    token: str | None = None
    """Of this start's claim on the folder (population/claim.py); None: nothing is claimed."""
    is_resumed: bool = False
    is_detached: bool = False


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What is known of a run once its data are read and its network built."""

    num_classes: int
    image_shape: tuple[int, int, int]
    train_images: int
    data_bytes: int
    """Of the decoded images in the object store; 0 where they are streamed."""
    data_fingerprint: str
    structure: str
    """Fingerprint of a network's snapshot."""
    snapshot_bytes: int
    parameters: int
    num_intervals: int
    steps_per_epoch: int
    multiply_adds: int = 0
    """Of one image, as `population.cost.ModelComplexity`."""
    data: DataReport | None = None
    """What was read; None in runs of earlier versions."""
    compact_parameters: int | None = None
    """Of what a network that fuses its filters becomes; None where it does not."""
    compact_multiply_adds: int | None = None
