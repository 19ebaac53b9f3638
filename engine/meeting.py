"""How processes find each other: they say whom they wait for, for how long, and hear signals meanwhile.

torch waits in C++, where Python's signal handlers do not run, without a word, and for its own number of seconds.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store

from warmstart.config import ConfigError

_PATIENCE = 5  # seconds until it is said who is waited for
_PAUSES = 0.01, 0.2  # seconds between two looks, at first and at last
_HERE = "here"


class LateError(RuntimeError):
    """Others did not come in time."""


def meet(
    host: str,
    port: int,
    *,
    serves: bool,
    count: int,
    who: str,
    timeout: float,
    prefix: str,
    tells: bool = True,
    again: bool = False,
) -> Store:
    """Return the store in which processes tell each other where they are, once all are there.

    Args:
        host: where the one that `serves` listens.
        port: the same.
        serves: whether this is the one that the others come to.
        count: how many are to come.
        who: what they are, for messages: "machines".
        timeout: seconds to wait for them.
        prefix: of the keys in the store: those of an earlier attempt do not count.
        tells: whether this one says whom it waits for.
        again: whether the same ones may meet here once more, as for a second run in the same processes; else who
            comes late stands for one that has come before, and is waited for no more.

    Raises:
        ConfigError: the port is taken.
        LateError: not all of them came in time.

    >>> store = meet("localhost", 0, serves=True, count=1, who="processes", timeout=3, prefix="")
    >>> store.set("a", "b"), store.get("a")
    (None, b'b')
    """
    wait = _Wait(f"{host}:{port}", timeout, tells)
    if not serves:
        wait.until(lambda: _answers(host, port), lambda: f"nobody answers there to {who}")
    try:
        store: Store = dist.TCPStore(  # type: ignore[attr-defined]
            host, port, count, serves, timedelta(seconds=timeout), wait_for_workers=False, multi_tenant=True
        )
    except dist.DistNetworkError as error:
        if "EADDRINUSE" not in str(error):
            raise
        raise ConfigError(f"port {port} of this machine is in use; choose another") from None
    store = PrefixStore(prefix, store)
    before = store.add(_HERE, 1) - 1
    # Nobody comes a second time before all have come once.
    meeting = before // count if again else 0

    def come() -> int:
        return store.add(_HERE, 0) - meeting * count

    wait.until(lambda: come() >= count, lambda: f"{come()} of {count} {who} are there")
    return PrefixStore(f"meeting {meeting}", store)


def _answers(host: str, port: int) -> bool:
    with suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


class _Wait:
    """Waiting at a place, in one or several steps, for so many seconds in all."""

    def __init__(self, place: str, timeout: float, tells: bool) -> None:
        self.place, self.timeout = place, timeout
        self._begin = time.monotonic()
        self._tells = tells

    def until(self, done: Callable[[], bool], state: Callable[[], str]) -> None:
        """Return when it is done.

        Args:
            done: looks.
            state: what there is instead, for messages.
        """
        pause, last = _PAUSES
        while not done():
            waited = time.monotonic() - self._begin
            if waited > self.timeout:
                raise LateError(f"{self.place}: {state()} after {self.timeout:g} s (DISTRIBUTED.TIMEOUT)")
            if self._tells and waited > _PATIENCE:
                self._tells = False
                text = (
                    f"waiting at {self.place}: {state()}; it ends after {self.timeout:g} s (DISTRIBUTED.TIMEOUT)"
                )
                print(text, file=sys.stderr, flush=True)
            time.sleep(pause)
            pause = min(2 * pause, last)
