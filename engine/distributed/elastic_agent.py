"""The elastic agent, which starts the ranks of a machine, monitors them and restarts them after a failure."""

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

_LEFT_BEHIND = 3  # seconds in which ranks must exit by themselves after another one has failed
_AT_ONCE = 2  # and after a second signal
FINAL = (2, 3, 4)  # exit codes that a restart would only produce again


class Rendezvous(RendezvousHandler):
    """A rendezvous of machines that is complete before torch's agent asks for it.

    torch's own "c10d" rendezvous, even on one machine, listens on all interfaces and unpickles what any client
    writes.

    Args:
        place: the store of the machines' rendezvous, and the address of the ranks'.
    """

    #: For ranks that rendezvous at a port: the launcher of machine 0 listens there, rather than rank 0.
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
    """torch's agent, except for how ranks are ended.

    When a rank fails, torch sends SIGTERM to the others, which they take for the user's request to save and stop,
    and after 30 s kills those that have not exited. Here they have three seconds to notice the failure by
    themselves. A second signal to this process also ends ranks that are waiting for each other. Failures that
    would only repeat are not retried.

    Args:
        spec: the workers to start.
        grace: seconds in which ranks must exit after a signal.
    """

    def __init__(self, spec: WorkerSpec, grace: float) -> None:
        super().__init__(spec, DefaultLogsSpecs(os.devnull))  # else it makes log folders, which stay empty
        self.grace = grace
        #: The exit code of each rank that failed: negative after a signal, `LOST` for a rank killed here.
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
        """Replace torch's `close`, which ends all ranks.

        Args:
            close: torch's own.
            death_sig: the signal to pass on; None if a rank has failed, or all have exited.
            timeout: torch's own, which is not used.
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
                late = f"it did not exit within {_LEFT_BEHIND} s after another rank failed"
                _say(f"error: rank {self._rank(local)} was killed: {late}")
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
                _say(f"{_ended(rank, code)}; restarting all ranks (restart {number} of {limit})")
        return result

    def _running(self) -> list[int]:
        """Return the local ranks that have not exited."""
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
    """Return the rank whose failure caused the others', and its exit code.

    Args:
        codes: the exit code of each rank that failed, negative after a signal.

    >>> first_failure({0: LOST, 1: 3}), first_failure({0: 143, 1: 1}), first_failure({0: LOST, 1: -9})
    ((1, 3), (1, 1), (1, -9))
    """
    # Last come the ranks that exited because another one had; before them those killed, perhaps by the system.
    order = {LOST: 2, 128 + signal.SIGTERM: 2, -signal.SIGTERM: 2, -signal.SIGKILL: 1}
    return min(codes.items(), key=lambda item: order.get(item[1], 0))


def exit_code(codes: Mapping[int, int]) -> int:
    """Return the exit code of the rank that failed first; print the signal if one killed it."""
    rank, code = first_failure(codes)
    if code < 0:
        _say(f"error: {_ended(rank, code)}")
        return 128 - code
    return code


def _ended(rank: int, code: int) -> str:
    return f"rank {rank} " + (f"was killed by {signal_name(-code)}" if code < 0 else f"exited with code {code}")


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)
