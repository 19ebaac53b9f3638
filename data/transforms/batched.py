"""Batched forms of torchvision's transforms, which treat all images of a batch at once.

A batched transform draws nothing itself: it is a function of the images and of uniform random numbers, a few for
each image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .batched_color import change_where, color_jitter
from .registry import Transform

_ATTEMPTS = 10  # in RandomErasing, to draw a box that fits


class NoBatchedForm(ValueError):
    """A transform works image by image only; the message says which, and why."""


class BatchedTransform(NamedTuple):
    """A transform that changes each image of a batch by separate random numbers.

    Attributes:
        draws: how many numbers each image needs.
        apply: takes images (N, C, H, W) uint8 and numbers (N, draws) float32 in [0, 1), and returns images.
    """

    draws: int
    apply: Callable[[Tensor, Tensor], Tensor]


def batched_form(name: str, step: Transform) -> BatchedTransform:
    """Return the batched form of a torchvision transform, which treats each image of a batch as it does.

    Args:
        name: the transform's name in a config.
        step: the transform.

    Raises:
        NoBatchedForm: there is none.

    >>> from torchvision.transforms import v2
    >>> flip = batched_form("RandomHorizontalFlip", v2.RandomHorizontalFlip(0.25))
    >>> flip.apply(torch.tensor([[[[1, 2]]], [[[3, 4]]]]), torch.tensor([[0.2], [0.3]])).tolist()
    [[[[2, 1]]], [[[3, 4]]]]
    """
    if not type(step).__module__.startswith("torchvision."):
        raise NoBatchedForm(f"{name} is a user-defined transform")
    if name in _SAME_FOR_ALL:
        return BatchedTransform(0, lambda images, numbers: step(images))
    if name not in _FORMS:
        raise NoBatchedForm(f"{name} works image by image only")
    return _FORMS[name](step)


def is_same_for_all(name: str) -> bool:
    """Return whether a transform treats all images alike, without randomness.

    >>> is_same_for_all("Resize"), is_same_for_all("RandomCrop")
    (True, False)
    """
    return name in _SAME_FOR_ALL


def pad_for_crop(step: Any, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Return images as RandomCrop pads them, and the size (height, width) that it then crops.

    Args:
        step: torchvision's RandomCrop.
        images: (N, C, H, W).
    """
    from torchvision.transforms.v2 import functional

    # RandomCrop's own method would draw the position of a crop as well.
    left, right, top, bottom = step.padding or (0, 0, 0, 0)
    height, width = step.size
    if step.pad_if_needed:
        more_rows = max(0, height - images.shape[-2] - top - bottom)
        more_columns = max(0, width - images.shape[-1] - left - right)
        left, right, top, bottom = left + more_columns, right + more_columns, top + more_rows, bottom + more_rows
    return functional.pad(images, [left, top, right, bottom], step.fill, step.padding_mode), (height, width)


def whole_numbers(numbers: Tensor, count: int | Tensor) -> Tensor:
    """Map numbers in [0, 1) to integers from 0 to `count` - 1 with equal probability.

    >>> whole_numbers(torch.tensor([0.0, 0.24, 0.26, 0.99]), 4)
    tensor([0, 0, 1, 3])
    """
    return (
        numbers * count
    ).long()  # a float32 below 1 has 24 bits: times a count below 2^24 it stays below the count


def _now_and_then(step: Any) -> BatchedTransform:
    """Return the batched form of a transform that either changes an image in a fixed way or leaves it as it is."""

    def apply(images: Tensor, numbers: Tensor) -> Tensor:
        params = step.make_params([images])
        return change_where(numbers[:, 0] < step.p, lambda some: step.transform(some, params), images)

    return BatchedTransform(1, apply)


def _crop(step: Any) -> BatchedTransform:
    def apply(images: Tensor, numbers: Tensor) -> Tensor:
        padded, (height, width) = pad_for_crop(step, images)
        top = whole_numbers(numbers[:, 0], padded.shape[2] - height + 1)
        left = whole_numbers(numbers[:, 1], padded.shape[3] - width + 1)
        rows = top[:, None] + torch.arange(height, device=images.device)
        columns = left[:, None] + torch.arange(width, device=images.device)
        samples = torch.arange(len(images), device=images.device)[:, None, None]
        # Indices on both sides of a slice: their dimensions come first in the result.
        return padded[samples, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

    return BatchedTransform(2, apply)


def _erase(step: Any) -> BatchedTransform:
    if step.value is None:
        raise NoBatchedForm("RandomErasing with value random draws too many numbers for each image")
    low, high = (math.log(ratio) for ratio in step.ratio)

    def apply(images: Tensor, numbers: Tensor) -> Tensor:
        count, _, height, width = images.shape
        drawn = numbers[:, 1:].view(count, _ATTEMPTS, 4)
        area = height * width * (step.scale[0] + (step.scale[1] - step.scale[0]) * drawn[..., 0])
        ratio = torch.exp(low + (high - low) * drawn[..., 1])
        h, w = torch.sqrt(area * ratio).round().long(), torch.sqrt(area / ratio).round().long()
        fits = (h < height) & (w < width)
        first = fits.int().argmax(1, keepdim=True)  # the first attempt that fits
        h, w, y, x = (each.gather(1, first) for each in (h, w, drawn[..., 2], drawn[..., 3]))
        top, left = whole_numbers(y, height - h + 1), whole_numbers(x, width - w + 1)
        rows, columns = (torch.arange(size, device=images.device) for size in (height, width))
        box = ((rows >= top) & (rows < top + h))[:, :, None] & ((columns >= left) & (columns < left + w))[:, None]
        hit = (numbers[:, 0] < step.p) & fits.any(1)
        # torch.tensor would synchronise with a CUDA device.
        value = torch.cat([images.new_full((1, 1, 1), each) for each in step.value])
        return torch.where(box[:, None] & hit[:, None, None, None], value, images)

    return BatchedTransform(1 + 4 * _ATTEMPTS, apply)


_SAME_FOR_ALL = ("Resize", "CenterCrop", "Pad", "Grayscale", "RGB", "Identity")
_FORMS: dict[str, Callable[[Any], BatchedTransform]] = {
    "RandomCrop": _crop,
    "RandomErasing": _erase,
    "ColorJitter": lambda step: BatchedTransform(*color_jitter(step)),
    **dict.fromkeys(
        [
            *("RandomHorizontalFlip", "RandomVerticalFlip", "RandomGrayscale", "RandomInvert", "RandomPosterize"),
            *("RandomSolarize", "RandomAutocontrast", "RandomEqualize"),
        ],
        _now_and_then,
    ),
}
