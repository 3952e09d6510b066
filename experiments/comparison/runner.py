"""Run a comparison arm by arm on one Ray, resume what was interrupted, and write its record, table and pictures."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from inarch.actors import PopulationRun, connect, find_run
from inarch.actors.driver.inputs import with_absolute_data
from inarch.experiments.comparison.arms import ARM, Arm, Comparison
from inarch.experiments.comparison.plots import draw
from inarch.experiments.comparison.report import write_report
from inarch.experiments.comparison.results_store import ResultsStore, summarize
from inarch.population.config import DistillationConfig, RunConfig
from inarch.population.errors import ConfigError, RunError, RunNotFoundError
from inarch.population.persistence.storage import Storage, absolute


def run_comparison(
    comparison: Comparison,
    *,
    command: str,
    seeds: Sequence[int] = (),
    arms: Sequence[str] = (),
    storage: str = "runs",
    out: str,
    reuse: bool = False,
    address: str | None = None,
    console: Console,
) -> ResultsStore:
    """Run a comparison, seed by seed through its arms, and write the report after each run.

    Args:
        comparison: Its arms.
        command: That made it: written into the report.
        seeds: In place of the comparison's.
        arms: Names of those to run; all where none is named.
        storage: Folder of the runs; one that was interrupted is resumed.
        out: Folder of the results and the report.
        reuse: Keep runs of equal configuration that this folder holds, and copy those of folders beside it.
        address: Of the Ray cluster; None: a Ray of this machine.
        console: Where progress is told.

    Raises:
        ConfigError: There is no such arm, arms do different work, or the folder holds some of the runs and `reuse` is
            not set.
        RunError: a run failed.
    """
    asked = narrowed(comparison, arms=arms, seeds=seeds)
    chosen, seeds = asked.arms, asked.seeds
    record = ResultsStore(Path(out), comparison)
    wanted = [(arm, seed) for seed in seeds for arm in chosen]
    num_there = sum(record.has(arm.name, seed) for arm, seed in wanted)
    if num_there and not reuse:
        raise ConfigError(
            f"out: {out} holds {num_there} of these {len(wanted)} runs; keep them with --reuse, or give another --out"
        )
    left = [
        (arm, seed)
        for arm, seed in wanted
        if not record.has(arm.name, seed) and not (reuse and comparison.may_reuse and record.reuse(arm.name, seed))
    ]
    console.print(
        f"{comparison.name}: {len(chosen)} arms, seeds {', '.join(map(str, seeds))}; {len(left)} runs to do, "
        f"{sum(arm.work for arm, _ in left)} epochs of one network",
        highlight=False,
    )
    if left:
        connect(address or "local")
    for number, (arm, seed) in enumerate(left, start=1):
        console.print(f"[{number}/{len(left)}] {arm.name}, seed {seed}", highlight=False, markup=False)
        result, folder = _run(comparison, arm, seed, storage=storage, address=address)
        baseline = Storage(f"{storage}/{_run_name(comparison, comparison.baseline_of(arm), seed)}")
        record.add(arm.name, seed, summarize(arm, result, folder, baseline=baseline))
        _drop_weights(folder)
        make_report(comparison, record, command=command)
        mean, ensemble = _score(result["mean"]), _score(result["ensemble"])
        console.print(f"    mean {mean:.2%}, ensemble {ensemble:.2%}, {result['seconds']:.0f} s", highlight=False)
    make_report(comparison, record, command=command)
    return record


def _score(scores: Mapping[str, float | None]) -> float:
    """Mean average precision in retrieval, else accuracy."""
    return scores.get("mean_average_precision") or scores["accuracy"] or 0.0


def make_report(comparison: Comparison, record: ResultsStore, *, command: str) -> None:
    """Write README.md and the pictures from the record alone."""
    if record.rows("scores"):
        draw(comparison, record)
        write_report(comparison, record, command=command)


def narrowed(comparison: Comparison, *, arms: Sequence[str] = (), seeds: Sequence[int] = ()) -> Comparison:
    """The comparison with some of its arms and other seeds; what is empty stays as it is.

    Raises:
        ConfigError: no such arm, arms of different work, or an arm without its teacher.
    """
    known = [arm.name for arm in comparison.arms]
    for name in arms:
        if name not in known:
            raise ConfigError(f"{comparison.name} has no arm {name!r}; it has {', '.join(known)}")
    work = {arm.work for arm in comparison.arms}
    if comparison.does_equal_work and len(work) > 1:
        raise ConfigError(f"the arms of {comparison.name} do not do equal work: {sorted(work)} epochs")
    chosen = tuple(arm for arm in comparison.arms if not arms or arm.name in arms)
    for arm in chosen:
        missing = {name for name, _ in _teachers(arm)} - {one.name for one in chosen}
        if missing:
            raise ConfigError(f"arm {arm.name!r} is taught by {missing.pop()!r}; name that arm too")
    return dataclasses.replace(comparison, arms=chosen, seeds=tuple(seeds) or comparison.seeds)


def _teachers(arm: Arm) -> list[tuple[str, str]]:
    """Those that are arms: their names, and which network of each."""
    found = [teacher.removeprefix(ARM) for teacher in arm.config.distillation.teachers if teacher.startswith(ARM)]
    return [(teacher.partition("#")[0], teacher.partition("#")[2]) for teacher in found]


def _run_name(comparison: Comparison, arm: str, seed: int) -> str:
    plain = "".join(char if char.isalnum() or char in "-." else "-" for char in arm)
    return f"{comparison.name}-{plain}-{seed}"


def _run(
    comparison: Comparison, arm: Arm, seed: int, *, storage: str, address: str | None
) -> tuple[dict[str, Any], str]:
    """One run's result and folder: done already, resumed or begun."""
    name = _run_name(comparison, arm.name, seed)
    config = dataclasses.replace(arm.config, name=name, storage=storage, seed=seed, address=address)
    config = dataclasses.replace(config, distillation=_taught(comparison, arm, seed, storage))
    run = _begin(config)
    if isinstance(run, Storage):
        return json.loads(run.read("result.json")), run.uri
    try:
        found = run.wait()
    except BaseException:
        run.stop()
        raise
    finally:
        run.close()
    if found.table is None:
        raise RunError(f"run {name} was stopped before its end; the same command goes on with it")
    return dict(found.table), found.path


def _taught(comparison: Comparison, arm: Arm, seed: int, storage: str) -> DistillationConfig:
    """Teachers that are arms become the folders of their runs."""
    teachers = tuple(
        f"{absolute(f'{storage}/{_run_name(comparison, name, seed)}')}#{network_id}"
        for name, network_id in _teachers(arm)
    )
    return dataclasses.replace(arm.config.distillation, teachers=teachers or arm.config.distillation.teachers)


def _begin(config: RunConfig) -> PopulationRun | Storage:
    try:
        folder = find_run(f"{config.storage}/{config.name}")
    except RunNotFoundError:
        return PopulationRun.start(config)
    config = with_absolute_data(config)
    recorded = json.loads(folder.read("config.json"))["config"]
    if json.loads(json.dumps(dataclasses.asdict(config))) != recorded:
        raise ConfigError(f"{folder.uri} holds a run of another configuration; remove it or give another --storage")
    return folder if folder.exists("result.json") else PopulationRun.resume(folder.uri, address=config.address)


def _drop_weights(folder: str) -> None:
    """Of a run that is in the record only the newest checkpoint of each network stays, and the history."""
    storage = Storage(folder)
    for network_id in storage.names("networks"):
        kept = sorted(name for name in storage.names(f"networks/{network_id}") if not name.startswith("incarnation"))
        for name in kept[:-1]:
            if not storage.exists(f"networks/{network_id}/{name}/best.safetensors"):
                storage.delete(f"networks/{network_id}/{name}")
