"""The training loop: one class, five events for hooks, one clock."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from warmstart.solver import EMA
from warmstart.tasks import Task

from ..distributed import comm
from ..distributed.errors import raise_together
from ..distributed.strategy import SingleProcess, Strategy
from ..runtime.precision import LossScaler
from ..runtime.rng import preserved_rng, restore_rng, rng_state
from ..runtime.states import Kind, read_state
from .forward import losses_of
from .hook import OWN_STATE, HookBase, HookCalls, load_hook_states
from .kept import delegated, kept
from .losses import LossWindow
from .non_finite import SkippedUpdates
from .prefetch import training_batches
from .stopping import Stopping
from .training_state import TrainingState
from .update import Update

logger = logging.getLogger(__name__)

_OWN_KINDS: dict[str, Kind] = {
    **Update.KINDS,
    "pending": bool,
    "scalars": {str: float},
    "stop": str,
}


class _GivenUp(Exception):
    """A hook has given up its work because a signal came."""


class Trainer:
    """Trains a model, one optimizer update an iteration; a task computes the losses, or the model returns them.

    `iteration` is the number of completed updates, and so the index of the next one. On several ranks each has a
    trainer; what they record is the mean over all ranks; they stop, save and fail together.

    Args:
        model: without a task, `model(*batch)` returns in training mode a dict of 0-dim tensors: losses, which are
            summed, and metrics, whose names start with `train/`. Both are averaged and recorded.
        optimizer: of the model's parameters.
        scheduler: stepped once after each update.
        data_loader: yields batches: `Batch` objects for a task, else tuples or the like. If it has a method
            `batches(start)`, as our loaders have, a resumed run continues at its batch; any other iterable starts
            from its beginning, and again when it ends.
        hooks: called in this order at each event, those that say `runs_last` after all others.
        task: computes the losses from the model's outputs; a model that returns losses itself is trained on those.
        max_iter: updates after which the run is complete.
        device: of the model; batches are moved to it.
        ema: a moving average of the model, saved and resumed with it.
        forward: called in training in place of the model, such as a compiled or a data parallel form of it.
        autocast: the type that layers compute in when that is safe (torch.autocast); None: the type of their
            weights.
        accum_steps, clip, nan_limit, scaler, strategy: see `Update`.

    >>> model = nn.Linear(2, 1)
    >>> class Loss(nn.Module):
    ...     def __init__(self): super().__init__(); self.net = model
    ...     def forward(self, x, y): return {"loss_square": (self.net(x) - y).square().mean()}
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    >>> trainer = Trainer(Loss(), optimizer, scheduler, [(torch.ones(4, 2), torch.ones(4, 1))], max_iter=3)
    >>> trainer.train()
    >>> trainer.iteration
    3
    """

    model: nn.Module = kept("load other weights with trainer.model.load_state_dict(...), or make another Trainer")
    optimizer: Optimizer = kept("make another Trainer")
    scheduler: LRScheduler = kept("make another Trainer")
    task: Task | None = kept("make another Trainer")
    ema: EMA | None = kept("make another Trainer")
    strategy: Strategy = kept("make another Trainer")
    device: torch.device = kept("make another Trainer")
    #: Options of the update, which may be changed.
    accum_steps: int = delegated("update")
    clip: Callable[[Iterable[nn.Parameter]], Tensor] | None = delegated("update")
    scaler: LossScaler | None = delegated("update")
    losses: LossWindow = delegated("update")  # since the last record
    #: Counts of skipped updates: their loss was not finite, or their gradients overflowed in fp16.
    skipped: SkippedUpdates = delegated("update")
    #: The learning rate of each parameter group in the last update.
    rates: list[float | Tensor] = delegated("update")
    #: Whether the last update was skipped; in fp16 a tensor, and reading it waits for the device.
    step_skipped: bool | Tensor = delegated("update")

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        scheduler: LRScheduler,
        data_loader: Iterable[Any],
        hooks: Iterable[HookBase] = (),
        task: Task | None = None,
        *,
        max_iter: int,
        device: torch.device | str = "cpu",
        ema: EMA | None = None,
        forward: Callable[..., Any] | None = None,
        autocast: torch.dtype | None = None,
        accum_steps: int = 1,
        clip: Callable[[Iterable[nn.Parameter]], Tensor] | None = None,
        nan_limit: int = 0,
        scaler: LossScaler | None = None,
        strategy: Strategy | None = None,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.data_loader = data_loader
        self.hooks = list(hooks)
        self.task = task
        self.max_iter = max_iter
        self.device = torch.device(device)
        self.ema = ema
        self.strategy = strategy or SingleProcess()
        self.update = Update(
            model,
            optimizer,
            scheduler,
            losses_of(model, task, forward, autocast, self.device),
            device=self.device,
            accum_steps=accum_steps,
            clip=clip,
            scaler=scaler,
            nan_limit=nan_limit,
            strategy=self.strategy,
            task=task,
        )
        self.state = TrainingState(self.update, ema)
        self.iteration = 0
        self.is_last_step = False
        #: The number of the signal that ends the run after this iteration, or 0; set before after_step.
        self.interrupted = 0
        #: Whether hooks have given up their after_step of this iteration, which the resumed run repeats.
        self.pending = False
        self.stopping = Stopping()
        #: Further names under which this iteration's checkpoint is saved; the checkpoint hook empties it.
        self.save_as: set[str] = set()
        #: What hooks want in this iteration's record, besides the losses; anything in it makes a record.
        self.scalars: dict[str, float] = {}
        #: The record that was made last; if they come fast, RecordHook makes several together.
        self.record: dict[str, float] = {}
        #: Seconds spent waiting for data, and outside of training (evaluating, saving), so far.
        self.data_seconds = 0.0
        self.paused_seconds = 0.0
        HookCalls(self.hooks)  # so that names that clash are seen at once

    def train(self) -> None:
        """Run from `iteration` to `max_iter`, or until `request_stop` or `interrupt`.

        Raises:
            Interrupted: a signal came; the run is saved.
            NonFiniteLossError: a loss became infinite or NaN, seen when it is next read.
        """
        self.update.use_loader(self.data_loader)
        calls, stopping, is_alone = HookCalls(self.hooks), self.stopping, comm.world_size() == 1
        before_step = calls.of("before_step")
        after_backward = [partial(call, self) for call in calls.of("after_backward")]
        asked = stopping.begin()
        self.interrupted = 0
        if not self.model.training:  # else layers that the user holds in evaluation mode stay there
            self.model.train()
        ahead = self.accum_steps == 1  # else a complete batch may not fit on the device
        batches = training_batches(self.data_loader, self.iteration, self.device, ahead)
        try:
            # A resumed run continues to draw from the saved state, whatever hooks draw before it.
            with preserved_rng(self.device) if self.iteration else nullcontext(), raise_together():
                for call in calls.of("before_train"):
                    call(self)
            stopping.sync(self.iteration, self.paused_seconds)
            self.is_last_step = self.iteration >= self.max_iter or bool(stopping.reason)
            stopping.reason = stopping.reason or asked
            due = self._after_step(calls) if self.pending else self._next_due(calls)
            while not (self.is_last_step or self.interrupted):
                for call in before_step:
                    call(self)
                updated = self.run_step(batches, after_backward)
                self.iteration += 1
                if updated and self.ema is not None:  # not by a hook, which might come too late in the list
                    self.ema.update(self.model, self.iteration)
                asks = stopping.signum or stopping.reason or (is_alone and (self.scalars or self.save_as))
                if asks or self.iteration >= due:
                    due = self._after_step(calls)
            if self.is_last_step and self.stop_reason:
                logger.info("stopped after iteration %d: %s", self.iteration, self.stop_reason)
            for call in calls.of("after_train"):
                call(self)
        finally:
            getattr(batches, "close", lambda: None)()
            for call in calls.of("close"):
                call(self)
        stopping.raise_signal(self.iteration, self.is_last_step)

    def run_step(self, batches: Iterator[Any], after_backward: Iterable[Callable[[], object]] = ()) -> bool:
        """Do the update of this iteration with the next batch; return what `Update` returns."""
        start = time.perf_counter()
        batch = next(batches)
        self.data_seconds += time.perf_counter() - start
        return self.update(batch, self.iteration, after_backward)

    def _next_due(self, calls: HookCalls) -> float:
        """Return the count of updates after which a hook is due next, or ranks exchange what they were asked."""
        return min(calls.next_due(self.iteration), self.max_iter, self.stopping.sync_at)

    def _after_step(self, calls: HookCalls) -> float:
        """Call the hooks that are due, or only those that run last if a signal comes; return `_next_due`."""
        stopping = self.stopping
        if self.iteration >= stopping.sync_at:
            stopping.sync(self.iteration, self.paused_seconds)
        # Fixed before the hooks run, so that all of them agree; a stop that one of them asks
        # for now, or a signal that comes now, makes the next iteration the last.
        self.is_last_step = self.iteration >= self.max_iter or bool(stopping.reason)
        self.interrupted = stopping.signum
        self.pending = False
        before = dict(self.scalars)
        try:
            if calls.call_due(self):
                # What hooks ask for because of a score is heard after the next update, whatever the clock says.
                stopping.sync_next(self.iteration)
        except _GivenUp:
            self.pending, self.is_last_step, self.interrupted, self.scalars = True, False, stopping.signum, before
            logger.info("the evaluation of iteration %d is repeated when the run continues", self.iteration)
            calls.call_last(self)
        return self._next_due(calls)

    @property
    def stop_reason(self) -> str:
        """Why the run ends, or has ended, before `max_iter`; "" if nobody has asked for it."""
        return self.stopping.reason

    def request_stop(self, reason: str) -> None:
        """End the run cleanly with the current iteration: it is evaluated, recorded and saved.

        Asked for in after_step, the run ends with the next iteration; in before_train, without any. The request
        survives a kill, and holds for resumed runs until SOLVER.MAX_ITER is raised. On several ranks one may ask
        alone: all end with the same iteration, at once after an evaluation or a record, else in about 0.1 s.
        """
        self.stopping.request(reason)

    def interrupt(self, signum: int) -> None:
        """End the run after the current iteration: saved, to be resumed as if it had not been interrupted.

        Only sets a flag, so that signal handlers may call it at any time; on several ranks one may be told alone.
        """
        self.stopping.interrupt(signum)

    def raise_if_interrupted(self) -> None:
        """In a long after_step, call this between its parts: it does not return if a signal has come.

        All hooks give up this after_step, except those that run last; the resumed run repeats it from the first
        hook. So no hook before may count or keep anything. On several ranks only a signal that came before the
        first part is heard, because they have not all done the same parts at the same time.
        """
        if self.stopping.signum:
            raise _GivenUp

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Keep the seconds of the block out of the time an iteration takes; flushes the losses first."""
        self.flush_losses()
        start = time.perf_counter()
        try:
            yield
        finally:
            self.paused_seconds += time.perf_counter() - start

    def flush_losses(self) -> None:
        """Read the losses that are still on the device; raises NonFiniteLossError as `Update.flush` does."""
        self.update.flush(self.iteration)

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed run needs, as tensors and plain values.

        Raises:
            NonFiniteLossError: a loss or a weight is infinite or NaN: such a state is of no use.
        """
        self.flush_losses()
        self.state.check_finite(self.iteration)
        own = self.update.state_dict() | {
            "pending": self.pending,
            "scalars": {name: float(value) for name, value in self.scalars.items()},
            # Why the run stops with its next iteration, and why it has stopped with this one.
            "stop": "" if self.is_last_step else self.stopping.asked,
            "stopped": self.stop_reason if self.is_last_step else "",
        }
        return self.state.state_dict() | {
            "iteration": self.iteration,
            "hooks": {OWN_STATE: own} | {hook.name: hook.state_dict() for hook in self.hooks},
            "rng": comm.gather(rng_state(self.device)),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned; raises as `TrainingState.load_state_dict` does."""
        self.state.load_state_dict(state)
        self.iteration = state["iteration"]
        own = {"scalars": {}} | state["hooks"][OWN_STATE]  # older checkpoints have none
        own = read_state(own, f"hooks.{OWN_STATE}", _OWN_KINDS)
        self.update.load_state_dict(own)
        self.pending, self.scalars, self.stopping.saved = own["pending"], dict(own["scalars"]), own["stop"]
        load_hook_states(self.hooks, state["hooks"])
        restore_rng(state["rng"], self.device, comm.rank(), comm.world_size())
