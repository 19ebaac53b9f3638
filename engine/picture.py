"""The picture of a run's plan, where the run is."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from warmstart.solver import ScheduleLR, plan_picture, save_picture, scheduler_plan

from .trainer import HookBase, Trainer
from .writers import PictureWriter, Writer

logger = logging.getLogger(__name__)

FILE = "lr.png"


class PictureHook(HookBase):
    """Draws the rate of every update of the run, one line for each rate that differs, when it begins.

    A resumed run draws it anew, since its config may plan otherwise.

    Args:
        folder: OUTPUT_DIR; the picture is `lr.png` in it.
        writers: those of them that take pictures, as TensorBoard's, get it too; they are open by then.
    """

    def __init__(self, folder: str | Path, writers: Sequence[Writer] = ()) -> None:
        self.path = Path(folder) / FILE
        self.writers = list(writers)

    def before_train(self, trainer: Trainer) -> None:
        """Draw it, in the time that does not count as training; where it cannot be saved, say so."""
        if not isinstance(trainer.scheduler, ScheduleLR):
            name = type(trainer.scheduler).__name__
            logger.info("no %s: %s does not tell the rates of iterations to come", FILE, name)
            return
        with trainer.paused():
            try:
                save_picture(plan_picture(scheduler_plan(trainer.scheduler, trainer.max_iter)), self.path)
                for writer in self.writers:
                    if isinstance(writer, PictureWriter):
                        # The first step that the next resume from here replaces.
                        writer.write_picture("plan/lr", self.path, trainer.iteration + 1)
            except OSError as error:
                logger.warning("%s could not be saved: %s; training goes on", self.path, error.strerror or error)
