"""Reading regular files and nothing else, and small ones whole, up to a size that their kind never reaches."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

# Far above any config, pointer, list of checkpoints or of weights that people write.
_LIMIT = 2**20


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file to be read; anything else is refused.

    A device such as /dev/zero has no end, and opening a FIFO waits for its writer.

    Args:
        path: the file; links are followed.

    Raises:
        OSError: there is no such file, it cannot be read, or it is no regular file.

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
        limit: bytes that it may have at most.

    Raises:
        OSError: what `open_regular` raises; it is larger than that.
    """
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit:,} bytes", str(path))
    return content


def read_small_text(path: str | Path, limit: int = _LIMIT) -> str:
    """Return the same as text.

    Raises:
        UnicodeDecodeError: it is not UTF-8.
        OSError: what `read_small` raises.
    """
    return read_small(path, limit).decode("utf-8")
