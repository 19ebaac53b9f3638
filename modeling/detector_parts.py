"""Parts that torchvision's detectors need to train safely: in half precision, and on images without objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.roi_heads import RoIHeads


class GuardedRoIHeads(RoIHeads):  # type: ignore[misc]  # torchvision has no types
    """torchvision's RoI heads, whose losses are 0 for a micro-batch without any region to learn from.

    The RPN may propose nothing: when all its scores are below `rpn_score_thresh`, or all boxes it decodes are
    outside the images. In training the objects' boxes are added to the proposals; but without objects torchvision
    divides 0 by 0 here, and the loss is NaN.

    Args:
        heads: torchvision's, whose modules and settings it takes over.
    """

    def __init__(self, heads: RoIHeads) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(vars(heads))

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Return detections in evaluation, else [], and losses in training, else {}, as torchvision does."""
        has_regions = any(map(len, proposals)) or any(len(each["boxes"]) for each in targets or ())
        if has_regions or not self.training:
            return super().forward(features, proposals, image_shapes, targets)  # type: ignore[no-any-return]
        # Each image is a region of background, and the losses times 0: the parameters get gradients of 0.
        proposals = [p.new_tensor([[0.0, 0.0, w, h]]) for p, (h, w) in zip(proposals, image_shapes, strict=True)]
        detections, losses = super().forward(features, proposals, image_shapes, targets)
        return detections, {name: 0 * loss for name, loss in losses.items()}


def finish_detector(model: nn.Module) -> nn.Module:
    """Return a detector of torchvision's classes that computes boxes and losses in float32, also under autocast.

    Backbone and heads follow autocast; what the heads predict, and the anchors, are float32. So box decoding,
    non-maximum suppression and losses are too. Its RoI heads become `GuardedRoIHeads`.
    """
    parts: Any = model
    heads = getattr(parts, "roi_heads", None)
    if heads is None:
        predictors = [parts.head]
    else:
        parts.roi_heads = GuardedRoIHeads(heads)
        found = (heads.box_predictor, heads.mask_predictor, heads.keypoint_predictor)
        predictors = [parts.rpn.head, *(each for each in found if each is not None)]
    for predictor in predictors:
        predictor.register_forward_hook(_in_float32)
    for module in model.modules():
        if isinstance(module, (AnchorGenerator, DefaultBoxGenerator)):
            module.register_forward_pre_hook(_anchors_in_float32)
    return model


def _in_float32(module: nn.Module, args: Any, output: Any) -> Any:
    """Return the tensors of an output of predictors as float32."""
    if isinstance(output, Tensor):
        return output.float()
    if isinstance(output, dict):
        return {name: value.float() for name, value in output.items()}
    return type(output)(_in_float32(module, args, each) for each in output)


def _anchors_in_float32(module: nn.Module, args: tuple[Any, Sequence[Tensor]]) -> tuple[Any, list[Tensor]]:
    """Return maps of the same shapes in float32, without memory: anchors get the type of their maps."""
    images, maps = args
    return images, [each.new_zeros((), dtype=torch.float32).expand(each.shape) for each in maps]
