"""Collective operations for everything that ranks exchange besides gradients: numbers, decisions, errors.

Each process of a run is a rank, from 0. In a run of one process all of them work too, at no cost. A collective
function says that it waits for all ranks: every rank must call it, in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

T = TypeVar("T")


def rank() -> int:
    """Return the rank of this process, from 0.

    >>> rank(), world_size(), is_main()
    (0, 1, True)
    """
    return dist.get_rank() if _is_on() else 0


def world_size() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if _is_on() else 1


def is_main() -> bool:
    """Return whether this process is rank 0, which writes the files and the console."""
    return rank() == 0


def _is_on() -> bool:
    return dist.is_available() and dist.is_initialized()


def gather(value: T) -> list[T]:
    """Return the values of all ranks, in the order of the ranks (an all-gather); waits for all ranks.

    Args:
        value: anything that can be pickled, with tensors on the CPU.

    >>> gather("here")
    ['here']
    """
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def all_reduce_max(numbers: Sequence[float]) -> list[float]:
    """Return each number's maximum over the ranks, in half the time of `gather`; waits for all ranks."""
    tensor = torch.tensor(numbers, dtype=torch.float64)
    if world_size() > 1:
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
    greatest: list[float] = tensor.tolist()
    return greatest


def broadcast_object(value: T) -> T:
    """Return the value of rank 0; waits for all ranks."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


@torch.no_grad()
def broadcast_buffers(model: nn.Module) -> None:
    """Send the buffers of rank 0, such as BatchNorm's running statistics, to all ranks; waits for all ranks."""
    if world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


@torch.no_grad()
def average(tensors: list[torch.Tensor]) -> None:
    """Replace each tensor by its mean over the ranks, in place; waits for all ranks."""
    if world_size() > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor /= world_size()
