"""Objects before and after transforms: what is left of them, and the way back to the original image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from warmstart.config import ConfigError

from ..batch import Sample

#: Entries of a sample with one row for each object.
OBJECT_ENTRIES = ("boxes", "labels", "iscrowd", "area", "masks", "keypoints", "visibility")

_LEAST_SIDE = 0.01  # pixels; narrower boxes could lose their area when the model scales them in float32


def points_in(points: Tensor, size: tuple[int, int]) -> Any:
    """Return points that transforms move along with an image, as a tensor of torchvision.tv_tensors.

    Args:
        points: float32 (..., 2), x and y in pixels from the outer corner of the top left pixel.
        size: (H, W) of the image.

    Raises:
        ConfigError: torchvision is older than 0.24, the first that does not move points outside an image onto its
            edge.
    """
    import torchvision  # slow

    if tuple(map(int, torchvision.__version__.split(".")[:2])) < (0, 24):
        raise ConfigError(
            "objects in images need torchvision 0.24 or newer, and this Python has"
            f" {torchvision.__version__}: pip install -U torch torchvision"
        )
    from .points import as_points

    return as_points(points, size)


def frame_of(size: tuple[int, int]) -> Any:
    """Return the corners of an image as points that transforms move along: (4, 2), float32.

    In order: top left, top right, bottom left, bottom right. Under the name "frame" in a sample they tell
    afterwards where each point of the image went, and whether it was mirrored.

    Args:
        size: (H, W).

    Raises:
        ConfigError: what `points_in` raises.

    >>> frame_of((2, 4)).tolist()
    [[0.0, 0.0], [4.0, 0.0], [0.0, 2.0], [4.0, 2.0]]
    """
    return points_in(_corners(size), size)


def is_mirrored(frame: Tensor) -> bool:
    """Return whether the image was mirrored, so that left and right changed sides.

    Args:
        frame: `frame_of` the image, after the transforms.

    >>> from torchvision.transforms import v2
    >>> flipped = v2.functional.horizontal_flip(frame_of((2, 4)))
    >>> is_mirrored(flipped), is_mirrored(v2.functional.vertical_flip(flipped))  # both: turned by 180 degrees
    (True, False)
    """
    (x0, y0), (x1, y1), (x2, y2), _ = frame.tolist()
    return bool((x1 - x0) * (y2 - y0) < (x2 - x0) * (y1 - y0))


def swap_sides(values: Tensor, flip_pairs: Sequence[tuple[int, int]]) -> Tensor:
    """Return values of the K keypoints of n objects, (n, K, ...), with those of each pair exchanged.

    >>> swap_sides(torch.tensor([[7, 8, 9]]), [(1, 2)])
    tensor([[7, 9, 8]])
    """
    order = list(range(values.shape[1]))
    for left, right in flip_pairs:
        order[left], order[right] = right, left
    return values[:, order]


def finish_objects(sample: Sample, flip_pairs: Sequence[tuple[int, int]] = ()) -> Sample:
    """Return a transformed sample with plain tensors, and without the objects of which nothing is left.

    - Boxes of objects with masks are fitted to the masks if the image was cropped, turned or sheared.
    - Objects whose box is then narrower or lower than 0.01 pixel are left out of all OBJECT_ENTRIES.
    - `area` changes in proportion to the area of the box.
    - In a mirror image the keypoints of each pair are exchanged.
    - Keypoints outside the image become unlabelled: 0, 0 with visibility 0.

    Args:
        sample: with "image", "boxes", "frame", "original" (the `Objects` before the transforms), and any others of
            OBJECT_ENTRIES, of which each has a row for every object of "original".
        flip_pairs: pairs of keypoints that change sides in a mirror image.

    Raises:
        ConfigError: a transform removed objects.
    """
    found = {name: sample[name].as_subclass(Tensor) for name in OBJECT_ENTRIES if name in sample}
    objects, frame, size = sample["original"], sample["frame"].as_subclass(Tensor), sample["image"].shape[-2:]
    for name, value in found.items():
        if len(value) != len(objects):
            raise ConfigError(
                f"{objects.name or 'a sample'} has {len(objects)} objects and, after the transforms, {len(value)}"
                f" {name}; leave out the transform that removes them: objects without area are removed anyway"
            )
    if "keypoints" in found:
        found |= _finished_keypoints(found["keypoints"], found["visibility"], frame, size, flip_pairs)
    kept = _have_sides(found["boxes"])
    if not torch.equal(frame, _corners(objects.size)):
        if "masks" in found and (_is_turned(frame) or _is_cropped(frame, size)):
            found["boxes"] = torch.where(kept[:, None], _boxes_of(found["masks"]), found["boxes"])
            kept = _have_sides(found["boxes"])
        if "area" in found:
            before = _areas(torch.from_numpy(objects.boxes).to(torch.float32))
            found["area"] = found["area"] * (_areas(found["boxes"]) / before.clamp(min=_LEAST_SIDE**2))
    if not kept.all():
        found = {name: value[kept] for name, value in found.items()}
    return {**sample, **found, "frame": frame}


def to_original(found: Mapping[str, Tensor], frame: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
    """Return detections in a transformed image in coordinates of the image before the transforms.

    Args:
        found: "boxes" (n, 4), maybe "masks" (n, h, w) of shares from 0 to 1 and "keypoints" (n, K, 3), on any
            device; other entries stay.
        frame: `frame_of` the image, after the transforms.
        size: (H, W) before them.

    Returns:
        Boxes are clipped to the image; masks (n, H, W) are interpolated bilinearly.

    Raises:
        ConfigError: the transforms are not affine, such as RandomPerspective.

    >>> boxes = torch.tensor([[0.0, 0.0, 1.0, 2.0]])
    >>> flipped = torch.tensor([[8.0, 0.0], [0.0, 0.0], [8.0, 4.0], [0.0, 4.0]])
    >>> to_original({"boxes": boxes}, flipped, size=(2, 4))["boxes"]
    tensor([[3.5000, 0.0000, 4.0000, 1.0000]])
    """
    masks = found.get("masks")
    if torch.equal(frame.cpu(), _corners(size)) and (masks is None or masks.shape[1:] == size):
        return dict(found)
    height, width = size
    there = frame.double().cpu()
    begin = there[0]
    forward = torch.stack([(there[1] - begin) / width, (there[2] - begin) / height])  # rows: images of x and y
    if ((there[1] + there[2] - begin - there[3]).abs() > 0.01).any():
        raise ConfigError(
            "INPUT.TRANSFORMS_TEST: predictions cannot be mapped back to the image before the transforms, because"
            " these distort it; leave out the one that does"
        )
    back = torch.linalg.inv(forward)

    def moved(points: Tensor) -> Tensor:
        original: Tensor = (points.double() - begin.to(points.device)) @ back.to(points.device)
        return original.to(points.dtype)

    x0, y0, x1, y1 = found["boxes"].unbind(1)
    corners = moved(torch.stack([x0, y0, x1, y0, x0, y1, x1, y1], dim=1).view(-1, 4, 2))
    limit = corners.new_tensor([width, height])
    boxes = torch.cat([side.clamp(min=0).minimum(limit) for side in (corners.amin(1), corners.amax(1))], dim=1)
    placed = {**found, "boxes": boxes}
    if "keypoints" in found:
        points = found["keypoints"]
        placed["keypoints"] = torch.cat([moved(points[..., :2]), points[..., 2:]], dim=-1)
    if masks is not None:
        placed["masks"] = _resampled(masks, forward.to(masks), begin.to(masks), size)
    return placed


def _finished_keypoints(
    points: Tensor, visibility: Tensor, frame: Tensor, size: torch.Size, flip_pairs: Sequence[tuple[int, int]]
) -> dict[str, Tensor]:
    if flip_pairs and is_mirrored(frame):
        points, visibility = swap_sides(points, flip_pairs), swap_sides(visibility, flip_pairs)
    height, width = size
    inside = ((points >= 0) & (points <= points.new_tensor([width, height]))).all(dim=-1)
    visibility = torch.where(inside, visibility, 0)
    return {"keypoints": torch.where(visibility[..., None] > 0, points, 0), "visibility": visibility}


def _corners(size: tuple[int, int]) -> Tensor:
    height, width = map(float, size)
    return torch.tensor([[0.0, 0.0], [width, 0.0], [0.0, height], [width, height]])


def _is_turned(frame: Tensor) -> bool:
    """Return whether the image was turned or sheared, so that its sides are not parallel to the axes."""
    right, down = frame[1] - frame[0], frame[2] - frame[0]
    return bool(torch.stack([right[1], down[0]]).abs().max() > 0.01)


def _is_cropped(frame: Tensor, size: torch.Size) -> bool:
    """Return whether a part of the original image is outside the transformed one."""
    height, width = size
    return bool((frame < -0.01).any() or (frame > frame.new_tensor([width, height]) + 0.01).any())


def _have_sides(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2] >= _LEAST_SIDE).all(dim=1)


def _areas(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _boxes_of(masks: Tensor) -> Tensor:
    """Return the boxes around masks (n, H, W); 0, 0, 0, 0 for an empty one."""
    sides = []
    for axis in (1, 2):  # over rows: which columns are covered
        covered = masks.amax(dim=axis) > 0
        places = torch.arange(1, covered.shape[1] + 1)
        last = (covered * places).amax(dim=1)
        first = covered.shape[1] - (covered * places.flip(0)).amax(dim=1)
        sides.append((torch.where(last > 0, first, 0), last))
    (x0, x1), (y0, y1) = sides
    return torch.stack([x0, y0, x1, y1], dim=1).to(torch.float32)


def _resampled(masks: Tensor, forward: Tensor, begin: Tensor, size: tuple[int, int]) -> Tensor:
    """Return masks (n, h, w) as seen in the image before the transforms: (n, H, W)."""
    rows, columns = (torch.arange(side, device=masks.device, dtype=masks.dtype) + 0.5 for side in size)
    points = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1) @ forward + begin  # (H, W, 2)
    grid = 2 * points / points.new_tensor([masks.shape[2], masks.shape[1]]) - 1
    sampled: Tensor = F.grid_sample(masks[None], grid[None], align_corners=False)[0]
    return sampled
