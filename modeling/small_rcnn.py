"""A small Faster, Mask or Keypoint R-CNN for small images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from warmstart.config import ConfigError

NORMS = ("group", "batch")
_POOLED, _REPRESENTATION = 5, 128  # cells a side of a pooled region; units of the box head's two layers


class SmallBackbone(nn.Module):
    """Feature maps at strides 4, 8 and 16, with `4 * width` channels each, for a feature pyramid.

    Args:
        in_channels: channels of the images.
        width: channels of the first convolution; each stage after it doubles them.
        norm: "group" (8 groups) or "batch".
    """

    def __init__(self, in_channels: int, width: int, norm: str) -> None:
        super().__init__()
        self.stem = _block(in_channels, width, norm, stride=2)
        self.stages = nn.ModuleList(
            nn.Sequential(_block(channels, 2 * channels, norm, stride=2), _block(2 * channels, 2 * channels, norm))
            for channels in (width, 2 * width, 4 * width)
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the maps by their names "0", "1", "2" for images (N, in_channels, H, W)."""
        maps, x = {}, self.stem(images)
        for number, stage in enumerate(self.stages):
            x = maps[str(number)] = stage(x)
        return maps


class PyramidBackbone(nn.Sequential):
    """A `SmallBackbone`, named body, with a feature pyramid of `out_channels` per level, named fpn."""

    out_channels: int


def small_rcnn(
    num_classes: int,
    in_channels: int,
    masks: bool = False,
    num_keypoints: int = 0,
    width: int = 16,
    norm: str = "group",
    min_size: int | Sequence[int] = 96,
    max_size: int = 192,
    anchor_sizes: Sequence[float] = (12, 24, 48),
    box_score_thresh: float = 0.05,
    box_nms_thresh: float = 0.5,
    box_detections_per_img: int = 50,
) -> nn.Module:
    """Return a Faster R-CNN (Ren et al. 2015, arXiv:1506.01497) with a feature pyramid on a small backbone.

    It has torchvision's classes and contract: forward(images, targets) returns losses in training, and
    forward(images) detections in evaluation; images are a list of floats in [0, 1], (in_channels, H, W). Designed
    for images of about 96x96 pixels: a training step with eight of them takes about 0.15 s on two cores.

    Args:
        num_classes: outputs of the box head, with the background.
        in_channels: channels of the images.
        masks: whether to predict masks (He et al. 2017, arXiv:1703.06870).
        num_keypoints: keypoints to predict of each object; 0: none.
        width: channels of the first convolution, a multiple of 8.
        norm: "group" or "batch".
        min_size: pixels of an image's shorter side, to which images are resized; of several numbers one is drawn
            for each image in training, and the last is used in evaluation.
        max_size: most pixels of the longer side.
        anchor_sizes: sides of the anchors at strides 4, 8 and 16, in pixels.
        box_score_thresh: the score below which a detection is dropped.
        box_nms_thresh: the overlap (IoU) with a better detection of its class above which one is dropped.
        box_detections_per_img: most detections per image.

    Raises:
        ConfigError: a value that is not allowed, named as MODEL.ARGS.

    >>> import torch
    >>> model = small_rcnn(num_classes=4, in_channels=3, num_keypoints=5).eval()
    >>> sorted(model([torch.zeros(3, 96, 96)])[0])
    ['boxes', 'keypoints', 'keypoints_scores', 'labels', 'scores']
    """
    _check(width, norm, anchor_sizes)
    from torchvision.models.detection import FasterRCNN  # slow to import
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign

    from .detector_parts import finish_detector

    channels = 4 * width
    backbone = PyramidBackbone()
    backbone.add_module("body", SmallBackbone(in_channels, width, norm))
    backbone.add_module("fpn", FeaturePyramidNetwork([2 * width, 4 * width, 8 * width], channels))
    backbone.out_channels = channels

    def pool(size: int) -> nn.Module:
        layer: nn.Module = MultiScaleRoIAlign(["0", "1", "2"], size, sampling_ratio=2)
        return layer

    limits: dict[str, Any] = {"pre_nms_top_n_train": 256, "post_nms_top_n_train": 128}
    limits |= {"pre_nms_top_n_test": 256, "post_nms_top_n_test": 128, "batch_size_per_image": 128}
    model: nn.Module = FasterRCNN(
        backbone,
        min_size=min_size,
        max_size=max_size,
        image_mean=[0.5] * in_channels,
        image_std=[0.25] * in_channels,
        rpn_anchor_generator=AnchorGenerator([(size,) for size in anchor_sizes], [(0.5, 1.0, 2.0)] * 3),
        box_roi_pool=pool(_POOLED),
        box_head=TwoMLPHead(channels * _POOLED**2, _REPRESENTATION),
        box_predictor=FastRCNNPredictor(_REPRESENTATION, num_classes),
        box_score_thresh=box_score_thresh,
        box_nms_thresh=box_nms_thresh,
        box_detections_per_img=box_detections_per_img,
        box_batch_size_per_image=32,  # RoIAlign's backward pass on a CPU takes as long as all else for 96
        size_divisible=16,
        **{f"rpn_{name}": value for name, value in limits.items()},
    )
    _add_heads(model.roi_heads, channels, num_classes if masks else 0, num_keypoints, pool)
    return finish_detector(model)


def _add_heads(heads: Any, channels: int, mask_classes: int, num_keypoints: int, pool: Any) -> None:
    from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
    from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

    if mask_classes:
        heads.mask_roi_pool, heads.mask_head = pool(14), MaskRCNNHeads(channels, [channels] * 2, 1)
        heads.mask_predictor = MaskRCNNPredictor(channels, channels, mask_classes)
    if num_keypoints:
        heads.keypoint_roi_pool, heads.keypoint_head = pool(14), KeypointRCNNHeads(channels, [channels] * 2)
        heads.keypoint_predictor = KeypointRCNNPredictor(channels, num_keypoints)


def _check(width: int, norm: str, anchor_sizes: Sequence[float]) -> None:
    if norm not in NORMS:
        raise ConfigError(f"MODEL.ARGS.norm: expected one of {', '.join(NORMS)}; got {norm!r}")
    if width < 8 or width % 8:
        raise ConfigError(f"MODEL.ARGS.width: expected a multiple of 8; got {width!r}")
    if len(anchor_sizes) != 3:
        raise ConfigError(f"MODEL.ARGS.anchor_sizes: expected three numbers; got {list(anchor_sizes)}")


def _block(in_channels: int, out_channels: int, norm: str, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)
    layer = nn.BatchNorm2d(out_channels) if norm == "batch" else nn.GroupNorm(8, out_channels)
    return nn.Sequential(conv, layer, nn.ReLU())
