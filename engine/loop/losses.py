"""Losses and metrics since the last record, kept on the device until their values are needed."""

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

    `add` neither synchronizes with the device nor copies from it; `flush` does both, once for all pending updates,
    and looks for non-finite values. In a distributed run it also averages over the ranks, and waits for all.

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
        """Keep one update's `total_loss`, its terms and other recorded values: detached 0-dim tensors."""
        self._pending.append(values)

    def flush(self, iteration: int) -> dict[int, bool]:
        """Read the pending values, the last of which are from the update that completed `iteration`.

        Returns:
            For each update in fp16, by its iteration, whether it was skipped; the norm of its gradients is not
            averaged then.

        Raises:
            NonFiniteLossError: a total is infinite or NaN. Nothing after it may be saved.
        """
        pending, self._pending = self._pending, []
        first = iteration - len(pending) + 1
        blocks = _read(pending)
        if pending and comm.world_size() > 1:
            blocks = _in_columns(_over_ranks(_in_rows(blocks), first))
        skipped: dict[int, bool] = {}
        for columns in blocks:
            count = len(columns["total_loss"])
            _require_finite(columns, first)
            if OVERFLOW in columns:
                flags = columns.pop(OVERFLOW)
                skipped |= {first + offset: bool(flag) for offset, flag in enumerate(flags)}
                if "grad_norm" in columns:
                    norms = zip(columns["grad_norm"], flags, strict=True)
                    columns["grad_norm"] = [norm for norm, flag in norms if not flag]
            self._add_up(columns)
            first += count
        return skipped

    def _add_up(self, columns: Mapping[str, list[float]]) -> None:
        for name, column in columns.items():
            total, count = self._sums.get(name, (0.0, 0))
            # Not by sum(), which may compensate for rounding: a run resumed in between would add up differently.
            self._sums[name] = reduce(add, column, total), count + len(column)

    def averages(self) -> dict[str, float]:
        """Return the mean of each value since the last call, and reset. Call `flush` before.

        If every update since then was skipped, `total_loss` is NaN: a record always has it.
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


def _in_columns(rows: Sequence[dict[str, Any]]) -> list[dict[str, list[Any]]]:
    """Return the values of updates by name, with one dict for each series of updates that have the same names."""
    blocks = [[*block] for _, block in groupby(rows, dict.keys)]
    return [{name: [row[name] for row in block] for name in block[0]} for block in blocks]


def _in_rows(blocks: Sequence[Mapping[str, list[float]]]) -> list[dict[str, float]]:
    """Return the values of each update: the inverse of `_in_columns`."""
    rows = [(names, row) for names in blocks for row in zip(*names.values(), strict=True)]
    return [dict(zip(names, row, strict=True)) for names, row in rows]


def _read(pending: Sequence[dict[str, Tensor]]) -> list[dict[str, list[float]]]:
    """Return the numbers in the tensors of updates as `_in_columns` does, copied from the device at once."""
    blocks = _in_columns(pending)
    tensors = [tensor for columns in blocks for column in columns.values() for tensor in column]
    numbers: Iterator[float] = iter(torch.stack(tensors).tolist() if tensors else ())
    return [{name: [*islice(numbers, len(column))] for name, column in columns.items()} for columns in blocks]


def _require_finite(columns: Mapping[str, list[float]], first: int) -> None:
    """Raise NonFiniteLossError for the first update whose total is infinite or NaN; they begin at `first`."""
    totals = columns["total_loss"]
    if math.isfinite(reduce(add, totals)):  # quick; finite totals may add up to infinity, though
        return
    for offset, total in enumerate(totals):
        if not math.isfinite(total):
            values = {name: column[offset] for name, column in columns.items() if name != OVERFLOW}
            raise NonFiniteLossError(f"iteration {first + offset}: {describe(values)}", first + offset)


def _over_ranks(own: Sequence[dict[str, float]], first: int) -> list[dict[str, float]]:
    """Return the mean of each entry of each update over the ranks that have it; `first` is the first iteration.

    Raises:
        NonFiniteLossError: on all ranks, if a total is infinite or NaN on any of them.
    """
    means = []
    for number, rows in enumerate(zip(*comm.gather(own), strict=True), start=first):
        for rank, row in enumerate(rows):
            if not math.isfinite(row["total_loss"]):
                raise NonFiniteLossError(f"iteration {number}: {describe(row)}, on rank {rank}", number, rank)
        means.append({name: sum(column) / len(column) for name, column in _by_name(rows).items()})
    return means


def _by_name(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the values of each name, from the rows that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row[name] for row in rows if name in row] for name in names}


def mean_of(values: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of each entry over those micro-batches of an update that have it.

    >>> mean_of([{"loss_a": torch.tensor(1.0)}, {"loss_a": torch.tensor(2.0), "loss_b": torch.tensor(5.0)}])
    {'loss_a': tensor(1.5000), 'loss_b': tensor(5.)}
    """
    if len(values) == 1:
        return values[0]
    return {name: torch.stack(column).mean() for name, column in _by_name(values).items()}
