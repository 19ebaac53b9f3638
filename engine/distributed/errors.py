"""Errors that ranks share, and what tells a lost peer from a mistake."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist

from warmstart.config import ConfigError

from .comm import T, broadcast_object, gather, is_main, rank, world_size
from .rendezvous import LateError

LOST = 5  # the exit code of a rank that ends since another one has

# What gloo says where the other end of a connection has died, or has not come in time. NCCL has types for it.
_LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Timed out waiting",
    "Gloo connectFullMesh failed",
)


class _Shared(ConfigError):
    """A mistake that all ranks know of."""


@contextmanager
def raise_together() -> Iterator[None]:
    """Let a ConfigError within the block, on any rank, be one on all; waits for all ranks at its end.

    Any other exception leaves this rank at once: nobody is waited for. Nor is one that all know of already: where
    a rank has left an outer block, the others hear of it in the next inner one that they reach.

    Raises:
        ConfigError: that of the lowest rank that has one.
    """
    if world_size() == 1:
        yield
        return
    problem = ""
    try:
        yield
    except _Shared:
        raise
    except ConfigError as error:
        problem = str(error) if is_main() else f"rank {rank()}: {error}"
    for each in filter(None, gather(problem)):
        raise _Shared(each)


def on_main(function: Callable[[], T]) -> T:
    """Return on all ranks what the function gives on rank 0, the only one to call it; waits for all ranks.

    Raises:
        ConfigError: the function has raised it.
    """
    result: Any = None
    with raise_together():
        if is_main():
            result = function()
    value: T = broadcast_object(result)
    return value


def local_rank_zero_first(function: Callable[[], T]) -> T:
    """Return what the function gives, called on the first rank of each machine, and then on its others.

    For what downloads or converts files, which the later ones find done. Waits for all ranks.

    Raises:
        ConfigError: the function has raised it, on any rank.
    """
    if world_size() == 1:
        return function()
    results: list[T] = []
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    for turn in (True, False):
        with raise_together():
            if first is turn:
                results.append(function())
    return results[0]


def is_lost(error: BaseException) -> bool:
    """Return whether an error only says that another rank has ended, or did not come in time.

    >>> is_lost(RuntimeError("Connection closed by peer [127.0.0.1]:1")), is_lost(RuntimeError("out of memory"))
    (True, False)
    """
    return isinstance(error, (LateError, dist.DistError)) or any(words in str(error) for words in _LOST)


def why_lost(error: BaseException) -> str:
    """Return what such an error says, without where in torch's sources it says so.

    >>> why_lost(RuntimeError("[../gloo/transport/tcp/pair.cc:537] Connection closed by peer [::1]:7. GLHF!"))
    'Connection closed by peer [::1]:7'
    >>> why_lost(RuntimeError("[../gloo/unbound_buffer.cc:1] Timed out waiting 8000ms for send operation"))
    'Timed out waiting 8000ms for send operation (DISTRIBUTED.TIMEOUT)'
    """
    text = " ".join(str(error).split())
    for words in _LOST:
        if words in text:
            text = words + text.partition(words)[2].partition(". ")[0]
            break
    return f"{text} (DISTRIBUTED.TIMEOUT)" if text.startswith("Timed out") else text
