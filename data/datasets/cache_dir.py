"""The folder for what is made of data once and used by later runs, and how a file comes to lie there whole."""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from warmstart.config import refuse_link

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
    """Let a file be written under another name, then give it its own: other processes see all of it or nothing.

    Where the block fails, nothing is left. Its folder is made; what writers of the same file have left there
    unfinished, a day ago or more, is deleted.

    Raises:
        OSError: the file cannot be written, or its name is that of a symbolic link or a folder, which stays.
    """
    folder = path.parent
    folder.mkdir(parents=True, exist_ok=True)
    refuse_link(path)
    unfinished = re.compile(rf"\.{re.escape(path.stem)}\.[0-9a-f]{{16}}\.tmp")
    for left in folder.glob(".*.tmp"):
        with suppress(OSError):
            if unfinished.fullmatch(left.name) and time.time() - left.stat().st_mtime > _ABANDONED:
                left.unlink()
    temporary = folder / f".{path.stem}.{secrets.token_hex(8)}.tmp"
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
