"""Activation checkpointing: recomputation of activations in the backward pass instead of storing them."""

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
    """Make modules store only their inputs in training; return their names. Losses and gradients keep their bits.

    A module inside a matching one is part of it. Each chosen module gets an instance attribute `forward` that
    calls the method of its class; so names, classes and hooks are unchanged, and copies of the module recompute
    too.

    Args:
        model: modified in place.
        patterns: regular expressions that are searched for in the full names of modules.

    Raises:
        ValueError: a pattern matches no module, or matches a module with an instance attribute `forward`.

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
            raise ValueError(f"{pattern!r} matches no module; there are {outermost}, and the modules inside them")
    chosen: list[str] = []
    for name, module in modules.items():  # a module comes before those inside of it
        inside = chosen and name.startswith(f"{chosen[-1]}.")
        if not inside and any(re.search(pattern, name) for pattern in patterns):
            if "forward" in vars(module):
                raise ValueError(f"{name} sets `forward` on the instance, which hides the method of its class")
            chosen.append(name)
            module.forward = functools.partial(_recomputed, module)  # is copied and pickled with its module
    return chosen


def _recomputed(module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
    forward = functools.partial(type(module).forward, module)
    if not (module.training and torch.is_grad_enabled()):
        return forward(*args, **kwargs)
    contexts = functools.partial(_contexts, module)
    return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)


def _contexts(module: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return the contexts of the two computations: the second works on copies of the buffers that the first had.

    So BatchNorm's statistics are updated once, and spectral norm recomputes with the same vectors.
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
