"""The `inarch` command.

Longer than 300 lines: each command is a function, whose docstring is its help.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console

from inarch.experiments import comparison_commands, recipes, result_commands
from inarch.experiments.result_commands import plain_console
from inarch.population.config import OpenConfig, RunConfig
from inarch.population.errors import (
    ClusterError,
    DamagedError,
    InarchError,
    NoClusterError,
    RunNotFoundError,
    UntrustedError,
)
from inarch.population.extension.user_code import described

if TYPE_CHECKING:  # imported in the commands that need it, because the import takes seconds
    from inarch.actors import PopulationRun
    from inarch.actors.driver.run_result import RunResult

OPEN_DEFAULTS = OpenConfig()

USAGE = """inarch: train populations of networks asynchronously on Ray; the networks graft each other's weights

  inarch train [RECIPE] [--FIELD VALUE ...]   train a population (default recipe: digits)
  inarch open NAME                            open a population for training loops of your own (inarch.join)
  inarch status NAME                          show the state of a run
  inarch scale NAME N                         change a running population to N networks
  inarch stop NAME                            checkpoint every network and end the run
  inarch resume PATH                          resume a stopped run; --schedule.epochs N trains a finished run longer
  inarch report NAME                          write a page of HTML with curves, exchanges and faults; --live
  inarch track NAME --to TRACKER ...          send a run to tensorboard, mlflow or wandb; --live
  inarch dashboard --grafana FILE             write a Grafana dashboard of the metrics that runs export
  inarch evaluate PATH                        evaluate a run's networks again, from their checkpoints
  inarch export PATH                          write the best network or the soup as safetensors
  inarch predict PATH IMAGE ...               classify images with a trained network
  inarch replay PATH                          repeat a run in one process and compare its weights bit for bit
  inarch compare COMPARISON                   compare methods over several seeds
  inarch bench [BENCHMARK ...]                measure costs; bench chaos injects faults, bench scale simulates 10,000

NAME is the name of a run below --storage (default: runs), or its folder. PATH is the folder of a run.
Ctrl-C and SIGTERM stop a run after every network has committed a checkpoint; the exit status is 130 or 143.
An error exits with status 2; --debug shows its traceback. inarch COMMAND --help lists the options of a command.
inarch --version prints the version."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the `inarch` command.

    An error prints a message of one screen and exits with status 2. With `--debug` it is raised instead.

    Args:
        arguments: Words of the command line after `inarch`. None: those of `sys.argv`.

    Raises:
        SystemExit: The command has ended. Its code is the exit status.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    words = [word for word in given if word != "--debug"]
    if words[:1] == ["--version"]:
        print(f"inarch {importlib.metadata.version('inarch')}")
        raise SystemExit(0)
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        raise SystemExit(0 if words else 2)
    commands: dict[str, Callable[[list[str]], int]] = {
        "train": train,
        "open": lambda rest: tyro.cli(open_run, args=rest, prog="inarch open"),
        "status": lambda rest: tyro.cli(status, args=rest, prog="inarch status"),
        "scale": lambda rest: tyro.cli(scale, args=rest, prog="inarch scale"),
        "stop": lambda rest: tyro.cli(stop, args=rest, prog="inarch stop"),
        "resume": lambda rest: tyro.cli(resume, args=rest, prog="inarch resume"),
        "report": lambda rest: tyro.cli(result_commands.report, args=rest, prog="inarch report"),
        "track": lambda rest: tyro.cli(result_commands.track, args=rest, prog="inarch track"),
        "dashboard": lambda rest: tyro.cli(result_commands.dashboard, args=rest, prog="inarch dashboard"),
        "evaluate": lambda rest: tyro.cli(result_commands.evaluate, args=rest, prog="inarch evaluate"),
        "export": lambda rest: tyro.cli(result_commands.export, args=rest, prog="inarch export"),
        "predict": lambda rest: tyro.cli(result_commands.predict, args=rest, prog="inarch predict"),
        "replay": lambda rest: tyro.cli(result_commands.replay, args=rest, prog="inarch replay"),
        "compare": lambda rest: tyro.cli(comparison_commands.compare, args=rest, prog="inarch compare"),
        "bench": comparison_commands.bench_command,
    }
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)
    is_debugging = "--debug" in given
    if not sys.stdout.isatty() and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    if words[0] not in commands:
        console.print(f"inarch: there is no command {words[0]!r}\n", highlight=False)
        print(USAGE)
        raise SystemExit(2)
    try:
        raise SystemExit(commands[words[0]](words[1:]))
    except BrokenPipeError:  # the reader of a pipe, such as head, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes stdout at exit
        raise SystemExit(141) from None
    except KeyboardInterrupt:
        console.print("inarch: interrupted", highlight=False)
        raise SystemExit(130) from None
    except Exception as error:  # the outermost frame: every error becomes a message of one screen here
        if is_debugging:
            raise
        console.print(f"inarch: {error_text(error, words[0])}")
        raise SystemExit(2) from None


def error_text(error: Exception, command: str) -> str:
    """Return the message of inarch's own errors, or the cause and the last frames of any other error."""
    cause = getattr(error, "cause", None)
    origin = cause if isinstance(cause, Exception) else error
    if isinstance(origin, (InarchError, TimeoutError)):
        return str(origin)
    return f"{described(origin, f'inarch {command}')}\n(--debug shows the whole traceback)"


def train(words: list[str]) -> int:
    """Train a population: `inarch train [RECIPE] [--FIELD VALUE ...]`.

    Args:
        words: Words of the command line after `train`.

    Returns:
        The exit status.
    """
    name = words[0] if words and not words[0].startswith("-") else recipes.DEFAULT
    rest = words[1:] if words and words[0] == name else words
    default = recipes.recipe(name)
    names = registered_names() if {"-h", "--help"} & set(rest) else ""
    config: RunConfig = tyro.cli(
        RunConfig,
        default=default,
        args=rest,
        prog=f"inarch train {name}",
        description=f"Train a population. Recipe {name}: {recipes.RECIPES[name][0]}. The options below override its "
        f"settings. Recipes: {recipes.summary()}. Suffixes: -dlr gives each network its own learning rate, with cosine "
        f"decay; -lockstep makes the networks wait for each other at every exchange, as in the papers.\n\n"
        f"{names}",
    )
    from inarch.actors import PopulationRun
    from inarch.actors.driver.inputs import new_name

    if config.name is None:
        config = dataclasses.replace(config, name=new_name(name))

    console = plain_console()
    console.print(f"run {config.name}: starting Ray and reading the data", highlight=False)
    return _follow(
        lambda: PopulationRun.start(config, quiet=True), console, detach=config.detach, is_tracked=bool(config.track)
    )


def open_run(
    name: tyro.conf.Positional[str],
    /,
    config: Annotated[OpenConfig, tyro.conf.arg(name="")] = OPEN_DEFAULTS,
    storage: str = "runs",
    address: str | None = None,
    detach: bool = False,
    track: tuple[str, ...] = (),
) -> int:
    """Open a population without networks of its own. Training loops join it by `inarch.join`.

    The run ends by Ctrl-C or `inarch stop`, or when it has had no member for --idle-seconds.

    Args:
        name: Name of the run.
        config: What all members have in common.
        storage: Folder or URI that holds the runs.
        address: Address of a Ray cluster. None: RAY_ADDRESS if set, otherwise a Ray of this machine.
        detach: Whether the run continues when this process ends. Needs a cluster that also outlives it.
        track: Trackers that this process feeds: tensorboard, mlflow, wandb, each with = and a target or without.
    """
    from inarch.actors import PopulationRun
    from inarch.actors.driver.trackers import resolve_trackers

    console, trackers = plain_console(), resolve_trackers(track)
    console.print(f"run {name}: starting Ray", highlight=False)

    def begin() -> Any:
        return PopulationRun.open(
            name, config, storage=storage, address=address, detach=detach, callbacks=trackers, quiet=True
        )

    return _follow(begin, console, detach=detach, is_tracked=bool(track))


def dashboard_line(url: str | None) -> str:
    """Return a line that says where the cluster's dashboard is, and how to get the token that it asks for.

    Args:
        url: URL of the dashboard. None if it is not known.
    """
    if url is None:
        return "dashboard: none on this cluster; the run trains without it"
    return f"dashboard: {url} (if it asks for a token: ray get-auth-token)"


def registered_names() -> str:
    """Return the names of all registered objects, extensions included, for the help of `inarch train`."""
    from inarch.actors.driver.callbacks import CALLBACKS
    from inarch.actors.registrations import REGISTRIES
    from inarch.population.extension.registry import load_extensions

    load_extensions()
    registries = (*REGISTRIES, CALLBACKS)
    lines = [f"--{registry.field}: {', '.join(registry.names())}" for registry in registries if registry.names()]
    return "Registered names, besides module:object of your own:\n" + "\n".join(lines)


def status(
    name: tyro.conf.Positional[str],
    /,
    storage: str = "runs",
    address: str | None = None,
    json: bool = False,
) -> int:
    """Show the state of a run.

    Args:
        name: Name of the run, or its folder.
        storage: Folder that holds the runs.
        address: Address of the run's cluster, if it is not on this machine. None: RAY_ADDRESS if set.
        json: Print JSON instead of a table.
    """
    import json as codec

    from inarch.actors import PopulationRun
    from inarch.experiments.display import status_table
    from inarch.experiments.result_display import deploy_lines, result_table
    from inarch.population.persistence.json_files import strict
    from inarch.population.tasks.run_folder import find_run, read_members, read_result

    console = plain_console()
    run: PopulationRun | None = None
    try:
        run = PopulationRun.attach(name, storage=storage, address=address)
        run_status = run.status()
    except (ClusterError, RunNotFoundError, UntrustedError) as error:
        folder = find_run(name, storage=storage)
        result = read_result(folder)
        is_recorded = address is None and not os.environ.get("RAY_ADDRESS")  # the address that was asked
        is_gone = isinstance(error, RunNotFoundError) or (isinstance(error, NoClusterError) and is_recorded)
        try:
            record = read_members(folder) or {}
        except DamagedError:
            if result is None:
                raise
            record = {}
        if json:
            content = {"live": False if is_gone else None, "why": str(error), "record": record, "result": result}
            print(codec.dumps(strict(content)))
            return 0
        if result is not None:
            console.print(result_table(result))
            for line in deploy_lines(result, folder.uri):
                console.print(line, highlight=False, soft_wrap=True)
            return 0
        states = ", ".join(f"network {m['id']} {m['state']}" for m in record.get("members", []))
        console.print(
            "\n".join(
                [
                    str(error),
                    f"last recorded state: {record.get('state', 'unknown')}; {states}",
                    *([record["message"]] if record.get("message") else []),
                ]
            ),
            highlight=False,
            soft_wrap=True,
        )
        condition = "to resume it" if is_gone else "if it does not train any more, resume it"
        console.print(f"{condition}: inarch resume {folder.uri}", highlight=False, soft_wrap=True)
        return 0
    if json:
        print(codec.dumps(strict({"live": True, **dataclasses.asdict(run_status)})))
    else:
        console.print(status_table(run_status))
    return 0


def scale(
    name: tyro.conf.Positional[str],
    size: tyro.conf.Positional[int],
    /,
    storage: str = "runs",
    address: str | None = None,
) -> int:
    """Grow or shrink a population while it trains.

    Args:
        name: Name of the run, or its folder.
        size: Number of networks that the population is to have.
        storage: Folder that holds the runs.
        address: Address of the run's cluster, if it is not on this machine. None: RAY_ADDRESS if set.
    """
    from inarch.actors import PopulationRun

    PopulationRun.attach(name, storage=storage, address=address).scale(size)
    plain_console().print(f"run {name}: scaling to {size} networks", highlight=False)
    return 0


def stop(name: tyro.conf.Positional[str], /, storage: str = "runs", address: str | None = None) -> int:
    """Checkpoint every network and end the run. `inarch resume` resumes it.

    Args:
        name: Name of the run, or its folder.
        storage: Folder that holds the runs.
        address: Address of the run's cluster, if it is not on this machine. None: RAY_ADDRESS if set.
    """
    from inarch.actors import PopulationRun

    run = PopulationRun.attach(name, storage=storage, address=address)
    result = run.stop()
    plain_console().print(f"run {name}: {_ended_line(run, result)}", highlight=False, soft_wrap=True)
    return 2 if result.failure else 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class MovedData:
    """New paths of a resumed run's data, if they were moved. The data must be the same."""

    train: str | None = None
    """Path of the training images."""
    validation_set: str | None = None
    """Path of a separate validation set."""
    test: str | None = None
    """Path of the test images."""
    query: str | None = None
    """Path of the query images. For retrieval only."""

    @property
    def paths(self) -> dict[str, str] | None:
        """The given paths by part: train, validation, test, query. None if there are none."""
        fields = {"train": self.train, "validation": self.validation_set, "test": self.test, "query": self.query}
        return {part: path for part, path in fields.items() if path is not None} or None


@dataclasses.dataclass(frozen=True, kw_only=True)
class LongerSchedule:
    """A longer schedule for a resumed run."""

    epochs: int | None = None
    """Epochs of the whole schedule, more than before. A finished run then trains further."""


UNMOVED, SAME_SCHEDULE = MovedData(), LongerSchedule()


def resume(
    path: tyro.conf.Positional[str],
    /,
    data: MovedData = UNMOVED,
    schedule: LongerSchedule = SAME_SCHEDULE,
    model: str | None = None,
    task: str | None = None,
    address: str | None = None,
    trust: bool = False,
) -> int:
    """Resume a run that was stopped or has failed, or train a finished run for more epochs.

    Every network continues from its newest checkpoint.

    Args:
        path: Folder of the run.
        data: New paths of the data, if they were moved. The images must be the same.
        schedule: A longer schedule.
        model: module:function that builds the model. Required if the run was started from Python with a callable.
        task: module:object of the task. Required if the run was started from Python with a task of your own.
        address: Address of the Ray cluster. None: the recorded address if it is on this machine, else RAY_ADDRESS if
            set, else a Ray of this machine.
        trust: Import code that the folder names from the working directory, and use its trackers, also if you have
            never named them yourself.
    """
    console = plain_console()
    console.print(f"run {path}: starting Ray and reading the data, to resume", highlight=False, soft_wrap=True)
    from inarch.actors import PopulationRun  # imported after the message, because the import takes seconds

    def begin() -> Any:
        return PopulationRun.resume(
            path,
            model=model,
            data=data.paths,
            epochs=schedule.epochs,
            task=task,
            address=address,
            trust=trust,
            quiet=True,
        )

    return _follow(begin, console, detach=False)


def _follow(begin: Callable[[], Any], console: Console, *, detach: bool, is_tracked: bool = False) -> int:
    """Start or resume a run, show its progress until it ends, and return the exit status.

    After Ctrl-C or SIGTERM every network commits a checkpoint, and the run can be resumed. The status is 130 or 143.
    """
    from inarch.actors.termination import Interruptions, Terminated, exit_status, forget
    from inarch.experiments.display import follow, info_lines
    from inarch.experiments.result_display import deploy_lines, failure_lines, result_table

    run = None
    with Interruptions() as interruptions:
        try:
            run = begin()
            interruptions.check()
            if run.info is not None:
                console.print(info_lines(run.info), highlight=False, soft_wrap=True)
            console.print(dashboard_line(run.dashboard), highlight=False)
            if detach:
                console.print(f"detached; inarch status {run.name} shows its state", highlight=False)
                if is_tracked:
                    line = f"inarch track {run.path} --live --to ... feeds its trackers"
                    console.print(line, highlight=False, soft_wrap=True)
                return 0
            result = follow(run, console)
            with contextlib.suppress(InarchError):
                run.close()
        except (KeyboardInterrupt, Terminated) as error:
            if run is None:
                raise
            console.print("stopping: every member is asked to end (repeat to exit at once)", highlight=False)
            try:
                result = run.stop()
            except (KeyboardInterrupt, Terminated):
                forget(run)
                raise
            console.print(_ended_line(run, result), highlight=False, soft_wrap=True)
            return exit_status(error)
    if result.table is not None:
        console.print(result_table(result.table))
        for line in failure_lines(result.table):
            console.print(line, highlight=False, soft_wrap=True)
        seconds = result.table["seconds"]
        console.print(f"trained in {seconds:.1f} s; everything is in {result.path}", highlight=False, soft_wrap=True)
        console.print("report.html there shows curves, exchanges and faults", highlight=False)
        for line in deploy_lines(result.table, result.path):
            console.print(line, highlight=False, soft_wrap=True)
    else:
        console.print(_ended_line(run, result), highlight=False, soft_wrap=True)
    return 0


def _ended_line(run: PopulationRun, result: RunResult) -> str:
    """Return a line that says how a run has ended, and how to continue it. A run may finish before it is stopped."""
    if result.failure:
        return f"failed: {result.failure}; to resume it: inarch resume {run.path}"
    if result.table is not None:
        return f"finished; its result is in {run.path}"
    is_open = run.info is not None and run.info.is_open_run
    state, again = ("closed", "open it again") if is_open else ("stopped", "resume it")
    return f"{state}; to {again}: inarch resume {run.path}"


if __name__ == "__main__":
    main()
