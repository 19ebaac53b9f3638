"""Losses and metrics since the last record: kept on the device, read once when someone needs the numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class NonFiniteLossError(ArithmeticError):
    """A loss became infinite or NaN; the message names the first such iteration and its terms."""


class LossWindow:
    """Averages each loss and metric over the updates since the last record.

    `add` neither waits for the device nor copies from it; `settle` does both, once for all that came
    in between, and looks for non-finite values.

    >>> window = LossWindow()
    >>> for value in (1.0, 2.0, 6.0):
    ...     window.add({"total_loss": torch.tensor(value), "grad_norm": torch.tensor(2 * value)})
    >>> window.settle(iteration=3)
    >>> window.averages()
    {'total_loss': 3.0, 'grad_norm': 6.0}
    >>> window.add({"total_loss": torch.tensor(float("nan")), "grad_norm": torch.tensor(float("inf"))})
    >>> window.settle(iteration=4)
    Traceback (most recent call last):
    warmstart.engine.losses.NonFiniteLossError: iteration 4: total_loss is nan (grad_norm inf)
    """

    def __init__(self) -> None:
        self._pending: list[dict[str, Tensor]] = []
        self._sums: dict[str, tuple[float, int]] = {}

    def add(self, values: dict[str, Tensor]) -> None:
        """Keep one update's `total_loss`, its terms and what else is recorded: 0-dim tensors, detached."""
        self._pending.append(values)

    def settle(self, iteration: int) -> None:
        """Read what is pending; the newest of it is the update that made the count `iteration`.

        Raises:
            NonFiniteLossError: a total is infinite or NaN. Nothing after it may be saved.
        """
        if not self._pending:
            return
        flat = torch.stack([value for kept in self._pending for value in kept.values()]).tolist()
        first = iteration - len(self._pending) + 1
        pending, self._pending = self._pending, []
        position = 0
        for offset, kept in enumerate(pending):
            values = dict(zip(kept, flat[position : position + len(kept)], strict=True))
            position += len(kept)
            if not math.isfinite(values["total_loss"]):
                terms = ", ".join(f"{k} {v:g}" for k, v in values.items() if k != "total_loss")
                raise NonFiniteLossError(
                    f"iteration {first + offset}: total_loss is {values['total_loss']:g} ({terms})"
                )
            for name, value in values.items():
                total, count = self._sums.get(name, (0.0, 0))
                self._sums[name] = total + value, count + 1

    def averages(self) -> dict[str, float]:
        """Return the mean of each loss since the last call, and start anew. Call `settle` before."""
        assert not self._pending, "settle() first"
        means = {name: total / count for name, (total, count) in self._sums.items()}
        self._sums = {}
        return means

    def state_dict(self) -> dict[str, Any]:
        """Return the running sums; call `settle` before."""
        assert not self._pending, "settle() first"
        return {name: list(pair) for name, pair in self._sums.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from saved running sums."""
        self._pending = []
        self._sums = {name: (total, count) for name, (total, count) in state.items()}


def mean_of(values: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of each entry over the micro-batches of one update that have it.

    >>> mean_of([{"loss_cls": torch.tensor(1.0)}, {"loss_cls": torch.tensor(2.0), "loss_mask": torch.tensor(5.0)}])
    {'loss_cls': tensor(1.5000), 'loss_mask': tensor(5.)}
    """
    if len(values) == 1:
        return values[0]
    names = dict.fromkeys(name for value in values for name in value)
    return {name: torch.stack([value[name] for value in values if name in value]).mean() for name in names}
