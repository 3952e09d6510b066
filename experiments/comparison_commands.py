"""The commands that run experiments: compare, bench."""

from __future__ import annotations

import shlex
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Literal

import tyro

from inarch.experiments.result_commands import plain_console


def compare(
    name: tyro.conf.Positional[str],
    /,
    train: str | None = None,
    test: str | None = None,
    query: str | None = None,
    seeds: tuple[int, ...] = (),
    arms: tuple[str, ...] = (),
    epochs: int | None = None,
    storage: str = "runs/compare",
    out: str | None = None,
    address: str | None = None,
    reuse: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    smoke_test: bool = False,
) -> int:
    """Compare methods over several seeds, and write a report with a table and pictures.

    Each method is an arm, which is one configuration. The arms of most comparisons train on equally many images. In
    horizon, devices, strength and some published tables they do not. --dry-run prints the images and the cost of each
    arm.

    Args:
        name: The comparison: two-networks, four-networks, equal-work, staleness, delay, compact, levels, scions,
            precision, snapshot-precision, horizon, devices, diversity, strength, revival, information, fusion,
            quickstart.
            Or paper-table-NAME for a table of a paper at its published size, where NAME is one of:
            scions, criteria, methods, networks, strengths, levels, imagenet, persons, density, cultivation, teachers,
            dcff-cifar10, dcff-imagenet.
        train: Training images, as --data.train of `inarch train`. None: those of the published table,
            digits for quickstart, else cifar10.
        test: Test images, as --data.test of `inarch train`. None: those of the published table, if it has its own.
        query: Query images, as --data.query of `inarch train`. For paper-table-persons only.
        seeds: Seeds to run. Empty: those of the comparison.
        arms: Names of the arms to run, as --dry-run prints them. Empty: all.
        epochs: Epochs of each network in a population. None: those of the comparison.
            A single network that is compared with a population trains longer, on equally many images.
        storage: Folder of the runs. With --reuse, a run that was interrupted is resumed.
        out: Folder of the results. None: experiments/results/NAME.
        address: Address of the Ray cluster. None: a Ray of this machine.
        reuse: Keep runs of equal configuration from the folder of the results, and copy those of the folders beside it.
            An interrupted comparison continues with this flag. Several machines or processes may share a folder.
        overwrite: Replace runs that the folder of the results holds. With --reuse, only those of another configuration
            or other data.
        dry_run: Print the arms and their cost, and train nothing.
        smoke_test: Test that each arm runs: train two steps on a few images, from random weights. Record nothing.
    """
    from inarch.experiments import comparison as comparisons
    from inarch.population.extension.optional_packages import check_installed

    check_installed("matplotlib", needed_by="inarch compare", extra="compare")
    data = comparisons.usual_data(name, train=train, test=test, query=query)
    whole = comparisons.comparison(name, data, epochs=epochs)
    selection = comparisons.narrowed(whole, arms=arms, seeds=seeds)
    console = plain_console()
    if smoke_test:
        with tempfile.TemporaryDirectory() as folder:
            comparisons.run_comparison(
                comparisons.trial(selection),
                command="",
                storage=f"{folder}/runs",
                out=f"{folder}/out",
                address=address,
                console=console,
            )
        return 0
    if dry_run or name in comparisons.PAPER_TABLES:
        table, description = comparisons.costs(selection)
        console.print(table)
        console.print(description, highlight=False, soft_wrap=True)
    folder = out or f"experiments/results/{name}"
    console.print(comparisons.regimes(selection, comparisons.ResultsStore(Path(folder), selection)))
    if dry_run:
        for arm in selection.arms:
            console.print(f"{arm.name}: {arm.description}", highlight=False)
        console.print(comparisons.power_text(selection), highlight=False, soft_wrap=True)
        return 0
    from inarch.actors.termination import Interruptions, Terminated, exit_status

    with Interruptions():
        try:
            comparisons.run_comparison(
                whole,
                command=shlex.join(["inarch", *sys.argv[1:]]),
                seeds=seeds,
                arms=arms,
                storage=storage,
                out=folder,
                reuse=reuse,
                overwrite=overwrite,
                address=address,
                console=console,
            )
        except (KeyboardInterrupt, Terminated) as error:
            console.print("stopped; to continue, give the same command with --reuse", highlight=False)
            return exit_status(error)
    return 0


def bench_command(words: list[str]) -> int:
    """Run benchmarks: `inarch bench [BENCHMARK ...]`, or `chaos` and `scale`, which have options of their own.

    Args:
        words: Words of the command line after `bench`.

    Returns:
        The exit status.
    """
    if words[:1] == ["chaos"]:
        from inarch.experiments.benchmarks.chaos.command import chaos
        from inarch.population.extension.optional_packages import check_installed

        check_installed("psutil", needed_by="inarch bench chaos", extra="bench")
        return tyro.cli(chaos, args=words[1:], prog="inarch bench chaos")
    if words[:1] == ["scale"]:
        from inarch.experiments.benchmarks.scale.command import scale

        return tyro.cli(scale, args=words[1:], prog="inarch bench scale")
    return tyro.cli(bench, args=words, prog="inarch bench")


def bench(
    names: tyro.conf.Positional[
        tuple[
            Literal[
                "checkpoint",
                "coordinator",
                "elastic",
                "exchange",
                "fusion",
                "gpu",
                "input",
                "join",
                "overhead",
                "startup",
                "straggler",
                "training",
            ],
            ...,
        ]
    ] = (),
    /,
    repeats: Annotated[int, tyro.conf.arg(help="How often each quantity is measured. Quote results of 5 or more.")] = 5,
    seconds: float = 300.0,
    out: Annotated[str | None, tyro.conf.arg(aliases=["--json"])] = None,
) -> int:
    """Measure what training, grafting, checkpoints, coordination, growth, fusion, input, joining and starting cost.

    Each benchmark measures inarch and a reference, for example plain PyTorch, in the same run. `inarch bench chaos`
    injects faults into a run, and `inarch bench scale` simulates populations of 10,000 networks. Both have options of
    their own.

    Args:
        names: Benchmarks to run. Empty: all but elastic, which takes a quarter of an hour, and gpu, which needs a GPU.
        repeats: How often each quantity is measured.
        seconds: Time for the benchmark gpu, which leaves out what does not fit, and says so.
        out: File for the results as JSON. None: print the JSON after the tables.
    """
    from inarch.experiments.benchmarks.catalog import run_benchmarks
    from inarch.population.extension.optional_packages import check_installed

    needing = [name for name in ("checkpoint", "coordinator", "elastic", "overhead") if not names or name in names]
    if needing:
        check_installed("psutil", needed_by=f"inarch bench {needing[0]}", extra="bench")
    return run_benchmarks(names, repeats=repeats, seconds=seconds, out=out, console=plain_console())
