"""How a run is shown while it trains: a live table in a terminal, plain lines otherwise."""

from __future__ import annotations

import collections
import math
import statistics
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from inarch.population.evaluation.metrics import Metric
from inarch.population.tasks.run_spec import RunInfo

if TYPE_CHECKING:  # commands that read a folder do without Ray
    from inarch.actors import NetworkStatus, PopulationRun, RunResult, RunStatus

REFRESH_SECONDS = 0.5

FRAME_LINES = 10
"""Lines of a terminal that titles, heading, frame and bar take."""

MANY = 8
"""Networks above which their states are counted above the table."""

MAX_NAMED = 6
"""Most networks that one line names."""


def info_lines(info: RunInfo) -> str:
    """Return the lines that describe a run before it trains.

    They describe the data and the size of the network, and for compact networks the size of the compact form.

    Args:
        info: Facts about the run.
    """
    if info.is_open_run:
        every = f" every {info.interval_steps} steps" if info.interval_steps else ""
        return (
            f"open for training loops, which exchange{every}: inarch.join(NAME OF THE RUN, model, optimizer=optimizer)"
        )
    computation = f", {info.multiply_adds:,} multiply-adds an example" if info.multiply_adds is not None else ""
    network = (
        f"network: {info.parameters:,} parameters{computation}; "
        f"{info.num_intervals} intervals, {info.steps_per_epoch} steps an epoch"
    )
    regime = () if info.regime is None else info.regime.lines()
    description = "\n".join([*info.description, network, *regime])
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

        metrics = run.status(is_patient=True).metrics
        for event in run.events():
            line = event_text(event, metrics)
            if line:
                console.print(line, highlight=False, soft_wrap=True)
        return run.wait()
    status = run.status(is_patient=True)
    first = status
    with Live(live_view(status, height=console.height), console=console, refresh_per_second=4) as live:
        while True:
            status = run.status(is_patient=True)
            if first.state == "starting":
                first = status
            live.update(live_view(status, height=console.height, first=first))
            if status.state in ("finished", "failed"):
                break
            time.sleep(REFRESH_SECONDS)
    return run.wait()


def live_view(status: RunStatus, *, height: int, first: RunStatus | None = None) -> RenderableType:
    """Return the state of a run as it fits into a terminal: a table, and a bar with the time that is left.

    Args:
        status: State of the run.
        height: Lines of the terminal.
        first: State in which the caller saw the run train first, from which the time left is estimated. A resumed run
            has completed a share of its schedule before it begins. None: the run began with nothing completed.
    """
    parts: list[RenderableType] = [status_table(status, max_rows=max(3, height - FRAME_LINES))]
    share = share_completed(status)
    if share is not None and status.state == "training":
        before = 0.0 if first is None else share_completed(first) or 0.0
        seconds = status.seconds - (0.0 if first is None else first.seconds)
        rest = f", about {_duration(seconds * (1.0 - share) / (share - before))} left" if share > before else ""
        text = f"{share:.0%}{rest}{_best_and_mean(status)}"
        parts.append(Columns([ProgressBar(total=1.0, completed=share, width=30), Text(text)]))
    return Group(*parts)


def share_completed(status: RunStatus) -> float | None:
    """Return the share of its schedule that the population has completed. None if the schedule is open or unknown.

    Args:
        status: State of the run.
    """
    ended = ("failed", "retired", "stopped")
    own = [network.interval for network in status.networks if network.name is None and network.state not in ended]
    if not status.num_intervals or not own:
        return None
    return min(1.0, sum(own) / len(own) / status.num_intervals)


def status_table(status: RunStatus, *, max_rows: int | None = None) -> Table:
    """Return a table of a run's state, with one row per network.

    Args:
        status: State of the run.
        max_rows: Most networks that are listed: those in trouble, then the best. None: all, in order of their ids.
    """
    table = Table(title="\n".join(_titles(status)), title_justify="left")
    primary = status.metrics[0] if status.metrics else None
    heading = primary.title if primary else "validation"
    differing = _differing(status.networks)
    headings = ("network", "epoch", "loss", heading, "examples/s", "grafts", "scion", "behind", "state")
    for name in (*headings, *(["own numbers"] if differing else [])):
        table.add_column(name, justify="left" if name in ("state", "own numbers") else "right")
    networks = list(status.networks)
    if max_rows is not None and len(networks) > max_rows:
        networks = sorted(networks, key=lambda network: _importance(network, primary), reverse=True)[: max_rows - 1]
    for network in networks:
        numbers = network.hyperparameters
        own = ", ".join(f"{name.rpartition('.')[2]} {numbers[name]:.3g}" for name in differing if name in numbers)
        table.add_row(*_cells(network, status.epochs, primary), *([own] if differing else []))
    if len(networks) < len(status.networks):
        table.add_row(f"{len(status.networks) - len(networks)} more")
    return table


def _differing(networks: Sequence[NetworkStatus]) -> list[str]:
    """Return the fields of the configuration whose numbers differ between the networks."""
    known = [network.hyperparameters for network in networks if network.hyperparameters]
    names = [name for name in (known[0] if known else ()) if all(name in numbers for numbers in known)]
    return [name for name in names if len({numbers[name] for numbers in known}) > 1]


def _titles(status: RunStatus) -> list[str]:
    """Return the lines above the table: phase, counts by state if networks are in several, refusals."""
    refused = ", ".join(f"{count} {name}" for name, count in sorted(status.refusals.items()))
    lines = [f"{status.name}: {status.state}, {status.seconds:.0f} s" + (f"; refused {refused}" if refused else "")]
    counts = collections.Counter(network.state for network in status.networks)
    if status.state == "starting":
        placed = sum(network.process is not None for network in status.networks)
        lines.append(f"placed {placed} of {len(status.networks)} networks")
    elif len(counts) > 1 or len(status.networks) > MANY:
        lines.append(", ".join(f"{count} {state}" for state, count in counts.most_common()))
    if status.message:
        lines.append(status.message)
    failing = [network for network in status.networks if network.storage_failure]
    if failing:
        longest = max(failing, key=lambda network: network.unwritten_seconds)
        ids = ", ".join(_label(network.network_id, network.name) for network in failing[:MAX_NAMED])
        ids += ", ..." if len(failing) > MAX_NAMED else ""
        lines.append(
            f"storage fails for network {ids}, nothing written for {_duration(longest.unwritten_seconds)}: "
            f"{longest.storage_failure}"
        )
    return lines


def _importance(network: NetworkStatus, primary: Metric | None) -> tuple[bool, float]:
    """Return a key that sorts networks: those in trouble above the others, and then the better ones."""
    value = network.validation_metrics.get(primary.name) if primary else None
    score = -math.inf if value is None or primary is None else primary.score(value)
    return bool(network.storage_failure) or network.state in ("failed", "lost", "stalled", "gone"), score


def _best_and_mean(status: RunStatus) -> str:
    primary = status.metrics[0] if status.metrics else None
    if primary is None:
        return ""
    found = [network.validation_metrics.get(primary.name) for network in status.networks]
    values = [value for value in found if value is not None and math.isfinite(value)]
    if not values:
        return ""
    best, mean = max(values, key=primary.score), statistics.fmean(values)
    return f"; {primary.title} best {primary.text(best)}, mean {primary.text(mean)}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _cells(network: NetworkStatus, epochs: int, primary: Metric | None) -> tuple[str, ...]:
    staleness = (
        ""
        if network.staleness_intervals is None
        else f"{network.staleness_intervals:.1f} / {network.staleness_seconds or 0:.1f} s"
    )
    is_plain = network.outcome in ("", "grafted", "off") or network.state == "done"
    notes = [] if is_plain else [network.outcome]
    notes += ["not written"] if network.storage_failure else []
    state = f"{network.state} ({', '.join(notes)})" if notes else network.state
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


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _label(network_id: int, name: str | None) -> str:
    return str(network_id) if name is None else f"{network_id} {name}"
