"""The hooks of a default run."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from torch import nn
from torch.profiler import ProfilerActivity, profile, tensorboard_trace_handler

from warmstart.config import ConfigError

from .batches import micro_batch
from .checkpoint import refuse_used_folder, remove_leftovers
from .lock import hold
from .precise_bn import norm_layers, update_statistics
from .saving import finish_saves
from .trainer import HookBase, Trainer, every
from .writers import Record, RetryingWriter, Writer

logger = logging.getLogger(__name__)


class FolderHook(HookBase):
    """Sees that the run's folder is there and is no other run's, before anything is written into it.

    No other process can write a run there until this one has ended or, after an exception, the process has.

    Args:
        folder: OUTPUT_DIR.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._lock = ExitStack()

    def before_train(self, trainer: Trainer) -> None:
        """Make the folder, and delete what a kill has left of a save.

        Raises:
            ConfigError: the run is new, and the folder holds the checkpoints of another; or another process is
                writing it.
        """
        with ExitStack() as lock:
            lock.enter_context(hold(self.folder))
            if trainer.iteration == 0:
                refuse_used_folder(self.folder)
            finish_saves()  # of an earlier run in this process, which an exception has ended
            remove_leftovers(self.folder)
            self._lock = lock.pop_all()

    def after_train(self, trainer: Trainer) -> None:
        """Give the folder back."""
        self._lock.close()


class ProfilerHook(HookBase):
    """Writes a trace of some iterations, which TensorBoard and chrome://tracing open.

    Args:
        start: updates done before the first iteration of the trace.
        iters: iterations in it.
        folder: where it goes.
    """

    def __init__(self, start: int, iters: int, folder: str | Path) -> None:
        self.start, self.end = start, start + iters
        self.folder = Path(folder)
        self._profile: profile | None = None

    def before_train(self, trainer: Trainer) -> None:
        """Say so where the run is past these iterations."""
        if trainer.iteration >= self.end:
            logger.info("PROFILER: iteration %d is past, nothing is profiled; set PROFILER.START", self.end)

    def before_step(self, trainer: Trainer) -> None:
        """Begin where the first of the iterations begins, or a resumed run enters them."""
        if self._profile is None and self.start <= trainer.iteration < self.end:
            kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if trainer.device.type == "cuda" else [])]
            handler = tensorboard_trace_handler(str(self.folder))
            self._profile = profile(activities=kinds, on_trace_ready=handler)
            self._profile.start()

    def after_step(self, trainer: Trainer) -> None:
        """Mark the end of an iteration; after the last one, write the trace."""
        if self._profile is not None and (trainer.iteration >= self.end or trainer.is_last_step):
            self._write(self._profile, trainer)
        elif self._profile is not None:
            self._profile.step()

    def after_train(self, trainer: Trainer) -> None:
        """Write what there is where a signal has cut the run off."""
        if self._profile is not None:
            self._write(self._profile, trainer)

    def _write(self, trace: profile, trainer: Trainer) -> None:
        self._profile = None
        with trainer.paused():
            trace.stop()
        logger.info("saved a profile up to iteration %d in %s", trainer.iteration, self.folder)


class PreciseBNHook(HookBase):
    """Gives BatchNorm layers the statistics of the present weights before each evaluation.

    They are those of the batches that training would take next, so they follow from iteration and config
    alone; and they stay, so that a checkpoint scores as its evaluation did.

    Args:
        period: that of the evaluation.
        models: the models that are evaluated.
        batches: training's batches from a given iteration, a stream of their own.
        num_iter: batches to use.
    """

    def __init__(
        self,
        period: int,
        models: Sequence[nn.Module],
        batches: Callable[[int], Generator[Any, None, None]],
        num_iter: int,
    ) -> None:
        self.period = period
        self.models = list(models)
        self.batches = batches
        self.num_iter = num_iter

    def before_train(self, trainer: Trainer) -> None:
        """Say so where there is nothing to do."""
        self.models = [model for model in self.models if norm_layers(model)]
        if not self.models:
            logger.info("TEST.PRECISE_BN: the model has no BatchNorm layer that trains, nothing is to be done")

    def after_step(self, trainer: Trainer) -> None:
        """Set the statistics where an evaluation is due."""
        if not self.models or not trainer.is_due(self.period):
            return
        with trainer.paused():
            for model in self.models:
                trainer.give_way()
                with closing(self.batches(trainer.iteration)) as stream:
                    # In the portions that training takes: a whole batch may not fit into memory.
                    steps = trainer.accum_steps
                    parts = (micro_batch(batch, i, steps) for batch in stream for i in range(steps))
                    update_statistics(model, parts, self.num_iter * steps, trainer.device)


class EvaluationHook(HookBase):
    """Evaluates every `period` updates and after the last one; 0 is only after the last one.

    Args:
        period: in updates.
        evaluate: gets the trainer, and returns the scores by their names in the record, such as
            {"digits_test/accuracy": 0.98}. It may call `trainer.give_way` in between.
    """

    def __init__(self, period: int, evaluate: Callable[[Trainer], Mapping[str, float]]) -> None:
        self.period = period
        self.evaluate = evaluate

    def after_step(self, trainer: Trainer) -> None:
        """Put the scores into this iteration's record."""
        if trainer.is_due(self.period):
            with trainer.paused():
                trainer.scalars.update(self.evaluate(trainer))


_APART = 0.1  # seconds between writing records, at most


class RecordHook(HookBase):
    """Makes a record every `period` updates, where another hook has scores, and after the last update.

    A writer that cannot write does not end the run: its records wait until it can. Where iterations are so fast
    that records come more often than every tenth of a second, several are handed on at once; a checkpoint, an
    evaluation and the end of the run wait for none.

    Args:
        period: in updates.
        writers: what takes the records.
        gauges: more numbers for each record, read when it is made.
    """

    def __init__(
        self, period: int, writers: Sequence[Writer], gauges: Sequence[Callable[[], Mapping[str, float]]] = ()
    ) -> None:
        self.period = period
        self.writers = [RetryingWriter(writer) for writer in writers]
        self.gauges = list(gauges)
        self._mark = (0, 0.0, 0.0, 0.0)
        self._kept: list[Record] = []
        self._handed_on = -math.inf  # when

    def before_train(self, trainer: Trainer) -> None:
        """Open the writers and start the clock.

        Raises:
            ConfigError: one of them cannot write from the start.
        """
        for writer in self.writers:
            try:
                # A pending iteration is recorded now; a kill may have come when it just had been.
                writer.open(trainer.iteration - trainer.pending)
            except OSError as error:
                path = error.filename or writer.writer
                raise ConfigError(f"OUTPUT_DIR: cannot write to {path}: {error.strerror or error}") from None
        self._mark = self._now(trainer)

    def after_step(self, trainer: Trainer) -> None:
        """Write a record where one is due."""
        if every(self.period, trainer.iteration) or trainer.scalars or trainer.is_last_step:
            has_scores = bool(trainer.scalars)
            trainer.record = self._record(trainer)
            self._kept.append(trainer.record)
            if has_scores or self._mark[1] - self._handed_on > _APART:
                self._hand_on()
        if trainer.is_last_step or trainer.interrupted:  # not in after_train: the last save may fail before it
            self._settle()

    def after_train(self, trainer: Trainer) -> None:
        """Close the writers."""
        for writer in self.writers:
            writer.close()

    def close(self, trainer: Trainer) -> None:
        """Lose no record where an exception ends the run."""
        self._settle()

    def state_dict(self) -> dict[str, Any]:
        """Hand on what is kept: a run that goes on from a checkpoint does not make the records before it again."""
        self._hand_on()
        return {}

    def _hand_on(self) -> None:
        if self._kept:
            records, self._kept, self._handed_on = self._kept, [], self._mark[1]
            for writer in self.writers:
                writer.write(*records)

    def _settle(self) -> None:
        self._hand_on()
        for writer in self.writers:
            writer.settle()

    def _record(self, trainer: Trainer) -> Record:
        trainer.settle()
        before, self._mark = self._mark, self._now(trainer)
        updates, seconds, data, paused = (b - a for a, b in zip(before, self._mark, strict=True))
        updates = updates or 1  # none where a resumed run begins with the evaluation that a signal cut off
        names = [group.get("name", index) for index, group in enumerate(trainer.optimizer.param_groups)]
        rates = {f"lr/{name}": float(rate) for name, rate in zip(names, trainer.rates, strict=False)}
        record: Record = {
            "iteration": trainer.iteration,
            **trainer.losses.averages(),
            "lr": float(trainer.rates[0]),
            **(rates if len(rates) > 1 else {}),
            "data_time": data / updates,
            "time": (seconds - paused) / updates,
            **({"skipped_steps": trainer.skipped.total} if trainer.skipped.total else {}),
            **{name: float(value) for name, value in trainer.scalars.items()},
        }
        for gauge in self.gauges:
            record |= gauge()
        trainer.scalars = {}
        return record

    @staticmethod
    def _now(trainer: Trainer) -> tuple[int, float, float, float]:
        return trainer.iteration, time.perf_counter(), trainer.data_seconds, trainer.paused_seconds
