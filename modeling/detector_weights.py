"""Weights for detectors: those of a classifier for the backbone, and the outputs of classes by their names."""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .detector_backbone import body_of, name_in_body
from .fitting import WeightsFile, fit_weights

logger = logging.getLogger(__name__)

# Tensors with outputs for each class. In R-CNN's heads the outputs of a class follow each other; in the others,
# which predict for every anchor, those of an anchor do.
_BY_CLASS = re.compile(r"(box_predictor\.(cls_score|bbox_pred)|mask_predictor\.mask_fcn_logits)\.(weight|bias)$")
_BY_ANCHOR = re.compile(r"classification_head\.(cls_logits|module_list\.\d+(\.1)?)\.(weight|bias)$")

# Models whose published weights COCO_V1 were trained when FrozenBatchNorm2d added nothing to the variance.
_WITHOUT_EPS = (
    "fasterrcnn_resnet50_fpn",
    "keypointrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn",
    "retinanet_resnet50_fpn",
)


def fit_backbone(model: nn.Module, file: WeightsFile, label: str, partial: bool) -> str:
    """Copy a classifier's weights into a detector's backbone; result and errors as for `fit_weights`."""
    body = body_of(model)

    def renamed(found: Mapping[str, Any]) -> Mapping[str, Any]:
        return _like(found, {name_in_body(body, str(name)): value for name, value in found.items()})

    return f"backbone: {fit_weights(body, file, label, partial, 0, renamed)}"


def detector_filter(
    model: nn.Module, name: str, file: WeightsFile, classes: Sequence[str]
) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    """Return what makes the tensors of a detector's file those of `model`, for `fit_weights`.

    If the file's classes are known, and all of `classes` are among them, the outputs of these classes are chosen
    from the file's, in the order of `classes`.

    Args:
        model: the detector.
        name: MODEL.NAME.
        file: published weights, which are known by the name of their file; a run's checkpoint, which has the names
            of its classes; or any other file.
        classes: the names of the training set's classes, without background.
    """
    published = _published(name).get(file.path.name)
    known = _classes_of(published, file.content)

    def convert(found: Mapping[str, Any]) -> Mapping[str, Any]:
        tensors = dict(found)
        if published is not None and published.name == "COCO_V1" and name in _WITHOUT_EPS:
            _fold_norms(model, tensors)
        if classes and {*classes} <= {*known[1:]} and [*classes] != known[1:]:
            _choose_outputs(tensors, [0, *(known.index(each, 1) for each in classes)], len(known))
            logger.info(
                "the heads begin with the outputs of the %d classes, found by name among the %d of %s",
                len(classes),
                len(known) - 1,
                file.path,
            )
        return _like(found, tensors)

    return convert


def _like(found: Mapping[str, Any], tensors: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a state dict with the versions of another; without any, torchvision takes it for an old one, too."""
    state = OrderedDict(tensors)
    state._metadata = getattr(found, "_metadata", {})  # type: ignore[attr-defined]
    return state


def _published(name: str) -> dict[str, Any]:
    """Return torchvision's weights of a detector by the names of their files."""
    from torchvision.models import get_model_weights

    try:
        return {each.url.rpartition("/")[2]: each for each in get_model_weights(name)}
    except ValueError:  # ours
        return {}


def _classes_of(published: Any, content: Any) -> list[str]:
    """Return the names of a file's classes, the background first; ["background"] if they are not known."""
    if published is not None:
        return [*published.meta["categories"]]
    saved = content.get("classes") if isinstance(content, Mapping) else None
    return ["background", *(map(str, saved) if isinstance(saved, (list, tuple)) else ())]


def _choose_outputs(tensors: dict[str, Any], rows: Sequence[int], count: int) -> None:
    """Replace the tensors with outputs for `count` classes by the outputs of the classes `rows`."""
    for name, tensor in tensors.items():
        by_anchor = _BY_ANCHOR.search(name)
        if isinstance(tensor, Tensor) and (by_anchor or _BY_CLASS.search(name)) and len(tensor) % count == 0:
            sizes = (-1, count, 1) if by_anchor else (1, count, -1)
            outputs: Tensor = tensor.unflatten(0, sizes)  # type: ignore[no-untyped-call]
            tensors[name] = outputs[:, [*rows]].flatten(0, 2)


def _fold_norms(model: nn.Module, tensors: dict[str, Any]) -> None:
    """Write frozen norms without eps so that they compute the same with it, wherever the weights are used next.

    torchvision sets eps to 0 in the modules instead, which no checkpoint would hold.
    """
    from torchvision.ops import FrozenBatchNorm2d

    for name, norm in model.named_modules():
        if isinstance(norm, FrozenBatchNorm2d) and f"{name}.running_var" in tensors:
            weight, bias, mean, variance = (
                tensors[f"{name}.{each}"] for each in ("weight", "bias", "running_mean", "running_var")
            )
            scale = weight * variance.rsqrt()
            tensors[f"{name}.weight"], tensors[f"{name}.bias"] = scale, bias - mean * scale
            tensors[f"{name}.running_mean"] = torch.zeros_like(mean)
            tensors[f"{name}.running_var"] = torch.full_like(variance, 1 - norm.eps)
