"""Signals that ask a run to stop: after the first one it finishes its iteration, at the second it exits."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn


def _those_here(*names: str) -> tuple[signal.Signals, ...]:
    return tuple(signal.Signals[name] for name in names if hasattr(signal, name))  # Windows has only two of them


#: Ctrl-C; what job schedulers and containers send before they kill; what they can be configured to send; and the
#: signal of a closed terminal.
SIGNALS = _those_here("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
#: What a launcher passes on to its processes, which would otherwise outlive it.
LAUNCHER_SIGNALS = SIGNALS + _those_here("SIGQUIT")

# Seconds. GNU timeout and some launchers signal the process and then its process group, so one signal comes twice.
ECHO = 0.25


class Interrupted(SystemExit):
    """A signal has ended the work. If it is not caught, the process exits with 128 + the signal's number.

    >>> Interrupted(signal.SIGTERM).code
    143
    """

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum


def signal_name(signum: int) -> str:
    """Return the name of a signal.

    >>> signal_name(15)
    'SIGTERM'
    """
    return signal.Signals(signum).name


def is_heard(signum: signal.Signals) -> bool:
    """Return whether this process does not ignore a signal, as nohup and shells tell their children to."""
    return signal.getsignal(signum) is not signal.SIG_IGN


def leave(signum: int, is_main: Callable[[], bool] = lambda: True) -> NoReturn:
    """End the work by an exception, so that files are closed and locks released.

    Raises:
        Interrupted: always.
    """
    _say(f"interrupted by {signal_name(signum)}\n", is_main)
    raise Interrupted(signum)


@contextlib.contextmanager
def stop_signals(take: Callable[[int], None], is_main: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Within the block, pass the first of `SIGNALS` to `take`, and exit immediately at the second.

    A signal that the parent has told this process to ignore, as shells do with Ctrl-C for background jobs, stays
    ignored. Outside the main thread, where Python allows no handlers, nothing changes.

    Args:
        take: called in the main thread, between two of its instructions, so it should only set a flag.
        is_main: whether this process, of those that train together, prints the messages.

    >>> came = []
    >>> with stop_signals(came.append):
    ...     signal.raise_signal(signal.SIGTERM)
    >>> came
    [15]
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()
    first: float | None = None

    def handle(signum: int, frame: FrameType | None) -> None:
        nonlocal first
        now = time.monotonic()
        if os.getpid() != owner:  # a loading process that has just been forked: the main process decides
            return
        if first is None:
            first = now
            take(signum)
            _say(
                f"{signal_name(signum)}: finishing this iteration, then saving; a second signal exits at once\n",
                is_main,
            )
        elif now - first > ECHO:
            _leave_at_once(signum)

    ours = [each for each in SIGNALS if is_heard(each)]
    before = {each: signal.getsignal(each) for each in ours}
    for each in ours:
        signal.signal(each, handle)
    try:
        yield
    finally:
        for each in ours:
            signal.signal(each, before[each] or signal.SIG_DFL)  # None: a handler that Python cannot restore


def _say(text: str, is_main: Callable[[], bool]) -> None:
    # Not by print or logging, which are not reentrant: the signal may have interrupted one of them.
    with contextlib.suppress(OSError):
        if is_main():
            os.write(2, text.encode())


def _leave_at_once(signum: int) -> NoReturn:
    try:
        if hasattr(signal, "SIGCHLD"):  # torch's handler raises if a loading process was killed
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        children = multiprocessing.active_children()
        for child in children:
            child.kill()  # loading processes ignore every other signal
        for child in children:
            child.join(timeout=1)
    finally:
        os._exit(128 + signum)
