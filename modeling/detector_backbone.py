"""The backbones of detectors: their stages, frozen norms, and the names that a classifier's weights have there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import nn

#: torchvision's classifiers that its detectors are built on; one is part of each detector's name.
CLASSIFIERS = ("resnet50", "mobilenet_v3_large", "vgg16")


def backbone_classifier(name: str) -> str:
    """Return the classifier that torchvision's detector `name` is built on; "" if `name` is no such detector.

    >>> backbone_classifier("maskrcnn_resnet50_fpn_v2")
    'resnet50'
    """
    return next((each for each in CLASSIFIERS if each in name and each != name), "")


def trained_defaults(name: str) -> tuple[int, str]:
    """Return how torchvision trains the backbone of its detector `name` from weights: frozen stages, and the norm.

    >>> trained_defaults("fasterrcnn_resnet50_fpn"), trained_defaults("retinanet_resnet50_fpn_v2")
    ((2, 'FrozenBN'), (2, 'BN'))
    """
    if name.startswith("ssd"):
        return int(name == "ssd300_vgg16"), "BN"
    frozen = {"resnet50": 2, "mobilenet_v3_large": 3}.get(backbone_classifier(name), 0)
    return frozen, "FrozenBN" if frozen and not name.endswith("_v2") else "BN"


def body_of(model: nn.Module) -> Any:
    """Return the part of a detector that a classifier's weights fill: its backbone without the feature pyramid."""
    backbone: Any = model.backbone
    return getattr(backbone, "body", backbone)


def freeze_stages(model: nn.Module, count: int) -> None:
    """Let the first stages of a detector's backbone get no gradient: 1 is the stem, 2 the first stage as well.

    Raises:
        ValueError: it has fewer stages.
    """
    stages = _stages(body_of(model))
    if count > len(stages):
        raise ValueError(f"the backbone has {len(stages)} stages, the stem among them")
    for stage in stages[:count]:
        for module in stage:
            module.requires_grad_(False)


def freeze_norms(model: nn.Module) -> None:
    """Replace BatchNorm in a detector's backbone by torchvision's FrozenBatchNorm2d, which has no parameters.

    Raises:
        ValueError: there is none.
    """
    from torchvision.ops import FrozenBatchNorm2d

    body = body_of(model)
    norms = {name: each for name, each in body.named_modules() if isinstance(each, nn.BatchNorm2d)}
    if not norms:
        raise ValueError("the backbone has no BatchNorm")
    for name, norm in norms.items():
        body.set_submodule(name, FrozenBatchNorm2d(norm.num_features, norm.eps))


def _stages(body: Any) -> list[Sequence[nn.Module]]:
    """Return the modules of each stage from the images on, as torchvision counts stages."""
    if hasattr(body, "layer4"):  # ResNet
        return [[body.conv1, body.bn1], [body.layer1], [body.layer2], [body.layer3], [body.layer4]]
    if hasattr(body, "stem"):  # ours
        return [[body.stem], *([stage] for stage in body.stages)]
    if not hasattr(body, "extra"):  # MobileNet with a pyramid
        blocks = [[each] for each in body.children()]
        starts = [number for number, (each,) in enumerate(blocks) if getattr(each, "_is_cn", False)]
        starts.append(len(blocks) - 1)
    elif len(body.features) == 2:  # SSDLite divides a block between the first two feature maps
        first, second = ([*part] for part in body.features)
        blocks = [*([each] for each in first[:-1]), [first[-1], second[0]], *([each] for each in second[1:])]
        starts = [number for number, each in enumerate(blocks) if getattr(each[0], "_is_cn", False)]
        starts += [len(first) - 1, len(blocks) - 1]
    else:  # VGG, whose last part in extra[0] replaces the classifier
        blocks = [[each] for each in (*body.features, *body.extra[0][:-1])]
        starts = [number for number, (each,) in enumerate(blocks) if isinstance(each, nn.MaxPool2d)]
    ends = [*starts, len(blocks)]
    parts = [blocks[start:end] for start, end in zip([0, *starts], ends, strict=True)]
    return [[module for block in part for module in block] for part in parts]


def name_in_body(body: Any, name: str) -> str:
    """Return the name that a parameter of torchvision's classifier has in a detector's `body_of`."""
    match = re.fullmatch(r"features\.(\d+)\.(.*)", name)
    if match is None or hasattr(body, "layer4"):
        return name
    block, rest = int(match[1]), match[2]
    if not hasattr(body, "extra"):
        return f"{block}.{rest}"
    if len(body.features) != 2:
        split = len(body.features)
        return name if block < split else f"extra.0.{block - split}.{rest}"
    split = len(body.features[0]) - 1
    if block != split:
        return f"features.0.{block}.{rest}" if block < split else f"features.1.{block - split}.{rest}"
    layer, _, last = rest.removeprefix("block.").partition(".")
    return f"features.0.{block}.{last}" if layer == "0" else f"features.1.0.{layer}.{last}"
