"""The loop: one class, five events for hooks, one clock."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from warmstart.config import ConfigError
from warmstart.data import TrainLoader, forward_key, split_batch, to_device
from warmstart.solver import EMA, ScheduleLR
from warmstart.tasks import Task

from ..distributed import comm
from ..distributed.errors import raise_together
from ..distributed.fsdp import shard_state_like
from ..runtime.precision import LossScaler
from ..runtime.rng import preserved_rng, restore_rng, rng_state, seed_generators
from ..runtime.signals import Interrupted, signal_name
from ..runtime.states import Kind, read_state
from .forward import METRIC, losses_of, refuse_losses
from .hook import EVENTS, HookBase, every, overrides
from .losses import LossWindow, mean_of
from .non_finite import OVERFLOW, NonFiniteLossError, SkippedUpdates, non_finite_names
from .optimizer_state import load_optimizer_state
from .prefetch import prefetched
from .stopping import Stopping

logger = logging.getLogger(__name__)

# Names of a record's own numbers: what a model returns under them would be recorded in their place, or be lost.
RECORDS_OWN = {"iteration", "total_loss", "lr", "data_time", "time", "grad_norm", "skipped_steps", OVERFLOW}
OWN_STATE = "trainer"  # the trainer's own entry among the states of the hooks
_OWN_KINDS: dict[str, Kind] = {
    "losses": {str: [float]},
    "skipped": {str: int},
    "rates": [float],
    "pending": bool,
    "scalars": {str: float},
    "stop": str,
}


class _GivenUp(Exception):
    """A hook has given up its work, since a signal came."""


def is_pending(start: Mapping[str, Any]) -> bool:
    """Return whether a checkpoint's last update is still to be evaluated: a signal came while it was."""
    own = start["hooks"].get(OWN_STATE, {"pending": False})
    return bool(read_state(own, f"hooks.{OWN_STATE}", {"pending": bool})["pending"])


class Trainer:
    """Trains a model, one update an iteration: one that returns its losses, or one whose losses a task computes.

    `iteration` is the number of completed updates, and so the index of the next one. On several ranks (comm)
    each has a trainer of its own; what they record is the mean over all; they stop, save and fail together.

    Args:
        model: without a task, `model(*batch)` returns in training mode a dict of 0-dim tensors: losses, which are
            summed, and metrics, whose names start with `train/`; those are only averaged and recorded, as losses
            are too.
        optimizer: as is.
        scheduler: stepped once after each update.
        data_loader: gives batches: `Batch` objects for a task, else tuples or the like. With a method
            `batches(start)`, as our loaders have, a resumed run continues at its batch; any other iterable is
            begun anew, and again when it ends.
        hooks: run in this order at each event, those that say `runs_last` behind all others.
        task: computes the losses from the model's outputs; a model that returns losses itself is trained on those.
        max_iter: updates after which the run is complete.
        device: where the batches go; the model is there already.
        accum_steps: micro-batches that each batch is cut into, by sample, for one update; what is recorded is
            their mean.
        clip: clips the gradients of the parameters it is given, in place, and returns their norm before.
        ema: follows the model, is saved and resumed with it.
        nan_limit: updates in a row that are left out where their loss, or the norm that `clip` returns, is not
            finite; one more is an error. Each step then waits for the device. 0: the first is an error, when it
            is next read.
        scaler: scales the losses of a model that computes in fp16; an update that it skips counts as any other.
        forward: called in training in place of the model, as a compiled or a data parallel form of it.
        autocast: what layers compute in where that is safe (torch.autocast); None: the types of their weights.
        no_sync: a context within which gradients stay on their rank, for all micro-batches of an update but the
            last; as of torch's DistributedDataParallel.
        check: called when the gradients of an update are there; raises where they are not those of all ranks.

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
        accum_steps: int = 1,
        clip: Callable[[Iterable[nn.Parameter]], Tensor] | None = None,
        ema: EMA | None = None,
        nan_limit: int = 0,
        scaler: LossScaler | None = None,
        forward: Callable[..., Any] | None = None,
        autocast: torch.dtype | None = None,
        no_sync: Callable[[], AbstractContextManager[None]] = nullcontext,
        check: Callable[[], None] | None = None,
    ) -> None:
        vars(self)["model"] = model  # past the setter
        self.no_sync = no_sync
        self.check = check
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.data_loader = data_loader
        self.hooks = list(hooks)
        self.max_iter = max_iter
        self.device = torch.device(device)
        self.task = task
        self._compute_losses = losses_of(model, task, forward, autocast, self.device)
        draws = task is not None and task.draws_in_forward
        self._keyed = data_loader if draws and isinstance(data_loader, TrainLoader) else None
        self._moves_batches = self.device.type != "cpu"  # asked once: that takes microseconds
        self.accum_steps = accum_steps
        self.clip = clip
        self.ema = ema
        self.scaler = scaler
        #: The updates that were left out: their loss was not finite, or their gradients overflowed in fp16.
        self.skipped = SkippedUpdates(nan_limit)
        self._step_skipped: bool | Tensor = False
        self.iteration = 0
        self.is_last_step = False
        #: The number of the signal that ends the run after this iteration, or 0; set before after_step.
        self.interrupted: int = 0
        #: Whether what hooks do in after_step was given up in this iteration, and is to be done by a resumed run.
        self.pending = False
        self._due = 0.0
        self._hooks_due, self._each_is_due = math.inf, False
        self._settled_at = -1  # the count of updates of which all losses are read
        self._is_alone = comm.world_size() == 1
        self._stops = Stopping()
        self._asked_to_stop = ""  # by the iteration that a checkpoint holds
        #: Further names under which this iteration's checkpoint is saved; the checkpoint hook empties it.
        self.save_as: set[str] = set()
        #: Losses since the last record.
        self.losses = LossWindow()
        #: What hooks want in this iteration's record, besides the losses; anything in it makes a record.
        self.scalars: dict[str, float] = {}
        #: The record that was made last; where they come fast, RecordHook makes several together.
        self.record: dict[str, float] = {}
        #: The rate of each parameter group in the last update.
        self.rates: list[float | Tensor] = []
        #: Seconds spent waiting for data, and outside of training (evaluating, saving), so far.
        self.data_seconds = 0.0
        self.paused_seconds = 0.0
        if accum_steps < 1:
            raise ValueError(f"accum_steps: an update has at least 1 micro-batch; got {accum_steps}")
        self._calls()  # so that names that clash are seen at once

    @property
    def model(self) -> nn.Module:
        """The model, for good: the optimizer holds its parameters, and hooks evaluate it."""
        return vars(self)["model"]  # type: ignore[no-any-return]

    @model.setter
    def model(self, other: nn.Module) -> None:
        raise AttributeError(
            "a trainer keeps its model, whose parameters the optimizer holds; give its weights to this one with"
            " trainer.model.load_state_dict(...), or make another Trainer"
        )

    def train(self) -> None:
        """Run from `iteration` to `max_iter`, or until `request_stop` or `interrupt`.

        Raises:
            Interrupted: a signal came; the run is saved.
            NonFiniteLossError: a loss became infinite or NaN, seen when it is next read.
        """
        if self.task is not None and self.task.draws_in_forward and self._keyed is None:
            name, loader = type(self.task).__name__, type(self.data_loader).__name__
            raise ValueError(
                f"{name}.draws_in_forward needs a loader of warmstart.data, which has keys; got {loader}"
            )
        calls = self._calls()
        before_step, after_step = calls["before_step"], calls["after_step"]
        stops, alone = self._stops, self._is_alone  # what is read in each update costs
        asked, self._asked_to_stop = self._asked_to_stop, ""
        self._stops.forget_reason()
        self.interrupted = 0
        if not self.model.training:  # else layers that the user holds in evaluation mode stay there
            self.model.train()
        batches = self._batches()
        try:
            # A resumed run draws on from where the unbroken one was, whatever hooks draw to begin with.
            with preserved_rng(self.device) if self.iteration else nullcontext(), raise_together():
                for call in calls["before_train"]:
                    call(self)
            self._stops.sync(self.iteration, self.paused_seconds)
            self.is_last_step = self._is_over()
            self._stops.reason = self._stops.reason or asked
            self._due = self._next_due()
            if self.pending:
                self._after_step(after_step)
            while not (self.is_last_step or self.interrupted):
                for call in before_step:
                    call(self)
                updated = self.run_step(batches, calls["after_backward"])
                self.iteration += 1
                # No hook: one that stood at the wrong place would average too late.
                if self.ema is not None and updated:
                    self.ema.update(self.model, self.iteration)
                due = self.iteration >= self._due or stops.signum or stops.reason
                if due or (alone and (self.scalars or self.save_as)):
                    self._after_step(after_step)
            ended = self.is_last_step and not self.pending
            if ended and self.stop_reason:
                logger.info("stopped after iteration %d: %s", self.iteration, self.stop_reason)
            for call in calls["after_train"]:
                call(self)
        finally:
            close = getattr(batches, "close", None)
            if close is not None:
                close()
            for call in calls["close"]:
                call(self)
        if signum := stops.take_signal():
            rest = "the run is complete" if ended else "give --resume to go on"
            logger.info("%s: ended after iteration %d; %s", signal_name(signum), self.iteration, rest)
            raise Interrupted(signum)

    def _calls(self) -> dict[str, list[Callable[[Trainer], None]]]:
        """Return what each event calls; it costs nothing where no hook has overridden it.

        Raises:
            ValueError: two hooks have one name, or one has the trainer's.
        """
        names = [hook.name for hook in self.hooks]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(
                f"several hooks are called {', '.join(doubled)}: give each a `name` of its own, "
                "their states are kept by name"
            )
        if OWN_STATE in names:
            raise ValueError(
                f"a hook is called {OWN_STATE}, as the trainer's own state is: give it another `name`"
            )
        return {
            event: [
                getattr(hook, event)
                for hook in sorted(self.hooks, key=lambda hook: hook.runs_last)
                if overrides(hook, event)
            ]
            for event in EVENTS
        }

    def _is_over(self) -> bool:
        return self.iteration >= self.max_iter or bool(self.stop_reason)

    def _after_step(self, calls: Iterable[Callable[[Trainer], None]]) -> None:
        """Do what hooks do after an update, or give it up and only save."""
        if self.iteration >= self._stops.sync_at:
            self._stops.sync(self.iteration, self.paused_seconds)
        # Fixed before the hooks run, so that all of them agree; a stop that one of them asks
        # for now, or a signal that comes now, makes the next iteration the last.
        self.is_last_step = self._is_over()
        self.interrupted = self._stops.signum
        self.pending = False
        waiting = {} if self._is_alone else dict(self.scalars)
        try:
            for call in calls:
                call(self)
        except _GivenUp:
            self.pending, self.interrupted, self.scalars = True, self._stops.signum, waiting
            logger.info("iteration %d is evaluated when the run goes on", self.iteration)
            for hook in self.hooks:
                if hook.runs_last:
                    hook.after_step(self)
        self._due = self._next_due()

    def _next_due(self) -> float:
        """Return the count of updates after which a hook has something to do again, at the latest the last."""
        overriding = [hook for hook in self.hooks if overrides(hook, "after_step")]
        if not self._is_alone:
            self._each_is_due = not all(overrides(hook, "next_due") for hook in overriding)
        self._hooks_due = min((hook.next_due(self.iteration) for hook in overriding), default=math.inf)
        return min(self._hooks_due, self.max_iter, self._stops.sync_at)

    def is_wanted(self, asked: Collection[str]) -> bool:
        """Return whether to act in this after_step on what is in `scalars` or `save_as`.

        In one process that is wherever there is something in it. On several ranks what is there on rank 0 counts,
        and only where all ask for it; else it waits. They ask where the losses of this update are read, as where a
        record or an evaluation is due by its period, and in and after a block `with trainer.paused():`, which all
        enter. They also ask where a hook is due by its `next_due`, unless a hook without one is due after each
        update: to ask takes some tenths of a millisecond. Waits for all ranks.

        Args:
            asked: one of the two.
        """
        if self._is_alone:
            return bool(asked)
        ask = self._settled_at == self.iteration or (self.iteration == self._hooks_due and not self._each_is_due)
        return ask and comm.all_reduce_max([comm.is_main() and bool(asked)]) == [1]

    def run_step(self, batches: Iterator[Any], after_backward: Iterable[Any] = ()) -> bool:
        """Do one update: a batch, its losses, gradients, the optimizer, the scheduler.

        Returns:
            Whether the weights were updated; if not, everything else has moved on as if they were. In fp16 also
            True where the scaler has skipped it, which only the device knows: see `step_skipped`.
        """
        start = time.perf_counter()
        batch = next(batches)
        self.data_seconds += time.perf_counter() - start
        buffers = {name: b.clone() for name, b in self.model.named_buffers()} if self.skipped.limit else {}
        self._zero_grad()
        values = self._backward(batch) if self.accum_steps == 1 else self._gradients(batch)
        if self.check is not None:
            self.check()
        overflow = None if self.scaler is None else self.scaler.unscale(self.optimizer)
        for call in after_backward:
            call(self)
        # After the hooks, as in detectron2 and Lightning: they see the gradients as they came, and what
        # they add to them is within the bound too.
        if self.clip is not None:
            values["grad_norm"] = self.clip(p for group in self.optimizer.param_groups for p in group["params"])
        if overflow is not None:
            values[OVERFLOW] = overflow
        problem = self.skipped.problem_of(values) if self.skipped.limit else ""
        self._step_skipped = overflow if overflow is not None and not problem else bool(problem)
        if problem:
            self._skip(problem, buffers)
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

    @property
    def step_skipped(self) -> bool:
        """Whether the last update was left out; in fp16 asking waits for the device."""
        return bool(self._step_skipped)

    def _skip(self, problem: str, buffers: Mapping[str, Tensor]) -> None:
        """Leave this update out, and what its forward pass has left behind: BatchNorm's statistics are NaN now."""
        number = self.iteration + 1
        if self.skipped.too_many:
            before = f"as were the {self.skipped.limit} updates before, which were skipped (SOLVER.NAN_LIMIT)"
            raise self._non_finite_error(f"iteration {number}: {problem}, {before}", number, self.skipped.rank)
        with torch.no_grad():
            for name, buffer in self.model.named_buffers():
                buffer.copy_(buffers[name])
        samples = self._samples(number, self.skipped.rank)
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

    def _gradients(self, batch: Any) -> dict[str, Tensor]:
        """Add up the gradients of an update's micro-batches; return its losses and metrics."""
        *first, last = split_batch(batch, self.accum_steps)
        with self.no_sync():
            values = [self._backward(part, index) for index, part in enumerate(first)]
        return mean_of([*values, self._backward(last, len(first))])

    def _backward(self, batch: Any, index: int = 0) -> dict[str, Tensor]:
        """Add the gradients of micro-batch `index` to the update's; return its losses and metrics."""
        if self._moves_batches:
            batch = to_device(batch, self.device)
        if self._keyed is not None:
            slots = self._keyed.slots
            position = self.iteration * self._keyed.batch_size + slots[index * len(slots) // self.accum_steps]
            seed_generators(forward_key(self._keyed.seed, position), self.device)
        values = self._compute_losses(batch)
        try:
            total, only, kept = None, "", {}
            for name, value in values.items():
                if value.ndim:
                    raise ValueError("no number")
                if not name.startswith(METRIC):
                    total, only = (value, name) if total is None else (total + value, "")
                kept[name] = value.detach()
            if total is None:
                raise ValueError("no loss")
            part = total / self.accum_steps if self.accum_steps > 1 else total
            (part if self.scaler is None else self.scaler.scale(part)).backward()  # type: ignore[no-untyped-call]
        except Exception:
            who = "the model" if self.task is None else f"losses() of {type(self.task).__name__}"
            refuse_losses(values, who, self._own_samples(self.iteration + 1))
            if total is not None and not total.requires_grad:
                raise ConfigError(
                    f"{who} returned losses without a gradient; compute them from what the model returns, without"
                    " detach(), item() or argmax()"
                ) from None
            raise
        if not RECORDS_OWN.isdisjoint(kept):
            name = next(name for name in kept if name in RECORDS_OWN)
            raise ConfigError(f"the model returns a loss named {name}, as a number of each record is; rename it")
        return {"total_loss": kept[only] if only else total.detach(), **kept}

    @property
    def stop_reason(self) -> str:
        """Why the run ends, or has ended, before `max_iter`; "" if nobody has asked for it."""
        return self._stops.reason

    def request_stop(self, reason: str) -> None:
        """End the run cleanly: the iteration under way is finished, evaluated, recorded and saved.

        Asked for in after_step, the run ends with the iteration that follows; in before_train, without any. It
        survives a kill, and holds for later runs of train_net.py too, until SOLVER.MAX_ITER is raised.

        On several ranks one may ask for it alone: all end with the same iteration, some tenth of a second later.
        Asked for in the iteration after an evaluation or a record, it is heard at its end.
        """
        self._stops.request(reason)

    def interrupt(self, signum: int) -> None:
        """End the run after the iteration under way: saved, but not evaluated or recorded on that account.

        The run that continues from there is the unbroken one. Does no more than set a flag: signal handlers
        may call it at any instant. On several ranks one may be told alone, and all end with the same iteration.
        """
        self._stops.interrupt(signum)

    def is_due(self, period: int) -> bool:
        """Return whether what evaluates every `period` updates, and after the last, does so in this after_step."""
        return every(period, self.iteration) or self.is_last_step

    def raise_if_interrupted(self) -> None:
        """In a long after_step, call this between its parts: it does not return where a signal has come.

        Everything else after this update is given up too, and a checkpoint saved; the run that goes on from it
        does it all, from the first hook on. So it is for hooks before which none counts or keeps anything.
        Several ranks, which have not all done the same parts at the same time, give way before the first one only.
        """
        if self._stops.signum:
            raise _GivenUp

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Keep the seconds of the block out of the time an iteration takes; settles first."""
        self.flush_losses()
        start = time.perf_counter()
        try:
            yield
        finally:
            self.paused_seconds += time.perf_counter() - start

    def flush_losses(self) -> None:
        """Read the losses that are still on the device, before anything is recorded, evaluated or saved.

        Raises:
            NonFiniteLossError: one of them is infinite or NaN, or too many updates in a row overflowed in fp16.
        """
        try:
            overflowed = self.losses.flush(self.iteration)
        except NonFiniteLossError as error:
            raise self._non_finite_error(str(error), error.iteration, error.rank) from None
        self._settled_at = self.iteration
        self._stops.sync_next(self.iteration)
        if self.scaler is not None and not self.skipped.limit:  # else they were counted one by one
            self._count_overflows(overflowed, self.scaler)

    def _count_overflows(self, overflowed: Mapping[int, bool], scaler: LossScaler) -> None:
        for number, overflow in overflowed.items():
            self.skipped.count(overflow)
            if self.skipped.in_a_row > scaler.limit:
                before = f"as those of the {scaler.limit} updates before, which were skipped (SOLVER.NAN_LIMIT)"
                raise self._non_finite_error(
                    f"iteration {number}: the gradients overflow in fp16, {before}", number
                )
        numbers = ", ".join(str(number) for number, overflow in overflowed.items() if overflow)
        if numbers:
            text = "skipped, since gradients overflow in fp16: iteration %s; the scale is now %g"
            logger.info(text, numbers, scaler.get_scale())

    def _non_finite_error(self, problem: str, iteration: int = 0, rank: int = 0) -> NonFiniteLossError:
        rates, which = self.rates, "the last"
        if iteration and isinstance(self.scheduler, ScheduleLR):
            rates, which = list(self.scheduler.lr_at(iteration - 1)), "that"
        named = ", ".join(dict.fromkeys(f"{float(rate):g}" for rate in rates))
        return NonFiniteLossError(
            f"{problem}{self._samples(iteration, rank)}; the rate of {which} update was {named}. Nothing was "
            "saved after it: try a lower SOLVER.BASE_LR or a longer SOLVER.WARMUP_ITERS, and --resume (=PATH for "
            "an earlier checkpoint)",
            iteration,
            rank,
        )

    def _samples(self, iteration: int, rank: int = 0) -> str:
        """Return which samples of a rank update number `iteration` was made from, where the loader can tell."""
        return comm.gather(self._own_samples(iteration))[rank]

    def _own_samples(self, iteration: int) -> str:
        describe = getattr(self.data_loader, "describe_samples", None)
        return f"; samples of its batch: {describe(iteration - 1)}" if describe and iteration else ""

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed run needs, as tensors and plain values.

        Raises:
            NonFiniteLossError: a loss or a weight is infinite or NaN: such a state is of no use.
        """
        self.flush_losses()
        models = {"": self.model} if self.ema is None else {"": self.model, "average of ": self.ema.model}
        bad = [*dict.fromkeys(name for names in comm.gather(non_finite_names(models)) for name in names)]
        if bad:
            listed = ", ".join([*bad[:3], "..."] if len(bad) > 3 else bad)
            raise self._non_finite_error(f"iteration {self.iteration}: weights are infinite or NaN: {listed}")
        over = self.is_last_step and not self.pending
        own = {
            "losses": self.losses.state_dict(),
            "skipped": self.skipped.state_dict(),
            "rates": [float(rate) for rate in self.rates],
            "pending": self.pending,
            "scalars": {name: float(value) for name, value in self.scalars.items()},
            # Why the run stops with its next iteration, and why it has stopped with this one.
            "stop": "" if over else self._stops.asked,
            "stopped": self.stop_reason if over else "",
        }
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "iteration": self.iteration,
            "hooks": {OWN_STATE: own} | {hook.name: hook.state_dict() for hook in self.hooks},
            "rng": comm.gather(rng_state(self.device)),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned; hyper-parameters of the optimizer stay this run's.

        Raises:
            KeyError: a part is missing.
            RuntimeError: the model's parameters are others.
            ValueError: the optimizer's parameters have other names.
        """
        self.model.load_state_dict(shard_state_like(state["model"], self.model))
        self._load_average(state.get("ema"))
        if self.scaler is not None and state.get("scaler"):
            self.scaler.load_state_dict(state["scaler"])
        load_optimizer_state(self.optimizer, state["optimizer"], self.scheduler)
        self.scheduler.load_state_dict(state["scheduler"])
        self.iteration = state["iteration"]
        own = {"scalars": {}} | state["hooks"][OWN_STATE]  # older checkpoints have none
        own = read_state(own, f"hooks.{OWN_STATE}", _OWN_KINDS)
        self.losses.load_state_dict(own["losses"])
        self.skipped.load_state_dict(own["skipped"])
        self.rates = list(own["rates"])
        self.pending, self._asked_to_stop = own["pending"], own["stop"]
        self.scalars = dict(own["scalars"])
        names = [OWN_STATE, *(hook.name for hook in self.hooks)]
        for name in state["hooks"]:
            if name not in names and state["hooks"][name]:
                logger.warning("the checkpoint holds the state of %s, a hook that this run does not have", name)
        for hook in self.hooks:
            if hook.name in state["hooks"]:  # a hook that is new to this run starts as it is
                hook.load_state_dict(state["hooks"][hook.name])
        restore_rng(state["rng"], self.device, comm.rank(), comm.world_size())

    def _load_average(self, saved: Mapping[str, Any] | None) -> None:
        if self.ema is not None and saved is not None:
            self.ema.load_state_dict({**saved, "model": shard_state_like(saved["model"], self.ema.model)})
        elif self.ema is not None:
            self.ema.restart(self.model)
            logger.info("the checkpoint has no moving average: SOLVER.EMA begins with its weights")
        elif saved is not None:
            logger.info("SOLVER.EMA is off: the checkpoint's moving average is left behind")

    def _batches(self) -> Iterator[Any]:
        begin = getattr(self.data_loader, "batches", None)
        batches = begin(self.iteration) if begin is not None else _cycle(self.data_loader)
        # Micro-batches are copied one by one, since a whole batch may not fit.
        ahead = self.device.type == "cuda" and self.accum_steps == 1
        return prefetched(batches, self.device) if ahead else batches


def _cycle(iterable: Iterable[Any]) -> Iterator[Any]:
    while True:
        empty = True
        for item in iterable:
            empty = False
            yield item
        if empty:
            raise ValueError("the data loader gave no batch")
