"""Errors shared between ranks, and the errors that a lost peer causes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist

from warmstart.config import ConfigError

from .comm import T, broadcast_object, gather, is_main, rank, world_size
from .rendezvous import LateError

LOST = 5  # the exit code of a rank that exits because another one did

# gloo's messages when a peer has died or timed out. NCCL's errors have types of their own.
_LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Timed out waiting",
    "Gloo connectFullMesh failed",
)


class _Shared(ConfigError):
    """An error that all ranks know of."""


@contextmanager
def raise_together() -> Iterator[None]:
    """Raise a ConfigError that any rank raises within the block on all ranks; waits for all ranks at its end.

    Any other exception propagates on this rank at once, without waiting for the others. So does an error that all
    ranks know of already: when a rank has left an outer block, the others receive its error in the next inner
    block that they reach.

    Raises:
        ConfigError: the error of the lowest rank that has one.
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
    """Call a function on rank 0 and return its result on all ranks; waits for all ranks.

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
    """Return the result of a function, called first on local rank 0 of each machine, then on the other ranks.

    For functions that download or convert files, which the other ranks then only read. Waits for all ranks.

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
    """Return whether an error only means that another rank has exited or timed out.

    >>> is_lost(RuntimeError("Connection closed by peer [127.0.0.1]:1")), is_lost(RuntimeError("out of memory"))
    (True, False)
    """
    return isinstance(error, (LateError, dist.DistError)) or any(words in str(error) for words in _LOST)


def why_lost(error: BaseException) -> str:
    """Return the message of such an error, without positions in torch's sources.

    >>> why_lost(RuntimeError("[../gloo/transport/tcp/pair.cc:537] Connection closed by peer [::1]:7. GLHF!"))
    'another rank exited or timed out: Connection closed by peer [::1]:7'
    >>> why_lost(RuntimeError("[../gloo/unbound_buffer.cc:1] Timed out waiting 8000ms for send operation"))
    'another rank exited or timed out: Timed out waiting 8000ms for send operation (DISTRIBUTED.TIMEOUT)'
    """
    if isinstance(error, LateError):
        return str(error)
    text = " ".join(str(error).split())
    for words in _LOST:
        if words in text:
            text = words + text.partition(words)[2].partition(". ")[0]
            break
    key = " (DISTRIBUTED.TIMEOUT)" if text.startswith("Timed out") else ""
    return f"another rank exited or timed out: {text}{key}"
