"""Logging of our messages: to stdout, and to a run's log.txt."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from io import TextIOWrapper
from logging.handlers import MemoryHandler
from pathlib import Path

from warmstart.config import no_follow, printable

from ..distributed import comm
from ..runtime.owned import own

LOG = "log.txt"


class _Lines(logging.Formatter):
    """Formats a message as one printable line, whatever names and values it holds; a traceback keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = printable(record.message)
        return super().formatMessage(record)


class _Console(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to the current sys.stdout, above the progress bar if there is one."""

    def __init__(self) -> None:
        super().__init__(sys.stdout)

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        try:
            if "tqdm" in sys.modules:
                bar = sys.modules["tqdm"].tqdm
                # tqdm's own lock is shared with forked processes: one that is killed while it holds the lock would
                # silence all others forever. Each process has its own lock of this handler.
                bar.set_lock(self.lock)
                bar.write(text, file=sys.stdout)
            else:
                print(text)
            sys.stdout.flush()
        except BrokenPipeError:
            silence_stdout()
        except OSError as error:
            silence_stdout()  # else Python flushes again at exit, and changes the exit code
            _tell("stdout", error)


def silence_stdout() -> None:
    """Discard further output to stdout: its reader has exited (`| head`), and the run continues."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _RunFile(logging.FileHandler):
    """A run's log.txt; messages that cannot be written are dropped, which is reported once."""

    def __init__(self, folder: str | Path, delay: bool = False) -> None:
        path = Path(folder) / LOG
        if not delay and not path.exists():
            own(path.parent, LOG)
        super().__init__(path, encoding="utf-8", delay=delay)
        self.setFormatter(_Lines("[%(asctime)s] %(levelname)s %(message)s"))
        self._told = False

    def _open(self) -> TextIOWrapper:
        return open(self.baseFilename, "a", encoding="utf-8", opener=no_follow)

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._told:
            self._told = True
            _tell(self.baseFilename, error)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


def _tell(what: str, error: OSError) -> None:
    # Not by print: if stderr is on the same full disk, Python would flush it again at exit.
    with contextlib.suppress(OSError):
        os.write(2, f"{what} cannot be written: {error.strerror or error}; the run continues\n".encode())


def log_to_file(message: str) -> None:
    """Write an error to the run's log.txt, if there is one, but not to the console."""
    first, _, others = message.partition("\n")
    record = logging.LogRecord(__name__, logging.ERROR, __file__, 0, first, None, None)
    record.exc_text = others or None  # on the lines below, like a traceback
    for handler in logging.getLogger("warmstart").handlers:
        if isinstance(handler, _RunFile):
            with contextlib.suppress(OSError):  # another machine may lack the folder
                handler.handle(record)


def setup_logging(folder: str | Path | None = None) -> None:
    """Send our messages to stdout and, with a folder, to its log.txt; a second call adds no second handler.

    Ranks other than 0 log only warnings, with their rank; log.txt gets from them only what `log_to_file` writes.

    Args:
        folder: a run's folder, which exists; log.txt also gets the messages since the last call. None stops
            writing to an earlier folder's log.txt.
    """
    root = logging.getLogger("warmstart")
    root.setLevel(logging.INFO if comm.is_main() else logging.WARNING)
    root.propagate = False  # else a user's logging.basicConfig prints each line again
    if not any(isinstance(handler, _Console) for handler in root.handlers):
        console = _Console()
        who = "" if comm.is_main() else f"rank {comm.rank()}: "
        console.setFormatter(_Lines(f"[%(asctime)s] {who}%(message)s", "%H:%M:%S"))
        root.addHandler(console)
    file = None if folder is None else _RunFile(folder, delay=not comm.is_main())
    if file is not None and not comm.is_main():
        file.setLevel(logging.CRITICAL + 1)  # only `log_to_file` writes to it
    for handler in list(root.handlers):
        if isinstance(handler, (_RunFile, MemoryHandler)):
            root.removeHandler(handler)
            if isinstance(handler, MemoryHandler) and file is not None and comm.is_main():
                handler.setTarget(file)
            handler.close()  # a memory handler flushes its buffer
    # Until a run has its folder, its messages are buffered in memory.
    root.addHandler(file or MemoryHandler(capacity=1000, flushLevel=logging.CRITICAL + 1))
