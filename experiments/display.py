"""How a run is shown: a live table in a terminal, plain lines otherwise, and a result table at the end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from inarch.population.evaluation.metrics import Metric
from inarch.population.tasks.run_spec import RunInfo

if TYPE_CHECKING:  # commands that read a folder do without Ray
    from inarch.actors import NetworkStatus, PopulationRun, RunResult, RunStatus

REFRESH_SECONDS = 0.5


def info_lines(info: RunInfo) -> str:
    """Return the lines that describe a run before it trains.

    They describe the data and the size of the network, and for compact networks the size of the compact form.

    Args:
        info: Facts about the run.
    """
    if not info.steps_per_epoch:  # an open run
        every = f" every {info.interval_steps} steps" if info.interval_steps else ""
        return (
            f"open for training loops, which exchange{every}: inarch.join(NAME OF THE RUN, model, optimizer=optimizer)"
        )
    computation = f", {info.multiply_adds:,} multiply-adds an example" if info.multiply_adds is not None else ""
    network = (
        f"network: {info.parameters:,} parameters{computation}; "
        f"{info.num_intervals} intervals, {info.steps_per_epoch} steps an epoch"
    )
    description = "\n".join([*info.description, network])
    parameters, multiply_adds = info.compact_parameters, info.compact_multiply_adds
    if parameters is None or multiply_adds is None or info.multiply_adds is None:
        return description
    return (
        f"{description}\ncompact: {parameters:,} parameters ({parameters / info.parameters - 1:.1%}), "
        f"{multiply_adds:,} multiply-adds ({multiply_adds / info.multiply_adds - 1:.1%}) by torch.utils.flop_counter; "
        "the published counts come from another counter and are up to 1.6 % higher"
    )


def follow(run: PopulationRun, console: Console) -> RunResult:
    """Show the progress of a run until it ends, and return its result.

    Args:
        run: The run, already started.
        console: Console to print to. A terminal gets a live table, anything else one line per event.
    """
    if not console.is_terminal:
        from inarch.actors.event_text import event_text

        metrics = run.status().metrics
        for event in run.events():
            line = event_text(event, metrics)
            if line:
                console.print(line, highlight=False, soft_wrap=True)
        return run.wait()
    with Live(status_table(run.status()), console=console, refresh_per_second=4) as live:
        while True:
            status = run.status()
            live.update(status_table(status))
            if status.state in ("finished", "failed"):
                break
            time.sleep(REFRESH_SECONDS)
    return run.wait()


def status_table(status: RunStatus) -> Table:
    """Return a table of a run's state, with one row per network.

    Args:
        status: State of the run.
    """
    refused = ", ".join(f"{count} {name}" for name, count in sorted(status.refusals.items()))
    title = f"{status.name}: {status.state}, {status.seconds:.0f} s" + (f"; refused {refused}" if refused else "")
    table = Table(title=title, title_justify="left")
    primary = status.metrics[0] if status.metrics else None
    heading = primary.title if primary else "validation"
    for name in ("network", "epoch", "loss", heading, "examples/s", "grafts", "scion", "behind", "state"):
        table.add_column(name, justify="left" if name == "state" else "right")
    for network in status.networks:
        table.add_row(*_cells(network, status.epochs, primary))
    return table


def _cells(network: NetworkStatus, epochs: int, primary: Metric | None) -> tuple[str, ...]:
    staleness = (
        ""
        if network.staleness_intervals is None
        else f"{network.staleness_intervals:.1f} / {network.staleness_seconds or 0:.1f} s"
    )
    is_plain = network.outcome in ("", "grafted", "off") or network.state == "done"
    state = network.state if is_plain else f"{network.state} ({network.outcome})"
    return (
        _label(network.network_id, network.name),
        f"interval {network.interval}" if network.epoch is None or network.name else f"{network.epoch:.1f}/{epochs}",
        _number(network.train_loss, "{:.4f}"),
        "" if primary is None else primary.text(network.validation_metrics.get(primary.name)),
        _number(network.examples_per_second, "{:.0f}"),
        str(network.grafts),
        "" if network.scion is None else str(network.scion),
        staleness,
        state,
    )


def result_table(table: Mapping[str, Any]) -> Table:
    """Return the result table of a run: each network, their mean, the best network, the ensemble and the soups.

    Scores are those of each network's best weights by validation. The column `last` has those of the last weights.

    Args:
        table: Contents of result.json.
    """
    evaluation_set = table.get("evaluated_on")
    title = (
        f"evaluated on the {evaluation_set} data"
        if evaluation_set
        else "not evaluated: there are no test or validation data"
    )
    result = Table(title=f"{table['run']}: {title}", title_justify="left")
    metrics = [Metric(**values) for values in table["metrics"]]
    headings = [metric.title for metric in metrics]
    for name in ("", *headings, f"last {headings[0]}", "validation", "best at", "grafts", "ended"):
        result.add_column(name, justify="left" if name in ("", "ended") else "right")
    for row in table["networks"]:
        result.add_row(
            f"network {row['network']}",
            *_scores(metrics, row.get("best"), row.get("last")),
            metrics[0].text(row["validation_score"]),
            "" if row["best_interval"] is None else f"{row['best_interval']}/{row['interval']}",
            str(row["grafts"]),
            row["ended"],
        )
    if "mean" in table:
        result.add_section()
        last = table["last"]
        result.add_row("mean", *_scores(metrics, table["mean"], last["mean"]))
        best = next(row for row in table["networks"] if row["network"] == table["best"])
        result.add_row(f"best by validation ({table['best']})", *_scores(metrics, best["best"], best["last"]))
        for name in ("ensemble", "soup", "greedy_soup"):
            if table[name] is not None:
                members = table[name].get("members")
                networks = f" of {', '.join(map(str, members))}" if members else ""
                result.add_row(f"{name.replace('_', ' ')}{networks}", *_scores(metrics, table[name], last.get(name)))
        if table["agreement"] is not None:
            result.caption = (
                f"mean similarity of two networks at the end: {last['agreement']:.1%} of the predictions agree, "
                f"cosine of the weights {last['cosine']:.3f}"
            )
    return result


def failure_lines(table: Mapping[str, Any]) -> list[str]:
    """Return one line for each network that failed or was lost, with the reason.

    Another line names the networks that left no checkpoint and therefore have no part in the mean.

    Args:
        table: Contents of result.json.
    """
    rows = [row for row in table["networks"] if row["ended"] in ("failed", "lost")]
    consequence = "is not in the mean" if len(rows) == 1 else "are not in the mean"
    lines = [
        f"network {row['network']} {row['ended']}: {row.get('reason') or 'its log has the reason'}" for row in rows
    ]
    absent = [str(row["network"]) for row in rows if row["validation_score"] is None and row["best_interval"] is None]
    if absent:
        names = f"network{'s' if len(absent) > 1 else ''} {', '.join(absent)}"
        lines.append(f"{names} left no checkpoint and {consequence}")
    return lines


def similarity_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table of how similar the networks were after each interval.

    Args:
        rows: Rows of `similarity_over_time`.
    """
    result = Table(title="mean similarity of two networks after the exchange", title_justify="left")
    for name in ("interval", "same predictions on validation data", "cosine of weights"):
        result.add_column(name, justify="right")
    for row in rows:
        agreement, cosine = _number(row["agreement"], "{:.2%}"), _number(row["cosine"], "{:.3f}")
        result.add_row(str(row["interval"]), agreement, cosine)
    return result


def _scores(
    metrics: Sequence[Metric], best: Mapping[str, Any] | None, last: Mapping[str, Any] | None
) -> tuple[str, ...]:
    """Return the cells of the best weights' metrics, and the primary metric of the last weights."""
    best, last = best or {}, last or {}
    cells = [metric.text(best.get(metric.name)) for metric in metrics]
    return (*cells, metrics[0].text(last.get(metrics[0].name)))


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _label(network_id: int, name: str | None) -> str:
    return str(network_id) if name is None else f"{network_id} {name}"
