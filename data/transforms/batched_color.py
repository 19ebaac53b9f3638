"""ColorJitter for a batch: factors and their order are drawn for each image separately."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_BLENDS = ("brightness", "contrast", "saturation")  # blend an image with black, its mean grey, its grey version


def color_jitter(step: Any) -> tuple[int, Callable[[Tensor, Tensor], Tensor]]:
    """Return how many numbers an image needs, and the function that applies torchvision's ColorJitter to a batch.

    For each requested property an image gets one factor and one place in the order; all orders are equally likely.

    >>> from torchvision.transforms import v2
    >>> draws, apply = color_jitter(v2.ColorJitter(brightness=(0.5, 1.5)))
    >>> apply(torch.full((2, 1, 1, 1), 100, dtype=torch.uint8), torch.tensor([[0.0, 0.0], [0.0, 0.75]])).flatten()
    tensor([ 50, 125], dtype=torch.uint8)
    """
    blends = [kind for kind in _BLENDS if getattr(step, kind) is not None]
    kinds = [*blends, *(["hue"] if step.hue is not None else [])]
    ranges = [getattr(step, kind) for kind in kinds]
    if not kinds:
        return 0, lambda images, numbers: images

    def apply(images: Tensor, numbers: Tensor) -> Tensor:
        order, drawn = numbers[:, : len(kinds)], numbers[:, len(kinds) :]
        factors = torch.stack([low + (high - low) * drawn[:, at] for at, (low, high) in enumerate(ranges)], dim=1)
        # Hue, which costs most, comes after `before` of the blends, which are applied in their drawn order.
        before = (order[:, : len(blends)] < order[:, -1:]).sum(1)
        turns = order[:, : len(blends)].argsort(dim=1)
        for turn in range(len(blends) + 1):
            if step.hue is not None:
                images = change_where(before == turn, _shift_hue, images, factors[:, -1])
            if turn < len(blends):
                which = turns[:, turn : turn + 1]
                images = _blend(images, which, blends, factors.gather(1, which))
        return images

    return 2 * len(kinds), apply


def change_where(chosen: Tensor, change: Callable[..., Tensor], images: Tensor, *factors: Tensor) -> Tensor:
    """Return images with the chosen ones changed; `change` takes images and their factors.

    On a CPU only these are computed. On a CUDA device all are, because selecting them would synchronise with it.
    """
    if images.is_cuda:
        return torch.where(chosen[:, None, None, None], change(images, *factors), images)
    places = chosen.nonzero().flatten()
    changed = change(images[places], *(each[places] for each in factors))
    return images.index_copy(0, places, changed)


def _blend(images: Tensor, which: Tensor, blends: list[str], factors: Tensor) -> Tensor:
    """Return factor * image + (1 - factor) * other, where blends[which] determines the other of each image."""
    from torchvision.transforms.v2 import functional

    others = [torch.zeros((), device=images.device)]
    if blends != ["brightness"]:
        # torchvision truncates greys to integers, whose sum is exact.
        grey = functional.rgb_to_grayscale(images.to(torch.float32)).floor_()
        others += [grey.mean((1, 2, 3), keepdim=True), grey]
    which, factors = which[:, :, None, None], factors[:, :, None, None]
    other = others[0]
    for at, kind in enumerate(blends):
        other = torch.where(which == at, others[_BLENDS.index(kind)], other)
    # One rounding for both operations, as in torch's a + alpha * b; two would occasionally change a pixel.
    return torch.addcmul(images * factors, other, 1 - factors).clamp_(0, 255).to(torch.uint8)


def _shift_hue(images: Tensor, shifts: Tensor) -> Tensor:
    """Return RGB images with the hue of each rotated by a fraction of the circle, by way of HSV.

    Source: Smith, "Color gamut transform pairs", SIGGRAPH 1978; the operations are rounded as torchvision's are.
    """
    if images.shape[1] == 1:
        return images
    pixels = images.to(torch.float32) * (1 / 255)
    red, green, _ = pixels.unbind(1)
    low, value = pixels.aminmax(dim=1)
    chroma = value - low
    grey = chroma == 0
    saturation = chroma / torch.where(grey, 1, value)
    r, g, b = ((value[:, None] - pixels) / torch.where(grey, 1, chroma)[:, None]).unbind(1)
    hue = torch.where(value == red, b - g, torch.where(value == green, r + 2 - b, g + 4 - r))
    hue = (hue * (1 / 6) + 1).fmod_(1.0)
    sixths = hue.add_(shifts[:, None, None]).remainder_(1.0).mul_(6)
    sector = sixths.floor()
    within = saturation * (sixths - sector)
    rest = 1 - saturation
    falling, rising, least = ((share * value).clamp_(0, 1) for share in (1 - within, within + rest, rest))
    # Red over the six sectors of the circle; green is red two sectors on, blue four.
    course = torch.stack([value, falling, least, least, rising, value], dim=1)
    turned = sector.long()[:, None] + 4 * torch.arange(3, device=images.device)[:, None, None]
    return (course.gather(1, turned % 6) * 255.999).to(torch.uint8)
