"""The sizes of objects that a detector is made for: its anchors, strides and the size of its images."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

_TRIED = 320  # pixels of the side of an image with which strides are measured
Floats = npt.NDArray[np.float32]


class AnchorSizes(NamedTuple):
    """What a detector compares objects with, in pixels of the images as it resizes them.

    Attributes:
        least: side of its smallest anchors.
        greatest: side of its largest anchors.
        stride: of its finest feature map: smaller objects share a position of the map with their surroundings.
        min_size: to which the shorter side of images is resized in evaluation; 0: both sides are resized.
        max_size: most pixels of the longer side; without `min_size`, the side to which images are resized.
    """

    least: float
    greatest: float
    stride: float
    min_size: int
    max_size: int

    def scales(self, images: Floats) -> Floats:
        """Return by how much lengths grow when the model resizes images.

        Args:
            images: (n, 2), their heights and widths.

        >>> sizes = AnchorSizes(32, 512, 4, min_size=800, max_size=1333)
        >>> sizes.scales(np.array([[400, 500], [400, 1333]], np.float32)).tolist()
        [2.0, 1.0]
        """
        if not self.min_size:
            return np.asarray(self.max_size / np.sqrt(images.prod(axis=1)), np.float32)
        shorter, longer = images.min(axis=1), images.max(axis=1)
        return np.asarray(np.minimum(self.min_size / shorter, self.max_size / longer), np.float32)


def anchor_sizes(model: nn.Module, channels: int) -> AnchorSizes | None:
    """Return the sizes of objects that a detector is made for; None if it has no anchors of torchvision's kinds.

    Args:
        model: a detector; its backbone is run once.
        channels: of its images.

    >>> from warmstart.modeling.small_rcnn import small_rcnn
    >>> anchor_sizes(small_rcnn(num_classes=4, in_channels=3), 3)
    AnchorSizes(least=12.0, greatest=48.0, stride=4.0, min_size=96, max_size=192)
    """
    from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator

    resizing: Any = getattr(model, "transform", None)
    generators = [each for each in model.modules() if isinstance(each, (AnchorGenerator, DefaultBoxGenerator))]
    if not generators or not hasattr(resizing, "min_size"):
        return None
    fixed = resizing.fixed_size
    min_size, max_size = (0, fixed[0]) if fixed else (resizing.min_size[-1], resizing.max_size)
    generator: Any = generators[0]
    if isinstance(generator, AnchorGenerator):
        sides = [float(side) for level in generator.sizes for side in level]
    else:
        sides = [scale * max_size for scale in generator.scales[:-1]]
    stride = _stride(model.backbone, channels)  # type: ignore[arg-type]
    return AnchorSizes(min(sides), max(sides), stride, min_size, max_size)


def _stride(backbone: nn.Module, channels: int) -> float:
    was_training = backbone.training
    backbone.eval()
    with torch.no_grad():
        maps = backbone(torch.zeros(1, channels, _TRIED, _TRIED))
    backbone.train(was_training)
    return float(_TRIED / max(each.shape[2] for each in maps.values()))
