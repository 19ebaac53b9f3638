"""The hooks of a default run."""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import nn
from torch.profiler import ProfilerActivity, profile, tensorboard_trace_handler

from . import comm
from .checkpoint import refuse_used_folder, remove_leftovers
from .hook_base import HookBase, next_multiple
from .lock import hold
from .precise_bn import norm_layers, update_from_training
from .run_files import claim, refuse_foreign
from .saving import finish_saves
from .trainer import Trainer

logger = logging.getLogger(__name__)


class FolderHook(HookBase):
    """Sees that the run's folder is there and is no other run's, before anything is written into it.

    No other process can write a run there until this one has ended or, after an exception, the process has. Of
    several ranks only the main one writes.

    Args:
        folder: OUTPUT_DIR.
        subfolders: the names of those in it that the run needs.
    """

    def __init__(self, folder: str | Path, subfolders: Sequence[str] = ()) -> None:
        self.folder = Path(folder)
        self.subfolders = list(subfolders)
        self._lock = ExitStack()

    def before_train(self, trainer: Trainer) -> None:
        """Make the folder, and delete what a kill has left of a save.

        Raises:
            ConfigError: the run is new, and the folder holds the checkpoints of another; it would overwrite a file
                that no run has written; or another process is writing it.
        """
        if not comm.is_main():
            return
        with ExitStack() as lock:
            lock.enter_context(hold(self.folder))
            if trainer.iteration == 0:
                refuse_used_folder(self.folder)
            finish_saves()  # of an earlier run in this process, which an exception has ended
            refuse_foreign(self.folder, self.subfolders)
            remove_leftovers(self.folder)
            claim(self.folder)
            self._lock = lock.pop_all()

    def after_train(self, trainer: Trainer) -> None:
        """Give the folder back."""
        self._lock.close()


class ProfilerHook(HookBase):
    """Writes a trace of some iterations of rank 0, which TensorBoard and chrome://tracing open.

    Args:
        start: updates done before the first iteration of the trace.
        iters: iterations in it.
        folder: where it goes.
    """

    def __init__(self, start: int, iters: int, folder: str | Path) -> None:
        self.start, self.end = start, start + iters
        self.folder = Path(folder)
        self._is_on = False  # on all ranks alike, since they settle together at its end
        self._profile: profile | None = None

    def before_train(self, trainer: Trainer) -> None:
        """Say so where the run is past these iterations, or does not get there."""
        if trainer.iteration >= self.end:
            logger.info("PROFILER: iteration %d is past, nothing is profiled; set PROFILER.START", self.end)
        elif self.start >= trainer.max_iter:
            text = "PROFILER: the run ends at iteration %d, nothing is profiled; set PROFILER.START below that"
            logger.warning(text, trainer.max_iter)

    def before_step(self, trainer: Trainer) -> None:
        """Begin where the first of the iterations begins, or a resumed run enters them."""
        if self._is_on or not self.start <= trainer.iteration < self.end:
            return
        self._is_on = True
        if comm.is_main():
            kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if trainer.device.type == "cuda" else [])]
            # A name that torch's handler gives no trace of the user's own.
            name = f"warmstart_{socket.gethostname()}_{os.getpid()}"
            handler = tensorboard_trace_handler(str(self.folder), name)
            self._profile = profile(activities=kinds, on_trace_ready=handler)
            self._profile.start()

    def next_due(self, iteration: int) -> float:
        """Be done after the last iteration of the trace."""
        return iteration + 1 if iteration < self.end else math.inf

    def after_step(self, trainer: Trainer) -> None:
        """Mark the end of an iteration; after the last one, write the trace."""
        if self._is_on and (trainer.iteration >= self.end or trainer.is_last_step):
            self._write(trainer)
        elif self._profile is not None:
            self._profile.step()

    def after_train(self, trainer: Trainer) -> None:
        """Write what there is where a signal has cut the run off."""
        if self._is_on:
            self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        self._is_on = False
        with trainer.paused():
            if self._profile is not None:
                self._profile.stop()
        self._profile = None
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

    def next_due(self, iteration: int) -> float:
        """Return the next multiple of the period."""
        return next_multiple(self.period, iteration)

    def after_step(self, trainer: Trainer) -> None:
        """Set the statistics where an evaluation is due."""
        if not self.models or not trainer.is_due(self.period):
            return
        with trainer.paused():
            for model in self.models:
                trainer.give_way()
                stream = self.batches(trainer.iteration)
                update_from_training(model, stream, self.num_iter, trainer.accum_steps, trainer.device)


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

    def next_due(self, iteration: int) -> float:
        """Return the next multiple of the period."""
        return next_multiple(self.period, iteration)

    def after_step(self, trainer: Trainer) -> None:
        """Put the scores into this iteration's record."""
        if trainer.is_due(self.period):
            with trainer.paused():
                trainer.scalars.update(self.evaluate(trainer))
