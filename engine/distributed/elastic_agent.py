"""torch's elastic agent, which starts the ranks of a machine, watches them and starts them anew."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousInfo
from torch.distributed.elastic.rendezvous.api import RendezvousStoreInfo

from ..runtime.signals import ECHO, signal_name
from .errors import LOST
from .rendezvous import Place

_LEFT_BEHIND = 3  # seconds that ranks have to end by themselves, once another one has failed
_AT_ONCE = 2  # and after a second signal
FINAL = (2, 3, 4)  # exit codes after which the same command would end in the same way


class Rendezvous(RendezvousHandler):
    """A rendezvous that is over before torch's agent asks for it, of machines that have found each other.

    torch's own of one machine, "c10d", listens on all interfaces and unpickles what any client has written.

    Args:
        place: where they have, and where the ranks will.
    """

    #: For ranks that rendezvous at a port: the launcher of machine 0 listens there, not rank 0.
    use_agent_store = True

    def __init__(self, place: Place) -> None:
        self.place = place

    def next_rendezvous(self) -> RendezvousInfo:
        place = self.place
        where = RendezvousStoreInfo(place.host, place.port)
        return RendezvousInfo(place.store, place.machine, place.machines, where)

    def get_backend(self) -> str:
        return "warmstart"

    def get_run_id(self) -> str:
        return "warmstart"

    def num_nodes_waiting(self) -> int:
        return 0

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        pass

    def shutdown(self) -> bool:
        return True


class Agent(LocalElasticAgent):
    """torch's, with other manners where ranks end.

    Where one fails, torch sends SIGTERM to the others, which those take for the user's wish to save, and kills
    those that do not hear it after 30 s. Here they have three seconds to notice by themselves. A second signal to
    this process ends ranks that wait for each other too. Failures that would come again are not tried again.

    Args:
        spec: what is started.
        grace: seconds that ranks have after a signal.
    """

    def __init__(self, spec: WorkerSpec, grace: float) -> None:
        super().__init__(spec, DefaultLogsSpecs(os.devnull))  # else it makes folders for output that goes on
        self.grace = grace
        #: The exit codes of the ranks that have failed: negative after a signal; of one killed here `LOST`.
        self.codes: dict[int, int] = {}
        self._killed: set[int] = set()

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        started: dict[int, Any] = super()._start_workers(worker_group)
        self._killed.clear()
        context: Any = self._pcontext
        context.close = partial(self._end, context.close)
        return started

    def _end(
        self, close: Callable[..., None], death_sig: signal.Signals | None = None, timeout: float = 0
    ) -> None:
        """Stand for torch's `close`, by which it ends all ranks.

        Args:
            close: torch's own.
            death_sig: None where one has failed, or all have ended.
            timeout: torch's own; ours are others.
        """
        begin = time.monotonic()
        end = begin + (_LEFT_BEHIND if death_sig is None else self.grace)
        if death_sig is not None:
            self._send(death_sig)
        while True:
            try:
                while self._running() and time.monotonic() < end:
                    time.sleep(0.02)
                break
            except SignalException as again:
                if death_sig is None:
                    raise
                if time.monotonic() - begin > ECHO:
                    self._send(again.sigval)
                    end = min(end, time.monotonic() + _AT_ONCE)
        if death_sig is None:
            for local in self._running():
                self._killed.add(self._rank(local))
                _say(f"error: rank {self._rank(local)} did not end when another one had failed, and was killed")
        close(signal.SIGKILL)

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result: RunResult = super()._monitor_workers(worker_group)
        if result.state != WorkerState.FAILED:
            return result
        self.codes = {rank: failure.exitcode for rank, failure in result.failures.items()}
        self.codes |= dict.fromkeys(self._killed & self.codes.keys(), LOST)
        if self._remaining_restarts:
            rank, code = first_failure(self.codes)
            if code in FINAL:
                self._remaining_restarts = 0
            else:
                limit = worker_group.spec.max_restarts
                number = limit - self._remaining_restarts + 1
                _say(f"{_ended(rank, code)}; all ranks are started anew, time {number} of {limit}")
        return result

    def _running(self) -> list[int]:
        """Return the local ranks that have not ended."""
        return [local for local, handler in self._handlers().items() if handler.proc.poll() is None]

    def _send(self, signum: signal.Signals) -> None:
        for local in self._running():
            with contextlib.suppress(ProcessLookupError):
                self._handlers()[local].close(death_sig=signum)

    def _handlers(self) -> dict[int, Any]:
        context: Any = self._pcontext
        handlers: dict[int, Any] = context.subprocess_handlers
        return handlers

    def _rank(self, local: int) -> int:
        return self._worker_group.workers[local].global_rank


def first_failure(codes: Mapping[int, int]) -> tuple[int, int]:
    """Return the rank whose failure was the cause, and its exit code.

    Args:
        codes: that of each rank that failed, negative after a signal.

    >>> first_failure({0: LOST, 1: 3}), first_failure({0: 143, 1: 1}), first_failure({0: LOST, 1: -9})
    ((1, 3), (1, 1), (1, -9))
    """
    # Last come those that have ended since another had; before them those that were killed, perhaps by the system.
    order = {LOST: 2, 128 + signal.SIGTERM: 2, -signal.SIGTERM: 2, -signal.SIGKILL: 1}
    return min(codes.items(), key=lambda item: order.get(item[1], 0))


def exit_code(codes: Mapping[int, int]) -> int:
    """Return the exit code of the rank whose failure was the cause; where a signal ended it, say so."""
    rank, code = first_failure(codes)
    if code < 0:
        _say(f"error: {_ended(rank, code)}")
        return 128 - code
    return code


def _ended(rank: int, code: int) -> str:
    return f"rank {rank} " + (f"was ended by {signal_name(-code)}" if code < 0 else f"ended with exit code {code}")


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)
