"""The exponential moving average of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from warmstart.config import CfgNode


def build_ema(cfg: CfgNode, model: nn.Module) -> EMA | None:
    """Return the average that SOLVER.EMA describes, or None if it is off; the model is already on its device."""
    ema = cfg.SOLVER.EMA
    return EMA(model, ema.DECAY, ema.PERIOD) if ema.ENABLED else None


class EMA:
    """A second model whose parameters and buffers are the exponential moving average of a model.

    The first averaging step copies the model, each later one computes decay * average + (1 - decay) * model.
    Integer buffers, such as BatchNorm's number of batches, are copied.

    Args:
        model: the model to average, already on its device; it is copied.
        decay: at least 0 and below 1.
        period: updates between two averaging steps.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> ema = EMA(model, decay=0.75)
    >>> for iteration, weight in enumerate((2.0, 6.0), start=1):
    ...     _ = nn.init.constant_(model.weight, weight)
    ...     ema.update(model, iteration)
    >>> ema.model.weight.item(), ema.num_updates  # 0.75 * 2 + 0.25 * 6
    (3.0, 2)
    """

    def __init__(self, model: nn.Module, decay: float, period: int = 1) -> None:
        self.period = period
        self._averaged = AveragedModel(model, multi_avg_fn=_averaging(decay), use_buffers=True)
        self._averaged.requires_grad_(False)

    @property
    def model(self) -> nn.Module:
        """The averaged model; before the first averaging step, the model as it was passed to the constructor."""
        return self._averaged.module

    @property
    def num_updates(self) -> int:
        """The number of averaging steps so far."""
        return int(self._averaged.n_averaged)  # on the CPU: reading it does not wait for the device

    def update(self, model: nn.Module, iteration: int) -> None:
        """Include the weights after update number `iteration`, if it is a multiple of the period."""
        if iteration % self.period == 0:
            self._averaged.update_parameters(model)

    def restart(self, model: nn.Module) -> None:
        """Discard the average and restart from the current weights of the model."""
        self.load_state_dict({"model": model.state_dict(), "num_updates": 0})

    def state_dict(self) -> dict[str, Any]:
        """Return the state dict of the averaged model, and the number of averaging steps."""
        return {"model": self.model.state_dict(), "num_updates": self.num_updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state returned by `state_dict`.

        Raises:
            RuntimeError: it belongs to a different model.
            ValueError: num_updates is not an integer.
        """
        if type(state["num_updates"]) is not int:
            raise ValueError(f"num_updates must be a number of averaging steps; got {state['num_updates']!r}")
        self.model.load_state_dict(state["model"])
        self._averaged.n_averaged.fill_(state["num_updates"])


def _averaging(decay: float) -> Any:
    """Return torch's averaging function, with integers copied; torch calls it with tensors of one dtype."""
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        if averaged[0].is_floating_point() or averaged[0].is_complex():
            average(_local(averaged), _local(current), count)
        else:  # torch would round towards 0: a count that increases by 1 would never reach 1
            for ours, theirs in zip(averaged, current, strict=True):
                ours.copy_(theirs)

    return update


def _local(tensors: list[Tensor]) -> list[Tensor]:
    """Return local tensors: torch cannot average a list that mixes sharded and unsharded ones."""
    return [tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors]
