"""A lock on a run's folder for one writer at a time, which the system releases when the process dies."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

from warmstart.config import ConfigError, no_follow

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


logger = logging.getLogger(__name__)

NAME = ".lock"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)
HELD = (errno.EACCES, errno.EAGAIN)  # another process has the lock
_OURS = re.compile(r"(process \d+ on .*\n?)?")  # the content of a lock file; empty if a kill came early

# The descriptors of the locks, by process, as the system keeps them: a forked process holds nothing.
_held: dict[tuple[int, Path], int | None] = {}


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keep every other process from writing a run into `folder`, which is made if it is missing.

    A process that holds it already may hold it again. If nothing was written within the block, no trace of it is
    left.

    Raises:
        ConfigError: another process holds it; the message names the process and its host. Or another file has the
            lock's name.
        OSError: the folder cannot be made or written, or a link has the lock's name.

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
    try:
        _held[key] = _lock(folder)
        yield
    finally:
        descriptor = _held.pop(key, None)
        if descriptor is not None:
            with contextlib.suppress(OSError):
                if _is_held(folder / NAME, descriptor):
                    os.unlink(folder / NAME)  # before the release: afterwards it may be the next one's
            os.close(descriptor)
        with contextlib.suppress(OSError):  # not empty
            for path in made:
                path.rmdir()


def check(folder: Path) -> None:
    """Refuse to write into a folder that is no longer held; called before each write into a run's folder.

    Without its file, which anyone may delete, a lock keeps nobody out. A folder that this process has never held
    is not checked.

    Raises:
        ConfigError: the file of the lock is gone or another one, or another process has the lock.
    """
    folder = folder.resolve()
    descriptor = _held.get((os.getpid(), folder))
    if descriptor is not None and not _is_held(folder / NAME, descriptor):
        raise ConfigError(
            f"{folder / NAME} was deleted or replaced during the run, and another run may be writing to {folder}; "
            "this one has stopped and saves nothing more; give --resume to continue from the last checkpoint"
        )


def _is_held(path: Path, descriptor: int) -> bool:
    """Return whether no other process can have the lock of this open file."""
    try:
        if not os.path.samestat(os.fstat(descriptor), os.lstat(path)):
            return False
        # The system releases a lock when the process closes any descriptor of its file, as a user-defined hook
        # does that copies the folder. Then this takes it again.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError as error:
        return error.errno not in HELD  # other errors do not mean that another process has it
    return True


def _lock(folder: Path) -> int | None:
    """Return the open file that carries the lock, or None if the drive has no locks."""
    path, taken = folder / NAME, False
    while fcntl is not None:
        descriptor = no_follow(path, os.O_RDWR | os.O_CREAT)
        try:
            taken = _take(descriptor, path)
            if taken:
                return descriptor
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            with contextlib.suppress(OSError):  # some network drives
                os.unlink(path)
            break
        finally:
            if not taken:
                os.close(descriptor)
    logger.warning("%s cannot be locked on this system: see that no second run writes to it", folder)
    return None


def _take(descriptor: int, path: Path) -> bool:
    """Lock an open file and write into it who holds it; False if its holder has deleted it in between."""
    if not _OURS.fullmatch(_text(descriptor)):
        raise ConfigError(
            f"{path} is not the lock of a run, which needs that name; move it away, or name another folder with "
            "OUTPUT_DIR"
        )
    try:
        # POSIX locks, not flock's: those would live on in loading processes for seconds after a kill.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in HELD:
            raise
        raise ConfigError(
            f"{path.parent} is being written by {_text(descriptor).strip() or 'another process'}; "
            "wait for its end or stop it, or name another folder with OUTPUT_DIR"
        ) from None
    if not _is_held(path, descriptor):
        return False
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    return True


def _text(descriptor: int) -> str:
    return os.pread(descriptor, 200, 0).decode(errors="replace")
