"""One optimizer update: micro-batches, loss scaling, clipping, skipping, the step of optimizer and schedule."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from warmstart.config import ConfigError
from warmstart.data import TrainLoader, forward_key, split_batch, to_device
from warmstart.tasks import Task

from ..distributed import comm
from ..distributed.strategy import Strategy
from ..runtime.precision import LossScaler
from ..runtime.rng import seed_generators
from ..runtime.states import Kind
from .forward import METRIC, refuse_losses
from .losses import LossWindow, mean_of
from .non_finite import OVERFLOW, Diagnosis, NonFiniteLossError, SkippedUpdates

logger = logging.getLogger(__name__)

# Names of a record's own numbers: what a model returns under them would be recorded in their place, or be lost.
RECORDS_OWN = {"iteration", "total_loss", "lr", "data_time", "time", "grad_norm", "skipped_steps", OVERFLOW}


class Update:
    """Computes the losses of a batch and their gradients, and updates the weights.

    Args:
        model: the model whose buffers a skipped update restores.
        optimizer: of its parameters.
        scheduler: stepped once after each update, a skipped one too.
        compute_losses: turns a batch into losses and metrics by name.
        device: of the model.
        accum_steps: gradient accumulation: micro-batches per optimizer update, into which each batch is split; the
            means of their losses are recorded.
        clip: clips the gradients of the parameters that it is given, in place, and returns their norm before.
        scaler: scales the losses of a model that computes in fp16; an update that it skips counts as any other.
        nan_limit: updates in a row that are skipped if their loss, or the norm that `clip` returns, is not finite;
            one more is an error. Each update then waits for the device. 0: the first one is an error, raised when
            it is next read.
        strategy: how the ranks share the model.
        task: computes the losses; None: the model does.
    """

    #: The entries of a saved state, for `read_state`.
    KINDS: ClassVar[dict[str, Kind]] = {"losses": {str: [float]}, "skipped": {str: int}, "rates": [float]}

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        scheduler: LRScheduler,
        compute_losses: Callable[[Any], Mapping[str, Tensor]],
        *,
        device: torch.device,
        accum_steps: int,
        clip: Callable[[Iterable[nn.Parameter]], Tensor] | None,
        scaler: LossScaler | None,
        nan_limit: int,
        strategy: Strategy,
        task: Task | None,
    ) -> None:
        if accum_steps < 1:
            raise ValueError(f"accum_steps: an update has at least 1 micro-batch; got {accum_steps}")
        self.model = model
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.compute_losses = compute_losses
        self.who = "the model" if task is None else f"losses() of {type(task).__name__}"
        self.device = device
        self.accum_steps = accum_steps
        self.clip = clip
        self.scaler = scaler
        self.strategy = strategy
        self.task = task
        self.diagnosis = Diagnosis(scheduler)
        self._keys: TrainLoader | None = None
        #: Losses since the last record.
        self.losses = LossWindow()
        self.skipped = SkippedUpdates(nan_limit)
        #: The learning rate of each parameter group in the last update.
        self.rates: list[float | Tensor] = []
        #: Whether the last update was skipped; a tensor in fp16, where reading it waits for the device.
        self.step_skipped: bool | Tensor = False
        self._moves_batches = device.type != "cpu"  # asked once: that takes microseconds

    def __call__(self, batch: Any, iteration: int, after_backward: Iterable[Callable[[], object]] = ()) -> bool:
        """Do the update after `iteration` others; waits for the device only if non-finite updates are skipped.

        Args:
            batch: on any device.
            iteration: completed updates.
            after_backward: called when the gradients are complete, before they are clipped.

        Returns:
            Whether the weights were updated. Also True if the scaler has skipped the step in fp16, which only the
            device knows.

        Raises:
            NonFiniteLossError: more than `nan_limit` updates in a row were not finite.
        """
        buffers = {name: b.clone() for name, b in self.model.named_buffers()} if self.skipped.limit else {}
        self._zero_grad()
        values = self._backward(batch, iteration) if self.accum_steps == 1 else self._accumulate(batch, iteration)
        self.strategy.check_gradients()
        overflow = None if self.scaler is None else self.scaler.unscale(self.optimizer)
        for call in after_backward:
            call()
        # After the hooks, as in detectron2 and Lightning: they see the gradients as they came, and what
        # they add to them is within the bound too.
        if self.clip is not None:
            values["grad_norm"] = self.clip(p for group in self.optimizer.param_groups for p in group["params"])
        if overflow is not None:
            values[OVERFLOW] = overflow
        problem = self.skipped.problem_of(values) if self.skipped.limit else ""
        self.step_skipped = overflow if overflow is not None and not problem else bool(problem)
        if problem:
            self._skip(problem, iteration + 1, buffers)
        else:
            self.losses.add(values)
            if self.scaler is None:
                self.optimizer.step()
            else:
                self.scaler.step(self.optimizer)
        if self.scaler is not None:
            self.scaler.update()
        self.rates = self.scheduler.get_last_lr()  # before step(): the rates this update used
        self.scheduler.step()
        return not problem

    def use_loader(self, loader: object) -> None:
        """Take the samples for messages, and the keys for a task that draws in forward, from a loader.

        Raises:
            ValueError: such a task has a loader that is not one of ours.
        """
        self.diagnosis = Diagnosis(self.scheduler, loader)
        if self.task is None or not self.task.draws_in_forward:
            return
        if not isinstance(loader, TrainLoader):
            name, kind = type(self.task).__name__, type(loader).__name__
            raise ValueError(
                f"{name}.draws_in_forward needs a loader of warmstart.data, which has keys; got {kind}"
            )
        self._keys = loader

    def flush(self, iteration: int) -> None:
        """Read the losses of the updates up to number `iteration` from the device; waits for all ranks.

        Raises:
            NonFiniteLossError: one of them is infinite or NaN, or too many updates in a row overflowed in fp16.
        """
        try:
            overflowed = self.losses.flush(iteration)
        except NonFiniteLossError as error:
            raise self.diagnosis.error(str(error), self.rates, error.iteration, error.rank) from None
        if self.scaler is not None and not self.skipped.limit:  # else they were counted one by one
            self._count_overflows(overflowed, self.scaler)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs of the updates since the last record; call `flush` before."""
        return {
            "losses": self.losses.state_dict(),
            "skipped": self.skipped.state_dict(),
            "rates": [float(rate) for rate in self.rates],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.losses.load_state_dict(state["losses"])
        self.skipped.load_state_dict(state["skipped"])
        self.rates = list(state["rates"])

    def _count_overflows(self, overflowed: Mapping[int, bool], scaler: LossScaler) -> None:
        for number, overflow in overflowed.items():
            self.skipped.count(overflow)
            if self.skipped.in_a_row > scaler.limit:
                before = f"as in the {scaler.limit} updates before, which were skipped (SOLVER.NAN_LIMIT)"
                problem = f"iteration {number}: the gradients overflow in fp16, {before}"
                raise self.diagnosis.error(problem, self.rates, number)
        numbers = ", ".join(str(number) for number, overflow in overflowed.items() if overflow)
        if numbers:
            text = "skipped because gradients overflow in fp16: iteration %s; the scale is now %g"
            logger.info(text, numbers, scaler.get_scale())

    def _skip(self, problem: str, number: int, buffers: Mapping[str, Tensor]) -> None:
        """Undo what the forward pass of a skipped update has left: BatchNorm's statistics are NaN now."""
        if self.skipped.too_many:
            before = f"as were the {self.skipped.limit} updates before, which were skipped (SOLVER.NAN_LIMIT)"
            problem = f"iteration {number}: {problem}, {before}"
            raise self.diagnosis.error(problem, self.rates, number, self.skipped.rank)
        with torch.no_grad():
            for name, buffer in self.model.named_buffers():
                buffer.copy_(buffers[name])
        samples = self.diagnosis.samples(number, self.skipped.rank)
        if comm.is_main():
            logger.warning("iteration %d is skipped: %s%s", number, problem, samples)

    def _zero_grad(self) -> None:
        """Do what the optimizer's zero_grad() does; torch's spends most of its time on marks for a profiler."""
        if type(self.optimizer).zero_grad is not Optimizer.zero_grad:
            self.optimizer.zero_grad()
            return
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def _accumulate(self, batch: Any, iteration: int) -> dict[str, Tensor]:
        """Accumulate the gradients of the micro-batches; return the means of their losses and metrics."""
        *first, last = split_batch(batch, self.accum_steps)
        with self.strategy.no_sync():
            values = [self._backward(part, iteration, index) for index, part in enumerate(first)]
        return mean_of([*values, self._backward(last, iteration, len(first))])

    def _backward(self, batch: Any, iteration: int, index: int = 0) -> dict[str, Tensor]:
        """Accumulate the gradients of micro-batch `index`; return its losses and metrics."""
        if self._moves_batches:
            batch = to_device(batch, self.device)
        if self._keys is not None:
            seed_forward(self._keys, iteration, index, self.accum_steps, self.device)
        values = self.compute_losses(batch)
        try:
            total, only, kept = None, "", {}
            for name, value in values.items():
                if value.ndim:
                    raise ValueError("not a number")
                if not name.startswith(METRIC):
                    total, only = (value, name) if total is None else (total + value, "")
                kept[name] = value.detach()
            if total is None:
                raise ValueError("no loss")
            part = total / self.accum_steps if self.accum_steps > 1 else total
            (part if self.scaler is None else self.scaler.scale(part)).backward()  # type: ignore[no-untyped-call]
        except Exception:
            refuse_losses(values, self.who, self.diagnosis.own_samples(iteration + 1))
            if total is not None and not total.requires_grad:
                raise ConfigError(
                    f"{self.who} returned losses without a gradient; compute them from what the model returns,"
                    " without detach(), item() or argmax()"
                ) from None
            raise
        if not RECORDS_OWN.isdisjoint(kept):
            name = next(name for name in kept if name in RECORDS_OWN)
            raise ConfigError(f"the model returns a loss named {name}, as a number of each record is; rename it")
        return {"total_loss": kept[only] if only else total.detach(), **kept}


def seed_forward(loader: TrainLoader, iteration: int, index: int, parts: int, device: torch.device) -> None:
    """Seed the generators for the forward pass of a micro-batch, of a task that draws in forward.

    Args:
        loader: gives the batches.
        iteration: completed updates.
        index: of the micro-batch.
        parts: micro-batches of a batch.
        device: of the model.
    """
    position = iteration * loader.batch_size + loader.slots[index * len(loader.slots) // parts]
    seed_generators(forward_key(loader.seed, position), device)
