"""One writer at a time: a lock on a run's folder, which the system takes back when the process dies."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from warmstart.config import ConfigError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

NAME = ".lock"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)

_held: set[tuple[int, Path]] = set()  # by process, as the system keeps them: a forked one holds nothing


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keep every other process from writing a run into `folder`, which is made where it is missing.

    A process that holds it already may hold it again. Where nothing was written within the block, no trace of
    it is left.

    Raises:
        ConfigError: another process holds it; the message names the process and its host.
        OSError: the folder cannot be made or written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     with hold(Path(parent) / "run"):
    ...         print(os.listdir(Path(parent) / "run"))
    ...     os.listdir(parent)
    ['.lock']
    []
    """
    folder = folder.resolve()
    key = os.getpid(), folder
    if key in _held:
        yield
        return
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = None
    try:
        descriptor = _lock(folder)
        _held.add(key)
        yield
    finally:
        _held.discard(key)
        if descriptor is not None:
            with contextlib.suppress(OSError):
                os.unlink(folder / NAME)  # before it is given back: else it might be the next one's already
            os.close(descriptor)
        with contextlib.suppress(OSError):  # not empty
            for path in made:
                path.rmdir()


def _lock(folder: Path) -> int | None:
    """Return the open file that carries the lock, or None where there are no locks to be had."""
    path = folder / NAME
    while fcntl is not None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            # POSIX locks, not flock's: those would live on in loading processes for seconds after a kill.
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
            os.close(descriptor)
            if error.errno in NO_LOCKS:  # some network drives
                with contextlib.suppress(OSError):
                    os.unlink(path)
                break
            raise ConfigError(
                f"{folder} is being written by {holder}; wait for its end or stop it, or name another folder with "
                "OUTPUT_DIR"
            ) from None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
                return descriptor
        os.close(descriptor)  # its holder deleted it between our two calls
    logger.warning("%s cannot be locked on this system: see that no second run writes to it", folder)
    return None
