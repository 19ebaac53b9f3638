"""The catalog of models: registered ones, torchvision's under torchvision's names, and timm's as `timm:NAME`."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from warmstart.config import CfgNode, ConfigError, check_arguments, unknown_name

from .small_cnn import SmallCNN
from .speed_net import SpeedNet
from .timm_models import PREFIX, check_timm_name, has_timm_model, is_timm, timm_signature

_REGISTRY: dict[str, Callable[..., nn.Module]] = {"small_cnn": SmallCNN, "speed_net": SpeedNet}

_LIST_ALL = 'python -c "import torchvision.models as m; print(*m.list_models(module=m))"'

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
    ['resnet101', 'resnet152', 'resnet18', 'resnet34', 'resnet50', 'small_cnn']
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


def check_name(name: str, label: str) -> None:
    """Raise ConfigError, with the most similar names, if no model is called `name`.

    >>> check_name("fasterrcnn_resnet50_fpn", "MODEL.NAME")
    Traceback (most recent call last):
    warmstart.config.errors.ConfigError: MODEL.NAME: fasterrcnn_resnet50_fpn is a detector, and none of the tasks \
that MODEL.TASK can name trains one yet; choose a classification model such as resnet50
    """
    if name in _REGISTRY:
        return
    if is_timm(name):
        check_timm_name(name, label)
    elif name not in _torchvision_names():
        kind = _other_kind(name)
        if kind:
            raise ConfigError(
                f"{label}: {name} is {kind}, and none of the tasks that MODEL.TASK can name trains one yet; choose"
                " a classification model such as resnet50"
            )
        if has_timm_model(name.partition(".")[0]):
            raise ConfigError(f"{label}: {name} is a model of timm; write {PREFIX}{name}")
        near = difflib.get_close_matches(name.lower(), _torchvision_names(), n=4)
        error = unknown_name(label, "model", name, [*_REGISTRY, *near])
        raise ConfigError(f"{error}, and the others that `{_LIST_ALL}` lists; {PREFIX}NAME is a model of timm")


def check_model_arguments(name: str, arguments: Mapping[str, Any], label: str) -> None:
    """Raise ConfigError if the model does not take `arguments`, which the message names as keys below `label`."""
    if name in _REGISTRY:
        check_arguments(label, name, _REGISTRY[name], arguments, given=("num_classes", "in_channels"))
        return
    signature, others = timm_signature(name) if is_timm(name) else (_torchvision_signature(name), _OTHER_KEYS)
    where = arguments.label if isinstance(arguments, CfgNode) else str
    elsewhere = [f"{label}.{where(key)}: {others[key]}" for key in arguments if key in others]
    if elsewhere:
        raise ConfigError(elsewhere)
    check_arguments(label, name, signature, arguments)


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
    import torchvision.models

    return torchvision.models.list_models(module=torchvision.models)  # type: ignore[no-any-return]


def _other_kind(name: str) -> str:
    """Return in words what torchvision's model `name` is if it is not a classifier; "" if torchvision has none."""
    import torchvision.models

    kinds = {
        "detection": "a detector",
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
