"""The `inarch` command."""

from __future__ import annotations

import dataclasses
import io
import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro
from rich.console import Console

from inarch.experiments import comparison_commands, recipes, result_commands
from inarch.experiments.result_commands import plain_console
from inarch.population.config import RunConfig
from inarch.population.errors import ClusterError, InarchError, RunNotFoundError
from inarch.population.extension.user_code import described

USAGE = """inarch: populations of networks that train asynchronously and graft each other, on Ray

  inarch train [RECIPE] [--FIELD VALUE ...]   train; without a recipe, digits
  inarch status NAME                          how a run stands
  inarch scale NAME N                         grow or shrink it while it runs
  inarch stop NAME                            checkpoint every network and end it
  inarch resume PATH                          resume it, or train it on: --schedule.epochs N
  inarch evaluate PATH                        judge its networks again, from their checkpoints
  inarch export PATH                          its best network, or the soup, as safetensors
  inarch predict PATH IMAGE ...               classes of images, with probabilities
  inarch compare NAME                         arms of equal work over seeds, with intervals
  inarch bench [NAME ...]                     measure exchange, fusion, input, overhead, straggler

Ctrl-C and SIGTERM stop a run with a checkpoint (exit status 130 and 143). Errors have status 2; --debug shows their
whole traceback. inarch COMMAND --help says more. NAME is a run's name below --storage (default runs), or its folder."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; exits with status 2 and a message of one screen where something cannot be used."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        raise SystemExit(0 if words else 2)
    commands: dict[str, Callable[[list[str]], int]] = {
        "train": train,
        "status": lambda rest: tyro.cli(status, args=rest, prog="inarch status"),
        "scale": lambda rest: tyro.cli(scale, args=rest, prog="inarch scale"),
        "stop": lambda rest: tyro.cli(stop, args=rest, prog="inarch stop"),
        "resume": lambda rest: tyro.cli(resume, args=rest, prog="inarch resume"),
        "evaluate": lambda rest: tyro.cli(result_commands.evaluate, args=rest, prog="inarch evaluate"),
        "export": lambda rest: tyro.cli(result_commands.export, args=rest, prog="inarch export"),
        "predict": lambda rest: tyro.cli(result_commands.predict, args=rest, prog="inarch predict"),
        "compare": lambda rest: tyro.cli(comparison_commands.compare, args=rest, prog="inarch compare"),
        "bench": lambda rest: tyro.cli(comparison_commands.bench, args=rest, prog="inarch bench"),
    }
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    is_debugging = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if not sys.stdout.isatty() and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    if words[0] not in commands:
        console.print(f"inarch: there is no command {words[0]!r}\n", markup=False, highlight=False)
        print(USAGE)
        raise SystemExit(2)
    try:
        raise SystemExit(commands[words[0]](words[1:]))
    except KeyboardInterrupt:
        console.print("inarch: interrupted", markup=False, highlight=False)
        raise SystemExit(130) from None
    except Exception as error:  # the last place where an error can become one screen
        if is_debugging:
            raise
        console.print(f"inarch: {_error_text(error, words[0])}")
        raise SystemExit(2) from None


def _error_text(error: Exception, command: str) -> str:
    """An error on one screen: what inarch found, as it is; of anything else its cause and its last frames."""
    cause = getattr(error, "cause", None)
    found = cause if isinstance(cause, Exception) else error
    if isinstance(found, (InarchError, TimeoutError)):
        return str(found)
    return f"{described(found, f'inarch {command}')}\n(--debug shows the whole traceback)"


def train(words: list[str]) -> int:
    """`inarch train [RECIPE] [--FIELD VALUE ...]`."""
    name = words[0] if words and not words[0].startswith("-") else recipes.DEFAULT
    rest = words[1:] if words and words[0] == name else words
    default = recipes.recipe(name)
    config = tyro.cli(
        RunConfig,
        default=default,
        args=rest,
        prog=f"inarch train {name}",
        description=f"Train a population. Recipe {name}: {recipes.RECIPES[name][0]}. The fields below override it. "
        f"Recipes: {recipes.summary()} (-dlr: spread learning rates and cosine decay).",
    )
    from inarch.actors import PopulationRun
    from inarch.actors.driver.inputs import new_name

    if config.name is None:
        config = dataclasses.replace(config, name=new_name(name))

    console = plain_console()
    console.print(f"run {config.name}: starting Ray and reading the data", highlight=False)
    return _follow(lambda: PopulationRun.start(config), console, detach=config.detach)


def status(name: tyro.conf.Positional[str], /, storage: str = "runs", json: bool = False) -> int:
    """How a run stands.

    Args:
        name: Of the run, or its folder.
        storage: Folder that holds runs.
        json: Print JSON.
    """
    import json as codec

    from inarch.actors import PopulationRun, find_run
    from inarch.actors.coordinator.run_metadata import read_members
    from inarch.experiments.display import result_table, status_table

    console = plain_console()
    try:
        found = PopulationRun.attach(name, storage=storage).status()
    except (ClusterError, RunNotFoundError) as error:
        folder = find_run(name, storage=storage)
        record = read_members(folder) or {}
        result = codec.loads(folder.read("result.json")) if folder.exists("result.json") else None
        if json:
            print(codec.dumps({"live": False, "why": str(error), "record": record, "result": result}))
            return 0
        if result is not None:
            console.print(result_table(result))
            return 0
        states = ", ".join(f"network {m['id']} {m['state']}" for m in record.get("members", []))
        console.print(
            f"{error}\nas it was left ({record.get('state', 'unknown')}): {states}",
            highlight=False,
            soft_wrap=True,
        )
        console.print(f"go on with it: inarch resume {folder.uri}", highlight=False, soft_wrap=True)
        return 0
    if json:
        print(codec.dumps({"live": True, **dataclasses.asdict(found)}))
    else:
        console.print(status_table(found))
    return 0


def scale(name: tyro.conf.Positional[str], size: tyro.conf.Positional[int], /, storage: str = "runs") -> int:
    """Grow or shrink a run's population while it trains.

    Args:
        name: Of the run, or its folder.
        size: Networks wanted.
        storage: Folder that holds runs.
    """
    from inarch.actors import PopulationRun

    PopulationRun.attach(name, storage=storage).scale(size)
    plain_console().print(f"run {name}: on its way to {size} networks", highlight=False)
    return 0


def stop(name: tyro.conf.Positional[str], /, storage: str = "runs") -> int:
    """Checkpoint every network and end the run; `inarch resume` goes on with it.

    Args:
        name: Of the run, or its folder.
        storage: Folder that holds runs.
    """
    from inarch.actors import PopulationRun

    run = PopulationRun.attach(name, storage=storage)
    run.stop()
    plain_console().print(
        f"run {name}: stopped; resume it by inarch resume {run.path}", highlight=False, soft_wrap=True
    )
    return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class MovedData:
    """Where a resumed run's data are now, if they were moved; they must be the same images."""

    train: str | None = None
    """Training images."""
    validation_set: str | None = None
    """Validation images of their own."""
    test: str | None = None
    """Test images."""
    query: str | None = None
    """Queries, in retrieval."""

    @property
    def paths(self) -> dict[str, str] | None:
        """Those that are given, by part."""
        fields = {"train": self.train, "validation": self.validation_set, "test": self.test, "query": self.query}
        return {part: path for part, path in fields.items() if path is not None} or None


@dataclasses.dataclass(frozen=True, kw_only=True)
class LongerSchedule:
    """A longer schedule for a resumed run."""

    epochs: int | None = None
    """Of the whole schedule, more than before; a finished run then trains on."""


UNMOVED, SAME_SCHEDULE = MovedData(), LongerSchedule()


def resume(
    path: tyro.conf.Positional[str],
    /,
    data: MovedData = UNMOVED,
    schedule: LongerSchedule = SAME_SCHEDULE,
    model: str | None = None,
    address: str | None = None,
) -> int:
    """Resume a run that was stopped or died, every network from its newest checkpoint; or train a finished one for more
    epochs.

    Args:
        path: The run's folder.
        data: Where its data are now.
        schedule: Its longer schedule.
        model: module:function that makes its network, where it was begun with a callable.
        address: Of the Ray cluster to resume on; the recorded one, else a Ray of this machine.
    """
    console = plain_console()
    console.print(f"run {path}: starting Ray and reading the data, to resume", highlight=False, soft_wrap=True)
    from inarch.actors import PopulationRun  # after the line above, since it takes seconds

    def begin() -> Any:
        return PopulationRun.resume(path, model=model, data=data.paths, epochs=schedule.epochs, address=address)

    return _follow(begin, console, detach=False)


def _follow(begin: Callable[[], Any], console: Console, *, detach: bool) -> int:
    """Start or resume a run and show it to its end. Ctrl-C and SIGTERM stop it in order and leave a folder to resume;
    the exit status is then 130 or 143."""
    from inarch.actors.termination import Interruptions, Terminated, exit_status, forget
    from inarch.experiments.display import failure_lines, follow, info_lines, result_table

    run = None
    with Interruptions() as interruptions:
        try:
            run = begin()
            interruptions.check()
            if run.info is not None:
                console.print(info_lines(run.info), highlight=False, markup=False, soft_wrap=True)
            if run.dashboard:
                console.print(f"dashboard: {run.dashboard}", highlight=False)
            if detach:
                console.print(f"detached; inarch status {run.name} shows its state", highlight=False)
                return 0
            result = follow(run, console)
        except (KeyboardInterrupt, Terminated) as error:
            if run is None:
                raise
            console.print("stopping: every network commits a checkpoint (again to leave at once)", highlight=False)
            try:
                run.stop()
            except (KeyboardInterrupt, Terminated):
                forget(run)
                raise
            console.print(f"stopped; resume it by: inarch resume {run.path}", highlight=False, soft_wrap=True)
            return exit_status(error)
    if result.table is not None:
        console.print(result_table(result.table))
        for line in failure_lines(result.table):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        seconds = result.table["seconds"]
        console.print(f"trained in {seconds:.1f} s; everything is in {result.path}", highlight=False, soft_wrap=True)
    else:
        console.print(f"stopped; resume it by: inarch resume {result.path}", highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    main()
