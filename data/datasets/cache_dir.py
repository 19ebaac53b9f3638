"""The folder for what is made of data once and used by later runs, and the atomic write of a file in it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from warmstart.config import disk

_ABANDONED = 24 * 3600  # seconds without a write after which an unfinished file has lost its writer


def cache_folder(cache: str) -> Path:
    """Return the folder that DATASETS.CACHE means; it need not be there yet.

    >>> cache_folder("").name, cache_folder("kept").name
    ('warmstart', 'kept')
    """
    if cache:
        return Path(cache).expanduser()
    base = os.environ.get("XDG_CACHE_HOME", "")  # to be ignored unless absolute, its specification says
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "warmstart"


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Let a file be written under a temporary name, then rename it: other processes see all of it or nothing.

    If the block fails, nothing is left. The folder is made; unfinished files that other writers of the same path
    left in it a day ago or earlier are deleted.

    Raises:
        OSError: the file cannot be written, or a symbolic link or a folder has its name; it stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".*{disk.TEMPORARY}"):
        with suppress(OSError):
            if disk.is_temporary(left.name, path) and time.time() - left.stat().st_mtime > _ABANDONED:
                left.unlink()
    with disk.replacement(path) as file:
        yield file
