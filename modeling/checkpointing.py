"""Activations that are not kept for the backward pass, but computed again: memory for time."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def checkpoint_activations(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Let modules keep only their inputs in training; return their names. Losses and gradients stay the same bits.

    A module inside of one that matches is part of it.

    Args:
        model: is changed; modules stay the objects that they were.
        patterns: regular expressions, found anywhere in a module's full name.

    Raises:
        ValueError: a pattern that matches no module.

    >>> model = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 1))
    >>> checkpoint_activations(model, ["^0"])
    ['0']
    >>> list(model.state_dict())
    ['0.0.weight', '0.0.bias', '1.weight', '1.bias']
    """
    modules = {name: module for name, module in model.named_modules() if name}
    for pattern in patterns:
        if not any(re.search(pattern, name) for name in modules):
            outermost = ", ".join(name for name, _ in model.named_children())
            raise ValueError(f"{pattern!r} matches no module; there are {outermost}, and those inside of them")
    chosen: list[str] = []
    for name, module in modules.items():  # a module comes before those inside of it
        inside = chosen and name.startswith(f"{chosen[-1]}.")
        if not inside and any(re.search(pattern, name) for pattern in patterns):
            chosen.append(name)
            base: Any = type(module)  # mypy takes a class for unhashable where its instances are
            module.__class__ = _checkpointed_class(base)
    return chosen


class _Checkpointed:
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        forward = super().forward  # type: ignore[misc]
        if not (self.training and torch.is_grad_enabled()):
            return forward(*args, **kwargs)
        contexts = functools.partial(_contexts, self)
        return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)


def _contexts(module: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return what surrounds the two computations: the second begins with the buffers of the first, on copies.

    So BatchNorm's statistics move once, and the vectors of a spectral norm are those that were used.
    """
    buffers = [
        (owner, name, buffer.clone())
        for owner in module.modules()
        for name, buffer in owner.named_buffers(recurse=False)
    ]
    return nullcontext(), _swapped(buffers)


@contextmanager
def _swapped(buffers: list[tuple[nn.Module, str, torch.Tensor]]) -> Iterator[None]:
    present = [(owner, name, getattr(owner, name)) for owner, name, _ in buffers]
    for owner, name, buffer in buffers:
        setattr(owner, name, buffer)
    try:
        yield
    finally:
        for owner, name, buffer in present:
            setattr(owner, name, buffer)


# Cached: two modules of one class stay two modules of one class. A class of its own, as for classifiers, since
# copies of a module keep it; a function that is set as `forward` would still belong to the one it was made for.
@functools.cache
def _checkpointed_class(base: Any) -> Any:
    return type(base.__name__, (_Checkpointed, base), {"__doc__": base.__doc__})
