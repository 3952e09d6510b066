"""Identity of a snapshot, without its weights. The coordinator reads it, and imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class SnapshotInfo:
    """Identity and training progress of a snapshot."""

    network_id: int
    """Id of the network that published the snapshot."""
    incarnation: int
    """Incarnation of the network."""
    interval: int
    """Version of the snapshot: intervals of the schedule completed."""
    step: int
    """Steps of the schedule completed. Of two snapshots of one process, the one with more steps is newer."""
    trained_intervals: float
    """Intervals of training behind these weights. A graft adds the scion's training by its weight. A newcomer has few
    even if it takes the population's position in the schedule."""
    trained_steps: float
    """The same in steps."""
    created_at: float
    """Time at which the snapshot was staged, in seconds of the host's clock."""
    structure: str
    """Fingerprint of the snapshot's layout."""
    is_channels_last: bool = False
    """Whether the snapshot's tensors of four dimensions are in channels_last order, as `Layout.channels_last`."""
    score: float | None = None
    """Newest validation score, as `Scores.score`. None without validation images."""
    hyperparameters: Mapping[str, float] = field(default_factory=dict[str, float], hash=False)
    """Numbers of the network that trained these weights, by field of the configuration."""
