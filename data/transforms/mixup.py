"""MixUp and CutMix: their entries among the transforms, and their construction."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from warmstart.config import MIXING, ConfigError, check_arguments

from .registry import Entry


@dataclass(frozen=True)
class Mixing:
    """A transform of complete batches.

    Args:
        mix: turns images (N, C, H, W) and class indices (N,) into mixed images and class shares (N, num_classes).
        p: the probability that a batch is mixed, above 0.
        until: the iteration from which no batch is mixed; None: all are.
    """

    mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    p: float = 1.0
    until: int | None = None


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
    """Return torchvision's MixUp and CutMix for entries that `split_mixing` has checked.

    Raises:
        ConfigError: `until` has a unit.
    """
    from torchvision.transforms import v2

    mixing = []
    for name, arguments in entries:
        # An integer alpha, such as 1 in YAML, would become an integer tensor, which the Beta distribution refuses.
        mix = getattr(v2, name)(alpha=float(arguments.get("alpha", 1)), num_classes=num_classes)
        until = arguments.get("until")
        if isinstance(until, str):
            raise ConfigError(
                f"INPUT.TRANSFORMS_TRAIN: {name}.until: is {until!r}; give a number of iterations, or let"
                " warmstart.engine.resolve_config convert it"
            )
        mixing.append(Mixing(mix, float(arguments.get("p", 1)), until))
    return mixing


def _check(where: str, name: str, arguments: Mapping[str, Any]) -> None:
    from torchvision.transforms import v2

    signature = inspect.signature(getattr(v2, name))
    ours = [inspect.Parameter(each, inspect.Parameter.KEYWORD_ONLY, default=None) for each in ("p", "until")]
    signature = signature.replace(parameters=[*signature.parameters.values(), *ours])
    check_arguments(where, name, signature, arguments, given=("num_classes", "labels_getter"))
    alpha, p = arguments.get("alpha", 1.0), arguments.get("p", 1.0)
    if type(alpha) not in (int, float) or not alpha > 0:
        raise ConfigError(f"{where}.alpha: {name} expects a number above 0, such as 0.2; got {alpha!r}")
    if type(p) not in (int, float) or not 0 < p <= 1:
        raise ConfigError(f"{where}.p: {name} expects a probability above 0 and at most 1, such as 0.5; got {p!r}")
