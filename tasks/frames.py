"""The way back from a transformed image to the image before the transforms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def frame_of(size: tuple[int, int]) -> Any:
    """Return three corners of an image as key points, which transforms move along with it: (3, 2).

    Args:
        size: (H, W).
    """
    from torchvision.tv_tensors import KeyPoints

    height, width = size
    return KeyPoints(torch.tensor([[0.0, 0.0], [width, 0.0], [0.0, height]]), canvas_size=size)  # type: ignore


def to_original(found: dict[str, Tensor], frame: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
    """Return detections in coordinates of the image before the transforms.

    Args:
        found: "boxes" (n, 4), maybe "masks" (n, H, W) and "keypoints" (n, K, 3), in a transformed image.
        frame: as `frame_of` returned it, after the transforms.
        size: (H, W) before them.
    """
    height, width = size
    corners = torch.tensor([[0.0, 0.0], [width, 0.0], [0.0, height]])
    frame = frame.cpu().float()
    masks = found.get("masks")
    if torch.equal(frame, corners) and (masks is None or masks.shape[1:] == size):
        return found
    begin = frame[0].double()
    forward = torch.stack([(frame[1].double() - begin) / width, (frame[2].double() - begin) / height], dim=1)
    back = torch.linalg.inv(forward).T

    def moved(points: Tensor) -> Tensor:
        return ((points.double() - begin.to(points.device)) @ back.to(points.device)).to(points.dtype)

    boxes = moved(found["boxes"].reshape(-1, 2, 2))
    placed = {**found, "boxes": torch.cat([boxes.amin(dim=1), boxes.amax(dim=1)], dim=1)}
    if "keypoints" in found:
        points = found["keypoints"]
        placed["keypoints"] = torch.cat([moved(points[..., :2]), points[..., 2:]], dim=-1)
    if masks is not None:
        placed["masks"] = _resampled(masks, forward.to(masks), begin.to(masks), size)
    return placed


def _resampled(masks: Tensor, forward: Tensor, begin: Tensor, size: tuple[int, int]) -> Tensor:
    """Return masks (n, H, W) as seen in the image before the transforms, bilinearly."""
    rows, columns = (torch.arange(side, device=masks.device, dtype=masks.dtype) + 0.5 for side in size)
    points = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)  # (H, W, 2), x and y
    there = points @ forward.T + begin
    grid = 2 * there / torch.tensor([masks.shape[2], masks.shape[1]], device=masks.device) - 1
    sampled: Tensor = F.grid_sample(masks[None], grid[None], align_corners=False)[0]
    return sampled
