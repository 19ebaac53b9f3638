"""Killed runs, and bit-exact comparison of their checkpoints."""

from __future__ import annotations

import struct
from typing import Any

import pytest
import torch

from warmstart.engine import HookBase, Trainer
from warmstart.engine.checkpoint.saver import finish_saves


class Killed(Exception):
    pass


class Kill(HookBase):
    """Ends the work as a kill does, right after an iteration and its save: no later code runs."""

    runs_last = True

    def __init__(self, after: int) -> None:
        self.after = after

    def after_step(self, trainer: Trainer) -> None:
        if trainer.iteration == self.after:
            raise Killed


def killed_after(trainer: Trainer, iteration: int) -> None:
    trainer.hooks.append(Kill(iteration))
    with pytest.raises(Killed):
        trainer.train()
    finish_saves()


def assert_same_bits(a: Any, b: Any, where: str = "checkpoint") -> None:
    """Compare types, keys with their order, strides, and bits: -0.0 differs from 0.0, and NaN equals itself."""
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride()), where
        ours, theirs = (tensor.contiguous().flatten().view(torch.uint8) for tensor in (a, b))
        assert torch.equal(ours, theirs), where
    elif isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_same_bits(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same_bits(x, y, f"{where}[{index}]")
    elif isinstance(a, float):
        assert struct.pack("d", a) == struct.pack("d", b), where
    else:
        assert a == b, where
