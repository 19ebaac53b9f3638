"""Losses and metrics since the last record: kept on the device, read once when someone needs the numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from itertools import groupby, islice
from operator import add
from typing import Any

import torch
from torch import Tensor, nn

from . import comm
from .fsdp import is_cut

OVERFLOW = "grad_overflow"  # 1 where the gradients of an update overflow in fp16, so that it is skipped; else 0


class NonFiniteLossError(ArithmeticError):
    """A loss became infinite or NaN; the message names the first such iteration and its terms.

    Attributes:
        iteration: the count of updates that the bad one made; 0 where no single one is to blame.
        rank: the rank whose part of the batch it was.
    """

    def __init__(self, message: str, iteration: int = 0, rank: int = 0) -> None:
        super().__init__(message)
        self.iteration = iteration
        self.rank = rank


class LossWindow:
    """Averages each loss and metric over the updates since the last record.

    `add` neither waits for the device nor copies from it; `settle` does both, once for all that came
    in between, and looks for non-finite values. On several ranks it averages over them too, and waits for all.

    >>> window = LossWindow()
    >>> for value in (1.0, 2.0, 6.0):
    ...     window.add({"total_loss": torch.tensor(value), "grad_norm": torch.tensor(2 * value)})
    >>> window.settle(iteration=3)
    {}
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

    def settle(self, iteration: int) -> dict[int, bool]:
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
        """Return the mean of each loss since the last call, and start anew. Call `settle` before.

        Where every update since then was skipped, the total is NaN: a record always has one.
        """
        assert not self._pending, "settle() first"
        means = {name: total / count for name, (total, count) in self._sums.items() if count}
        self._sums = {}
        return means or {"total_loss": math.nan}

    def state_dict(self) -> dict[str, Any]:
        """Return the running sums; call `settle` before."""
        assert not self._pending, "settle() first"
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


class SkippedUpdates:
    """Finds the updates that SOLVER.NAN_POLICY skip leaves out, and counts them.

    Args:
        limit: so many in a row may be left out; one more is an error.

    >>> skipped = SkippedUpdates(limit=1)
    >>> skipped.problem_of({"total_loss": torch.tensor(2.0), "grad_norm": torch.tensor(float("inf"))})
    'grad_norm is inf (total_loss 2)'
    >>> skipped.problem_of({"total_loss": torch.tensor(2.0)}), skipped.state_dict()
    ('', {'total': 1, 'in_a_row': 0})
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.total = 0
        self.in_a_row = 0
        #: The rank whose part of the last bad update was not finite.
        self.rank = 0

    @property
    def too_many(self) -> bool:
        """Whether the last update found bad was one more than the limit allows."""
        return self.in_a_row > self.limit

    def problem_of(self, values: Mapping[str, Tensor]) -> str:
        """Return what is not finite in an update, its total loss or the norm of its gradients, or "".

        Waits for the device, and for all ranks, which decide together.
        """
        looked_at = [values[name] for name in ("total_loss", "grad_norm") if name in values]
        if OVERFLOW in values:
            looked_at.append(1 / (1 - values[OVERFLOW]))  # 1 is infinite
        problem = ""
        if not torch.stack(looked_at).isfinite().all():
            problem = describe({name: value.item() for name, value in values.items()})
            problem += f", on rank {comm.rank()}" if comm.world_size() > 1 else ""
        problems = comm.gather(problem)
        self.rank, problem = next(((r, each) for r, each in enumerate(problems) if each), (0, ""))
        self.count(bool(problem))
        return problem

    def count(self, skipped: bool) -> None:
        """Take notice of one more update."""
        self.total += skipped
        self.in_a_row = self.in_a_row + 1 if skipped else 0

    def state_dict(self) -> dict[str, int]:
        """Return the counts."""
        return {"total": self.total, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue from saved counts."""
        self.total, self.in_a_row = state["total"], state["in_a_row"]


def describe(values: Mapping[str, float]) -> str:
    """Return which number of an update is not finite, the total before the norm, and all others.

    >>> describe({"total_loss": math.nan, "loss_cls": math.nan, "grad_norm": 1.5})
    'total_loss is nan (loss_cls nan, grad_norm 1.5)'
    """
    culprit = "total_loss" if not math.isfinite(values["total_loss"]) else "grad_norm"
    terms = ", ".join(f"{name} {value:g}" for name, value in values.items() if name not in (culprit, OVERFLOW))
    if culprit not in values:
        return f"gradients overflow in fp16 ({terms})"
    return f"{culprit} is {values[culprit]:g} ({terms})"


def non_finite_names(models: Mapping[str, nn.Module]) -> list[str]:
    """Return the parameters of models that are not all finite, and the buffers that are NaN somewhere.

    Infinite a buffer may be: masks are, by design. Waits for the device, once where all is well. Of
    parameters that lie in parts on several ranks each looks at its own.

    Args:
        models: by what stands before the names of their tensors.

    >>> layer = nn.BatchNorm1d(1)
    >>> _ = layer.running_mean.fill_(math.nan), layer.running_var.fill_(math.inf)
    >>> non_finite_names({"": layer})
    ['running_mean']
    """
    own = models.items()
    parameters = {before + name: p.detach() for before, model in own for name, p in model.named_parameters()}
    buffers = {before + name: buffer for before, model in own for name, buffer in model.named_buffers()}
    parameters = {name: p.to_local() if is_cut(p) else p for name, p in parameters.items()}
    tensors = parameters | buffers
    if not tensors:
        return []
    # A sum is finite only where each number is, and takes a fraction of the time of looking at each.
    device = [*tensors.values()][-1].device  # parts may lie in the host's memory, and buffers on the GPU
    fine = torch.stack([tensor.sum().isfinite().to(device) for tensor in tensors.values()]).tolist()
    suspects = [name for name, is_fine in zip(tensors, fine, strict=True) if not is_fine]
    return [
        name
        for name in suspects
        if (buffers[name].isnan().any() if name in buffers else not parameters[name].isfinite().all())
    ]


def mean_of(values: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of each entry over the micro-batches of one update that have it.

    >>> mean_of([{"loss_cls": torch.tensor(1.0)}, {"loss_cls": torch.tensor(2.0), "loss_mask": torch.tensor(5.0)}])
    {'loss_cls': tensor(1.5000), 'loss_mask': tensor(5.)}
    """
    if len(values) == 1:
        return values[0]
    columns = {name: [value[name] for value in values if name in value] for name in _names(values)}
    return {name: torch.stack(column).mean() for name, column in columns.items()}
