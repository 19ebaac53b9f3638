"""Batches of training, copied to the device before they are needed."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from warmstart.data import map_tensors, to_device


def prefetched(batches: Iterator[Any], device: torch.device) -> Generator[Any, None, None]:
    """Yield the batches on `device`; each is loaded and copied while the one before it is computed with.

    On CUDA the copy runs on a stream of its own. What `batches` raises comes where its batch would have come, and
    its close() is called at the end.

    Args:
        batches: as `to_device` takes them; copied asynchronously if they are in pinned memory.
        device: where they go.

    >>> list(prefetched(iter([torch.tensor(1), torch.tensor(2)]), torch.device("cpu")))
    [tensor(1), tensor(2)]
    """
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
    error: Exception | None = None

    def load() -> list[Any]:
        nonlocal error
        try:
            batch = next(batches)  # outside of the stream: a loader may compute on the device itself
        except Exception as reason:
            error = reason
            return []
        with torch.cuda.stream(stream):  # None is the present one
            return [to_device(batch, device)]

    def keep_memory(tensor: Tensor) -> Tensor:
        # Else the next copy could get memory that the present stream still reads.
        tensor.record_stream(torch.cuda.current_stream(device))
        return tensor

    try:
        ahead = load()
        while ahead:
            batch = ahead.pop()
            if stream is not None:
                torch.cuda.current_stream(device).wait_stream(stream)
                map_tensors(keep_memory, batch)
            ahead = load()
            yield batch
            del batch  # before the next one is loaded
        if not isinstance(error, StopIteration):
            assert error is not None, "nothing was loaded"
            raise error
    finally:
        close = getattr(batches, "close", None)
        if close is not None:
            close()


def training_batches(
    loader: Iterable[Any], iteration: int, device: torch.device, ahead: bool = True
) -> Generator[Any, None, None]:
    """Yield the batches of training without end, beginning with the one of an iteration.

    Args:
        loader: with a method `batches(start)`, or any iterable, which is restarted when it ends.
        iteration: completed updates.
        device: where the batches are needed.
        ahead: whether each batch is copied to a CUDA device during the update before; not if it is split into
            micro-batches, because a complete batch may not fit.

    Raises:
        ValueError: the iterable is empty.
    """
    begin = getattr(loader, "batches", None)
    batches = begin(iteration) if begin is not None else _cycle(loader)
    if ahead and device.type == "cuda":
        return prefetched(batches, device)
    return batches


def _cycle(iterable: Iterable[Any]) -> Generator[Any, None, None]:
    while True:
        empty = True
        for item in iterable:
            empty = False
            yield item
        if empty:
            raise ValueError("the data loader gave no batch")
