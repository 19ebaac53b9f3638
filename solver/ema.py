"""The exponential moving average of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from warmstart.config import CfgNode


def build_ema(cfg: CfgNode, model: nn.Module) -> EMA | None:
    """Return what SOLVER.EMA describes for a model that is on its device already, or None where it is off."""
    ema = cfg.SOLVER.EMA
    return EMA(model, ema.DECAY, ema.PERIOD) if ema.ENABLED else None


class EMA:
    """A second model, whose parameters and buffers are a moving average of the first one's.

    The first averaging copies, each later one gives decay * average + (1 - decay) * model. Buffers of whole
    numbers, such as BatchNorm's count of batches, have no average and are copied.

    Args:
        model: is averaged; copied here, so it is on its device already.
        decay: at least 0 and below 1.
        period: updates between two averagings.

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
        """The averaged model: the first one's weights as they were given, until the first averaging."""
        return self._averaged.module

    @property
    def num_updates(self) -> int:
        """How often it was averaged."""
        return int(self._averaged.n_averaged)  # stays on the CPU: reading it waits for no device

    def update(self, model: nn.Module, iteration: int) -> None:
        """Average in the weights after update number `iteration`, where the period says so."""
        if iteration % self.period == 0:
            self._averaged.update_parameters(model)

    def restart(self, model: nn.Module) -> None:
        """Forget the average and begin with the model's present weights."""
        self.load_state_dict({"model": model.state_dict(), "num_updates": 0})

    def state_dict(self) -> dict[str, Any]:
        """Return the averaged model's state under its own names, and how often it was averaged."""
        return {"model": self.model.state_dict(), "num_updates": self.num_updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned.

        Raises:
            RuntimeError: it is of another model.
        """
        if type(state["num_updates"]) is not int:
            raise ValueError(f"num_updates is a number of averagings; got {state['num_updates']!r}")
        self.model.load_state_dict(state["model"])
        self._averaged.n_averaged.fill_(state["num_updates"])


def _averaging(decay: float) -> Any:
    """Return torch's averaging, with whole numbers copied; torch hands over the tensors of one dtype at a time."""
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        if averaged[0].is_floating_point() or averaged[0].is_complex():
            average(_own(averaged), _own(current), count)
        else:  # torch would round towards 0: a count that goes up by 1 never reaches 1
            for ours, theirs in zip(averaged, current, strict=True):
                ours.copy_(theirs)

    return update


def _own(tensors: list[Tensor]) -> list[Tensor]:
    """Return tensors, of those in parts this rank's part: torch averages no list of these and of whole ones."""
    return [tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors]
