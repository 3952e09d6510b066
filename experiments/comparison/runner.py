"""Run the arms of a comparison, resume runs that were interrupted, and write results, report and pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from inarch.actors import PopulationRun, connect
from inarch.experiments.comparison.arms import ARM, Arm, Comparison
from inarch.experiments.comparison.report import write_report
from inarch.experiments.comparison.results_store import ResultsStore, comparable_config, data_identity, differing_fields
from inarch.experiments.comparison.run_summary import note_session, summarize, trained_on
from inarch.population.config import DistillationConfig, RunConfig, to_dict
from inarch.population.errors import ConfigError, RunError, RunNotFoundError
from inarch.population.persistence.paths import absolute, joined
from inarch.population.persistence.storage import Storage
from inarch.population.tasks.run_folder import find_run, read_config, read_result, with_absolute_data


def run_comparison(
    comparison: Comparison,
    *,
    command: str,
    seeds: Sequence[int] = (),
    arms: Sequence[str] = (),
    storage: str = "runs",
    out: str,
    reuse: bool = False,
    overwrite: bool = False,
    address: str | None = None,
    console: Console,
) -> ResultsStore:
    """Run a comparison seed by seed, all arms of a seed in turn, and write the report after each run.

    The pictures are drawn at the end.

    Args:
        comparison: The comparison.
        command: Command line that started it, for the report.
        seeds: Seeds to run. Empty: those of the comparison.
        arms: Names of the arms to run. Empty: all.
        storage: Folder of the runs. With `reuse`, a run that was interrupted is resumed.
        out: Local folder of the results and the report.
        reuse: Keep runs of equal configuration that `out` or `storage` hold, and copy such runs from the folders beside
            `out`.
        overwrite: Replace runs that `out` holds, but not those that `reuse` keeps.
        address: Address of the Ray cluster. None: a Ray of this machine.
        console: Console for progress.

    Returns:
        The results.

    Raises:
        ConfigError: There is no such arm, the arms do different work, `out` is not local, `out` or `storage` hold some
            of the runs and neither `reuse` nor `overwrite` allows for it, or the folder of a run has another
            configuration.
        RunError: A run failed.
    """
    if "://" in out:
        raise ConfigError(f"out: the results are written into a local folder, got {out!r}")
    selection = narrowed(comparison, arms=arms, seeds=seeds)
    selected_arms, seeds = selection.arms, selection.seeds
    record = ResultsStore(Path(out), comparison)
    planned = [(arm, seed) for seed in seeds for arm in selected_arms]
    num_recorded = sum(record.has(arm.name, seed) for arm, seed in planned)
    if num_recorded and not (reuse or overwrite):
        raise ConfigError(
            f"out: {out} already holds {num_recorded} of these {len(planned)} runs; keep them with --reuse, replace "
            "them with --overwrite and another --storage, or give another --out and another --storage"
        )
    others = [f"{arm.name} seed {seed}" for arm, seed in planned if record.has_other(arm.name, seed)]
    if others and not overwrite:
        raise ConfigError(
            f"out: {out} holds {len(others)} of these {len(planned)} runs with another configuration or other data "
            f"({others[0]}, for example); replace them with --overwrite, or give another --out. If the storage holds "
            "them too, give another --storage as well"
        )
    missing = [
        (arm, seed)
        for arm, seed in planned
        if not (reuse and record.has(arm.name, seed))
        and not (reuse and comparison.may_reuse and record.reuse(arm.name, seed))
    ]
    console.print(
        f"{comparison.name}: {len(selected_arms)} arms, seeds {', '.join(map(str, seeds))}; {len(missing)} runs to do, "
        f"{sum(arm.work for arm, _ in missing)} epochs of one network",
        highlight=False,
    )
    for arm, seed in missing:
        _check_folder(_config_of(comparison, arm, seed, storage=storage, address=address), reuse=reuse)
    if missing:
        connect(address or "local")
    for number, (arm, seed) in enumerate(missing, start=1):
        console.print(f"[{number}/{len(missing)}] {arm.name}, seed {seed}", highlight=False)
        result, folder = _run(comparison, arm, seed, storage=storage, address=address)
        baseline = Storage(joined(storage, _run_name(comparison, comparison.baseline_of(arm), seed)))
        record.add(arm.name, seed, summarize(arm, result, folder, baseline=baseline))
        _drop_weights(folder)
        make_report(comparison, record, command=command, pictures=False)
        mean, ensemble = _score(result["mean"]), _score(result["ensemble"])
        console.print(f"    mean {mean:.2%}, ensemble {ensemble:.2%}, {result['seconds']:.0f} s", highlight=False)
    make_report(comparison, record, command=command)
    return record


def _score(scores: Mapping[str, float | None]) -> float:
    """Return mean average precision in retrieval, otherwise accuracy."""
    return scores.get("mean_average_precision") or scores["accuracy"] or 0.0


def make_report(comparison: Comparison, record: ResultsStore, *, command: str, pictures: bool = True) -> None:
    """Write README.md and the pictures from the recorded results alone. Without results, write nothing.

    Args:
        comparison: The comparison.
        record: Its results.
        command: Command line that made the results.
        pictures: Whether to draw the pictures, which takes some ten seconds if there are many runs.
    """
    if record.rows("scores"):
        if pictures:
            from inarch.experiments.comparison.plots import draw  # imports matplotlib

            draw(comparison, record)
        write_report(comparison, record, command=command)


def narrowed(comparison: Comparison, *, arms: Sequence[str] = (), seeds: Sequence[int] = ()) -> Comparison:
    """Return the comparison with some of its arms, or with other seeds.

    Args:
        comparison: The whole comparison.
        arms: Names of the arms to keep. Empty: all.
        seeds: Seeds to run. Empty: those of the comparison.

    Raises:
        ConfigError: There is no such arm, the arms do different work, or the teacher of an arm is not among them.
    """
    known = [arm.name for arm in comparison.arms]
    for name in arms:
        if name not in known:
            raise ConfigError(f"{comparison.name} has no arm {name!r}; it has {', '.join(known)}")
    work = {arm.work for arm in comparison.arms}
    if comparison.does_equal_work and len(work) > 1:
        raise ConfigError(f"the arms of {comparison.name} do not do equal work: {sorted(work)} epochs")
    selected = tuple(arm for arm in comparison.arms if not arms or arm.name in arms)
    seeds = tuple(dict.fromkeys(seeds))
    for arm in selected:
        missing = {name for name, _ in _teachers(arm)} - {other.name for other in selected}
        if missing:
            raise ConfigError(f"arm {arm.name!r} is taught by {missing.pop()!r}; name that arm too")
    return dataclasses.replace(comparison, arms=selected, seeds=seeds or comparison.seeds)


def _teachers(arm: Arm) -> list[tuple[str, str]]:
    """Return the teachers of an arm that are networks of other arms: name of the arm and id of the network."""
    teachers = [teacher.removeprefix(ARM) for teacher in arm.config.distillation.teachers if teacher.startswith(ARM)]
    return [(teacher.partition("#")[0], teacher.partition("#")[2]) for teacher in teachers]


def _run_name(comparison: Comparison, arm: str, seed: int) -> str:
    plain = "".join(char if char.isalnum() or char in "-." else "-" for char in arm)
    return f"{comparison.name}-{plain}-{seed}"


def _run(
    comparison: Comparison, arm: Arm, seed: int, *, storage: str, address: str | None
) -> tuple[dict[str, Any], str]:
    """Return the result and the folder of a run. Start the run, or resume it, unless it has finished already."""
    config = _config_of(comparison, arm, seed, storage=storage, address=address)
    folder = _check_folder(config, reuse=True)
    if folder is not None and (finished := read_result(folder)) is not None:
        return finished, folder.uri
    if folder is None:
        run = PopulationRun.start(config, quiet=True)
        note_session(Storage(run.path), config, is_resumed=False)
    else:
        note_session(folder, config, is_resumed=True)
        run = PopulationRun.resume(folder.uri, address=config.address, quiet=True)
    try:
        result = run.wait()
    except BaseException:
        run.stop()
        raise
    finally:
        run.close()
    if result.table is None:
        raise RunError(
            f"run {config.name} was stopped before its end; to resume it, give the same command with --reuse"
        )
    return dict(result.table), result.path


def _config_of(comparison: Comparison, arm: Arm, seed: int, *, storage: str, address: str | None) -> RunConfig:
    """Return the configuration of a run of an arm."""
    name = _run_name(comparison, arm.name, seed)
    config = dataclasses.replace(arm.config, name=name, storage=storage, seed=seed, address=address)
    return dataclasses.replace(config, distillation=_taught(comparison, arm, seed, storage))


def _taught(comparison: Comparison, arm: Arm, seed: int, storage: str) -> DistillationConfig:
    """Return the arm's distillation, with teachers of other arms replaced by the folders of their runs."""
    teachers = tuple(
        f"{absolute(joined(storage, _run_name(comparison, name, seed)))}#{network_id}"
        for name, network_id in _teachers(arm)
    )
    return dataclasses.replace(arm.config.distillation, teachers=teachers or arm.config.distillation.teachers)


def _check_folder(config: RunConfig, *, reuse: bool) -> Storage | None:
    """Return the folder of a run that was begun already. None: it was not.

    Args:
        config: Configuration of the run.
        reuse: Whether a run that was begun already may be used.

    Raises:
        ConfigError: The folder has another configuration or was trained on other data. Or there is one, and `reuse` is
            false.
    """
    try:
        folder = find_run(joined(config.storage, str(config.name)))
    except RunNotFoundError:
        return None
    recorded = read_config(folder)["config"]
    differing = differing_fields(comparable_config(recorded), comparable_config(with_absolute_data(config)))
    data, began_with = data_identity(to_dict(config)["data"]), trained_on(folder) or {}
    changed = [f"data.{field}" for field in data if began_with.get(field, data[field]) != data[field]]
    differing = list(dict.fromkeys([*differing, *changed]))  # files may have changed at the same place
    if differing or recorded["seed"] != config.seed:
        raise ConfigError(
            f"storage: {folder.uri} has another configuration ({', '.join(differing) or 'seed'}); give another "
            "--storage, or remove it if it is of no use"
        )
    if not reuse:
        raise ConfigError(f"storage: {folder.uri} was begun already; use it with --reuse, or give another --storage")
    return folder


def _drop_weights(folder: str) -> None:
    """Delete all checkpoints of a recorded run but each network's newest and its best weights. The history stays."""
    storage = Storage(folder)
    for network_id in storage.names("networks"):
        names = sorted(name for name in storage.names(f"networks/{network_id}") if not name.startswith("incarnation"))
        for name in names[:-1]:
            if not storage.exists(f"networks/{network_id}/{name}/best.safetensors"):
                storage.delete(f"networks/{network_id}/{name}")
