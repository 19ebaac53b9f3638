"""Images with objects, as detectors take them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def batch_of(
    count: int, size: int = 96, objects: int = 2, channels: int = 3, keypoints: int = 0
) -> tuple[list[Tensor], list[dict[str, Any]]]:
    """Return images of noise, and targets with boxes, labels from 1, masks and keypoints; the same each time."""
    generator = torch.Generator().manual_seed(count + size)
    images = [torch.rand(channels, size, size, generator=generator) for _ in range(count)]
    targets = []
    for _ in range(count):
        corner = torch.rand(objects, 2, generator=generator) * size / 2
        boxes = torch.cat([corner, corner + size / 4], 1)
        masks = torch.zeros(objects, size, size, dtype=torch.uint8)
        for mask, (x0, y0, x1, y1) in zip(masks, boxes.long().tolist(), strict=True):
            mask[y0:y1, x0:x1] = 1
        points = torch.cat([corner + size / 8, torch.full((objects, 1), 2.0)], 1)
        targets.append(
            {
                "boxes": boxes,
                "labels": torch.arange(objects) % 2 + 1,
                "masks": masks,
                "keypoints": points[:, None].repeat(1, keypoints, 1),
            }
        )
    return images, targets
