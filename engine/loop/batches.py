"""Batches as the trainer takes them: tensors, in tuples, lists and dicts of whatever depth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def to_device(batch: Any, device: torch.device) -> Any:
    """Return the batch with every tensor in its tuples, lists and dicts on `device`."""
    return map_tensors(lambda tensor: tensor.to(device, non_blocking=True), batch)


def micro_batch(batch: Any, index: int, number: int) -> Any:
    """Return part `index` of `number` equal parts of a batch: of every tensor in it, along dim 0.

    The parts are views; what is not a tensor is in each of them.

    Raises:
        ValueError: a tensor cannot be cut into equal parts.

    >>> micro_batch((torch.arange(6), {"masks": torch.ones(6, 2, 2)}, "day"), index=1, number=3)[0]
    tensor([2, 3])
    """

    def cut(tensor: Tensor) -> Tensor:
        samples = len(tensor) if tensor.ndim else 0
        if not samples or samples % number:
            raise ValueError(
                f"a batch with a tensor of shape {tuple(tensor.shape)} cannot be cut into {number} equal "
                f"micro-batches: give batches whose samples, along dim 0, are a multiple of {number}"
            )
        size = samples // number
        return tensor[index * size : (index + 1) * size]

    return map_tensors(cut, batch)


def map_tensors(function: Callable[[Tensor], Tensor], batch: Any) -> Any:
    """Return the batch with `function` of every tensor in its tuples, lists and dicts in place of the tensor."""
    if isinstance(batch, Tensor):
        return function(batch)
    if isinstance(batch, Mapping):
        return {key: map_tensors(function, value) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        return type(batch)(map_tensors(function, value) for value in batch)
    return batch
