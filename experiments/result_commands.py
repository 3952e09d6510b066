"""The commands that use the folder of a run: evaluate, export, predict, replay, report, track."""

from __future__ import annotations

import dataclasses
import sys
from typing import Literal

import tyro
from rich.console import Console

from inarch.population.errors import ConfigError

SILENT_SECONDS = 3600.0
"""Time without a new interval after which `inarch track --live` ends."""

REFRESH_SECONDS = 5
"""Seconds between two versions of a live report."""


def plain_console() -> Console:
    """Return a console for standard output that prints text as it is, without rich's markup and emoji codes.

    Error texts and names may hold square brackets and colons. Without a terminal its lines are 160 characters wide.
    """
    return Console(width=None if sys.stdout.isatty() else 160, markup=False, emoji=False)


def evaluate(
    path: tyro.conf.Positional[str],
    /,
    model: str | None = None,
    task: str | None = None,
    trust: bool = False,
    json: bool = False,
) -> int:
    """Evaluate a run's networks again, from their checkpoints.

    Prints the scores of each network, their mean, the best network, the ensemble and the soups, and what to deploy.
    Prints also how similar the networks were after each interval whose checkpoints were kept (--checkpoint.keep of
    `inarch train`).

    Args:
        path: Folder of the run.
        model: module:function that builds the model. Required if the run was started from Python with a callable.
        task: module:object of the task. Required if the run was started from Python with a task of your own.
        trust: Import code that the folder names from the working directory, also if you have never named it yourself.
        json: Print JSON instead of tables.
    """
    import json as codec

    from inarch.experiments.result_display import deploy_lines, result_table, similarity_table
    from inarch.experiments.saved_runs import evaluate_again
    from inarch.population.extension.trusted_code import remember_code
    from inarch.population.models import import_factory
    from inarch.population.persistence.json_files import strict
    from inarch.population.tasks.built_in import resolve_task

    remember_code(name for name in (model, task) if name)
    factory = import_factory(model, "--model") if model else None
    result = evaluate_again(path, model=factory, task=resolve_task(task) if task else None, trust=trust)
    if json:
        print(codec.dumps(strict(result), indent=2))
        return 0
    console = plain_console()
    console.print(result_table(result))
    if result["similarity"]:
        console.print(similarity_table(result["similarity"]))
    for line in deploy_lines(result, path):
        console.print(line, highlight=False, soft_wrap=True)
    return 0


def export(
    path: tyro.conf.Positional[str],
    /,
    what: Literal["best", "soup", "recommended"] = "best",
    out: str | None = None,
    trust: bool = False,
) -> int:
    """Write a trained network as a safetensors file, and print Python code that loads it.

    Args:
        path: Folder of the run.
        what: best: the network with the best validation score. soup: the mean of all networks' weights. recommended:
            what the end of the run recommends to deploy, unless that is the ensemble.
        out: File to write. None: export/WHAT.safetensors in the run's folder.
        trust: Import code that the folder names from the working directory, also if you have never named it yourself.
    """
    from inarch.experiments.export import export_network

    file, snippet = export_network(path, what=what, out=out, trust=trust)
    console = plain_console()
    console.print(f"{what}: {file}\n", highlight=False, soft_wrap=True)
    console.print(snippet, highlight=False, soft_wrap=True)
    return 0


def predict(
    path: tyro.conf.Positional[str],
    images: tyro.conf.Positional[tuple[str, ...]],
    /,
    what: Literal["best", "soup", "recommended"] = "best",
    top: int = 3,
    model: str | None = None,
    trust: bool = False,
    json: bool = False,
) -> int:
    """Classify images with a trained network, and print the likeliest classes with their probabilities.

    Args:
        path: Folder of the run.
        images: Image files, or folders of images.
        what: best: the network with the best validation score. soup: the mean of all networks' weights. recommended:
            what the end of the run recommends to deploy, unless that is the ensemble.
        top: Number of classes to print for each image.
        model: module:function that builds the model. Required if the run was started from Python with a callable.
        trust: Import code that the folder names from the working directory, also if you have never named it yourself.
        json: Print one line of JSON for each image.
    """
    import json as codec

    from inarch.experiments.export import predict_images
    from inarch.population.persistence.json_files import strict

    console, status = plain_console(), 0
    for prediction in predict_images(path, images, what=what, top=top, model=model, trust=trust):
        if json:
            print(codec.dumps(strict(dataclasses.asdict(prediction))))
        else:
            classes = ", ".join(f"{name} {probability:.1%}" for name, probability in prediction.classes)
            console.print(
                f"{prediction.file}: {prediction.error or classes}", highlight=False, markup=False, soft_wrap=True
            )
        status = 2 if prediction.error else status
    return status


def replay(
    path: tyro.conf.Positional[str],
    /,
    until: str | None = None,
    watch: bool = False,
    out: str | None = None,
    model: str | None = None,
    task: str | None = None,
    trust: bool = False,
) -> int:
    """Repeat a run in one process, without Ray, and compare all weights with its checkpoints, bit for bit.

    The exit status is 0 if everything is equal, and 1 after the first difference, which is printed.

    Args:
        path: Folder of the run.
        until: NETWORK:INTERVAL after which the replay ends, such as 2:15. Only what led to it is repeated. None: every
            checkpoint in the folder.
        watch: Print the validation scores of each network before and after each exchange, to find a bad graft.
        out: File to write, as safetensors: the network's weights after the interval of --until.
        model: module:function that builds the model. Required if the run was started from Python with a callable.
        task: module:object of the task. Required if the run was started from Python with a task of your own.
        trust: Import code that the folder names from the working directory, also if you have never named it yourself.
    """
    from inarch.experiments.replaying import prepare_replay, replay_with_output
    from inarch.population.extension.trusted_code import remember_code
    from inarch.population.models import import_factory
    from inarch.population.tasks.built_in import resolve_task

    console = plain_console()
    goal = _network_and_interval(until)
    if out is not None and goal is None:
        raise ConfigError("out needs --until NETWORK:INTERVAL, which says whose weights are written")
    remember_code(name for name in (model, task) if name)
    factory, own_task = import_factory(model, "--model") if model else None, resolve_task(task) if task else None
    prepared = prepare_replay(path, until=goal, model=factory, task=own_task, trust=trust)

    def show(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True)

    return replay_with_output(prepared, show, watch=watch, out=out)


def _network_and_interval(text: str | None) -> tuple[int, int] | None:
    """Return the numbers in NETWORK:INTERVAL."""
    if text is None:
        return None
    network, _, interval = text.partition(":")
    if not (network.isdecimal() and interval.isdecimal()):
        raise ConfigError(f"until must be NETWORK:INTERVAL, such as 2:15, got {text!r}")
    return int(network), int(interval)


def report(
    path: tyro.conf.Positional[str], /, out: str | None = None, live: bool = False, storage: str = "runs"
) -> int:
    """Write one page of HTML with curves, exchanges, layers, faults and the result of a run.

    A run writes the page into its folder when it ends. This command writes it anew, also while the run is live.

    Args:
        path: Name of the run, or its folder.
        out: File to write. None: report.html in the run's folder, or NAME.html here if that folder is not local.
        live: Write the page every five seconds until the run ends, or has recorded nothing for an hour. The browser
            reads it again by itself.
        storage: Folder that holds the runs.
    """
    import time

    from inarch.population.persistence.paths import prepare_file
    from inarch.population.report.content import read_content
    from inarch.population.report.page import REPORT, render
    from inarch.population.tasks.run_folder import find_run

    folder, console = find_run(path, storage=storage), plain_console()
    content = read_content(folder)
    target = prepare_file(out or (f"{content.name}.html" if "://" in folder.uri else folder.path(REPORT)))
    deadline, is_printed = time.monotonic() + SILENT_SECONDS, False
    while True:
        is_live = live and content.state not in ("finished", "failed") and time.monotonic() < deadline
        target.write_text(render(content, refresh_seconds=REFRESH_SECONDS if is_live else None))
        if not is_printed:
            console.print(str(target), highlight=False, soft_wrap=True)
            is_printed = True
        if not is_live:
            return 0
        time.sleep(REFRESH_SECONDS)
        earlier, content = content, read_content(folder)
        if any(getattr(content, part) != getattr(earlier, part) for part in ("state", "members", "events")) or len(
            content.rows
        ) != len(earlier.rows):
            deadline = time.monotonic() + SILENT_SECONDS


def track(path: tyro.conf.Positional[str], /, to: tuple[str, ...], live: bool = False, storage: str = "runs") -> int:
    """Send a run to trackers: tensorboard, mlflow or wandb. What was sent before is not sent again.

    Args:
        path: Name of the run, or its folder.
        to: Trackers, each with = and a target or without. The target of tensorboard is a folder, that of mlflow a
            tracking URI, that of wandb a project.
        live: Continue until the run ends, or has recorded nothing for an hour. Otherwise a live run is sent up to its
            last commit.
        storage: Folder that holds the runs.
    """
    import time

    from inarch.actors.driver.trackers import resolve_trackers
    from inarch.population.tasks.run_folder import end_state, find_run, read_config

    console, trackers = plain_console(), resolve_trackers(to)
    folder = find_run(path, storage=storage)
    recorded = read_config(folder)
    for tracker in trackers:
        tracker.on_start(recorded["config"]["name"], folder.uri)
    num_sent = [0] * len(trackers)
    deadline = time.monotonic() + SILENT_SECONDS
    while True:
        state = end_state(folder, recorded)
        for position, tracker in enumerate(trackers):
            try:
                sent = tracker.advance()
            except Exception as error:  # the service's own types: a live run is sent later, other trackers now
                if not live or state is not None:
                    raise
                console.print(f"{to[position]}: {error}; trying again", highlight=False)
                continue
            num_sent[position] += sent
            deadline = time.monotonic() + SILENT_SECONDS if sent else deadline
        if state is not None or not live or time.monotonic() > deadline:
            break
        time.sleep(REFRESH_SECONDS)
    for position, (text, tracker) in enumerate(zip(to, trackers, strict=True)):
        if state is not None:
            num_sent[position] += tracker.complete(state)
        console.print(f"{text}: {num_sent[position]} intervals sent", highlight=False)
    return 0


def dashboard(grafana: str) -> int:
    """Write a Grafana dashboard of the metrics that runs export. Grafana imports it, and asks for a Prometheus.

    Args:
        grafana: File to write, as JSON.
    """
    import json

    from inarch.experiments.grafana import PANELS
    from inarch.experiments.grafana import dashboard as content
    from inarch.population.persistence.paths import prepare_file

    prepare_file(grafana).write_text(json.dumps(content(), indent=2) + "\n")
    console = plain_console()
    console.print(
        f"{grafana}: {len(PANELS)} panels; in Grafana: Dashboards, New, Import", highlight=False, soft_wrap=True
    )
    return 0
