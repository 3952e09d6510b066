"""Markdown for the commands of `inarch` and the recipes of `inarch train`."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable
from typing import Any

import tyro

from inarch.experiments import cli, comparison_commands, recipes, result_commands
from inarch.experiments.benchmarks.chaos.command import chaos
from inarch.experiments.benchmarks.scale.command import scale

COMMANDS: dict[str, Callable[..., Any]] = {
    "status": cli.status,
    "scale": cli.scale,
    "stop": cli.stop,
    "resume": cli.resume,
    "evaluate": result_commands.evaluate,
    "export": result_commands.export,
    "predict": result_commands.predict,
    "open": cli.open_run,
    "report": result_commands.report,
    "track": result_commands.track,
    "dashboard": result_commands.dashboard,
    "replay": result_commands.replay,
    "compare": comparison_commands.compare,
    "bench": comparison_commands.bench,
    "bench chaos": chaos,
    "bench scale": scale,
}
"""Every command but train, whose options are the fields of the configuration."""


def commands() -> str:
    """Return the overview of `inarch --help`, and the help of each command but train."""
    parts = ["```text", cli.USAGE, "```", ""]
    for name, function in COMMANDS.items():
        parts += [f"## `inarch {name}`", "", "```text", _help(name, function), "```", ""]
    return "\n".join(parts)


def _help(name: str, function: Callable[..., Any]) -> str:
    """Return what `inarch NAME --help` prints, without the frames around the groups of options."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        tyro.cli(function, args=["--help"], prog=f"inarch {name}", use_underscores=False)
    return _plain(output.getvalue())


def _plain(text: str) -> str:
    """Return help without terminal codes and frames."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    lines = [re.sub(r"^[│╭╰]\s?|[│╮╯]\s*$", "", line).rstrip() for line in text.splitlines()]
    lines = [
        re.sub(r"^─+ (.*?) ─+$", r"\1:", line) for line in lines if not re.fullmatch(r"[\s│]*[─-]{5,}[\s│]*", line)
    ]
    return "\n".join(lines).strip()


def recipe_table() -> str:
    """Return a table of all recipes, apart from those with a suffix."""
    rows = ["| recipe | what it trains |", "|---|---|"]
    for name, (description, _) in recipes.RECIPES.items():
        if not name.endswith(("-dlr", recipes.BARRIER)):
            rows.append(f"| `{name}` | {description} |")
    return "\n".join(rows)
