"""The picture of a run's plan, where the run is."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from warmstart.solver import ScheduleLR, plan_picture, save_picture, scheduler_plan

from ..checkpoint.run_files import PICTURE
from ..distributed import comm
from ..loop.hook import HookBase
from ..loop.trainer import Trainer
from ..records.writers import PictureWriter, Writer
from ..runtime import lock

logger = logging.getLogger(__name__)


class PictureHook(HookBase):
    """Draws the rate of every update of the run, one line for each rate that differs.

    It does so after the first update: what is wrong with that one shows before matplotlib is imported and has
    drawn. A resumed run draws it anew, since its config may plan otherwise.

    Args:
        folder: OUTPUT_DIR; the picture is `lr.png` in it.
        writers: those of them that take pictures, as TensorBoard's, get it too; they are open by then.
    """

    def __init__(self, folder: str | Path, writers: Sequence[Writer] = ()) -> None:
        self.path = Path(folder) / PICTURE
        self.writers = list(writers)
        self._step = 0  # where TensorBoard shows it

    def before_train(self, trainer: Trainer) -> None:
        """Say so where there is nothing to draw."""
        self.period = int(isinstance(trainer.scheduler, ScheduleLR))  # after the first update, then no more
        self._step = trainer.iteration + 1  # the first one that the next resume from here replaces
        if not self.period:
            name = type(trainer.scheduler).__name__
            logger.info("no %s: %s does not tell the rates of iterations to come", PICTURE, name)

    def after_step(self, trainer: Trainer) -> None:
        """Draw it, in the time that does not count as training; where it cannot be saved, say so."""
        if not self.period:  # the last update of the run
            return
        assert isinstance(trainer.scheduler, ScheduleLR)
        with trainer.paused():  # on all ranks, which flush their losses there
            if comm.is_main():
                self._draw(trainer.scheduler, trainer.max_iter)
        self.period = 0

    def _draw(self, scheduler: ScheduleLR, max_iter: int) -> None:
        lock.check(self.path.parent)
        try:
            save_picture(plan_picture(scheduler_plan(scheduler, max_iter)), self.path)
            for writer in self.writers:
                if isinstance(writer, PictureWriter):
                    writer.write_picture("plan/lr", self.path, self._step)
        except OSError as error:
            logger.warning("%s could not be saved: %s; training goes on", self.path, error.strerror or error)
