"""Signals that ask a run to stop: the first is answered when an iteration is whole, the second at once."""

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
    return tuple(signal.Signals[name] for name in names if hasattr(signal, name))  # Windows has but two of them


#: Ctrl-C, what schedulers of batch jobs and containers send before they kill, what they can be told to send, and a
#: terminal that is closed.
SIGNALS = _those_here("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
#: What a process that started others passes on to them: they would live on otherwise.
LAUNCHER_SIGNALS = SIGNALS + _those_here("SIGQUIT")

# Seconds. GNU timeout and some launchers signal the process, and then its whole group: one signal comes twice.
ECHO = 0.25


class Interrupted(SystemExit):
    """A signal ended the work. Where nobody catches it, the process exits with 128 + the signal's number.

    >>> Interrupted(signal.SIGTERM).code
    143
    """

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum


def signal_name(signum: int) -> str:
    """Return the name that users know.

    >>> signal_name(15)
    'SIGTERM'
    """
    return signal.Signals(signum).name


def is_heard(signum: signal.Signals) -> bool:
    """Return whether this process was not told by its parent to ignore a signal, as nohup and shells do."""
    return signal.getsignal(signum) is not signal.SIG_IGN


def leave(signum: int, is_main: Callable[[], bool] = lambda: True) -> NoReturn:
    """End what is under way, as an exception does: files are closed and locks given back.

    Raises:
        Interrupted: always.
    """
    _say(f"interrupted by {signal_name(signum)}\n", is_main)
    raise Interrupted(signum)


@contextlib.contextmanager
def stop_signals(take: Callable[[int], None], is_main: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Within the block, give the first of `SIGNALS` to `take`; at a second one the process ends at once.

    A signal that the parent has told this process to ignore, as shells do with Ctrl-C for what runs in their
    background, stays ignored. Outside of the main thread, where python allows no handlers, nothing changes.

    Args:
        take: called in the main thread, between two of its instructions: it should do no more than set a flag.
        is_main: whether this process is the one, of those that train together, which says what happens.

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
        if os.getpid() != owner:  # a loading process that was forked this instant: the main one decides
            return
        if first is None:
            first = now
            take(signum)
            _say(
                f"{signal_name(signum)}: finishing this iteration, then saving; once more leaves at once\n",
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
            signal.signal(each, before[each] or signal.SIG_DFL)  # None: a handler that python cannot give back


def _say(text: str, is_main: Callable[[], bool]) -> None:
    # Not by print or logging: the signal may have come in the middle of one, which cannot be entered twice.
    with contextlib.suppress(OSError):
        if is_main():
            os.write(2, text.encode())


def _leave_at_once(signum: int) -> NoReturn:
    try:
        if hasattr(signal, "SIGCHLD"):  # torch answers it with an exception where a loading process was killed
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        children = multiprocessing.active_children()
        for child in children:
            child.kill()  # loading processes sleep through every other signal
        for child in children:
            child.join(timeout=1)
    finally:
        os._exit(128 + signum)
