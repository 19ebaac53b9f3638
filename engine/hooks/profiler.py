"""The hook that profiles some iterations and writes their trace."""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path

from torch.profiler import ProfilerActivity, profile, tensorboard_trace_handler

from ..distributed import comm
from ..loop.hook import HookBase
from ..loop.trainer import Trainer

logger = logging.getLogger(__name__)


class ProfilerHook(HookBase):
    """Writes a trace of some iterations of rank 0, which TensorBoard and chrome://tracing open.

    Args:
        start: completed updates before the first iteration of the trace.
        iters: iterations in the trace.
        folder: where the trace is written.
    """

    def __init__(self, start: int, iters: int, folder: str | Path) -> None:
        self.start, self.end = start, start + iters
        self.folder = Path(folder)
        self._is_on = False  # the same on all ranks, because they synchronize at the end of the trace
        self._profile: profile | None = None

    def before_train(self, trainer: Trainer) -> None:
        """Log it if the run is already past these iterations, or ends before them."""
        self.period = int(trainer.iteration < self.end)
        if trainer.iteration >= self.end:
            logger.info("PROFILER: iteration %d is past, nothing is profiled; set PROFILER.START", self.end)
        elif self.start >= trainer.max_iter:
            text = "PROFILER: the run ends at iteration %d, nothing is profiled; set PROFILER.START below that"
            logger.warning(text, trainer.max_iter)

    def before_step(self, trainer: Trainer) -> None:
        """Start with the first of the iterations, or with the first one that a resumed run has of them."""
        if self._is_on or not self.start <= trainer.iteration < self.end:
            return
        self._is_on = True
        if comm.is_main():
            cpu = ProfilerActivity.CPU
            kinds = {cpu, getattr(ProfilerActivity, trainer.device.type.upper(), cpu)}
            # A name that torch's handler gives to no other trace.
            name = f"warmstart_{socket.gethostname()}_{os.getpid()}"
            handler = tensorboard_trace_handler(str(self.folder), name)
            self._profile = profile(activities=kinds, on_trace_ready=handler)
            self._profile.start()

    def after_step(self, trainer: Trainer) -> None:
        """Mark the end of an iteration; after the last one, write the trace."""
        if self._is_on and (trainer.iteration >= self.end or trainer.is_last_step):
            self._write(trainer)
        elif self._profile is not None:
            self._profile.step()
        self.period = int(trainer.iteration < self.end)

    def after_train(self, trainer: Trainer) -> None:
        """Write the trace so far if a signal has interrupted the run."""
        if self._is_on:
            self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        self._is_on = False
        with trainer.paused():
            if self._profile is not None:
                self._profile.stop()
        self._profile = None
        logger.info("saved a profile up to iteration %d in %s", trainer.iteration, self.folder)
