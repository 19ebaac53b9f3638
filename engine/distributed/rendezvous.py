"""Rendezvous of processes, with a message while they wait, our timeout, and signals handled meanwhile.

torch waits in C++, where Python's signal handlers do not run, silently, and with its own timeout.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store

from warmstart.config import ConfigError

from .environment import FILE

_PATIENCE = 5  # seconds until a message says how many have joined
_PAUSES = 0.01, 0.2  # seconds between two polls, at first and at last
_HERE = "here"
_PORT_PROBLEMS = {errno.EADDRINUSE: "is in use", errno.EACCES: "needs root privileges"}
# A client of torch's TCPStore sends VALIDATE and a magic number, then PING and four bytes that are echoed.
_VALIDATE = struct.pack("=BI", 0, 0x3C85F7CE)
_PING = b"\x0d"


class LateError(RuntimeError):
    """The rendezvous timed out before all had joined."""


class Place(NamedTuple):
    """The store of the launchers' rendezvous, and the address of their ranks'."""

    store: Store
    machine: int  # which one this is, from 0
    machines: int
    host: str  # of the ranks' store, or file:///PATH
    port: int


@dataclass(frozen=True)
class Participants:
    """The processes that rendezvous.

    Args:
        who: what they are, for messages: "machines".
        count: how many must join.
        prefix: of the keys in the store, which separates this attempt from earlier ones.
        again: whether the same processes may rendezvous more than once, as for a second run in them. Otherwise a
            late process counts as one that has joined before.
    """

    who: str
    count: int
    prefix: str
    again: bool = False


def rendezvous(
    address: tuple[str, int], participants: Participants, timeout: float, *, serves: bool, tells: bool = True
) -> Store:
    """Return the store through which processes exchange their addresses, once all of them have joined.

    Args:
        address: host and port of the process that `serves`; it listens only on the loopback interface if the host
            is localhost or a loopback address. If the host is file:///PATH, all open this file and none listens.
        participants: who must join.
        timeout: in seconds.
        serves: whether this process serves the store.
        tells: whether this process prints a message while it waits.

    Raises:
        ConfigError: the port is in use.
        LateError: the rendezvous timed out.

    >>> store = rendezvous(("localhost", 0), Participants("processes", count=1, prefix=""), timeout=3, serves=True)
    >>> store.set("a", "b"), store.get("a")
    (None, b'b')
    """
    (host, port), count = address, participants.count
    joining = _Joining(participants.who, count)

    def join() -> Store:
        if host.startswith(FILE):
            store: Store = dist.FileStore(host.removeprefix(FILE))  # type: ignore[attr-defined]
        elif serves:
            store = _serve(host, port, count, timeout)
        else:
            joining.until(lambda: joining.finds_store(host, port))
            store = _tcp_store(host, port, count, timeout)
        store = PrefixStore(participants.prefix, store)
        before = store.add(_HERE, 1) - 1
        # No process joins a second time before all have joined once.
        meeting = before // count if participants.again else 0
        joining.until(lambda: joining.are_there(store.add(_HERE, 0) - meeting * count))
        return PrefixStore(f"meeting {meeting}", store)

    place = host if host.startswith(FILE) else f"{host}:{port}"
    return joining.in_time(join, place, timeout, tells)


class _Joining:
    """Work that may block in C++, and what has come of it so far, for messages.

    Args:
        who: what the others are: "machines".
        count: how many there are.
    """

    def __init__(self, who: str, count: int) -> None:
        self.who, self.count = who, count
        self.state = "no server answers there"
        self._given_up = threading.Event()

    def in_time(self, work: Callable[[], Store], place: str, timeout: float, tells: bool) -> Store:
        """Return what the work does, which runs in a thread of its own: this one hears signals."""
        begin = time.monotonic()
        future: Future[Store] = Future()

        def run() -> None:
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        try:
            if not wait([future], min(_PATIENCE, timeout)).done and tells and timeout > _PATIENCE:
                limit = f"it times out after {timeout:g} s (DISTRIBUTED.TIMEOUT)"
                print(f"waiting for the rendezvous at {place}: {self.state}; {limit}", file=sys.stderr, flush=True)
            if not wait([future], max(0, begin + timeout - time.monotonic())).done:
                limit = f"timed out after {timeout:g} s (DISTRIBUTED.TIMEOUT)"
                raise LateError(f"the rendezvous at {place} {limit}: {self.state}")
            return future.result()
        finally:
            self._given_up.set()

    def until(self, done: Callable[[], bool]) -> None:
        """Return when it is done, or nobody waits for it any more."""
        pause, last = _PAUSES
        while not done() and not self._given_up.wait(pause):
            pause = min(2 * pause, last)

    def are_there(self, number: int) -> bool:
        """Return whether all have joined."""
        self.state = f"{number} of {self.count} {self.who} joined"
        return number >= self.count

    def finds_store(self, host: str, port: int) -> bool:
        """Return whether a store of torch's answers; torch would wait for one forever, or print what it got."""
        with suppress(OSError), socket.create_connection((host, port), timeout=1) as connection:
            self.state = "another program is listening there"
            number = os.urandom(4)
            connection.sendall(_VALIDATE + _PING + number)
            return connection.recv(4, socket.MSG_WAITALL) == number
        return False


def _serve(host: str, port: int, count: int, timeout: float) -> Store:
    """Return the store of a server in this process: of the one that is there already, if it has this port.

    Raises:
        ConfigError: nothing can listen at the port.
    """
    address = "127.0.0.1" if host == "localhost" else host
    is_loopback = address == "::1" or address.startswith("127.")
    try:
        if is_loopback:
            return _serve_on_loopback(address, port, count, timeout)
        return _tcp_store("localhost", port, count, timeout, is_master=True)
    except (OSError, dist.DistNetworkError) as error:
        for number, problem in _PORT_PROBLEMS.items():
            if getattr(error, "errno", None) == number or f"name: {errno.errorcode[number]}" in str(error):
                raise ConfigError(f"port {port} of this machine {problem}; choose another") from None
        raise


def _serve_on_loopback(address: str, port: int, count: int, timeout: float) -> Store:
    server: dict[str, Any] = {"is_master": True}
    try:
        # torch's own socket listens on all interfaces, whatever the host is.
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listening = socket.create_server((address, port), family=family)
        port = listening.getsockname()[1]
        # torch 2.6 and 2.7 take a socket in this backend alone.
        server |= {"master_listen_fd": listening.detach(), "use_libuv": False}
    except OSError as error:
        if error.errno != errno.EADDRINUSE:  # else perhaps by this process: torch knows its own servers
            raise
    return _tcp_store(address, port, count, timeout, **server)


def _tcp_store(host: str, port: int, count: int, timeout: float, **server: Any) -> Store:
    store: Store = dist.TCPStore(  # type: ignore[attr-defined]
        host,
        port,
        count,
        timeout=timedelta(seconds=timeout),
        wait_for_workers=False,
        multi_tenant=True,
        **server,
    )
    return store
