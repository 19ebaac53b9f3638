"""What a save, and the bookkeeping of a run's folder, do to the disk: one function an operation.

Everything that changes a checkpoint, the pointer or the manifest goes through `OPERATIONS`, called by their names
in this module, never imported one by one. A test can so put a failing one into each place, and see what is left.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from warmstart.config import refuse_link

from . import lock

TEMPORARY = ".warmstart.tmp"  # the end of a name that no other program gives a file
OPERATIONS = ("create", "write", "sync", "verify", "link", "replace", "sync_folder", "unlink", "free_bytes")
# What a drive without hard links says, or one that has given a file as many as it can.
NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK)


def create(path: Path) -> BinaryIO:
    """Open a new file for writing; what has its name already is a leftover of ours, by `write_atomically`."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    return open(path, "xb")


def write(file: BinaryIO, data: bytes | memoryview) -> int:
    """Append to a file, or to what waits in memory to be written."""
    return file.write(data)


def sync(file: BinaryIO) -> None:
    """Return when all that was written has reached the disk."""
    file.flush()
    os.fsync(file.fileno())


def verify(path: Path) -> None:
    """Read a zip archive, as torch.save writes it, and compare its checksums.

    Raises:
        OSError: it is not what was written.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except OSError:
        raise
    except Exception as error:  # damaged bytes make the reader fail in any way
        damaged = f"{type(error).__name__}: {error}"
    if damaged is not None:
        raise OSError(errno.EIO, f"what was written reads back damaged ({damaged})", str(path))


def link(source: Path, target: Path) -> None:
    """Give a file a second name, which nothing has yet."""
    os.link(source, target)


def replace(source: Path, target: Path) -> None:
    """Give a file a name, at once and for good, whatever file had the name before.

    Raises:
        OSError: the name is that of a folder or a symbolic link, which both stay.
    """
    refuse_link(target)
    os.replace(source, target)


def sync_folder(folder: Path) -> None:
    """Return when the names in a folder have reached the disk, so that they survive a power failure."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):  # some network drives cannot
            raise
    finally:
        os.close(descriptor)


def unlink(path: Path) -> None:
    """Delete a file that may be gone already; a link or a folder of that name stays."""
    if path.is_file() and not path.is_symlink():
        path.unlink(missing_ok=True)


def free_bytes(folder: Path) -> int:
    """Return what a file in this folder, or in one that is still to be made, may have at most.

    >>> 0 < free_bytes(Path("no/such/folder")) <= shutil.disk_usage(".").total
    True
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        total, _, free = shutil.disk_usage(there)
    except OSError:
        total = 0
    return free if total else sys.maxsize  # a drive that does not tell has no limit that we know


def write_atomically(
    path: Path,
    fill: Callable[[Any], object],
    archive: bool = False,
    before_commit: Callable[[], object] | None = None,
) -> None:
    """Write a file so that a kill at any instant leaves the old one or the new one, never a part.

    Args:
        path: the file.
        fill: gets an object with `write` and writes the content.
        archive: whether it is a zip archive, whose checksums are read back before the old file goes.
        before_commit: called when the new file is complete on the disk, right before it takes its name. Where it
            raises, the old file stays.

    Raises:
        ConfigError: this process has lost the folder to another one.
        OSError: the disk is full, or failed; the old file is still there.
    """
    lock.check(path.parent)
    with _temporary(path) as temporary:
        with create(temporary) as file:
            sink = _Sink(file)
            fill(sink)
            sink.check()
            sync(file)
        if archive:
            verify(temporary)
        if before_commit is not None:
            before_commit()
        replace(temporary, path)
    sync_folder(path.parent)


def add_name(archive: Path, name: Path) -> None:
    """Let a zip archive have a second name in its folder, at once, whatever had the name before.

    Both names are hard links of one file; on a drive without hard links the second one is a copy.

    Raises:
        ConfigError: this process has lost the folder to another one.
        OSError: the disk is full, or failed; the name is as it was.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     numbered, best = Path(folder, "model_0000999.pth"), Path(folder, "model_best.pth")
    ...     _ = numbered.write_text("new"), best.write_text("old")
    ...     add_name(numbered, best)
    ...     best.read_text(), best.samefile(numbered), len(os.listdir(folder))
    ('new', True, 2)
    """
    lock.check(name.parent)
    if os.path.lexists(name) and os.path.samestat(name.lstat(), archive.lstat()):
        return  # rename(2) would do nothing, and leave the temporary name
    try:
        with _temporary(name) as temporary:
            unlink(temporary)  # of a killed process that had our number
            link(archive, temporary)
            replace(temporary, name)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        with open(archive, "rb") as file:
            write_atomically(name, lambda copy: shutil.copyfileobj(file, copy), archive=True)
    else:
        sync_folder(name.parent)


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """Yield the name that a file has before it gets `path`; what an exception leaves under it is deleted."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        yield temporary
    except BaseException:
        with contextlib.suppress(OSError):
            unlink(temporary)
        raise


class _Sink:
    """An open file as torch.save sees it, which is never told of an error.

    torch's writer would put a message of its own in its place, and write on at wrong positions. So the first
    error is kept for `check`, and what comes after it goes nowhere.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        if self._error is None:
            try:
                write(self._file, data)
            except OSError as error:
                self._error = error
        return len(data)

    def flush(self) -> None:
        """Leave it to `sync`."""

    def check(self) -> None:
        if self._error is not None:
            raise self._error


def is_temporary(name: str) -> bool:
    """Return whether `write_atomically` gives this name to a file that is not whole yet.

    >>> is_temporary(f".model_final.pth.4711{TEMPORARY}"), is_temporary(".model_final.pth.4711.tmp")
    (True, False)
    """
    return re.fullmatch(rf"\..+\.\d+{re.escape(TEMPORARY)}", name, re.DOTALL) is not None
