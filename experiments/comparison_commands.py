"""The commands that measure: compare, bench."""

from __future__ import annotations

import shlex
import sys
import tempfile
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
    dry_run: bool = False,
    smoke_test: bool = False,
) -> int:
    """Run a comparison, or what is left of it, and write table and pictures; published tables print their cost first.

    Args:
        name: two-networks, four-networks, equal-work, staleness, delay, compact, levels, scions; or a published table
            at its own size: paper-table-scions, -criteria, -methods, -networks, -strengths, -levels, -imagenet,
            -persons, -density, -cultivation, -teachers, -dcff-cifar10, -dcff-imagenet.
        train: Training images, as --data.train; None: the published table's, else cifar10.
        test: Test images, as --data.test.
        query: Queries, as --data.query, for paper-table-persons.
        seeds: In place of the comparison's own.
        arms: Those to run; all where none is named.
        epochs: Of each network where it trains in a population, in place of the comparison's own.
        storage: Folder of the runs; what was interrupted is resumed.
        out: Folder of the results; None: experiments/results/NAME.
        reuse: Keep runs of equal configuration that the folder of the results holds, and copy those of folders beside
            it. An interrupted comparison continues with this flag.
        address: Of the Ray cluster; None: a Ray of this machine.
        dry_run: Print the arms and their cost, and start nothing.
        smoke_test: Two steps of a few images for each arm, from random weights, to see that it runs; nothing is recorded.
    """
    from inarch.experiments import comparison as comparisons

    data = comparisons.usual_data(name, train=train, test=test, query=query)
    chosen = comparisons.comparison(name, data, epochs=epochs)
    asked = comparisons.narrowed(chosen, arms=arms, seeds=seeds)
    console = plain_console()
    if smoke_test:
        with tempfile.TemporaryDirectory() as folder:
            comparisons.run_comparison(
                comparisons.trial(asked),
                command="",
                storage=f"{folder}/runs",
                out=f"{folder}/out",
                address=address,
                console=console,
            )
        return 0
    if dry_run or name in comparisons.PAPER_TABLES:
        table, description = comparisons.costs(asked)
        console.print(table)
        console.print(description, highlight=False, soft_wrap=True)
    if dry_run:
        for arm in asked.arms:
            console.print(f"{arm.name}: {arm.description}", highlight=False, markup=False)
        return 0
    from inarch.actors.termination import Interruptions, Terminated, exit_status

    with Interruptions():
        try:
            comparisons.run_comparison(
                chosen,
                command=shlex.join(["inarch", *sys.argv[1:]]),
                seeds=seeds,
                arms=arms,
                storage=storage,
                out=out or f"experiments/results/{name}",
                reuse=reuse,
                address=address,
                console=console,
            )
        except (KeyboardInterrupt, Terminated) as error:
            console.print("stopped; the same command with --reuse continues the comparison", highlight=False)
            return exit_status(error)
    return 0


def bench(
    names: tyro.conf.Positional[tuple[Literal["exchange", "fusion", "input", "overhead", "straggler"], ...]] = (),
    /,
    repeats: Annotated[int, tyro.conf.arg(help="Measurements of each thing, at least 5 to be quoted.")] = 5,
    out: str | None = None,
) -> int:
    """Measure, each thing beside what it is to beat in the same run.

    Args:
        names: What to measure; all where none is named.
        repeats: Measurements of each thing.
        out: File for the JSON; it is printed after the tables where None.
    """
    from inarch.experiments.benchmarks import run_benchmarks

    return run_benchmarks(names, repeats=repeats, out=out, console=plain_console())
