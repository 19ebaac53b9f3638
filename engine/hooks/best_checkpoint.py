"""The best evaluation so far: its checkpoint is kept, and a run that gets no better ends."""

from __future__ import annotations

import logging
from pathlib import Path

from ..checkpoint.reader import iteration_of
from ..checkpoint.run_folder import BEST, checkpoint_name, set_aside
from ..distributed import comm
from ..loop.score_hook import ScoreHook
from ..loop.trainer import Trainer
from ..runtime import files

logger = logging.getLogger(__name__)


class BestHook(ScoreHook):
    """Has the checkpoint of the best evaluation kept as model_best.pth.

    It stands before the checkpoint hook, which writes what `trainer.save_as` names.

    Args:
        period: that of the evaluation, in updates.
        metric: the score's name in a record.
        mode: "max" or "min", which is better.
        folder: where the checkpoints are.
    """

    def __init__(self, period: int, metric: str, mode: str, folder: str | Path) -> None:
        super().__init__(period, metric, mode)
        self.folder = Path(folder)

    def before_train(self, trainer: Trainer) -> None:
        """See that model_best.pth is what this run knows to be its best; a disk that fails is one line."""
        if not comm.is_main():
            return
        try:
            self._restore_file(trainer)
        except OSError as error:
            text = "%s could not be made that of the best so far: %s; the run goes on"
            logger.warning(text, self.folder / BEST, error.strerror or error)

    def _restore_file(self, trainer: Trainer) -> None:
        """Make model_best.pth what it is to be.

        A kill may have come between the numbered file and the best one, and a run that goes on from an earlier
        checkpoint has not done yet what a later best file holds.
        """
        path, numbered = self.folder / BEST, self.folder / checkpoint_name(self.best_iteration)
        found = iteration_of(path)
        if found > trainer.iteration:
            set_aside(path)
        if self.best_iteration in (0, found):
            return
        if iteration_of(numbered) == self.best_iteration:
            files.add_name(numbered, path)
            logger.info("made %s again from %s", path, numbered.name)
        else:
            logger.warning(
                "%s does not hold iteration %d, the best so far, and %s is not there either; the next better one "
                "will be saved",
                *(path, self.best_iteration, numbered.name),
            )

    def on_score(self, trainer: Trainer, value: float, better: bool) -> None:
        """Ask for the file where this is the best so far, and say what is."""
        if better:
            trainer.save_as.add(BEST)
        if self.best is not None:
            logger.info("best so far: %s %.4g, after iteration %d", self.metric, self.best, self.best_iteration)
