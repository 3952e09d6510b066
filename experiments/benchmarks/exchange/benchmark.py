"""Measure one graft between two actors, phase by phase.

Two references are measured beside it: the published graft through files, and the floor, which is plain copies of the
same bytes. A network pays for publishing its snapshot (information, stage, publish) and for grafting another one
(fetch, blend). Here the donor does the first three phases and the rootstock the others. Their sum is the cost
for one network. Publishing includes packing, and fetching includes widening, where `exchange.precision` is not float32.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray

from inarch.actors.network.actor import KEEP_MEMORY
from inarch.experiments.benchmarks.exchange.averaging import averaging_rows
from inarch.experiments.benchmarks.exchange.object_store import store_rows
from inarch.experiments.benchmarks.exchange.peer import CALL_SECONDS, PRECISIONS, PeerActor, Seconds
from inarch.experiments.benchmarks.harness import Measurement, Must, Row, ratio
from inarch.experiments.benchmarks.runs import own_ray
from inarch.population.grafting.compiled_loops import path_taken

ARCHITECTURES = ("resnet20", "mobilenetv2", "torchvision:resnet50")
JUDGED = "torchvision:resnet50"
"""The architecture whose distance from the floor has a target. Grafts of smaller models are dominated by latency."""

FASTER = {JUDGED: Must(rule="at least", limit=20.0)}
"""Targets for published / inarch. Those of other architectures are `FASTER_SMALL`."""

FASTER_SMALL = Must(rule="at least", limit=12.0)
NEAR_FLOOR = Must(rule="at most", limit=3.0)

PHASES = ("information", "stage", "publish", "fetch", "blend")
PUBLISHED_PHASES = ("save", "load", "entropy", "blend")

WARM_TURNS = 3
"""Turns that are not counted. They touch the memory of the object store for the first time, which is slow."""

OPTIONS: dict[str, Any] = {"num_cpus": 0.5, "runtime_env": {"env_vars": KEEP_MEMORY}}
"""Options of the actors, as networks run."""


def exchange(
    *,
    repeats: int = 5,
    architectures: Sequence[str] = ARCHITECTURES,
    store_networks: int = 4,
    store_seconds: float = 10.0,
) -> Measurement:
    """Measure the cost of a graft between two actors, and how much of the object store a population uses.

    Args:
        repeats: Counted turns. Each turn measures inarch, the published graft and the floor one after the other.
        architectures: Names of the architectures.
        store_networks: Size of the population whose object store is sampled.
        store_seconds: Seconds for which the object store is sampled.
    """
    rows: list[Row] = []
    sizes: dict[str, int] = {}
    with own_ray():
        # The store is sampled first, because Ray reports the memory of the peers below as free only after some time.
        rows_of_store, note = store_rows(networks=store_networks, seconds=store_seconds)
        for architecture in architectures:
            rows_of_graft, sizes[architecture] = _exchange(architecture, repeats)
            rows += rows_of_graft
            if architecture == JUDGED:
                rows += _packed_rows(architecture, repeats)
                rows += averaging_rows(architecture, repeats)
    return Measurement(
        name="exchange",
        repeats=repeats,
        rows=(*rows, *rows_of_store),
        setting={"loops": path_taken(), "snapshot_bytes": sizes, "threads": 1, "store_networks": store_networks},
        notes=("the published graft is measured without its sleep of 10 s between checks for the file", note),
    )


def _exchange(architecture: str, repeats: int) -> tuple[list[Row], int]:
    donor, rootstock = (PeerActor.options(**OPTIONS).remote(architecture, seed) for seed in (0, 1))
    try:
        nbytes = _get(donor.nbytes.remote())
        with tempfile.TemporaryDirectory() as folder:
            turns = [_turn(donor, rootstock, f"{folder}/model.pth.tar") for _ in range(WARM_TURNS + repeats)]
    finally:
        ray.kill(donor)
        ray.kill(rootstock)
    library, published, floor = (list(column) for column in zip(*turns[WARM_TURNS:], strict=True))
    return _rows(f"{architecture} {nbytes / 1e6:.1f} MB", library, published, floor, architecture), nbytes


def _packed_rows(architecture: str, repeats: int) -> list[Row]:
    """Measure grafts of packed snapshots in turn with those of float32: their bytes and their time."""
    donor, rootstock = (PeerActor.options(**OPTIONS).remote(architecture, seed) for seed in (0, 1))
    try:
        sizes = {precision: _get(donor.nbytes.remote(precision)) for precision in PRECISIONS}
        turns: dict[str, list[Seconds]] = {precision: [] for precision in PRECISIONS}
        for _ in range(WARM_TURNS + repeats):
            for precision in PRECISIONS:
                seconds, snapshot = _get(donor.publish.remote(precision))
                turns[precision].append(seconds | _get(rootstock.graft.remote(snapshot, precision)))
    finally:
        ray.kill(donor)
        ray.kill(rootstock)
    rows: list[Row] = []
    totals = {name: [sum(turn.values()) for turn in laps[WARM_TURNS:]] for name, laps in turns.items()}
    for precision in PRECISIONS:
        what, laps = f"{architecture}, {precision}", turns[precision][WARM_TURNS:]
        rows.append(Row(what=f"{what}: bytes of a snapshot", unit="MB", values=(sizes[precision] / 1e6,)))
        rows += [_milliseconds(f"{what}: {phase}", [turn[phase] for turn in laps]) for phase in ("publish", "fetch")]
        rows.append(_milliseconds(f"{what}: graft", totals[precision]))
        if precision != "float32":
            rows.append(ratio(f"{what}: graft / float32", totals[precision], totals["float32"], None))
    return rows


def _turn(donor: Any, rootstock: Any, path: str) -> tuple[Seconds, Seconds, Seconds]:
    """Return the seconds of one graft by inarch, of one as published, and of the floor."""
    seconds, snapshot = _get(donor.publish.remote())
    library = seconds | _get(rootstock.graft.remote(snapshot))
    published = _get(donor.save.remote(path)) | _get(rootstock.graft_as_published.remote(path))
    Path(path).unlink()
    return library, published, _get(rootstock.floor.remote())


def _rows(
    what: str, ours: list[Seconds], published: list[Seconds], floor: list[Seconds], architecture: str
) -> list[Row]:
    totals = [[sum(turn.values()) for turn in side] for side in (ours, published, floor)]
    phases = [_milliseconds(f"{what}: {phase}", [turn[phase] for turn in ours]) for phase in PHASES]
    published_phases = [
        _milliseconds(f"{what}: published {phase}", [turn[phase] for turn in published]) for phase in PUBLISHED_PHASES
    ]
    return [
        *phases,
        _milliseconds(f"{what}: graft", totals[0]),
        *published_phases,
        _milliseconds(f"{what}: published graft", totals[1]),
        _milliseconds(f"{what}: floor", totals[2]),
        ratio(f"{what}: published / inarch", totals[1], totals[0], FASTER.get(architecture, FASTER_SMALL)),
        ratio(f"{what}: inarch / floor", totals[0], totals[2], NEAR_FLOOR if architecture == JUDGED else None),
    ]


def _milliseconds(what: str, seconds: Sequence[float]) -> Row:
    return Row(what=what, unit="ms", values=tuple(1e3 * value for value in seconds))


def _get(reference: Any) -> Any:
    return ray.get(reference, timeout=CALL_SECONDS)
