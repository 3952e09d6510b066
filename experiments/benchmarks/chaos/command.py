"""The command `inarch bench chaos`."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from inarch.experiments.benchmarks.chaos.harness import run_under_faults
from inarch.experiments.benchmarks.chaos.injectors import small_file_system
from inarch.experiments.benchmarks.chaos.outcome import ChaosOutcome
from inarch.experiments.benchmarks.chaos.plan import ChaosSetting, Cluster, Mode, Task, plan
from inarch.experiments.benchmarks.chaos.summary import table, to_json, verdict
from inarch.population.errors import ConfigError
from inarch.population.persistence.paths import prepare_file

GRACE_SECONDS = 240.0


def chaos(
    *,
    seed: int = 0,
    seeds: str | None = None,
    minutes: float = 1.5,
    population: int = 3,
    cluster: Cluster = "own",
    mode: Mode = "async",
    task: Task = "images",
    grace: float = GRACE_SECONDS,
    out: str | None = None,
    keep: bool = False,
    dry_run: bool = False,
) -> int:
    """Inject faults into a real run, and check that nothing was lost.

    The faults are drawn from the seed: networks, the coordinator and the driver are killed, frozen and stopped, the
    population is scaled, guests join and die, storage fails, nodes come and go. At the end, every network that did not
    retire must have ended its schedule, with each interval exactly once and every checkpoint whole. Nothing that the
    run started may be left. The exit status is 1 if something did not hold.

    Args:
        seed: Seed of the faults.
        seeds: Several seeds in a row, as FIRST:END without END, such as 1:21 for twenty.
        minutes: Minutes in which faults are injected. The run takes longer, because each resume takes some time.
        population: Networks at the start.
        cluster: own: each driver starts a Ray of its own. separate: the cluster outlives the drivers.
        mode: Mode of the run.
        task: What the networks learn: images are handwritten digits.
        grace: Seconds after which the run counts as hanging if nothing has moved.
        out: File for the results as JSON.
        keep: Keep the folders of runs that passed. Those of runs that did not pass are always kept.
        dry_run: Print the faults of the plan, and start nothing.
    """
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    settings = [
        ChaosSetting(seed=number, minutes=minutes, population=population, cluster=cluster, mode=mode, task=task)
        for number in seed_range(seed, seeds)
    ]
    if dry_run:
        for setting in settings:
            console.print(f"seed {setting.seed}: {setting.name}")
            for fault in plan(setting):
                duration = f", for {fault.duration_seconds:.0f} s" if fault.duration_seconds else ""
                console.print(f"  after {fault.gap_seconds:4.1f} s  {fault.kind.value}{duration}")
        return 0
    file = None if out is None else prepare_file(out)
    outcomes: list[ChaosOutcome] = []
    for setting in settings:
        outcomes.append(run_chaos(setting, grace=grace, keep=keep, say=console.print))
        if file is not None:  # after each run, so that a command that is interrupted leaves its results
            file.write_text(json.dumps({"chaos": [to_json(outcome) for outcome in outcomes]}, indent=2) + "\n")
    console.print(table(outcomes))
    return 0 if all(outcome.has_passed for outcome in outcomes) else 1


def seed_range(seed: int, seeds: str | None) -> range:
    """Return the seeds that a command line names.

    Args:
        seed: A single seed.
        seeds: A range, FIRST:END. None: the single seed.

    Raises:
        ConfigError: It is no range, or an empty one.
    """
    if seeds is None:
        return range(seed, seed + 1)
    first, _, end = seeds.partition(":")
    if not (first.isdecimal() and end.isdecimal() and int(first) < int(end)):
        raise ConfigError(f"seeds must be FIRST:END with FIRST below END, such as 1:21, got {seeds!r}")
    return range(int(first), int(end))


def run_chaos(setting: ChaosSetting, *, grace: float, keep: bool, say: Callable[[str], None]) -> ChaosOutcome:
    """Run one seed in a folder of its own.

    Args:
        setting: The setting.
        grace: Seconds after which the run counts as hanging if nothing has moved.
        keep: Whether the folder remains if everything held.
        say: Prints a line.
    """
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))  # its path is short, because Ray's sockets lie below it
    storage = folder / "r"
    storage.mkdir()
    say(f"seed {setting.seed}: {setting.name}, {len(plan(setting))} faults, in {folder}")
    with small_file_system(storage) as is_small:
        outcome = run_under_faults(setting, folder, is_small=is_small, grace_seconds=grace, say=say)
        is_kept = keep or not outcome.has_passed
        if is_kept and is_small:  # its files would vanish with the file system
            shutil.copytree(storage, folder / "runs", dirs_exist_ok=True)
    say(f"seed {setting.seed}: {verdict(outcome)}, {outcome.seconds:.0f} s")
    for problem in outcome.problems:
        say(f"  {problem}")
    if is_kept:
        say(f"  its files: {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return outcome
