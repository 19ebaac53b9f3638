"""MixUp and CutMix: their entries among the transforms, and their construction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor

from warmstart.config import ConfigError, check_arguments

from .image import MIXING, Entry

Mixing = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # (images, class indices) -> (images, class shares)


def split_mixing(entries: Iterable[Entry], label: str) -> tuple[list[Entry], list[Entry]]:
    """Split the entries of INPUT.TRANSFORMS_TRAIN into those that work on images, and MixUp and CutMix after them.

    Raises:
        ConfigError: MixUp or CutMix precedes another transform, or has wrong arguments; `label` names the key.

    >>> split_mixing([("RandomCrop", {"size": 28}), ("MixUp", {"alpha": 0.2})], "INPUT.TRANSFORMS_TRAIN")
    ([('RandomCrop', {'size': 28})], [('MixUp', {'alpha': 0.2})])
    """
    images, mixing = [], []
    for name, arguments in entries:
        if name in MIXING:
            _check(f"{label}: {name}", name, arguments)
            mixing.append((name, arguments))
        elif mixing:
            raise ConfigError(f"{label}: {mixing[0][0]} mixes entire batches; put it after {name}, at the end")
        else:
            images.append((name, arguments))
    return images, mixing


def build_mixing(entries: Iterable[Entry], num_classes: int) -> list[Mixing]:
    """Return torchvision's MixUp and CutMix for entries that `split_mixing` has checked."""
    from torchvision.transforms import v2

    # An integer alpha, such as 1 in YAML, would become an integer tensor, which the Beta distribution refuses.
    return [
        getattr(v2, name)(alpha=float(arguments.get("alpha", 1)), num_classes=num_classes)
        for name, arguments in entries
    ]


def _check(where: str, name: str, arguments: Mapping[str, Any]) -> None:
    from torchvision.transforms import v2

    check_arguments(where, name, getattr(v2, name), arguments, given=("num_classes", "labels_getter"))
    alpha = arguments.get("alpha", 1.0)
    if not isinstance(alpha, (int, float)) or not alpha > 0:
        raise ConfigError(f"{where}.alpha: {name} expects a number above 0, such as 0.2; got {alpha!r}")
