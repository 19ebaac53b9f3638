"""Batched transforms: torchvision's bytes for a given draw, and its distribution for free draws."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from warmstart.data.transforms.batched import batched_form


def pictures(count: int = 40, channels: int = 3) -> Tensor:
    """Noise, and difficult cases of colour arithmetic: black, white, grey, few levels, pure colours."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, channels, 17, 18), dtype=torch.uint8, generator=generator)
    images[0], images[1], images[2] = 0, 255, images[2, :1]
    images[3], images[4] = images[3] // 64 * 64, images[4] // 128 * 255
    return images


def applied(step: Any, images: Tensor, numbers: Tensor) -> Tensor:
    return batched_form(type(step).__name__, step).apply(images, numbers)


ADJUST = {
    "brightness": F.adjust_brightness,
    "contrast": F.adjust_contrast,
    "saturation": F.adjust_saturation,
    "hue": F.adjust_hue,
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("kind", "value"),
    [
        *itertools.product(("brightness", "contrast", "saturation"), (0.0, 0.37, 1.5)),
        *itertools.product(["hue"], (-0.5, -0.13, 0.21, 0.5)),
    ],
)
def test_one_property_of_color_jitter_equals_torchvisions_to_the_bit(
    kind: str, value: float, channels: int
) -> None:
    images = pictures(channels=channels)
    step = v2.ColorJitter(**{kind: (value, value)})
    out = applied(step, images, torch.rand(40, 2, generator=torch.Generator().manual_seed(1)))
    assert out.dtype == torch.uint8
    assert torch.equal(out, torch.stack([step(image) for image in images]))


@pytest.mark.parametrize(
    ("ranges", "kinds"),
    [
        ({"contrast": (0.2, 1.8), "hue": (-0.5, 0.5)}, ["contrast", "hue"]),
        ({"brightness": (0.5, 1.5), "saturation": (0.0, 3.0)}, ["brightness", "saturation"]),
        (
            {"brightness": (0.5, 1.5), "contrast": (0.5, 1.5), "saturation": (0.5, 1.5), "hue": (-0.1, 0.1)},
            ["brightness", "contrast", "saturation", "hue"],
        ),
    ],
    ids=["two", "two blends", "four"],
)
def test_color_jitter_uses_the_order_and_factors_of_each_image(
    ranges: dict[str, tuple[float, float]], kinds: list[str]
) -> None:
    orders = list(itertools.permutations(range(len(kinds))))
    images, numbers = pictures(len(orders) + 5)[5:], torch.rand(len(orders), 2 * len(kinds))
    expected = []
    for image, order, row in zip(images, orders, numbers, strict=True):
        for place, kind in enumerate(order):
            row[kind] = place / 8
        for kind in order:
            low, high = ranges[kinds[kind]]
            image = ADJUST[kinds[kind]](image, float(low + (high - low) * row[len(kinds) + kind]))
        expected.append(image)
    assert torch.equal(applied(v2.ColorJitter(**ranges), images, numbers), torch.stack(expected))


def test_color_jitter_without_properties_changes_nothing() -> None:
    images = pictures()
    assert torch.equal(applied(v2.ColorJitter(), images, torch.empty(40, 0)), images)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("step", "hit"),
    [
        (v2.RandomHorizontalFlip(0.3), F.horizontal_flip),
        (v2.RandomVerticalFlip(0.3), F.vertical_flip),
        (v2.RandomGrayscale(0.3), lambda image: F.rgb_to_grayscale(image, image.shape[-3])),
        (v2.RandomInvert(0.3), F.invert),
        (v2.RandomPosterize(3, 0.3), lambda image: F.posterize(image, 3)),
        (v2.RandomSolarize(100.5, 0.3), lambda image: F.solarize(image, 100.5)),
        (v2.RandomAutocontrast(0.3), F.autocontrast),
        (v2.RandomEqualize(0.3), F.equalize),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, v2.Transform) else "",
)
def test_random_transforms_apply_below_their_probability(
    step: Any, hit: Callable[[Tensor], Tensor], channels: int
) -> None:
    images = pictures(channels=channels) // 2 + 20  # leaves room for a stretch of contrast
    numbers = torch.tensor([0.0, 0.29, 0.31, 0.99]).repeat(10)[:, None]
    expected = [hit(image) if number < 0.3 else image for image, number in zip(images, numbers, strict=True)]
    assert torch.equal(applied(step, images, numbers), torch.stack(expected))
    assert torch.equal(applied(step, images, torch.ones(40, 1)), images)
    assert not torch.equal(expected[8], images[8]) or (channels == 1 and isinstance(step, v2.RandomGrayscale))


def test_random_erasing_fills_a_box_with_a_value_per_channel() -> None:
    step = v2.RandomErasing(p=1.0, value=[7, 8.9, 250])
    form = batched_form("RandomErasing", step)
    images = torch.full((50, 3, 12, 12), 100, dtype=torch.uint8)
    out = form.apply(images, torch.rand(50, form.draws, generator=torch.Generator().manual_seed(0)))
    assert set(map(tuple, out.permute(0, 2, 3, 1).reshape(-1, 3).tolist())) == {(100, 100, 100), (7, 8, 250)}


def test_color_jitter_draws_all_orders_with_equal_probability() -> None:
    """An image that each order of given factors turns into another one tells which it was."""
    factors = {"brightness": 1.6, "contrast": 0.3, "saturation": 2.2, "hue": 0.2}
    image = pictures()[9]
    results = []
    for order in itertools.permutations(factors):
        changed = image
        for kind in order:
            changed = ADJUST[kind](changed, float(torch.tensor(factors[kind])))
        results.append(changed)
    assert len({tuple(result.flatten().tolist()) for result in results}) == 24
    count = 2400
    numbers = torch.rand(count, 8, generator=torch.Generator().manual_seed(0))
    step = v2.ColorJitter(**{kind: (value, value) for kind, value in factors.items()})
    out = applied(step, image.expand(count, -1, -1, -1), numbers).flatten(1)
    found = torch.stack([(out == result.flatten()).all(1).sum() for result in results])
    assert found.sum() == count
    assert ((found - 100) ** 2 / 100).sum() < 49.7  # chi square, 23 degrees, 1 in 1000


@pytest.mark.parametrize(
    "step",
    [
        v2.ColorJitter(0.6),
        v2.ColorJitter(contrast=0.8),
        v2.ColorJitter(saturation=0.9),
        v2.ColorJitter(hue=0.3),
        v2.ColorJitter(0.4, 0.4, 0.4, 0.1),
        v2.RandomInvert(0.3),
        v2.RandomSolarize(128, 0.7),
        v2.RandomAutocontrast(0.4),
    ],
    ids=repr,
)
def test_batched_transforms_match_torchvisions_pixel_statistics(step: Any) -> None:
    count, image = 1500, pictures()[9][:, :4, :4] // 2 + 30
    form = batched_form(type(step).__name__, step)
    ours = form.apply(
        image.expand(count, -1, -1, -1), torch.rand(count, form.draws, generator=torch.Generator().manual_seed(0))
    ).double()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = torch.stack([step(image) for _ in range(count)]).double()
    for power in (1, 2):
        a, b = ours**power, theirs**power
        error = ((a.var(0) + b.var(0)) / count).sqrt()
        assert ((a.mean(0) - b.mean(0)).abs() <= 4.5 * error).all()  # 48 pixels: by chance 1 in 3000
