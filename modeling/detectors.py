"""torchvision's detectors: the arguments that a config can give them, and their construction without weights."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from warmstart.config import CfgNode, ConfigError

from .stem import set_in_channels

#: Arguments of torchvision's detectors that are set by another key.
OTHER_KEYS = {
    "num_classes": "set MODEL.NUM_CLASSES instead",
    "weights": "set MODEL.WEIGHTS instead",
    "weights_backbone": "set MODEL.WEIGHTS to backbone:IMAGENET1K_V1 instead",
    "progress": "set MODEL.WEIGHTS instead",
    "trainable_backbone_layers": "set MODEL.BACKBONE.FREEZE_AT, which counts the frozen stages, instead",
    "norm_layer": "set MODEL.BACKBONE.NORM instead",
}
# Arguments that are modules, by the ends of their names, and the size of SSD's images, which its builders fix.
_MODULES = ("backbone", "generator", "head", "pool", "predictor", "matcher")
_FIXED = ("size", "fixed_size")
_LISTS = ("min_size", "image_mean", "image_std", "bbox_reg_weights")  # that take a list; some also one number


def detector_signature(name: str) -> inspect.Signature:
    """Return the arguments that a config can give to torchvision's detector `name`; all are optional.

    They are those of torchvision's function, of the class that it builds, and of the transform inside it.

    >>> "rpn_nms_thresh" in detector_signature("maskrcnn_resnet50_fpn").parameters
    True
    """
    from torchvision.models import get_model_builder
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    builder = inspect.signature(get_model_builder(name), eval_str=True)
    cls = builder.return_annotation
    sources = [builder, inspect.signature(cls, eval_str=True)]
    if cls.__name__ != "SSD":  # whose images have one size
        sources.append(inspect.signature(GeneralizedRCNNTransform))
    free = {each.name: each for source in reversed(sources) for each in _free(source)}
    return inspect.Signature([each for name, each in sorted(free.items())])


def _free(signature: inspect.Signature) -> Iterator[inspect.Parameter]:
    for each in signature.parameters.values():
        if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD) or each.name in (*OTHER_KEYS, *_FIXED):
            continue
        if each.name.endswith(_MODULES):
            continue
        default = None if each.default is each.empty else each.default
        annotation = each.annotation
        if annotation is each.empty and type(default) in (bool, int, float):
            annotation = type(default)  # most of torchvision's classes have none
        if each.name in _LISTS:
            annotation = each.empty
        yield each.replace(kind=each.KEYWORD_ONLY, default=default, annotation=annotation)


def check_detector_values(arguments: Mapping[str, Any], channels: int, label: str) -> None:
    """Raise ConfigError for values of arguments that torchvision would fail on only when an image comes.

    Args:
        arguments: MODEL.ARGS.
        channels: of the images; 0: not known yet.
        label: the key, for errors.
    """
    means = f"{channels or 3} numbers, one for each channel"
    counts = {"min_size": (0, "pixels"), "bbox_reg_weights": (4, "four numbers")}
    counts |= dict.fromkeys(("image_mean", "image_std"), (channels, means))
    problems = []
    for name, (count, expected) in counts.items():
        value = arguments.get(name)
        if value is None:
            continue
        numbers = [*value] if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        is_number = [isinstance(each, (int, float)) and not isinstance(each, bool) for each in numbers]
        right = bool(numbers) and all(is_number) and (count or len(numbers)) == len(numbers)
        if name == "min_size":
            right = right and all(isinstance(each, int) and each > 0 for each in numbers)
            expected = "a whole number of pixels above 0, or a list of them"
        elif name == "image_std":
            right, expected = right and 0 not in numbers, f"{expected}, none of them 0"
        if not right:
            where = f"{label}.{arguments.label(name) if isinstance(arguments, CfgNode) else name}"
            problems.append(f"{where}: expected {expected}; got {value!r}")
    if problems:
        raise ConfigError(problems)


def build_detector(name: str, num_classes: int, channels: int, arguments: Mapping[str, Any]) -> nn.Module:
    """Return torchvision's detector `name` with random weights, for images of `channels` channels.

    Args:
        name: torchvision's.
        num_classes: outputs per box, with the background.
        channels: of the images. For other than three, the mean and the standard deviation that the detector
            normalises with are the averages of torchvision's, unless they are among the arguments.
        arguments: MODEL.ARGS, valid.

    Raises:
        TypeError, ValueError: the model does not take the values.
    """
    from torchvision.models import get_model

    from .detector_parts import finish_detector

    try:
        # Both kinds of weights are given, because their defaults are downloaded.
        model = get_model(name, weights=None, weights_backbone=None, num_classes=num_classes, **arguments)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError) as error:
        raise ValueError(str(error) or type(error).__name__) from error
    set_in_channels(model, channels)
    for attribute in ("image_mean", "image_std"):
        values = getattr(model.transform, attribute)
        if arguments.get(attribute) is None and len(values) != channels:
            setattr(model.transform, attribute, [sum(values) / len(values)] * channels)
    return finish_detector(model)
