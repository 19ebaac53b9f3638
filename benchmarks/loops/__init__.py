"""The contenders of benchmarks/loop.py: one function each, which trains and returns the network."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from .by_hand import bare, careful, timm
from .frameworks import accelerate, ignite, lightning, mmengine, transformers
from .ours import ours
from .work import Work, prepare

__all__ = ["CONTENDERS", "PACKAGES", "Work", "prepare"]

CONTENDERS: dict[str, Callable[[Work], nn.Module]] = {
    "bare": bare,
    "ours": ours,
    "timm": timm,
    "careful": careful,
    "ignite": ignite,
    "mmengine": mmengine,
    "accelerate": accelerate,
    "transformers": transformers,
    "lightning": lightning,
}
# The packages that they need.
PACKAGES = {name: name for name in CONTENDERS if name not in ("bare", "ours", "careful")} | {
    "ignite": "pytorch-ignite",
    "ours": "warmstart",
}
