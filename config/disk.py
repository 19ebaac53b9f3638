"""Operations on the disk, one function each, and the one atomic write made of them.

A test can put a failing function in the place of each name in `OPERATIONS`. So callers write `disk.replace(...)`
and import no operation by its name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from .no_follow import refuse_link
from .small_files import open_regular

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

OPERATIONS = (
    *("create", "write", "sync", "verify", "clone", "copy", "compare"),
    *("replace", "sync_folder", "unlink", "free_bytes"),
)
TEMPORARY = ".warmstart.tmp"  # the end of a name that no other program gives a file
_CHUNK = 2**20  # bytes
_CLONE = getattr(fcntl, "FICLONE", 0x40049409)  # Python has the name from 3.12 on


def create(path: Path) -> BinaryIO:
    """Open a new file for writing."""
    return open(path, "xb")


def write(file: BinaryIO, data: bytes | memoryview) -> int:
    """Append to a file, or to its buffer in memory."""
    return file.write(data)


def sync(file: BinaryIO) -> None:
    """Return when all that was written has reached the disk."""
    file.flush()
    os.fsync(file.fileno())


def verify(path: Path) -> None:
    """Read a zip archive, as torch.save writes it, and compare its checksums.

    Raises:
        OSError: the archive is damaged.
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


def clone(source: BinaryIO, target: BinaryIO) -> bool:
    """Let an empty file share the blocks of another one until either is changed; return whether the drive can."""
    if fcntl is None or sys.platform != "linux":
        return False
    try:
        fcntl.ioctl(target.fileno(), _CLONE, source.fileno())
    except OSError:
        return False
    return True


def copy(source: BinaryIO, target: BinaryIO) -> None:
    """Copy a file into an empty one, in the kernel where it can."""
    size, done = os.fstat(source.fileno()).st_size, 0
    try:
        while done < size:
            count = os.copy_file_range(source.fileno(), target.fileno(), size - done)
            if count == 0:
                break
            done += count
    except (AttributeError, OSError) as error:  # not on this system, or not on this drive
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
    if done < size:
        source.seek(done)
        shutil.copyfileobj(source, target, _CHUNK)
        target.flush()


def compare(path: Path, original: BinaryIO) -> None:
    """Read a copy back.

    Raises:
        OSError: it differs from the original.
    """
    original.seek(0)
    with open_regular(path) as file:
        same = _holds_same(file, original)
    if not same:
        raise OSError(errno.EIO, "the copy reads back damaged", str(path))


def replace(source: Path, target: Path) -> None:
    """Rename a file atomically, over any file that has the name.

    Raises:
        OSError: a folder or a symbolic link has the name; it stays.
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
    """Return the free space on the drive of a folder, which need not exist yet.

    >>> 0 < free_bytes(Path("no/such/folder")) <= shutil.disk_usage(".").total
    True
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        total, _, free = shutil.disk_usage(there)
    except OSError:
        total = 0
    return free if total else sys.maxsize  # a drive that does not tell has no limit that we know


def is_same(path: Path, other: Path) -> bool:
    """Return whether two regular files hold the same bytes."""
    with open_regular(path) as a, open_regular(other) as b:
        return _holds_same(a, b)


def _holds_same(a: BinaryIO, b: BinaryIO) -> bool:
    if os.fstat(a.fileno()).st_size != os.fstat(b.fileno()).st_size:
        return False
    ours, theirs = bytearray(_CHUNK), bytearray(_CHUNK)
    while count := a.readinto(ours):  # type: ignore[attr-defined]
        if b.readinto(theirs) != count or ours != theirs:  # type: ignore[attr-defined]
            return False  # behind a shorter last chunk are bytes of the one before, which are the same
    return True


@contextlib.contextmanager
def replacement(
    path: Path,
    check: Callable[[Path], object] | None = None,
    before_commit: Callable[[], object] | None = None,
) -> Iterator[BinaryIO]:
    """Let a file be written under a temporary name, then rename it.

    A kill at any instant leaves the old file or the new one under its name, both complete. If the block fails, the
    old file stays and nothing is left of the new one.

    Args:
        path: the file.
        check: called with the temporary name once the file is complete on the disk.
        before_commit: called right before the file is renamed.

    Raises:
        OSError: the file cannot be written, or a symbolic link or a folder has its name; it stays.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacement(Path(folder, "log.txt")) as file:
    ...         _ = file.write(b"done")
    ...     [path.name for path in Path(folder).iterdir()]
    ['log.txt']
    """
    refuse_link(path)
    temporary = path.with_name(f".{path.name}.{secrets.randbits(48)}{TEMPORARY}")
    try:
        with create(temporary) as file:
            yield file
            sync(file)
        if check is not None:
            check(temporary)
        if before_commit is not None:
            before_commit()
        replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            unlink(temporary)
        raise
    sync_folder(path.parent)


def is_temporary(name: str, path: Path | None = None) -> bool:
    """Return whether `replacement` gives this name to an unfinished file, of any path or of a given one.

    >>> is_temporary(f".model_final.pth.4711{TEMPORARY}"), is_temporary(".model_final.pth.4711.tmp")
    (True, False)
    """
    of = ".+" if path is None else re.escape(path.name)
    return re.fullmatch(rf"\.{of}\.\d+{re.escape(TEMPORARY)}", name, re.DOTALL) is not None
