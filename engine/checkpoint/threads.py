"""Work on several files at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from warmstart.data import usable_cores

T = TypeVar("T")


def of_each(function: Callable[[str], T], names: Sequence[str]) -> list[T]:
    """Return what a function of a file gives for each name, with as many threads as there are cores.

    Copies, checksums and the disk release the GIL. An exception is the one that the first name raises.
    """
    try:
        with ThreadPoolExecutor(usable_cores()) as pool:
            return list(pool.map(function, names))
    except RuntimeError:  # the process is ending, and starts no more threads
        return [function(name) for name in names]


def begin_each(function: Callable[[str], T], names: Sequence[str]) -> dict[str, Future[T]]:
    """Begin what `of_each` does, and return at once; {} if there is one core, or the process is ending."""
    begun: dict[str, Future[T]] = {}
    if names and usable_cores() > 1:
        pool = ThreadPoolExecutor(usable_cores())
        with contextlib.suppress(RuntimeError):
            for name in names:
                begun[name] = pool.submit(function, name)
        pool.shutdown(wait=False)
    return begun
