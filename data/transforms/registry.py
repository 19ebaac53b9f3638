"""Transforms by name: torchvision's, ours and user-defined ones."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any

from torch import Tensor

from warmstart.config import MIXING, ConfigError, call, check_arguments, gathering, unknown_name

from .unknown import unknown_transform

Transform = Callable[[Tensor], Tensor]
Entry = tuple[str, Mapping[str, Any]]

_NOT_OFFERED = {
    # take other transforms, a function or a tensor, which a config cannot express
    *("Compose", "RandomApply", "RandomChoice", "RandomOrder", "Lambda", "LinearTransformation", "Transform"),
    # need a complete batch (see mixup.py), or turn one image into several
    *("CutMix", "MixUp", "FiveCrop", "TenCrop", "UniformTemporalSubsample"),
    # done at the end of every pipeline, by INPUT.MEAN and INPUT.STD
    *("Normalize", "ToDtype", "ConvertImageDtype", "ToTensor", "ToPureTensor", "ToPILImage", "PILToTensor"),
}
#: Change boxes or key points, and so apply only to samples that have them.
NEED_TARGETS = {
    *("ClampBoundingBoxes", "ClampKeyPoints", "ConvertBoundingBoxFormat", "RandomIoUCrop"),
    *("SanitizeBoundingBoxes", "SanitizeKeyPoints", "SetClampingMode"),
}
_REGISTRY: dict[str, Callable[..., Transform]] = {}  # user-defined transforms


def register_transform(name: str, cls: Callable[..., Transform]) -> None:
    """Make `name` usable in INPUT.TRANSFORMS_TRAIN and INPUT.TRANSFORMS_TEST.

    Args:
        name: the name.
        cls: called with the arguments in the config; returns a callable that takes a uint8 image (C, H, W) and
            returns one. It may draw from torch's, Python's and numpy's global generators: all three are seeded for
            each sample. A sample whose targets are tensors of torchvision.tv_tensors (boxes, masks) is passed as
            one dict, which only a torchvision.transforms.v2.Transform takes.

    Raises:
        ConfigError: the name is taken.

    >>> register_transform("Resize", print)
    Traceback (most recent call last):
    warmstart.config.errors.ConfigError: a transform called 'Resize' exists already; choose another name
    """
    if name in (*_transforms(), *MIXING):
        raise ConfigError(f"a transform called {name!r} exists already; choose another name")
    _REGISTRY[name] = cls


@functools.cache
def library() -> dict[str, type]:
    """Return torchvision's transforms and ours by their names."""
    # Imported only when needed: it takes as long as torch itself, and not every tool reads images.
    from torchvision.transforms import v2

    from .crops import FixedSizeCrop, RandomIoUCrop

    theirs = {
        name: member
        for name, member in vars(v2).items()
        if inspect.isclass(member) and issubclass(member, v2.Transform) and name not in _NOT_OFFERED
    }
    return theirs | {"FixedSizeCrop": FixedSizeCrop, "RandomIoUCrop": RandomIoUCrop}


def _transforms() -> dict[str, Callable[..., Transform]]:
    """Return every transform that a config can name."""
    return {**library(), **_REGISTRY}


def check_transforms(entries: Iterable[Entry], label: str) -> None:
    """Raise ConfigError, with all mistakes at once, if a name or an argument is unknown or wrong.

    >>> check_transforms([("RandomCrop", {"sise": 28, "size": 28})], "INPUT.TRANSFORMS_TRAIN")
    Traceback (most recent call last):
    warmstart.config.errors.ConfigError: INPUT.TRANSFORMS_TRAIN: RandomCrop.sise: RandomCrop takes no argument \
'sise'; did you mean 'size'? It takes: size, padding, pad_if_needed, fill, padding_mode
    """
    problems: list[str] = []
    for name, arguments in entries:
        with gathering(problems):
            known = _transforms()
            if name in MIXING:
                raise ConfigError(f"{label}: {name} is for INPUT.TRANSFORMS_TRAIN only; remove it")
            if name not in known:
                raise unknown_transform(label, name, (*known, *MIXING))
            written = "" if arguments else f"{{{name}: {{%s: VALUE}}}}"
            check_arguments(f"{label}: {name}", name, known[name], arguments, written=written)
    if problems:
        raise ConfigError(problems)


def construct(where: str, name: str, arguments: Mapping[str, Any]) -> Transform:
    """Return the transform called `name`, with arguments that `check_transforms` has checked.

    Args:
        where: the key and the name, for messages.
        name: of the transform.
        arguments: of the config.

    Raises:
        ConfigError: it refuses an argument.
    """
    found: Transform = call(where, name, _transforms()[name], **_filled(where, name, arguments))
    return found


def _filled(where: str, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments as transforms take them.

    Each text is replaced by the enum member it names, as in `policy: cifar10`, and `fill` applies to images alone:
    torchvision would fill masks with it as well.
    """
    parameters = inspect.signature(_transforms()[name]).parameters
    filled = dict(arguments)
    if "fill" in arguments and name in library():
        from torchvision.tv_tensors import Image

        filled["fill"] = {**dict.fromkeys((Tensor, Image), arguments["fill"]), "others": 0}
    for argument, value in arguments.items():
        default = parameters[argument].default if argument in parameters else None
        if isinstance(default, Enum) and isinstance(value, str):
            members = {str(member.value): member for member in type(default)}
            if value not in members:
                raise unknown_name(f"{where}.{argument}", argument, value, members)
            filled[argument] = members[value]
    return filled
