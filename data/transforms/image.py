"""The path from a data set's image to the model's input: transforms by name, then normalisation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from warmstart.config import ConfigError

from ..batch import Sample
from ..datasets.decode import to_tensor
from ..seeds import random_numbers_kept
from .registry import NEED_TARGETS, Entry, Transform, check_transforms, construct, library

#: Why a transform does not fit samples of objects.
_UNFIT_FOR_OBJECTS = {
    **dict.fromkeys(
        ("SanitizeBoundingBoxes", "SanitizeKeyPoints"),
        "removes objects from some of their entries only; those without area are removed anyway",
    ),
    "ClampKeyPoints": "moves key points; those outside the image become unlabelled anyway",
    "ConvertBoundingBoxFormat": "turns boxes into other numbers than models expect",
    "SetClampingMode": "can leave boxes that reach beyond the image, which models refuse",
}
_UNFIT_FOR_SCORES = dict.fromkeys(
    ("ElasticTransform", "RandomPerspective"),
    "distorts images, so that predictions cannot be mapped back to the image before the transforms",
)
_PLAIN = {Tensor, int, float, bool, str, type(None)}  # types of targets that no transform changes


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
        steps.append((name, construct(where, name, arguments)))
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
        self.normalises = bool((self.mean != 0).any() or (self.std != 1).any())

    @property
    def is_users_own(self) -> bool:
        """Whether a step is user-defined, and so may draw from Python's and numpy's generators."""
        return any(name not in library() for name, _ in self.steps)

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
        for name, step in self.steps:
            sample = _stepped(name, step, sample)
        return {**sample, "image": sample["image"].as_subclass(Tensor)}

    def check_targets(self, sample: Sample, label: str, scored: bool = False) -> None:
        """Raise ConfigError if a step cannot be applied to a sample; one with spatial targets is tried.

        Args:
            sample: as a task makes it.
            label: the key that holds the steps, for messages.
            scored: whether predictions for such images are mapped back to the image before the steps.
        """
        from torchvision.transforms import v2

        if not has_spatial_targets(sample):
            return
        steps: list[tuple[str, Any]] = list(self.steps)
        sample = {**sample, "image": v2.functional.to_image(sample["image"])}
        with random_numbers_kept(everything=True):
            for name, step in steps:
                if not isinstance(step, v2.Transform):
                    raise ConfigError(
                        f"{label}: {name} takes images alone, but the samples of this task also hold boxes, masks"
                        " or key points; make it a torchvision.transforms.v2.Transform, which gets the sample as a"
                        " dict"
                    )
                unfit = _UNFIT_FOR_OBJECTS | (_UNFIT_FOR_SCORES if scored else {})
                if "frame" in sample and name in unfit:
                    raise ConfigError(f"{label}: {name} {unfit[name]}; leave it out")
                try:
                    sample = _stepped(name, step, sample)
                except ConfigError as error:
                    raise ConfigError(f"{label}: {error}") from None
                except Exception as error:  # whatever a transform raises for targets that it does not support
                    reason = str(error).rstrip(".") or type(error).__name__
                    raise ConfigError(
                        f"{label}: {name} fails on a sample with boxes, masks or key points: {reason}; change its"
                        " arguments, or leave it out"
                    ) from error

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
            out.mul_(1 / 255)
            return out.sub_(mean).div_(std) if self.normalises else out  # the same bits, in half the time
        from torchvision.transforms import v2

        floats: Tensor = v2.functional.to_dtype(images, torch.float32, scale=True)
        return (floats - mean).div_(std)


def _stepped(name: str, step: Any, sample: Sample) -> Sample:
    """Return a sample with spatial targets after one step.

    Raises:
        ConfigError: the step changes the size of the image, but not of its targets.
    """
    from torchvision.tv_tensors import Mask, wrap

    sample = step(sample)
    size = tuple(sample["image"].shape[-2:])
    for entry, value in sample.items():
        found = tuple(value.shape[-2:] if isinstance(value, Mask) else getattr(value, "canvas_size", size))
        if found == size:
            continue
        if isinstance(value, Mask) or any(abs(one - other) > 1 for one, other in zip(found, size, strict=True)):
            sizes = [f"{height}x{width}" for height, width in (size, found)]
            raise ConfigError(
                f"after {name} an image is {sizes[0]} (height x width), but its {entry} are still in an image of"
                f" {sizes[1]}; a transform must change both"
            )
        # RandomRotation with expand rounds the size of boxes and points otherwise than the size of images.
        sample = {**sample, entry: wrap(value, like=value, canvas_size=size)}
    return sample


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
