"""Sphinx extension: replace a line `<!-- generated: NAME -->` of a page with Markdown that is made from the code.

Each generator is a function without arguments that returns Markdown. An unknown name stops the build.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import command_pages
import config_pages
import table_pages
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

GENERATORS: dict[str, Callable[[], str]] = {
    "commands": command_pages.commands,
    "recipes": command_pages.recipe_table,
    "config": config_pages.config,
    "errors": config_pages.errors,
    "tables": table_pages.tables,
    "registries": table_pages.registries,
    "outcomes": table_pages.outcomes,
    "states": table_pages.states,
    "info": table_pages.info,
}

_LINE = re.compile(r"^<!-- generated: ([a-z]+) -->$", re.MULTILINE)


def replace(app: Sphinx, docname: str, source: list[str]) -> None:
    """Replace the marked lines of a page before it is parsed.

    Args:
        app: The application.
        docname: Name of the page.
        source: The page's text, as a list of one.

    Raises:
        ExtensionError: A line names no generator.
    """

    def generated(match: re.Match[str]) -> str:
        if match[1] not in GENERATORS:
            raise ExtensionError(f"{docname}: there is no generator {match[1]!r}; there are {', '.join(GENERATORS)}")
        return GENERATORS[match[1]]()

    source[0] = _LINE.sub(generated, source[0])


def reread(app: Sphinx, env: Any, added: set[str], changed: set[str], removed: set[str]) -> list[str]:
    """Return the pages to read again although their files have not changed: those that are generated."""
    return [name for name in env.found_docs if _LINE.search(env.doc2path(name).read_text())]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.connect("source-read", replace)
    app.connect("env-get-outdated", reread)
    return {"parallel_read_safe": True}
