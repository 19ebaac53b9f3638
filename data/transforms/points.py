"""Points that torchvision's transforms move along with images and boxes."""

from __future__ import annotations

from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2


class Points(tv_tensors.KeyPoints):  # type: ignore[misc]  # torchvision is not annotated
    """Points (..., 2), x and y in pixels from the outer corner of the top left pixel, as boxes have them.

    torchvision's transforms treat key points as boxes, with one exception: its flips take them as indices of
    pixels, so that they end a pixel away from the same point of a box. The flips of this class do not.

    >>> import torch
    >>> points = as_points(torch.tensor([[1.0, 2.0]]), size=(8, 10))
    >>> v2.functional.horizontal_flip(points).tolist(), v2.functional.vertical_flip(points).tolist()
    ([[9.0, 2.0]], [[1.0, 6.0]])
    """


@v2.functional.register_kernel(v2.functional.horizontal_flip, Points)  # type: ignore[untyped-decorator]
def _flipped_horizontally(points: Points) -> Points:
    return _mirrored(points, 0, points.canvas_size[1])


@v2.functional.register_kernel(v2.functional.vertical_flip, Points)  # type: ignore[untyped-decorator]
def _flipped_vertically(points: Points) -> Points:
    return _mirrored(points, 1, points.canvas_size[0])


def _mirrored(points: Points, axis: int, side: int) -> Points:
    moved = points.as_subclass(Tensor).clone()
    moved[..., axis] = side - moved[..., axis]
    found: Points = tv_tensors.wrap(moved, like=points)
    return found


def as_points(points: Tensor, size: tuple[int, int]) -> Points:
    """Return points of an image as a tensor that transforms change.

    Args:
        points: float32 (..., 2), x and y.
        size: (H, W) of the image.
    """
    found: Points = Points(points, canvas_size=size)
    return found
