"""Reading of regular files only, and of small files up to a size limit."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

# Far above the size of any config, pointer, list of checkpoints or file of class weights.
_LIMIT = 2**20


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading; anything else is refused.

    A device such as /dev/zero has no end, and opening a FIFO waits for a writer.

    Args:
        path: the file; links are followed.

    Raises:
        OSError: the file does not exist, cannot be read, or is not a regular file.

    >>> open_regular("/dev/zero")
    Traceback (most recent call last):
    OSError: [Errno 22] not a regular file: '/dev/zero'
    """
    kind = os.stat(path).st_mode
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(kind):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return open(path, "rb")


def read_small(path: str | Path, limit: int = _LIMIT) -> bytes:
    """Return the content of a regular file.

    Args:
        path: the file; links are followed.
        limit: maximum size in bytes.

    Raises:
        OSError: as for `open_regular`; or the file is larger than the limit.
    """
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit:,} bytes", str(path))
    return content


def read_small_text(path: str | Path, limit: int = _LIMIT) -> str:
    """Return the content of a regular file as text.

    Raises:
        UnicodeDecodeError: it is not UTF-8.
        OSError: as for `read_small`.
    """
    return read_small(path, limit).decode("utf-8")
