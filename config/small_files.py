"""Small files, read whole: only regular ones, and only up to a size that their kind never reaches."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

# Far above any config, pointer, list of checkpoints or of weights that people write.
_LIMIT = 2**20


def read_small(path: str | Path, limit: int = _LIMIT) -> bytes:
    """Return the content of a regular file.

    Anything else is not even opened: a device such as /dev/zero has no end, and a FIFO waits for its writer.

    Args:
        path: the file; links are followed.
        limit: bytes that it may have at most.

    Raises:
        OSError: there is no such file, it cannot be read, is no regular file, or is larger than that.

    >>> read_small("/dev/zero")
    Traceback (most recent call last):
    OSError: [Errno 22] not a regular file: '/dev/zero'
    """
    kind = os.stat(path).st_mode
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(kind):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    with open(path, "rb") as file:
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
