"""Copies of a checkpoint under its other names, made while the disk still writes the original."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import BinaryIO

from warmstart.config import open_regular

from ..runtime import files
from .threads import begin_each


class Copies:
    """The copies of one file in its folder: begun when it is written, renamed only after it is.

    Copying does not wait until the original is synced and verified, so that the disk and the cores work at the
    same time. With one core the copies are made afterwards.

    Args:
        folder: of the original and of the copies.
        names: of the copies.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._folder = folder
        self._names = names
        self._sources: dict[str, BinaryIO] = {}  # one open file each, because each has a position
        self._open = contextlib.ExitStack()
        self._commit: Future[None] = Future()  # of the original
        self._begun: dict[str, Future[OSError | None]] = {}

    def begin(self, temporary: Path) -> None:
        """Begin to copy the original, which has all its content under a temporary name."""
        self._sources = {name: self._open.enter_context(open_regular(temporary)) for name in self._names}
        self._begun = begin_each(self._copy, self._names)

    def finish(self) -> dict[str, OSError]:
        """Complete the copies of the original, which has its name now; return the errors by name."""
        self._commit.set_result(None)
        with self._open:
            found = {
                name: self._begun[name].result() if name in self._begun else self._copy(name)
                for name in self._names
            }
        return {name: error for name, error in found.items() if error is not None}

    def cancel(self, error: BaseException) -> None:
        """Delete what was begun, because the original has failed with an error."""
        self._commit.set_exception(error)
        with self._open:
            wait(self._begun.values())

    def _copy(self, name: str) -> OSError | None:
        """Copy the original, and wait for its commit; return the error if that fails."""
        try:
            files.copy(self._sources[name], self._folder / name, self._commit.result)
        except OSError as error:
            return error
        return None
