"""Crops of images with objects that torchvision lacks, or that do not end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional


class FixedSizeCrop(v2.Transform):  # type: ignore[misc]  # torchvision is not annotated
    """Crops a random part of the size asked for; an image that is smaller is padded at the right and the bottom.

    After ScaleJitter it is large-scale jittering: Ghiasi et al., "Simple copy-paste is a strong data augmentation
    method for instance segmentation", CVPR 2021. Masks are padded with 0.

    Args:
        size: (H, W), or one number for both.
        fill: of the padding: a pixel value from 0 to 255, or one for each channel.

    >>> crop = FixedSizeCrop(size=[2, 4], fill=7)
    >>> crop(torch.zeros(1, 9, 3, dtype=torch.uint8))[0].tolist()
    [[0, 0, 0, 7], [0, 0, 0, 7]]
    """

    def __init__(self, size: int | Sequence[int], fill: float | Sequence[float] | dict[Any, Any] = 0) -> None:
        super().__init__()
        sides = [size, size] if isinstance(size, int) else list(size)
        if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
            raise ValueError(f"size is a whole number of pixels above 0, or [height, width]; got {size!r}")
        self.size = sides
        self.fill = fill if isinstance(fill, dict) else {torch.Tensor: fill, tv_tensors.Image: fill}

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Return the place of the crop, drawn from torch's generator, and the padding of the cropped image."""
        image = next(each for each in flat_inputs if isinstance(each, torch.Tensor))
        sides = functional.get_size(image)
        begins = [int(torch.randint(max(0, side - to) + 1, ())) for side, to in zip(sides, self.size, strict=True)]
        kept = [min(side, to) for side, to in zip(sides, self.size, strict=True)]
        padding = [0, 0, self.size[1] - kept[1], self.size[0] - kept[0]]  # left, top, right, bottom
        return {"crop": (*begins, *kept), "padding": padding}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Return the image, boxes, masks or points cropped and padded."""
        inpt = self._call_kernel(functional.crop, inpt, *params["crop"])
        if not any(params["padding"]):
            return inpt
        return self._call_kernel(functional.pad, inpt, params["padding"], fill=self.fill.get(type(inpt), 0))


class RandomIoUCrop(v2.RandomIoUCrop):  # type: ignore[misc]
    """torchvision's crop, which leaves images without objects as they are: there it would try without end.

    Args:
        min_scale: of a side, as a share.
        max_scale: of a side, as a share.
        min_aspect_ratio: of the crop.
        max_aspect_ratio: of the crop.
        sampler_options: least overlaps with a box, of which one is drawn; 1 leaves the image as it is, and must be
            among them, because no crop may be found for the others. Default: 0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.
        trials: how many crops are tried before another overlap is drawn.
    """

    def __init__(
        self,
        min_scale: float = 0.3,
        max_scale: float = 1.0,
        min_aspect_ratio: float = 0.5,
        max_aspect_ratio: float = 2.0,
        sampler_options: list[float] | None = None,
        trials: int = 40,
    ) -> None:
        if sampler_options is not None and not any(option >= 1 for option in sampler_options):
            raise ValueError(
                "sampler_options must contain 1, which leaves an image as it is if no crop fits; got"
                f" {sampler_options}"
            )
        super().__init__(min_scale, max_scale, min_aspect_ratio, max_aspect_ratio, sampler_options, trials)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Return the place of the crop; {} if the image stays as it is."""
        boxes = next(each for each in flat_inputs if isinstance(each, tv_tensors.BoundingBoxes))
        found: dict[str, Any] = super().make_params(flat_inputs) if len(boxes) else {}
        return found
