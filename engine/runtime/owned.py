"""The list of what runs have written into a folder, by name: every other file in it is the user's."""

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
    """Return the names of a folder's list, with slashes for what is in a subfolder; none where it has no list."""
    return _read(folder) or set()


def own(folder: Path, *names: str) -> None:
    """List files or folders, before they are written: what a kill leaves unlisted would stay for ever.

    Raises:
        OSError: the list cannot be written, or its name is that of a file, a folder or a link of the user's.

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
    """Take names off the list: what they were the names of is gone.

    Raises:
        OSError: the list cannot be written.
    """
    listed = owned(folder)
    if not listed.isdisjoint(names):
        _write(folder, listed.difference(names))


def refuse_foreign_files(folder: Path, names: Iterable[str], trusted: bool = False) -> None:
    """Raise ConfigError where a name that is to be written is that of something which no run has written.

    Args:
        folder: the run's, or one that is still to be made.
        names: of files.
        trusted: whether a file of such a name is a run's though no list says so, as in a folder that holds
            checkpoints. Links and folders are refused in any case.
    """
    listed = _read(folder)
    for path in (folder / LIST, *(folder / name for name in names)):
        if path.is_symlink():
            problem = "is a symbolic link, and a run writes nothing through one"
        elif not path.exists():
            continue
        elif not path.is_file():
            problem = "is no file, and a run would write one of that name"
        elif listed is None:
            problem = "is not the list of files that a run keeps under that name"  # the first of the paths
        elif path.name != LIST and path.name not in listed and not trusted:
            problem = "was not written by a run, and this one would overwrite it"
        else:
            continue
        raise ConfigError(f"{path} {problem}; move it away, or name another folder with OUTPUT_DIR")


def _read(folder: Path) -> set[str] | None:
    """Return the names of the list, none where there is no file; None where it is no list of ours."""
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
