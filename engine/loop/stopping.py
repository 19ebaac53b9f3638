"""What ends a run before its last iteration: a signal, or a hook; several ranks end with the same iteration."""

from __future__ import annotations

import math
import time

from ..distributed import comm

_APART = 0.1  # seconds between two times that ranks ask each other whether to stop, which takes less than 1 ms


class Stopping:
    """What a run was asked; on several ranks what one of them was, once all know of it.

    Attributes:
        signum: the number of the signal that came, or 0.
        reason: why a hook wants the run to end, or "".
        sync_at: the updates after which ranks tell each other; never in one process.

    >>> stops = Stopping()
    >>> stops.request("enough")
    >>> stops.signum, stops.reason, stops.sync_at
    (0, 'enough', inf)
    """

    def __init__(self) -> None:
        self.signum, self.reason = 0, ""
        self._several = comm.world_size() > 1
        self._own_signum, self._own_reason = 0, ""
        self.sync_at = 0.0 if self._several else math.inf
        self._agreed = 0, -math.inf  # iteration, and seconds of training until then

    @property
    def asked(self) -> str:
        """The reason that this process knows of; the other ranks may not yet."""
        return self.reason or self._own_reason

    def interrupt(self, signum: int) -> None:
        """Take a signal; does no more than set a number, as signal handlers may."""
        if self._several:
            self._own_signum = signum
        else:
            self.signum = signum

    def request(self, reason: str) -> None:
        """Take a reason of a hook's."""
        if self._several:
            self._own_reason = reason
        else:
            self.reason = reason

    def forget_reason(self) -> None:
        """Begin anew without a reason; a signal that has come stays."""
        self.reason = self._own_reason = ""

    def take_signal(self) -> int:
        """Return the signal's number, and forget it."""
        signum, self.signum, self._own_signum = self.signum, 0, 0
        return signum

    def sync(self, iteration: int, paused_seconds: float) -> None:
        """Tell all ranks what this one was asked, and hear it of them; fix when to do so again, on all alike.

        That is after so many updates as take about a tenth of a second, and after the one that follows on each
        `sync_next`: what hooks ask for on account of a score does not depend on the clock.

        Args:
            iteration: updates done.
            paused_seconds: those in which the run did not train, so far.
        """
        if not self._several:
            return
        before, seconds = self._agreed
        self._agreed = iteration, time.perf_counter() - paused_seconds
        each = (self._agreed[1] - seconds) / max(1, iteration - before)
        signum, has_reason, each = comm.all_reduce_max([self._own_signum, bool(self._own_reason), each])
        self.signum = int(signum)
        if has_reason:
            self.reason = next(filter(None, comm.gather(self._own_reason)))
        self.sync_at = iteration + max(1, int(_APART / each))

    def sync_next(self, iteration: int) -> None:
        """Let ranks tell each other after the update that follows."""
        if self._several:
            self.sync_at = iteration + 1
