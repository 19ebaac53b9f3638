"""The command-line tools: handling of Ctrl-C while they import torch, and tables."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from types import FrameType


@contextlib.contextmanager
def interruptible(name: str) -> Iterator[None]:
    """Let Ctrl-C end the process with one line and exit code 130 within the block, which holds a tool's imports.

    A KeyboardInterrupt would not do: it is raised in the middle of some module, which may take it for a failed
    import and continue. Nothing is open yet that would have to be closed. After the block `run_tool` handles
    signals. If Ctrl-C is ignored, as for a background process of a shell, it stays ignored.

    Args:
        name: the tool's `__name__`; nothing changes if the tool is imported instead of run.

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
    """Return rows as aligned lines; the column `text` is aligned to the left, the others to the right.

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
