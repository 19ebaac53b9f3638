"""The catalog of models: registered ones, torchvision's under torchvision's names, and timm's as `timm:NAME`."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from torch import nn

from warmstart.config import CfgNode, ConfigError, check_arguments, unknown_name

from .detectors import OTHER_KEYS, detector_signature
from .small_cnn import SmallCNN
from .small_rcnn import small_rcnn
from .speed_net import SpeedNet
from .timm_models import PREFIX, check_timm_name, has_timm_model, is_timm, timm_signature

_REGISTRY: dict[str, Callable[..., nn.Module]] = {
    "small_cnn": SmallCNN,
    "small_rcnn": small_rcnn,
    "speed_net": SpeedNet,
}

# The families of models that tasks train: a model of one in words, and the name of one.
_FAMILIES = {
    "classification": ("a classification model", "resnet50"),
    "detection": ("a detector", "fasterrcnn_resnet50_fpn"),
    "instance_segmentation": ("a detector with masks", "maskrcnn_resnet50_fpn"),
    "keypoint_detection": ("a detector with keypoints", "keypointrcnn_resnet50_fpn"),
}
_OUR_FAMILIES = {
    "small_cnn": ("classification",),
    "small_rcnn": ("detection", "instance_segmentation", "keypoint_detection"),
    "speed_net": ("classification",),
}

_LIST_ALL = 'python -c "import warmstart.modeling as m; print(*m.model_names())"'

# Arguments of torchvision's models that are set by another key.
_OTHER_KEYS = {
    "num_classes": "set MODEL.NUM_CLASSES instead",
    "weights": "set MODEL.WEIGHTS instead",
    "progress": "set MODEL.WEIGHTS instead",
    "transform_input": "set INPUT.MEAN and INPUT.STD instead",
}
# Arguments that torchvision's classes require and its functions (resnet18, ...) have defaults for. The other
# required ones describe the structure, which the functions fix.
_DEMANDED_BUT_FREE = {"dropout", "image_size", "input_size"}


def register_model(name: str, builder: Callable[..., nn.Module]) -> None:
    """Make `name` usable in MODEL.NAME; it takes precedence over a torchvision model with the same name.

    Args:
        name: the name.
        builder: a class or function called with the keywords num_classes and in_channels (both int) and those in
            MODEL.ARGS. It returns a module whose forward takes images (N, in_channels, H, W) and returns the
            output that the task expects, such as logits (N, num_classes) for classification. A forward with a
            parameter named `targets` gets the batch's targets in training, and None in evaluation mode. If it
            returns losses in training, a dict of 0-dim tensors by name, the model is trained on their sum alone;
            names that begin with `train/` are only recorded. The module may initialise weights from training
            images, see `InitsFromImages`.

    Raises:
        ConfigError: the name is taken, or the builder does not take the two keywords.

    >>> register_model("small_cnn", SmallCNN)
    Traceback (most recent call last):
    warmstart.config.errors.ConfigError: a model called 'small_cnn' is registered already; choose another name
    """
    if name in _REGISTRY:
        raise ConfigError(f"a model called {name!r} is registered already; choose another name")
    try:
        inspect.signature(builder).bind_partial(num_classes=10, in_channels=3)
    except TypeError:
        raise ConfigError(
            f"the builder of model {name!r} must take the keywords num_classes and in_channels"
        ) from None
    _REGISTRY[name] = builder


def model_names() -> list[str]:
    """Return the names of torchvision's and registered models that MODEL.NAME may have, sorted.

    >>> [name for name in model_names() if name.startswith(("small", "resnet"))]
    ['resnet101', 'resnet152', 'resnet18', 'resnet34', 'resnet50', 'small_cnn', 'small_rcnn']
    """
    return sorted({*_REGISTRY, *_torchvision_names()})


def registered_builder(name: str) -> Callable[..., nn.Module] | None:
    """Return the builder registered as `name`; None if there is none."""
    return _REGISTRY.get(name)


def is_ours(builder: Callable[..., nn.Module]) -> bool:
    """Return whether a registered builder belongs to this package.

    >>> is_ours(SmallCNN), is_ours(nn.Linear)
    (True, False)
    """
    return builder.__module__.startswith("warmstart.modeling.")


def check_name(name: str, label: str, family: str = "") -> None:
    """Raise ConfigError if no model is called `name`, with the most similar names, or if it is of another family.

    Args:
        name: MODEL.NAME.
        label: the key, for errors.
        family: the family of models that the task trains, see `Task.model_family`; "": any.

    >>> check_name("fasterrcnn_resnet50_fpn", "MODEL.NAME", "classification")
    Traceback (most recent call last):
    warmstart.config.errors.ConfigError: MODEL.NAME: fasterrcnn_resnet50_fpn is a detector; set MODEL.TASK to \
detection, or choose a classification model such as resnet50
    """
    families = _families(name, label)
    if families and family and family not in families:
        words, example = _FAMILIES.get(family, (f"a model for {family}", ""))
        such = f" such as {example}" if example else ""
        raise ConfigError(
            f"{label}: {name} is {_FAMILIES[families[0]][0]}; set MODEL.TASK to {families[0]}, or choose"
            f" {words}{such}"
        )


def _families(name: str, label: str) -> tuple[str, ...]:
    """Return the families that a model belongs to; () if it is user-defined.

    Raises:
        ConfigError: there is no such model, or no task trains models of its family.
    """
    if name in _REGISTRY:
        return _OUR_FAMILIES.get(name, ())
    if is_timm(name):
        check_timm_name(name, label)
        return ("classification",)
    if name in _torchvision_names():
        return (_torchvision_family(name),)
    if kind := _untrained_kind(name):
        raise ConfigError(
            f"{label}: {name} is {kind}, and none of the tasks that MODEL.TASK can name trains one yet; choose"
            " another model such as resnet50 or fasterrcnn_resnet50_fpn"
        )
    if has_timm_model(name.partition(".")[0]):
        raise ConfigError(f"{label}: {name} is a model of timm; write {PREFIX}{name}")
    near = difflib.get_close_matches(name.lower(), _torchvision_names(), n=4)
    error = unknown_name(label, "model", name, [*_REGISTRY, *near])
    raise ConfigError(f"{error}, and the others that `{_LIST_ALL}` lists; {PREFIX}NAME is a model of timm")


def check_model_arguments(
    name: str, arguments: Mapping[str, Any], label: str, given: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Raise ConfigError if the model does not take `arguments`, which the message names as keys below `label`.

    Args:
        name: MODEL.NAME, valid.
        arguments: MODEL.ARGS.
        label: the key, for errors.
        given: arguments that the task fills in, see `Task.model_arguments`.
    """
    taken = task_arguments(name, given)
    elsewhere = dict.fromkeys(taken, "it follows from MODEL.TASK and the training set; leave it out")
    signature: Callable[..., Any] | inspect.Signature
    if name in _REGISTRY:
        signature = _REGISTRY[name]
    else:
        signature = _signature(name)
        elsewhere |= _other_keys(name)
    where = arguments.label if isinstance(arguments, CfgNode) else str
    problems = [f"{label}.{where(key)}: {elsewhere[key]}" for key in arguments if key in elsewhere]
    if problems:
        raise ConfigError(problems)
    check_arguments(label, name, signature, arguments, given=("num_classes", "in_channels", *taken))


def task_arguments(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of a task's arguments that the model takes by name.

    >>> task_arguments("keypointrcnn_resnet50_fpn", {"masks": False, "num_keypoints": 5})
    {'num_keypoints': 5}
    """
    builder = _REGISTRY.get(name)
    signature = _signature(name) if builder is None else inspect.signature(builder)
    return {key: value for key, value in given.items() if key in signature.parameters}


def _signature(name: str) -> inspect.Signature:
    if is_timm(name):
        return timm_signature(name)[0]
    return detector_signature(name) if is_detector(name) else _torchvision_signature(name)


def _other_keys(name: str) -> Mapping[str, str]:
    if is_timm(name):
        return timm_signature(name)[1]
    return OTHER_KEYS if is_detector(name) else _OTHER_KEYS


def is_detector(name: str) -> bool:
    """Return whether `name` is one of torchvision's detectors, and no registered model has taken it.

    >>> is_detector("ssd300_vgg16"), is_detector("vgg16")
    (True, False)
    """
    if name in _REGISTRY or is_timm(name):
        return False
    return _torchvision_family(name) != "classification"


def has_backbone(name: str) -> bool:
    """Return whether `name` is a detector that the keys under MODEL.BACKBONE are for, and not user-defined."""
    return is_detector(name) or _REGISTRY.get(name) is small_rcnn


def torchvision_class(name: str) -> type[nn.Module]:
    """Return the class of torchvision's model `name`.

    >>> torchvision_class("wide_resnet50_2").__name__
    'ResNet'
    """
    from torchvision.models import get_model_builder

    cls = inspect.signature(get_model_builder(name), eval_str=True).return_annotation
    assert isinstance(cls, type), f"torchvision does not say what {name} returns"
    return cls


def build_torchvision(name: str, num_classes: int, arguments: dict[str, Any]) -> nn.Module:
    """Return torchvision's model `name` with random weights.

    Raises:
        TypeError, ValueError: the model does not take the values.
    """
    from torchvision.models import get_model

    # Without the argument GoogLeNet and Inception v3 warn and then behave as for True.
    defaults: dict[str, Any] = (
        {"init_weights": True} if "init_weights" in _torchvision_signature(name).parameters else {}
    )
    try:
        return get_model(name, num_classes=num_classes, **(defaults | arguments))  # type: ignore[no-any-return]
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError) as error:
        # What torchvision's models raise for unexpected values, if they check them at all.
        raise ValueError(str(error) or type(error).__name__) from error


def _torchvision_names() -> list[str]:
    # Imported only when needed: it takes seconds, which a run with a registered model should not pay.
    import torchvision.models as models

    return [*models.list_models(module=models), *models.list_models(module=models.detection)]


def _torchvision_family(name: str) -> str:
    import torchvision.models as models

    if name not in models.list_models(module=models.detection):
        return "classification"
    kinds = {"mask": "instance_segmentation", "keypoint": "keypoint_detection"}
    return next((family for start, family in kinds.items() if name.startswith(start)), "detection")


def _untrained_kind(name: str) -> str:
    """Return in words what torchvision's model `name` is if no task trains it; "" if torchvision has none."""
    import torchvision.models

    kinds = {
        "segmentation": "a model for semantic segmentation",
        "video": "a model for videos",
        "optical_flow": "a model for optical flow",
        "quantization": "a quantized model",
    }
    for module, kind in kinds.items():
        if name in torchvision.models.list_models(module=getattr(torchvision.models, module)):
            return kind
    return ""


def _torchvision_signature(name: str) -> inspect.Signature:
    """Return the arguments that a config can give to torchvision's model `name`; all are optional."""
    parameters = inspect.signature(torchvision_class(name), eval_str=True).parameters.values()
    free = [
        p.replace(default=None if p.default is p.empty else p.default)
        for p in parameters
        if p.name not in _OTHER_KEYS
        and p.kind is p.POSITIONAL_OR_KEYWORD
        and (p.default is not p.empty or p.name in _DEMANDED_BUT_FREE)
        and "Callable" not in str(p.annotation)  # a config cannot hold functions
    ]
    return inspect.Signature(free)
