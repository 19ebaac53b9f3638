"""What ends a run before its last iteration: a signal, or a hook; several ranks end with the same iteration."""

from __future__ import annotations

import logging
import math
import time

from ..distributed import comm
from ..runtime.signals import Interrupted, signal_name

logger = logging.getLogger(__name__)

_APART = 0.1  # seconds between two times that ranks ask each other whether to stop, which takes less than 1 ms


class Stopping:
    """What a run was asked; on several ranks what one of them was, once all know of it.

    Attributes:
        signum: the number of the signal that came, or 0.
        reason: why a hook wants the run to end, or "".
        saved: the reason that the loaded checkpoint holds, for which the run ends with its next iteration.
        sync_at: the count of updates after which ranks exchange what they were asked; infinity in one process.

    >>> stops = Stopping()
    >>> stops.request("enough")
    >>> stops.signum, stops.reason, stops.sync_at
    (0, 'enough', inf)
    """

    def __init__(self) -> None:
        self.signum, self.reason, self.saved = 0, "", ""
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

    def begin(self) -> str:
        """Forget the reason of an earlier run in this process; return the one that a checkpoint holds, once.

        A signal that has come stays.
        """
        saved, self.saved = self.saved, ""
        self.reason = self._own_reason = ""
        return saved

    def raise_signal(self, iteration: int, complete: bool) -> None:
        """Raise Interrupted if a signal has come, and forget it.

        Args:
            iteration: completed updates.
            complete: whether nothing of the run is left to do.
        """
        signum, self.signum, self._own_signum = self.signum, 0, 0
        if signum:
            rest = "the run is complete" if complete else "give --resume to continue"
            logger.info("%s: ended after iteration %d; %s", signal_name(signum), iteration, rest)
            raise Interrupted(signum)

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
