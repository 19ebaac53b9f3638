"""The hook that draws the schedule of a run into its folder."""

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
    """Draws the learning rate of every update of the run, one line for each distinct learning rate.

    It does so after the first update, so that errors in that update show before matplotlib is imported. A resumed
    run draws it again, because its config may have another schedule.

    Args:
        folder: OUTPUT_DIR; the picture is `lr.png` in it.
        writers: those that take pictures, such as TensorBoard's, get it too; they are open by then.
    """

    def __init__(self, folder: str | Path, writers: Sequence[Writer] = ()) -> None:
        self.path = Path(folder) / PICTURE
        self.writers = list(writers)
        self._step = 0  # at which TensorBoard shows it

    def before_train(self, trainer: Trainer) -> None:
        """Log it if there is nothing to draw."""
        self.period = int(isinstance(trainer.scheduler, ScheduleLR))  # after the first update, then no more
        self._step = trainer.iteration + 1  # the first step that another resume from here replaces
        if not self.period:
            name = type(trainer.scheduler).__name__
            logger.info("no %s: %s does not give the learning rates of future iterations", PICTURE, name)

    def after_step(self, trainer: Trainer) -> None:
        """Draw it, outside the time that counts as training; warn if it cannot be saved."""
        if not self.period:  # after the last update
            return
        assert isinstance(trainer.scheduler, ScheduleLR)
        with trainer.paused():  # on all ranks, which synchronize here
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
            logger.warning("%s could not be saved: %s; training continues", self.path, error.strerror or error)
