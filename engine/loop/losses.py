"""Losses and metrics since the last record: kept on the device, read once when someone needs the numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from itertools import groupby, islice
from operator import add
from typing import Any

import torch
from torch import Tensor

from ..distributed import comm
from .non_finite import OVERFLOW, NonFiniteLossError, describe


class LossWindow:
    """Averages each loss and metric over the updates since the last record.

    `add` neither waits for the device nor copies from it; `flush` does both, once for all that came
    in between, and looks for non-finite values. On several ranks it averages over them too, and waits for all.

    >>> window = LossWindow()
    >>> for value in (1.0, 2.0, 6.0):
    ...     window.add({"total_loss": torch.tensor(value), "grad_norm": torch.tensor(2 * value)})
    >>> window.flush(iteration=3)
    {}
    >>> window.averages()
    {'total_loss': 3.0, 'grad_norm': 6.0}
    >>> window.add({"total_loss": torch.tensor(float("nan")), "grad_norm": torch.tensor(float("inf"))})
    >>> window.flush(iteration=4)
    Traceback (most recent call last):
    warmstart.engine.loop.non_finite.NonFiniteLossError: iteration 4: total_loss is nan (grad_norm inf)
    """

    def __init__(self) -> None:
        self._pending: list[dict[str, Tensor]] = []
        self._sums: dict[str, tuple[float, int]] = {}

    def add(self, values: dict[str, Tensor]) -> None:
        """Keep one update's `total_loss`, its terms and what else is recorded: 0-dim tensors, detached."""
        self._pending.append(values)

    def flush(self, iteration: int) -> dict[int, bool]:
        """Read what is pending; the newest of it is the update that made the count `iteration`.

        Returns:
            Of each update in fp16, by its count, whether it was skipped; its gradients' norm is not averaged then.

        Raises:
            NonFiniteLossError: a total is infinite or NaN. Nothing after it may be saved.
        """
        overflowed: dict[int, bool] = {}
        pending, self._pending = self._pending, []
        first = iteration - len(pending) + 1
        # By column, for updates with the same names: Python's part is then small beside the device's.
        runs: list[list[dict[str, Any]]] = [[*run] for _, run in groupby(pending, dict.keys)]
        tensors = [kept[name] for run in runs for kept in run for name in run[0]]
        numbers: Iterator[float] = iter(torch.stack(tensors).tolist() if tensors else ())
        if pending and comm.world_size() > 1:
            means = _over_ranks([{name: next(numbers) for name in run[0]} for run in runs for _ in run], first)
            runs = [[*run] for _, run in groupby(means, dict.keys)]
            numbers = (kept[name] for run in runs for kept in run for name in run[0])
        for run in runs:
            names = [*run[0]]
            cells = [*islice(numbers, len(run) * len(names))]
            columns = {name: cells[index :: len(names)] for index, name in enumerate(names)}
            if not math.isfinite(reduce(add, columns["total_loss"])):  # finite ones may add up to infinity
                for offset, total in enumerate(columns["total_loss"]):
                    if not math.isfinite(total):
                        values = {name: column[offset] for name, column in columns.items() if name != OVERFLOW}
                        raise NonFiniteLossError(f"iteration {first + offset}: {describe(values)}", first + offset)
            if OVERFLOW in columns:
                flags = columns.pop(OVERFLOW)
                overflowed |= {first + offset: bool(flag) for offset, flag in enumerate(flags)}
                if "grad_norm" in columns:
                    norms = zip(columns["grad_norm"], flags, strict=True)
                    columns["grad_norm"] = [norm for norm, flag in norms if not flag]
            for name, column in columns.items():
                total, count = self._sums.get(name, (0.0, 0))
                # Not by sum(): where it compensates for rounding, what a checkpoint cuts in two adds up otherwise.
                self._sums[name] = reduce(add, column, total), count + len(column)
            first += len(run)
        return overflowed

    def averages(self) -> dict[str, float]:
        """Return the mean of each loss since the last call, and reset them. Call `flush` before.

        Where every update since then was skipped, the total is NaN: a record always has one.
        """
        assert not self._pending, "flush() first"
        means = {name: total / count for name, (total, count) in self._sums.items() if count}
        self._sums = {}
        return means or {"total_loss": math.nan}

    def state_dict(self) -> dict[str, Any]:
        """Return the running sums; call `flush` before."""
        assert not self._pending, "flush() first"
        return {name: list(pair) for name, pair in self._sums.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from saved running sums."""
        self._pending = []
        self._sums = {name: (total, count) for name, (total, count) in state.items()}


def _over_ranks(own: Sequence[dict[str, float]], first: int) -> list[dict[str, float]]:
    """Return the mean over the ranks that have it of each entry of each update, of which `first` is the first.

    Raises:
        NonFiniteLossError: a total is infinite or NaN on a rank; on all ranks alike.
    """
    means = []
    for number, parts in enumerate(zip(*comm.gather(own), strict=True), start=first):
        for rank, part in enumerate(parts):
            if not math.isfinite(part["total_loss"]):
                raise NonFiniteLossError(f"iteration {number}: {describe(part)}, on rank {rank}", number, rank)
        columns = {name: [part[name] for part in parts if name in part] for name in _names(parts)}
        means.append({name: sum(column) / len(column) for name, column in columns.items()})
    return means


def _names(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    return [*dict.fromkeys(name for part in parts for name in part)]


def mean_of(values: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of each entry over the micro-batches of one update that have it.

    >>> mean_of([{"loss_a": torch.tensor(1.0)}, {"loss_a": torch.tensor(2.0), "loss_b": torch.tensor(5.0)}])
    {'loss_a': tensor(1.5000), 'loss_b': tensor(5.)}
    """
    if len(values) == 1:
        return values[0]
    columns = {name: [value[name] for value in values if name in value] for name in _names(values)}
    return {name: torch.stack(column).mean() for name, column in columns.items()}
