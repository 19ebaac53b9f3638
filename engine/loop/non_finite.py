"""Losses, gradients and weights that are infinite or NaN: counted, skipped, or the end of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from warmstart.solver import ScheduleLR

from ..distributed import comm
from ..distributed.fsdp import is_sharded_tensor

OVERFLOW = "grad_overflow"  # 1 where the gradients of an update overflow in fp16, so that it is skipped; else 0


class NonFiniteLossError(ArithmeticError):
    """A loss became infinite or NaN; the message names the first such iteration and its terms.

    Attributes:
        iteration: the count of updates that the bad one made; 0 if no single one is to blame.
        rank: the rank whose part of the batch it was.
    """

    def __init__(self, message: str, iteration: int = 0, rank: int = 0) -> None:
        super().__init__(message)
        self.iteration = iteration
        self.rank = rank


class SkippedUpdates:
    """Finds the updates that SOLVER.NAN_POLICY skips, and counts them.

    Args:
        limit: how many in a row may be skipped; one more is an error.

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


class Diagnosis:
    """What a user needs to know of an update that is not finite: its samples and its learning rates.

    Args:
        scheduler: of the run.
        loader: of the run; its method `describe_samples`, if it has one, names the samples.
    """

    def __init__(self, scheduler: LRScheduler, loader: object = None) -> None:
        self.scheduler = scheduler
        self._describe_samples = getattr(loader, "describe_samples", None)

    def own_samples(self, iteration: int) -> str:
        """Return which samples of this rank update number `iteration` used, "" if nothing can tell."""
        if self._describe_samples is None or not iteration:
            return ""
        return f"; samples of its batch: {self._describe_samples(iteration - 1)}"

    def samples(self, iteration: int, rank: int = 0) -> str:
        """Return `own_samples` of a rank; waits for all ranks."""
        return comm.gather(self.own_samples(iteration))[rank]

    def error(
        self, problem: str, rates: Sequence[float | Tensor], iteration: int = 0, rank: int = 0
    ) -> NonFiniteLossError:
        """Return the error that ends a run; waits for all ranks.

        Args:
            problem: what is not finite.
            rates: the learning rates of the last update.
            iteration: the number of the update; 0 if no single one is to blame.
            rank: the rank whose part of the batch it was.
        """
        which = "the last"
        if iteration and isinstance(self.scheduler, ScheduleLR):
            rates, which = list(self.scheduler.lr_at(iteration - 1)), "that"
        named = ", ".join(dict.fromkeys(f"{float(rate):g}" for rate in rates))
        return NonFiniteLossError(
            f"{problem}{self.samples(iteration, rank)}; the learning rate of {which} update was {named}. Nothing"
            " was saved after it: try a lower SOLVER.BASE_LR or a longer SOLVER.WARMUP_ITERS, and --resume"
            " (=PATH for an earlier checkpoint)",
            iteration,
            rank,
        )


def describe(values: Mapping[str, float]) -> str:
    """Return which number of an update is not finite, the total before the norm, and all others.

    >>> describe({"total_loss": math.nan, "loss_a": math.nan, "grad_norm": 1.5})
    'total_loss is nan (loss_a nan, grad_norm 1.5)'
    """
    culprit = "total_loss" if not math.isfinite(values["total_loss"]) else "grad_norm"
    terms = ", ".join(f"{name} {value:g}" for name, value in values.items() if name not in (culprit, OVERFLOW))
    if culprit not in values:
        return f"gradients overflow in fp16 ({terms})"
    return f"{culprit} is {values[culprit]:g} ({terms})"


def non_finite_names(models: Mapping[str, nn.Module]) -> list[str]:
    """Return the parameters of models that are not all finite, and the buffers that are NaN somewhere.

    A buffer may be infinite: some are by design. Waits for the device, once if all is well. Each rank looks at its
    own shards of sharded parameters.

    Args:
        models: by the prefix of the names of their tensors.

    >>> layer = nn.BatchNorm1d(1)
    >>> _ = layer.running_mean.fill_(math.nan), layer.running_var.fill_(math.inf)
    >>> non_finite_names({"": layer})
    ['running_mean']
    """
    own = models.items()
    parameters = {before + name: p.detach() for before, model in own for name, p in model.named_parameters()}
    buffers = {before + name: buffer for before, model in own for name, buffer in model.named_buffers()}
    parameters = {name: p.to_local() if is_sharded_tensor(p) else p for name, p in parameters.items()}
    tensors = parameters | buffers
    if not tensors:
        return []
    # A sum is finite only where each number is, and takes a fraction of the time of looking at each.
    device = [*tensors.values()][-1].device  # shards may be in the host's memory, and buffers on the GPU
    fine = torch.stack([tensor.sum().isfinite().to(device) for tensor in tensors.values()]).tolist()
    suspects = [name for name, is_fine in zip(tensors, fine, strict=True) if not is_fine]
    return [
        name
        for name in suspects
        if (buffers[name].isnan().any() if name in buffers else not parameters[name].isfinite().all())
    ]
