"""Markdown for the configuration and the errors, from their docstrings."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
import typing
from typing import Any

from inarch.population import errors as error_module
from inarch.population.config import RunConfig

PER_NETWORK = "float | tuple[float, ...] | str"
"""Type of a number that may differ between networks."""


def config() -> str:
    """Return a section for each configuration class, with each field's flag, type, default and text."""
    sections: list[str] = []
    _add_section(RunConfig, "", sections)
    return "\n".join(sections)


def _add_section(kind: type, prefix: str, sections: list[str]) -> None:
    """Add the section of a class and those of the classes that it holds."""
    hints, texts = typing.get_type_hints(kind), field_texts(kind)
    own = [field for field in dataclasses.fields(kind) if not dataclasses.is_dataclass(hints[field.name])]
    heading = f"`{prefix.rstrip('.')}`" if prefix else "Run"
    lines = [f"## {heading}", "", f"Class `{kind.__name__}`. {prose(kind.__doc__ or '')}", ""]
    annotations = {name: text for name, (_, text) in texts.items()}
    for field in own:
        name = f"{prefix}{field.name}"
        lines += [
            f"### `{name}`",
            "",
            f"{_flag(name, hints[field.name])}: {_type_text(annotations[field.name], hints[field.name])}. "
            f"Default: {_default(field)}",
            "",
            prose(texts[field.name][0]),
            "",
        ]
    if own:
        sections.append("\n".join(lines))
    for field in dataclasses.fields(kind):
        if field not in own:
            _add_section(hints[field.name], f"{prefix}{field.name}.", sections)


def field_texts(kind: type) -> dict[str, tuple[str, str]]:
    """Return the docstring and the annotation of each field of a dataclass, from its source.

    Args:
        kind: The dataclass.
    """
    (class_node,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(class_node, ast.ClassDef)
    texts: dict[str, tuple[str, str]] = {}
    for node, following in zip(class_node.body, [*class_node.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            text = ""
            if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                text = inspect.cleandoc(str(following.value.value))
            texts[node.target.id] = (text, ast.unparse(node.annotation))
    return texts


def _type_text(annotation: str, hint: Any) -> str:
    """Return the values of a Literal, or the annotation."""
    if typing.get_origin(hint) is typing.Literal:
        return f"one of {', '.join(f'`{value}`' for value in typing.get_args(hint))}"
    return f"`{annotation.replace('ImageSize', 'int | tuple[int, int]').replace('PerNetwork', PER_NETWORK)}`"


def _flag(name: str, hint: Any) -> str:
    """Return the flag of a field, for a truth value with its opposite."""
    flag = name.replace("_", "-")
    section, _, last = flag.rpartition(".")
    opposite = f"{section}.no-{last}" if section else f"no-{last}"
    return f"`--{flag}` or `--{opposite}`" if hint is bool else f"`--{flag}`"


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING:
        return "required"
    return f"`{field.default!r}`"


def prose(text: str) -> str:
    """Return a docstring as Markdown: a line for each paragraph or item, special characters escaped.

    Args:
        text: The docstring.
    """
    blocks = re.split(r"\n\s*\n|\n(?=- )", inspect.cleandoc(text))
    lines = [" ".join(block.split()) for block in blocks]
    escaped = ["".join(map(_escape, re.split(r"(`[^`]*`)", line))) for line in lines]
    return re.sub(r"^(- .*)\n\n(?=- )", r"\1\n", "\n\n".join(escaped), flags=re.MULTILINE)


def _escape(part: str) -> str:
    """Return a part of a line with Markdown's special characters escaped, unless it is code."""
    return part if part.startswith("`") else re.sub(r"([*_<>\[\]{}|])", r"\\\1", part)


def errors() -> str:
    """Return the tree of the errors as text, and a section for each error with its docstring."""
    document = inspect.cleandoc(error_module.__doc__ or "")
    tree = "\n".join(line for line in document.splitlines() if line.startswith("    "))
    parts = ["```text", textwrap.dedent(tree), "```", ""]
    classes = [item for item in vars(error_module).values() if isinstance(item, type)]
    parts += ["| error | meaning |", "|---|---|"]
    parts += [f"| `{item.__name__}` | {prose(item.__doc__ or '')} |" for item in classes]
    return "\n".join(parts)
