"""Values that describe a run: its folder and configuration, and the facts about its data and its model."""

from __future__ import annotations

from dataclasses import dataclass

from inarch.population.config import RunConfig
from inarch.population.data import DataReport
from inarch.population.models import ModelFactory


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """Description of a run that every one of its processes receives."""

    name: str
    """Name of the run, unique among the live runs of a cluster."""
    folder: str
    """Path or URI of the run's folder."""
    config: RunConfig
    """The whole configuration."""
    factory: ModelFactory | None = None
    """Model factory. None: the model of config.model."""
    token: str | None = None
    """Token of this start's claim on the folder (population/persistence/claim.py). None: nothing is claimed."""
    is_resumed: bool = False
    """Whether this start resumes an earlier one."""
    is_detached: bool = False
    """Whether the run continues when its driver ends."""


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """Facts about a run's data and model, known once the data are read and the model is built."""

    num_classes: int
    """Number of classes."""
    image_shape: tuple[int, int, int]
    """Channels, height and width of an image as networks receive it."""
    train_images: int
    """Training images, without those held out for validation."""
    data_bytes: int
    """Bytes of the decoded images in the object store. 0 if images are streamed."""
    data_fingerprint: str
    """Hash of the data and of their split."""
    structure: str
    """Fingerprint of the layout of a network's snapshots."""
    snapshot_bytes: int
    """Bytes of a snapshot."""
    parameters: int
    """Parameters of a network."""
    num_intervals: int
    """Intervals of the schedule."""
    steps_per_epoch: int
    """Training steps of one epoch."""
    multiply_adds: int = 0
    """Multiply-adds for one image, as in `population.models.complexity.ModelComplexity`."""
    data: DataReport | None = None
    """Description of the data. None in runs of earlier versions."""
    compact_parameters: int | None = None
    """Parameters of the compact form of a network that fuses its filters. None without fusion."""
    compact_multiply_adds: int | None = None
    """Multiply-adds of the compact form for one image. None without fusion."""
