"""Writing to files without following symbolic links."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def no_follow(path: str | os.PathLike[str], flags: int) -> int:
    """Open a regular file and return its descriptor; pass it to `open` as its `opener`.

    The target of a link, a device or a pipe is never opened, so that no other file is truncated or extended.
    Folders in the path may be links.

    Raises:
        OSError: the path is a symbolic link or not a regular file, or it cannot be opened.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     os.symlink("target", f"{folder}/log.txt")
    ...     open(f"{folder}/log.txt", "a", opener=no_follow)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    OSError: [Errno ...] it is a symbolic link, and nothing is written through one: ...
    """
    refuse_link(path)  # also where the system has no O_NOFOLLOW
    # O_NONBLOCK: opening a pipe would wait for a reader.
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    descriptor = os.open(path, flags, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return descriptor


def refuse_link(path: str | os.PathLike[str]) -> None:
    """Raise OSError if a path is a symbolic link, whatever its target."""
    if Path(path).is_symlink():
        raise OSError(errno.ELOOP, "it is a symbolic link, and nothing is written through one", str(path))
