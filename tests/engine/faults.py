"""Disk faults: a disk that fails at the n-th operation, or is full."""

from __future__ import annotations

import errno
import functools
import io
import os
import re
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from warmstart.config import disk
from warmstart.engine.checkpoint import threads
from warmstart.engine.records import writers

forked = pytest.mark.skipif(torch.cuda.is_available(), reason="a process that has used a GPU cannot be copied")

FAILING = ("ENOSPC", "EIO", "torn", "lost")
KILLING = ("kill", "kill torn")
OF_WRITES = ("torn", "lost", "kill torn")  # half of the data is written, then comes an error, nothing, or the kill


class Disk:
    """Counts the operations on the disk from now on, and makes operation `at` fail.

    Args:
        patch: undoes it.
        fault: one of FAILING or KILLING; "" only counts.
        at: from 0.
        cores: with one, operation n is the same one each time.
    """

    def __init__(self, patch: pytest.MonkeyPatch, fault: str = "", at: int = -1, cores: int = 1) -> None:
        self.fault = fault
        self.at = at
        self.calls: list[str] = []
        self._lock = threading.Lock()
        patch.setattr(threads, "usable_cores", lambda: cores)
        for name in disk.OPERATIONS:
            patch.setattr(disk, name, functools.partial(self._call, name, getattr(disk, name)))

    def _call(self, name: str, operation: Callable[..., Any], *arguments: Any) -> Any:
        with self._lock:
            number = len(self.calls)
            self.calls.append(f"{name} {_about(arguments)}")
        if number != self.at:
            return operation(*arguments)
        if self.fault in OF_WRITES:
            file, data = arguments if name == "write" else (arguments[1], arguments[0].read())
            file.write(bytes(data)[: len(data) // 2])
            file.flush()
            if self.fault == "lost":
                return len(data)
        if self.fault in KILLING:
            os.kill(os.getpid(), signal.SIGKILL)
        code = errno.ENOSPC if self.fault == "ENOSPC" else errno.EIO
        raise OSError(code, os.strerror(code))


class FullDisk:
    """While `full`, writes half of each record, and then raises the error of a full disk.

    Args:
        patch: undoes it.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.full = False
        patch.setattr(writers, "open", self._open, raising=False)

    def _open(self, path: str | Path, mode: str = "r", **more: Any) -> Any:
        return _FullFile(path, mode) if self.full and mode == "ab" else open(path, mode, **more)


class _FullFile(io.FileIO):
    written = 0

    def write(self, data: Any) -> int:
        if not self.written:
            self.written = super().write(data[: len(data) // 2])
            return self.written
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def in_child(work: Callable[[], object]) -> int:
    """Call a function in a fork of this process, and return its exit code, -9 for SIGKILL."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _about(arguments: tuple[Any, ...]) -> str:
    """Return the name of the file of an operation, without parts that differ from run to run."""
    path = Path(
        getattr(arguments[0], "name", arguments[0]) if not isinstance(arguments[0], Path) else arguments[0]
    )
    return "folder" if path.is_dir() else target(path)


def target(path: Path) -> str:
    """Return the name of the file that a path, or the temporary file that it names, is written for."""
    return re.sub(r"^\.(.+)\.\d+\.warmstart\.tmp$", r"\1", path.name)
