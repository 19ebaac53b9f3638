"""Atomic writes into the folder of a run: each looks first whether the run still holds it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from warmstart.config import disk

from . import lock


def write_atomically(
    path: Path,
    fill: Callable[[Any], object],
    archive: bool = False,
    before_commit: Callable[[], object] | None = None,
    written: Callable[[Path], object] | None = None,
) -> None:
    """Write a file so that a kill at any instant leaves the old one or the new one, both complete.

    Args:
        path: the file.
        fill: gets an object with `write` and writes the content.
        archive: whether it is a zip archive, whose checksums are read back before it replaces the old file.
        before_commit: called when the new file is complete on the disk, right before it is renamed. If it raises,
            the old file stays.
        written: called with the temporary name when all is written, before it is synced.

    Raises:
        ConfigError: this process has lost the folder to another one.
        OSError: the disk is full, or failed; the old file is still there.
    """
    lock.check(path.parent)
    with disk.replacement(path, disk.verify if archive else None, before_commit) as file:
        sink = _Sink(file)
        fill(sink)
        sink.check()
        if written is not None:
            file.flush()
            written(Path(file.name))


def copy(source: BinaryIO, path: Path, before_commit: Callable[[], object] | None = None) -> None:
    """Write a copy of a file, atomically and read back: a reflink where the drive can, else a copy of all bytes.

    Args:
        source: the open file.
        path: of the copy.
        before_commit: as for `write_atomically`.

    Raises:
        ConfigError: this process has lost the folder to another one.
        OSError: the disk is full, or failed; the old file is still there.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     numbered, best = Path(folder, "model_0000999.pth"), Path(folder, "model_best.pth")
    ...     _ = numbered.write_text("new"), best.write_text("old")
    ...     with open(numbered, "rb") as file:
    ...         copy(file, best)
    ...     best.read_text(), best.samefile(numbered), len(os.listdir(folder))
    ('new', False, 2)
    """
    lock.check(path.parent)
    with disk.replacement(path, before_commit=before_commit) as file:
        if not disk.clone(source, file):
            if disk.free_bytes(path.parent) < os.fstat(source.fileno()).st_size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            disk.copy(source, file)
        # Before the sync, which takes the disk's time and not the processor's, and reports errors of its own.
        disk.compare(Path(file.name), source)


class _Sink:
    """An open file for torch.save, which is never told of an error.

    torch's writer would raise an error of its own instead, and continue at wrong positions. So the first error is
    kept for `check`, and nothing is written after it.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        if self._error is None:
            try:
                disk.write(self._file, data)
            except OSError as error:
                self._error = error
        return len(data)

    def flush(self) -> None:
        """Nothing: the file is synced when it is complete."""

    def check(self) -> None:
        if self._error is not None:
            raise self._error
