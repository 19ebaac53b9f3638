"""The cache folder for converted data that later runs use, and atomic writes to it."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from warmstart.config import disk

_ABANDONED = 24 * 3600  # seconds without a write after which an unfinished file counts as abandoned


def cache_folder(cache: str) -> Path:
    """Return the folder that DATASETS.CACHE means; it need not exist yet.

    >>> cache_folder("").name, cache_folder("kept").name
    ('warmstart', 'kept')
    """
    if cache:
        return Path(cache).expanduser()
    base = os.environ.get("XDG_CACHE_HOME", "")  # the specification says to ignore relative paths
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "warmstart"


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file under a temporary name and rename it at the end: other processes see all of it or nothing.

    If the block fails, nothing is left behind. The folder is created if needed, and unfinished files that earlier
    writers of the same file left there a day ago or more are deleted.

    Raises:
        OSError: the file cannot be written, or its name belongs to a symbolic link or a folder, which is kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    earlier = re.compile(rf"\.{re.escape(path.stem)}\.[0-9a-f]{{16}}\.tmp")  # the names of earlier versions
    for left in path.parent.glob(".*.tmp"):
        with suppress(OSError):
            unfinished = disk.is_temporary(left.name, path) or earlier.fullmatch(left.name)
            if unfinished and time.time() - left.stat().st_mtime > _ABANDONED:
                left.unlink()
    with disk.replacement(path) as file:
        yield file
