"""The list of the files that runs have written into a folder, by name: every other file in it is the user's."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable
from pathlib import Path

from warmstart.config import ConfigError

from . import files

LIST = "warmstart.json"
_KEY = "written"


def owned(folder: Path) -> set[str]:
    """Return the names in a folder's list, with slashes for files in a subfolder; none if it has no list."""
    return _read(folder) or set()


def own(folder: Path, *names: str) -> None:
    """List files or folders, before they are written: a file that a kill leaves unlisted would never be deleted.

    Raises:
        OSError: the list cannot be written, or a file, folder or link of the user has its name.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     own(Path(folder), "log.txt", "config.yaml")
    ...     disown(Path(folder), "log.txt")
    ...     owned(Path(folder))
    {'config.yaml'}
    """
    listed = owned(folder)
    if not listed.issuperset(names):
        _write(folder, listed.union(names))


def disown(folder: Path, *names: str) -> None:
    """Remove names of deleted files from the list.

    Raises:
        OSError: the list cannot be written.
    """
    listed = owned(folder)
    if not listed.isdisjoint(names):
        _write(folder, listed.difference(names))


def refuse_foreign_files(folder: Path, names: Iterable[str], trusted: bool = False) -> None:
    """Raise ConfigError if a run would overwrite something that no run has written.

    Args:
        folder: the run's, which need not exist yet.
        names: of the files that the run writes.
        trusted: whether a file of such a name counts as a run's without being listed, as in a folder that holds
            checkpoints. Links and folders are refused in any case.
    """
    listed = _read(folder)
    for path in (folder / LIST, *(folder / name for name in names)):
        if path.is_symlink():
            problem = "is a symbolic link, and a run writes nothing through one"
        elif not path.exists():
            continue
        elif not path.is_file():
            problem = "is not a file, and a run would write one of that name"
        elif listed is None:
            problem = "is not the list of files that a run keeps under that name"  # the first of the paths
        elif path.name != LIST and path.name not in listed and not trusted:
            problem = "was not written by a run, and this one would overwrite it"
        else:
            continue
        raise ConfigError(f"{path} {problem}; move it away, or name another folder with OUTPUT_DIR")


def _read(folder: Path) -> set[str] | None:
    """Return the names in the list, none if there is no file; None if the file is not a list of ours."""
    path = folder / LIST
    if not os.path.lexists(path):
        return set()
    try:
        names = None if path.is_symlink() else json.loads(path.read_text(encoding="utf-8"))[_KEY]
        return {str(name) for name in names} if isinstance(names, list) else None
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def _write(folder: Path, names: set[str]) -> None:
    if _read(folder) is None:
        raise OSError(errno.EEXIST, "it is not the list of files that a run keeps there", str(folder / LIST))
    text = json.dumps({_KEY: sorted(names)}, indent=2) + "\n"
    files.write_atomically(folder / LIST, lambda file: file.write(text.encode()))
