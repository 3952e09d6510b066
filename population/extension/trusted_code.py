"""Decide whether code that a run's folder names may be imported from the working directory.

A folder that someone else made can name a function whose module lies in the same folder. A user who evaluates the run
there would execute that module. A module of the working directory is therefore imported only if the user names the
object, now or earlier on this machine, or trusts the folder in this call. Installed modules, and modules that the
process has imported already, need no trust.

The objects that the user has named are remembered in the file `named.jsonl`, each with the file that defines it. It
lies in XDG_STATE_HOME/inarch, by default ~/.local/state/inarch.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterable, Mapping
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from inarch.population.errors import UntrustedError
from inarch.population.extension.user_code import LIBRARIES

logger = logging.getLogger("inarch")


class WorkingDirectory(str):
    """The entry that inarch adds to Python's path, so that modules of the user's own are found."""


def add_working_directory(module: str) -> None:
    """Let Python find a module in the working directory, if it would find none otherwise.

    Args:
        module: Name of the module.
    """
    root = module.partition(".")[0]
    if root not in sys.modules and os.getcwd() not in sys.path:
        spec = _spec_of(root, sys.path)
        if spec is None or spec.origin is None:  # a folder without __init__.py has no origin
            sys.path.append(WorkingDirectory(os.getcwd()))


def check_code_trusted(names: Mapping[str, str], *, folder: str, remedy: str) -> None:
    """Raise UntrustedError if a folder names objects of the working directory that the user has never named.

    Args:
        names: Objects as `module:object`, by the field that names them. Other names are left out.
        folder: Path or URI of the run's folder, for the message.
        remedy: How the caller can allow it, for the message.

    Raises:
        UntrustedError: The message lists the objects, and the files from which they would be imported.
    """
    files = {field: (name, untrusted_file(_module_of(name))) for field, name in names.items()}
    untrusted = [
        f"{field} {name!r} from {file}"
        for field, (name, file) in files.items()
        if file is not None and not is_remembered(name, file)
    ]
    if untrusted:
        raise UntrustedError(
            f"{folder} names code that would be imported from the working directory: {', '.join(untrusted)}; nothing "
            f"was imported, because the folder of a run that someone else made can name any code. {remedy}"
        )


def remember_code(names: Iterable[str]) -> None:
    """Remember objects that the user has named. Folders may name them from then on.

    Args:
        names: Objects as `module:object`. Those of installed modules are not recorded.
    """
    for name in names:
        place = _place_of(_module_of(name))
        if place is not None and not place.startswith(LIBRARIES):
            remember(name, place)


def is_remembered(name: str, place: str = "") -> bool:
    """Return whether the user has named something earlier on this machine.

    Args:
        name: The name.
        place: The file that defined the object. Empty for names without a file, such as a tracker.
    """
    return [name, place] in _remembered()


def remember(name: str, place: str = "") -> None:
    """Remember that the user has named something. If the file cannot be written, nothing is remembered.

    Args:
        name: The name.
        place: The file that defines the object, as in `is_remembered`.
    """
    if is_remembered(name, place):
        return
    try:
        file = _memory()
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "a") as lines:
            lines.write(json.dumps([name, place]) + "\n")
    except (OSError, RuntimeError) as error:
        logger.info("what you name cannot be remembered, so a folder that names %s needs trust: %s", name, error)


def untrusted_file(module: str) -> str | None:
    """Return the file in the working directory from which a module would be imported. Nothing is imported.

    Args:
        module: Name of the module. Its outermost package decides.

    Returns:
        The file, or the folder of a package without `__init__.py`. None if the module needs no trust: the process has
        imported it, it is installed, the directory is on Python's path by the user's choice, or there is no such
        module.
    """
    directory = os.path.realpath(os.getcwd())
    if module.partition(".")[0] in sys.modules or _is_chosen(directory):
        return None
    place = _place_of(module)
    return place if place is not None and os.path.dirname(place) == directory else None


def _module_of(name: str) -> str:
    """Return the module in `module:object`. Empty if the name has another form."""
    module, colon, _ = name.partition(":")
    return module if colon and all(part.isidentifier() for part in module.split(".")) else ""


def _place_of(module: str) -> str | None:
    """Return the file that defines the outermost package of a module, or the folder if it is a package.

    The path's own folder is resolved. A package of several folders counts as in the working directory if one of them
    is. None: there is no such module, or it has no file.
    """
    root, directory = module.partition(".")[0], os.path.realpath(os.getcwd())
    spec = _spec_of(root, [*sys.path, directory]) if root else None
    if spec is None:
        return None
    folders = spec.submodule_search_locations
    places = [spec.origin] if folders is None and spec.has_location and spec.origin else list(folders or ())
    resolved = [os.path.join(os.path.realpath(os.path.dirname(place)), os.path.basename(place)) for place in places]
    return max(resolved, key=lambda place: os.path.dirname(place) == directory, default=None)


def _spec_of(root: str, path: list[str]) -> ModuleSpec | None:
    """Return what an import of a module without dots would find with this path."""
    for finder in sys.meta_path:
        spec = PathFinder.find_spec(root, path) if finder is PathFinder else finder.find_spec(root, None)
        if spec is not None:
            return spec
    return None


def _is_chosen(directory: str) -> bool:
    """Return whether the user has put the directory on Python's path: by the script, PYTHONPATH or an installation.

    Python itself puts the working directory first for `python -m`, and as '' in an interactive session. An empty or
    relative entry of PYTHONPATH stands for it too. None of these is a choice of this directory.
    """
    script = getattr(sys.modules["__main__"], "__file__", None)
    if script is not None and os.path.realpath(os.path.dirname(script)) == directory:
        return True
    variable = os.environ.get("PYTHONPATH", "")
    if variable and not all(os.path.isabs(entry) for entry in variable.split(os.pathsep)):
        return False
    entries = sys.path if sys.flags.safe_path else sys.path[1:]
    chosen = (entry for entry in entries if entry and not isinstance(entry, WorkingDirectory))
    return any(os.path.realpath(entry) == directory for entry in chosen)


def _memory() -> Path:
    """Return the file that holds what the user has named."""
    state = os.environ.get("XDG_STATE_HOME", "")
    return (Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state") / "inarch" / "named.jsonl"


def _remembered() -> list[object]:
    """Return what the user has named. A line that cannot be read is left out."""
    try:
        lines = _memory().read_text(errors="replace").splitlines()
    except (OSError, RuntimeError):  # there is no home folder
        return []
    entries: list[object] = []
    for line in lines:
        try:
            entries.append(json.loads(line))
        except ValueError:
            continue
    return entries
