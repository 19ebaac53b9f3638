"""What the processes of a run tell each other beside gradients: numbers, decisions, mistakes.

Each process is a rank, from 0. All here works in a run of one process too, where it costs nothing. A function that
waits for all ranks says so: it is to be reached by each of them, in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

T = TypeVar("T")


def rank() -> int:
    """Return which process this is, from 0.

    >>> rank(), world_size(), is_main()
    (0, 1, True)
    """
    return dist.get_rank() if _is_on() else 0


def world_size() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if _is_on() else 1


def is_main() -> bool:
    """Return whether this process is the one that writes files and the console: rank 0."""
    return rank() == 0


def _is_on() -> bool:
    return dist.is_available() and dist.is_initialized()


def gather(value: T) -> list[T]:
    """Return what each rank has given, in the order of the ranks; waits for all of them.

    Args:
        value: anything that can be pickled; tensors in it lie on the CPU.

    >>> gather("here")
    ['here']
    """
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def all_reduce_max(numbers: Sequence[float]) -> list[float]:
    """Return the greatest on any rank of each number, in half the time of `gather`; waits for all ranks."""
    tensor = torch.tensor(numbers, dtype=torch.float64)
    if world_size() > 1:
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
    greatest: list[float] = tensor.tolist()
    return greatest


def broadcast_object(value: T) -> T:
    """Return what rank 0 has given; waits for all ranks."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


@torch.no_grad()
def broadcast_buffers(model: nn.Module) -> None:
    """Give all ranks the buffers of rank 0, as BatchNorm's running statistics; waits for all ranks."""
    if world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


@torch.no_grad()
def average(tensors: list[torch.Tensor]) -> None:
    """Replace tensors by their mean over the ranks; waits for all ranks."""
    if world_size() > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor /= world_size()
