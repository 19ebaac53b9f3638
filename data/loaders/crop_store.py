"""Storage of resident images: padded, beside their mirror images, in flat memory from which crops are copied."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..memory import require_memory
from ..transforms.batched import is_same_for_all, pad_for_crop, whole_numbers
from ..transforms.registry import Transform

Steps = Sequence[tuple[str, Transform]]  # (name, transform) in order

_PIECE = 1024  # images that are transformed at once when the store is filled


class Stages(NamedTuple):
    """The steps of a pipeline, divided by the time at which they are applied.

    Attributes:
        once: leading steps that treat all images alike, applied when the store is filled.
        crop: a RandomCrop that follows them, before or after `flip`; None if there is none.
        flip: a RandomHorizontalFlip that follows them; None if there is none.
        rest: steps that are applied to each batch.
    """

    once: list[tuple[str, Transform]]
    crop: Any
    flip: Any
    rest: list[tuple[str, Transform]]


def stages(steps: Steps) -> Stages:
    """Return the stages of (name, transform) in order.

    >>> [name for name, _ in stages([("Resize", abs), ("RandomCrop", abs), ("Resize", abs)]).rest]
    ['Resize']
    """
    rest, once = list(steps), []
    while rest and is_same_for_all(rest[0][0]):
        once.append(rest.pop(0))
    cuts: dict[str, Any] = {}
    while rest and rest[0][0] in ("RandomCrop", "RandomHorizontalFlip") and rest[0][0] not in cuts:
        name, step = rest.pop(0)
        cuts[name] = step
    return Stages(once, cuts.get("RandomCrop"), cuts.get("RandomHorizontalFlip"), rest)


class Layout:
    """The layout of an image in a store: padded, and beside its mirror image if it may be flipped.

    Args:
        steps: (name, transform) in order.
        shape: (C, H, W) of an image in the data set.

    Attributes:
        stages: the steps, divided by the time at which they are applied.
        shape: (mirrored, C, padded H, padded W) of the stored image; mirrored is 1 or 2.
        cut: (H, W) of a crop; the full size if images are not cropped.
    """

    def __init__(self, steps: Steps, shape: tuple[int, int, int]) -> None:
        self.stages = stages(steps)
        crop, flip = self.stages.crop, self.stages.flip
        channels, padded_height, padded_width = self.prepared(torch.zeros(1, *shape, dtype=torch.uint8)).shape[1:]
        height, width = (padded_height, padded_width) if crop is None else crop.size
        self.cut = (int(height), int(width))
        self.flip_probability = 0.0 if flip is None else float(flip.p)
        self.shape = (2 if self.flip_probability > 0 else 1, channels, padded_height, padded_width)

    def prepared(self, images: Tensor) -> Tensor:
        """Return images (N, C, H, W) after the steps that treat all images alike, padded."""
        for _, step in self.stages.once:
            images = step(images)
        return images if self.stages.crop is None else pad_for_crop(self.stages.crop, images)[0]

    def bytes(self, count: int) -> int:
        """Return the bytes of `count` images."""
        # A block may extend past its image by less than a row.
        return count * math.prod(self.shape) + self.shape[-1] * self.shape[1]


def resident_bytes(count: int, shape: tuple[int, int, int], steps: Steps) -> int:
    """Return the memory in bytes that resident images take.

    Args:
        count: number of images.
        shape: (C, H, W) of each image in the data set.
        steps: (name, transform) in order.

    >>> from torchvision.transforms import v2
    >>> steps = [("RandomCrop", v2.RandomCrop(28, padding=2)), ("RandomHorizontalFlip", v2.RandomHorizontalFlip())]
    >>> resident_bytes(60_000, (1, 28, 28), steps) == 60_000 * 2 * 32 * 32 + 32
    True
    """
    return Layout(steps, shape).bytes(count)


class Store:
    """Images on a device, and crops of them.

    A crop of h rows is one block of a channel's memory, h padded rows long, that begins at the crop's first pixel;
    the surplus of each row is sliced off afterwards. torch can view flat memory as all such overlapping blocks,
    and copy some of them. If channels come last, or nothing is cropped, a block holds all channels.

    Args:
        parts: uint8 (N, C, H, W), joined end to end.
        steps: (name, transform) in order; steps after a crop and a flip are not applied here.
        device: the device that holds the images.
        channels_last: whether images, and so crops, are stored as (H, W, C).

    Raises:
        MemoryError: they do not fit.
        ValueError: the parts' images differ in size.
    """

    def __init__(
        self,
        parts: Sequence[Tensor],
        steps: Steps,
        device: torch.device | str,
        channels_last: bool = False,
    ) -> None:
        channels, height, width = parts[0].shape[1:]
        layout = Layout(steps, (channels, height, width))
        mirrored, channels, padded_height, padded_width = layout.shape
        height, self._width = layout.cut
        self._rows, self._columns = padded_height - height + 1, padded_width - self._width + 1
        self._p = layout.flip_probability
        crops = self._rows * self._columns > 1
        self.draws = 2 * crops + (self._p > 0)

        count = sum(map(len, parts))
        require_memory(layout.bytes(count), "the resident data set", device)
        flat = torch.empty(layout.bytes(count), dtype=torch.uint8, device=device)
        used = flat[: count * math.prod(layout.shape)]
        if channels_last:
            places = used.view(count, mirrored, padded_height, padded_width, channels).permute(0, 1, 4, 2, 3)
        else:
            places = used.view(count, *layout.shape)
        self._strides = places.stride()
        _fill(places, parts, layout, device)

        planes = channels if crops and not channels_last else 1
        block = height * padded_width * channels // planes
        self._all = flat.as_strided((flat.numel() - block + 1, block), (1, 1))
        self._offsets = torch.arange(planes, device=device) * self._strides[2]
        self._channels_last = channels_last
        self._shape = (height, padded_width, channels) if channels_last else (channels, height, padded_width)

    def starts(self, indices: Tensor, numbers: Tensor) -> Tensor:
        """Return the offsets at which the blocks of each sample begin, (..., blocks), for numbers (..., draws)."""
        starts = indices * self._strides[0]
        if self._p > 0:
            starts = starts + (numbers[..., -1] < self._p) * self._strides[1]
        if self._rows * self._columns > 1:
            top, left = whole_numbers(numbers[..., 0], self._rows), whole_numbers(numbers[..., 1], self._columns)
            starts = starts + top * self._strides[3] + left * self._strides[4]
        return starts[..., None] + self._offsets

    def cut(self, starts: Tensor) -> Tensor:
        """Return images (B, C, H, W) uint8 for the rows of `starts`."""
        blocks = self._all.index_select(0, starts.view(-1))
        images = blocks.view(len(starts), *self._shape)
        return (images.permute(0, 3, 1, 2) if self._channels_last else images)[..., : self._width]


def _fill(places: Tensor, parts: Sequence[Tensor], layout: Layout, device: torch.device | str) -> None:
    """Copy images into their places (N, mirrored, C, H, W), at most `_PIECE` at a time."""
    for piece in (each for part in parts for each in torch.split(part, _PIECE)):
        prepared, place, places = layout.prepared(piece), places[: len(piece)], places[len(piece) :]
        if prepared.shape[1:] != place.shape[2:]:
            sizes = ("x".join(map(str, shape)) for shape in (place.shape[2:], prepared.shape[1:]))
            raise ValueError(f"images of the data sets differ in size: {' and '.join(sizes)} (C x H x W)")
        place[:, 0] = prepared.to(device)
        if place.shape[1] == 2:
            place[:, 1] = place[:, 0].flip(-1)
