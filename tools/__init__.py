"""The command lines: how Ctrl-C ends them in the seconds in which they import torch, and the tables they print."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from types import FrameType


@contextlib.contextmanager
def interruptible(name: str) -> Iterator[None]:
    """Within the block, which holds a tool's imports, Ctrl-C ends the process with one line and exit code 130.

    An exception would not do: it comes out of the middle of any module, with a traceback, and some modules take it
    for a failed import and go on. Nothing is open yet that would have to be closed. Behind the block `run_tool`
    sees to signals. Where Ctrl-C is ignored, as in a shell's background, it stays so.

    Args:
        name: the tool's `__name__`; nothing changes where it is imported, and is not what runs.

    >>> with interruptible(__name__):
    ...     signal.getsignal(signal.SIGINT) is _leave
    False
    """
    if name != "__main__" or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _leave)
    yield
    signal.signal(signal.SIGINT, signal.default_int_handler)


def table(rows: Sequence[Sequence[str]], text: int = 0) -> str:
    """Return rows as aligned lines; the column `text` begins at its left, the others end at their right.

    >>> print(table([["", "rate"], ["first", "0.1"], ["second", "0.01"]]))
            rate
    first    0.1
    second  0.01
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = text % len(widths)
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _leave(signum: int, frame: FrameType | None) -> None:
    with contextlib.suppress(OSError):
        os.write(2, b"interrupted by SIGINT\n")
    os._exit(128 + signum)
