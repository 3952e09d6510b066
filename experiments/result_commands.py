"""The commands that use what a run has left: evaluate, export, predict."""

from __future__ import annotations

import dataclasses
import sys
from typing import Literal

import tyro
from rich.console import Console


def plain_console() -> Console:
    """Plain lines of any length where there is no terminal."""
    return Console() if sys.stdout.isatty() else Console(width=160)


def evaluate(path: tyro.conf.Positional[str], /, json: bool = False) -> int:
    """Judge a run's networks again, from their checkpoints: every network, mean, best, ensemble, soups, similarity over
    the intervals whose checkpoints are kept (--checkpoint.keep).

    Args:
        path: The run's folder.
        json: Print JSON.
    """
    import json as codec

    from inarch.experiments.display import result_table, similarity_table
    from inarch.experiments.saved_runs import judge_again

    result = judge_again(path)
    if json:
        print(codec.dumps(result, indent=2))
        return 0
    console = plain_console()
    console.print(result_table(result))
    if result["similarity"]:
        console.print(similarity_table(result["similarity"]))
    return 0


def export(
    path: tyro.conf.Positional[str],
    /,
    what: Literal["best", "soup"] = "best",
    out: str | None = None,
) -> int:
    """Write a run's best network, or the mean of all, as safetensors, and print how to load it.

    Args:
        path: The run's folder.
        what: The network that was best by validation, or the soup.
        out: File to write; None: export/WHAT.safetensors in the run's folder.
    """
    from inarch.experiments.export import export_network

    file, snippet = export_network(path, what=what, out=out)
    console = plain_console()
    console.print(f"{what}: {file}\n", highlight=False, soft_wrap=True)
    console.print(snippet, highlight=False, markup=False, soft_wrap=True)
    return 0


def predict(
    path: tyro.conf.Positional[str],
    images: tyro.conf.Positional[tuple[str, ...]],
    /,
    what: Literal["best", "soup"] = "best",
    top: int = 3,
    model: str | None = None,
    json: bool = False,
) -> int:
    """Print the classes of images with their probabilities, by a run's best network or the mean of all.

    Args:
        path: The run's folder.
        images: Files, or folders of files.
        what: The network that was best by validation, or the soup.
        top: Classes to print for each image.
        model: module:function that makes the run's network, where it was begun with a callable.
        json: Print JSON.
    """
    import json as codec

    from inarch.experiments.export import predict_images

    console, status = plain_console(), 0
    for found in predict_images(path, images, what=what, top=top, model=model):
        if json:
            print(codec.dumps(dataclasses.asdict(found)))
        else:
            classes = ", ".join(f"{name} {probability:.1%}" for name, probability in found.classes)
            console.print(f"{found.file}: {found.error or classes}", highlight=False, markup=False, soft_wrap=True)
        status = 2 if found.error else status
    return status
