"""Paths and URIs of folders and files, and files that commands write."""

from __future__ import annotations

from pathlib import Path

from inarch.population.errors import StorageError


def absolute(uri: str) -> str:
    """Return a local path as an absolute path, and a URI unchanged.

    Args:
        uri: A path or URI. A leading `~` is expanded.
    """
    return uri if "://" in uri else str(Path(uri).expanduser().absolute())


def joined(uri: str, relative: str) -> str:
    """Return the path or URI of an entry below a folder.

    The query of a URI stays at the end: `s3://b/runs?region=r` and `x` give `s3://b/runs/x?region=r`.

    Args:
        uri: Path or URI of the folder.
        relative: Path of the entry, relative to the folder.
    """
    folder, mark, query = uri.partition("?") if "://" in uri else (uri, "", "")
    return f"{folder.rstrip('/')}/{relative}{mark}{query}"


def parent_and_name(uri: str) -> tuple[str, str]:
    """Return the folder of a file and the file's name, so that `joined` returns the file again.

    Args:
        uri: Path or URI of the file.

    Raises:
        StorageError: It names no file.
    """
    file, mark, query = uri.partition("?") if "://" in uri else (absolute(uri), "", "")
    folder, _, name = file.rpartition("/")
    if not name or folder.endswith("/"):
        raise StorageError(f"{uri!r} names no file in a folder")
    return f"{folder or '/'}{mark}{query}", name


def prepare_file(path: str) -> Path:
    """Create the folder of a local file, and check that the file can be written, before long work whose result it gets.

    Args:
        path: Path of the file. An existing file stays as it is until it is written.

    Returns:
        The path.

    Raises:
        StorageError: The file cannot be written, or is a URI.
    """
    file = Path(path).expanduser()
    if "://" in path:
        raise StorageError(f"{path} is a URI; give the path of a local file")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        is_new = not file.exists()
        with file.open("ab"):
            pass
        if is_new:
            file.unlink()
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error}") from error
    return file
