"""The path from a data set's image to the model's input: transforms by name, then normalisation."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from warmstart.config import MIXING, ConfigError, call, check_arguments, gathering, unknown_name

from ..batch import Sample
from ..datasets.decode import to_tensor
from ..seeds import random_numbers_kept
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
_PLAIN = {Tensor, int, float, bool, str, type(None)}  # types of targets that no transform changes
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
def _torchvision() -> dict[str, type]:
    """Return torchvision's transforms by their names."""
    # Imported only when needed: it takes as long as torch itself, and not every tool reads images.
    from torchvision.transforms import v2

    return {
        name: member
        for name, member in vars(v2).items()
        if inspect.isclass(member) and issubclass(member, v2.Transform) and name not in _NOT_OFFERED
    }


def _transforms() -> dict[str, Callable[..., Transform]]:
    """Return every transform that a config can name."""
    return {**_torchvision(), **_REGISTRY}


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


def build_transform(
    entries: Iterable[Entry], mean: Sequence[float], std: Sequence[float], label: str
) -> ImageTransform:
    """Return the full transform from a data set's image to the model's input.

    Args:
        entries: (name, arguments) in order, as in INPUT.TRANSFORMS_TRAIN.
        mean: one value, or one per channel.
        std: one value, or one per channel.
        label: the key that holds `entries`, for messages.

    Raises:
        ConfigError: a name or an argument is unknown or wrong.

    >>> import numpy as np
    >>> transform = build_transform([("CenterCrop", {"size": 2})], [0.5], [0.25], "INPUT.TRANSFORMS_TEST")
    >>> transform(np.full((4, 4), 255, np.uint8))
    tensor([[[2., 2.],
             [2., 2.]]])
    """
    entries = list(entries)
    check_transforms(entries, label)
    steps = []
    for name, arguments in entries:
        where = f"{label}: {name}"
        steps.append((name, call(where, name, _transforms()[name], **_with_enums(where, name, arguments))))
    return ImageTransform(steps, mean, std)


class ImageTransform:
    """Applies the steps to a uint8 tensor, converts it to float in [0, 1], subtracts mean, divides by std.

    Args:
        steps: (name, transform) in order.
        mean: one value, or one per channel.
        std: one value, or one per channel.
    """

    def __init__(
        self, steps: Sequence[tuple[str, Transform]], mean: Sequence[float], std: Sequence[float]
    ) -> None:
        self.steps = list(steps)
        self.mean = torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1)
        self.std = torch.tensor(std, dtype=torch.float32).view(-1, 1, 1)

    @property
    def is_users_own(self) -> bool:
        """Whether a step is user-defined, and so may draw from Python's and numpy's generators."""
        return any(name not in _torchvision() for name, _ in self.steps)

    def __call__(self, image: Any) -> Tensor:
        """Return float32 (C, H, W) for an image in any form that `to_tensor` takes."""
        return self.normalised(self.augmented({"image": to_tensor(image)})["image"])

    def augmented(self, sample: Sample) -> Sample:
        """Return the sample after the steps, which change boxes, masks and key points along with the image.

        The sample itself may be modified. If no target is a tensor of torchvision.tv_tensors, the image is passed
        alone, because each step takes longer for a dict.
        """
        image = sample["image"]
        if not has_spatial_targets(sample):
            for _, step in self.steps:
                image = step(image)
            sample["image"] = image
            return sample
        from torchvision.tv_tensors import Image

        sample = {**sample, "image": Image(image)}
        steps: list[Any] = [step for _, step in self.steps]
        for step in steps:
            sample = step(sample)
        return {**sample, "image": sample["image"].as_subclass(Tensor)}

    def check_targets(self, sample: Sample, label: str) -> None:
        """Raise ConfigError if a step takes images alone, but the sample has targets that change with them."""
        from torchvision.transforms import v2

        alone = [name for name, step in self.steps if not isinstance(step, v2.Transform)]
        if alone and has_spatial_targets(sample):
            raise ConfigError(
                f"{label}: {alone[0]} takes images alone, but the samples of this task also hold boxes, masks or"
                " key points; make it a torchvision.transforms.v2.Transform, which gets the sample as a dict"
            )

    def output_shape(self, channels: int, image_size: tuple[int, int], label: str) -> tuple[int, int, int]:
        """Return (C, H, W) of the transformed image for images of that size, by transforming a black one.

        Raises:
            ConfigError: a step, the mean or the std does not fit such images; `label` names the key.

        >>> transform = build_transform([("Grayscale", {}), ("Resize", {"size": [4, 6]})], [0.0], [1.0], "x")
        >>> transform.output_shape(3, (32, 32), "x")
        (1, 4, 6)
        """
        height, width = image_size
        tensor = torch.zeros(channels, height, width, dtype=torch.uint8)
        with random_numbers_kept(everything=True):
            for name, step in self.steps:
                if name in NEED_TARGETS:
                    continue
                was = "x".join(map(str, tensor.shape))
                try:
                    tensor = step(tensor)
                except Exception as error:  # whatever a user-defined transform raises
                    reason = str(error).rstrip(".") or type(error).__name__
                    raise ConfigError(
                        f"{label}: {name} fails on a {was} image (C x H x W): {reason}; change its arguments, or"
                        " put a Resize before it"
                    ) from error
                if not isinstance(tensor, Tensor) or tensor.ndim != 3:
                    raise ConfigError(f"{label}: {name} must return an image (C, H, W) as a tensor")
        shape = self.normalised(tensor).shape
        return shape[0], shape[1], shape[2]

    def normalised(self, images: Tensor, out: Tensor | None = None) -> Tensor:
        """Return transformed images as float32 in [0, 1], with mean subtracted, divided by std.

        A batch gives the same bits as its images one by one, in a fraction of the time.

        Args:
            images: (C, H, W) or (N, C, H, W).
            out: float32 tensor of that shape, which the result for a uint8 batch is written to.

        >>> transform = build_transform([], [0.5], [0.25], "INPUT.TRANSFORMS_TEST")
        >>> transform.normalised(torch.tensor([[[[0, 255]]], [[[51, 102]]]], dtype=torch.uint8)).flatten()
        tensor([-2.0000,  2.0000, -1.2000, -0.4000])
        """
        channels = images.shape[-3]
        for key, values in (("MEAN", self.mean), ("STD", self.std)):
            if len(values) not in (1, channels):  # broadcasting would silently make a grey image RGB
                raise ConfigError(
                    f"INPUT.{key} has {len(values)} values, but the images have {channels} channel(s)"
                    " after the transforms; give one value for all, or one per channel"
                )
        mean, std = self.mean.to(images.device), self.std.to(images.device)
        if images.dtype == torch.uint8:
            out = images.to(torch.float32) if out is None else out.copy_(images)
            return out.mul_(1 / 255).sub_(mean).div_(std)
        from torchvision.transforms import v2

        floats: Tensor = v2.functional.to_dtype(images, torch.float32, scale=True)
        return (floats - mean).div_(std)


def has_spatial_targets(sample: Sample) -> bool:
    """Return whether a target of a sample is a tensor of torchvision.tv_tensors, which transforms change.

    >>> has_spatial_targets({"image": torch.zeros(3, 4, 4), "label": 7})
    False
    """
    for value in sample.values():
        if type(value) not in _PLAIN:
            break
    else:  # avoids the slow import
        return False
    from torchvision.tv_tensors import TVTensor

    return any(isinstance(value, TVTensor) for name, value in sample.items() if name != "image")


def _with_enums(where: str, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments with each text replaced by the enum member it names: `policy: cifar10`."""
    parameters = inspect.signature(_transforms()[name]).parameters
    filled = dict(arguments)
    for argument, value in arguments.items():
        default = parameters[argument].default if argument in parameters else None
        if isinstance(default, Enum) and isinstance(value, str):
            members = {str(member.value): member for member in type(default)}
            if value not in members:
                raise unknown_name(f"{where}.{argument}", argument, value, members)
            filled[argument] = members[value]
    return filled
