"""Samples, batches, and the interface that the loaders expect of a task."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from warmstart.config import ConfigError

#: One sample: "image", its targets under names that the task chooses, and "index", which the loader sets.
Sample = dict[str, Any]

_ALIGNMENT = 16  # bytes to which each tensor in a packed buffer is aligned


class Batch:
    """Images, their targets, and their indices in the data set.

    Iteration yields images and targets, so `model(*batch)` and `images, targets = batch` work.

    Args:
        images: a tensor (N, C, H, W), or a list of N tensors (C, H, W) of any sizes.
        targets: a tensor (N, ...), a list with one entry per image, or a dict of these.
        indices: (N,) int64 on the CPU, the samples' indices in the data set; None if they are not known.

    >>> batch = Batch(torch.zeros(4, 3, 8, 8), torch.tensor([5, 0, 2, 2]), torch.tensor([10, 11, 12, 13]))
    >>> images, targets = batch
    >>> len(batch), images.shape, targets.tolist()
    (4, torch.Size([4, 3, 8, 8]), [5, 0, 2, 2])
    """

    __slots__ = ("images", "indices", "targets")

    def __init__(self, images: Tensor | list[Tensor], targets: Any, indices: Tensor | None = None) -> None:
        self.images = images
        self.targets = targets
        self.indices = indices

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.images)

    def __iter__(self) -> Iterator[Any]:
        """Yield the images, then the targets."""
        yield self.images
        yield self.targets

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """Return a batch with `function` applied to every tensor of images and targets, at any depth."""
        return Batch(map_tensors(function, self.images), map_tensors(function, self.targets), self.indices)

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on a device; a copy from pinned memory does not block."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory; torch's DataLoader calls it."""
        return self.map(lambda tensor: tensor.pin_memory())

    def split(self, parts: int) -> list[Batch]:
        """Split the batch into `parts` batches of equal size along the samples; tensors are views.

        Raises:
            ValueError: `parts` does not divide the number of samples, or a target does not have one entry for
                each.

        >>> batch = Batch([torch.zeros(3, 4, 4), torch.zeros(3, 6, 8)], [{"boxes": torch.zeros(5, 4)}, {}])
        >>> [(len(part), part.targets) for part in batch.split(2)][1]
        (1, [{}])
        """
        cut = _Cut(len(self), parts)
        indices = [None] * parts if self.indices is None else cut(self.indices)
        return [Batch(*part) for part in zip(cut(self.images), cut(self.targets), indices, strict=True)]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle all tensors of a data type as one buffer, so that a worker sends one file descriptor for each."""
        return _unpack, _pack([self.images, self.targets, self.indices])


def map_tensors(function: Callable[[Tensor], Any], value: Any) -> Any:
    """Return `value` with `function` applied to every tensor in its batches, tuples, lists and dicts.

    >>> map_tensors(torch.neg, (torch.tensor(1), {"boxes": [torch.tensor(2)]}, "day"))
    (tensor(-1), {'boxes': [tensor(-2)]}, 'day')
    """
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Batch):
        return value.map(function)
    if isinstance(value, Mapping):
        return {key: map_tensors(function, each) for key, each in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(function, each) for each in value))
    if isinstance(value, (list, tuple)):
        return type(value)(map_tensors(function, each) for each in value)
    return value


def to_device(batch: Any, device: torch.device) -> Any:
    """Return a batch of any form with every tensor on `device`."""
    return map_tensors(lambda tensor: tensor.to(device, non_blocking=True), batch)


def split_batch(batch: Any, parts: int) -> list[Any]:
    """Split a batch into `parts` of equal size along the samples: a `Batch`, or a tuple, list or dict of fields.

    A tensor is split along dim 0, and a list with one entry per sample by entry; the contents of tuples, dicts and
    other lists are split in the same way. Anything else, such as a number, is repeated in each part.

    Raises:
        ValueError: `parts` does not divide the number of samples, or a field does not have one entry for each.

    >>> split_batch((torch.arange(6), {"masks": torch.ones(6, 2, 2)}, "day"), parts=3)[1][0]
    tensor([2, 3])
    """
    if isinstance(batch, Batch):
        return batch.split(parts)
    cut = _Cut(_count(batch), parts)
    if isinstance(batch, list):  # of fields, as torch's default_collate returns them
        return [list(part) for part in zip(*map(cut, batch), strict=True)]
    return cut(batch)


class _Cut:
    """Splits the fields of a batch of `count` samples into `parts`."""

    def __init__(self, count: int, parts: int) -> None:
        if not count or count % parts:
            raise ValueError(
                f"a batch of {count} samples cannot be cut into {parts} equal micro-batches: the number of samples"
                f" must be a multiple of {parts}"
            )
        self.count, self.parts, self.size = count, parts, count // parts

    def __call__(self, field: Any) -> list[Any]:
        if isinstance(field, Tensor):
            self._require(field.shape[0] if field.ndim else 0, f"a tensor of shape {tuple(field.shape)}")
            return [field[first : first + self.size] for first in range(0, self.count, self.size)]
        if isinstance(field, list) and self._is_by_sample(field):
            self._require(len(field), f"a list of {len(field)}")
            return [field[first : first + self.size] for first in range(0, self.count, self.size)]
        if isinstance(field, Mapping):
            columns = {key: self(value) for key, value in field.items()}
            return [{key: column[part] for key, column in columns.items()} for part in range(self.parts)]
        if isinstance(field, (list, tuple)):
            columns_ = [self(value) for value in field]
            return [_like(field, [column[part] for column in columns_]) for part in range(self.parts)]
        return [field] * self.parts

    def _is_by_sample(self, field: list[Any]) -> bool:
        """Return whether a list has one entry per sample; otherwise each entry is a field of all samples."""
        kinds = (Tensor, Mapping, list, tuple)
        all_fields = bool(field) and all(isinstance(each, kinds) and _count(each) == self.count for each in field)
        return len(field) == self.count or not all_fields

    def _require(self, count: int, what: str) -> None:
        if count != self.count:
            raise ValueError(
                f"a batch of {self.count} samples with {what} cannot be cut into {self.parts} micro-batches: each"
                " tensor must have one entry per sample along dim 0, and each list one entry per sample"
            )


def _count(batch: Any) -> int:
    """Return the number of samples: the length of the first tensor among the fields, else of the first list."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 0
    fields = list(batch.values() if isinstance(batch, Mapping) else batch)
    nested = (_count(field) for field in fields if isinstance(field, (Tensor, Mapping, tuple)))
    return next(filter(None, nested), 0) or next((len(field) for field in fields if isinstance(field, list)), 0)


def _like(field: Any, values: list[Any]) -> Any:
    return type(field)(*values) if hasattr(field, "_fields") else type(field)(values)


def stack_images(images: Sequence[Tensor]) -> Tensor:
    """Stack images (C, H, W) of the same size into a batch (N, C, H, W).

    Raises:
        ConfigError: they differ in size.
    """
    try:
        return torch.stack(list(images))
    except RuntimeError:
        sizes = {"x".join(map(str, image.shape)) for image in images}
        if len(sizes) < 2:
            raise
        raise ConfigError(
            "the images of a batch differ in size after the transforms: "
            f"{', '.join(sorted(sizes))} (C x H x W); end INPUT.TRANSFORMS_TRAIN and "
            "INPUT.TRANSFORMS_TEST with {Resize: {size: [224, 224]}} or a crop"
        ) from None


class SampleTask(Protocol):
    """The part of a task that the loaders use; `warmstart.tasks.Task` documents each member."""

    normalise: bool
    any_size: bool
    mixes: bool
    num_outputs: int

    @property
    def resident(self) -> bool:
        """Whether the resident loader can serve the task."""

    def sample(self, image: Tensor, target: Any) -> Sample:
        """Return the sample made of what the data set returned."""

    def check(self, sample: Sample, where: str) -> None:
        """Refuse a sample that cannot be trained on."""

    def finish(self, sample: Sample) -> Sample:
        """Return the sample in its final form, after the transforms."""

    def collate(self, samples: Sequence[Sample], training: bool) -> Batch:
        """Return a batch of samples."""

    def resident_targets(self, targets: Tensor, name: str) -> Tensor:
        """Return the checked targets of a data set that is held in memory."""


class _Place(NamedTuple):
    """The position of a packed tensor in the buffer of its data type; `begin` is -1 if it is the buffer itself."""

    dtype: torch.dtype
    begin: int
    shape: torch.Size


def _pack(fields: list[Any]) -> tuple[list[Any], dict[torch.dtype, Tensor]]:
    """Return the fields with a `_Place` for each tensor, and one buffer for each data type.

    The only tensor of a data type serves as the buffer itself and so keeps its strides and shared memory.
    """
    found: dict[torch.dtype, list[Tensor]] = {}
    for tensor in _tensors(fields):
        found.setdefault(tensor.dtype, []).append(tensor)
    begins: dict[torch.dtype, list[int]] = {}
    buffers = {dtype: tensors[0] for dtype, tensors in found.items()}
    for dtype, tensors in found.items():
        if len(tensors) == 1:
            begins[dtype] = [-1]
            continue
        step = max(1, _ALIGNMENT // dtype.itemsize)
        ends = [*accumulate(math.ceil(tensor.numel() / step) * step for tensor in tensors)]
        begins[dtype] = [0, *ends[:-1]]
        buffers[dtype] = buffer = _empty(ends[-1], dtype)
        for begin, tensor in zip(begins[dtype], tensors, strict=True):
            buffer[begin : begin + tensor.numel()].view(tensor.shape).copy_(tensor)
    rest = {dtype: iter(each) for dtype, each in begins.items()}
    placed = map_tensors(lambda tensor: _Place(tensor.dtype, next(rest[tensor.dtype]), tensor.shape), fields)
    return placed, buffers


def _tensors(fields: list[Any]) -> list[Tensor]:
    """Return the tensors in nested fields, in the order in which `map_tensors` visits them."""
    found: list[Tensor] = []
    map_tensors(lambda tensor: found.append(tensor) or tensor, fields)  # type: ignore[func-returns-value]
    return found


def _empty(size: int, dtype: torch.dtype) -> Tensor:
    """Return memory for `size` values; a worker shares it with the main process, so nothing is copied."""
    if get_worker_info() is None or not size:
        return torch.empty(size, dtype=dtype)
    shared = torch.UntypedStorage._new_shared(size * dtype.itemsize)  # type: ignore[no-untyped-call]  # as torch does
    return torch.empty(0, dtype=dtype).set_(shared)


def _unpack(placed: list[Any], buffers: Mapping[torch.dtype, Tensor]) -> Batch:
    """Rebuild the batch from what `_pack` returned; its tensors are views of the buffers."""
    return Batch(*_restored(placed, buffers))


# Not a function inside `_unpack`: one that calls itself is a reference cycle, which would keep the shared memory
# of a batch until the next garbage collection.
def _restored(value: Any, buffers: Mapping[torch.dtype, Tensor]) -> Any:
    if isinstance(value, _Place):
        buffer = buffers[value.dtype]
        size = math.prod(value.shape)
        return buffer if value.begin < 0 else buffer[value.begin : value.begin + size].view(value.shape)
    if isinstance(value, dict):
        return {key: _restored(each, buffers) for key, each in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_restored(each, buffers) for each in value))
    return type(value)(_restored(each, buffers) for each in value) if isinstance(value, (list, tuple)) else value
