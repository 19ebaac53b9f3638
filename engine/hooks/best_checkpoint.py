"""The best evaluation so far, whose checkpoint is kept as model_best.pth."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

from ..checkpoint.reader import iteration_of
from ..checkpoint.run_files import BEST
from ..checkpoint.run_folder import RunFolder
from ..distributed import comm
from ..loop.score_hook import ScoreHook
from ..loop.trainer import Trainer
from ..records.console import shown_score

logger = logging.getLogger(__name__)


class BestHook(ScoreHook):
    """Asks for the checkpoint of the best evaluation as model_best.pth.

    It belongs before the checkpoint hook, which writes what `trainer.save_as` names.

    Args:
        period: of the evaluation, in updates.
        metric: the score's name in a record.
        mode: "max" or "min", which is better.
        folder: where the checkpoints are.
        percent: names of scores that the log shows in percent.
    """

    saves_as = (BEST,)  # the names that it adds to `trainer.save_as`, for which there must be space

    def __init__(
        self, period: int, metric: str, mode: str, folder: str | Path, percent: Collection[str] = ()
    ) -> None:
        super().__init__(period, metric, mode)
        self.folder = RunFolder(folder)
        self.percent = percent
        #: Whether model_best.pth is the best checkpoint; a run that continues in another folder may not have it.
        self.has_file = True

    def before_train(self, trainer: Trainer) -> None:
        """Make model_best.pth the best checkpoint that this run knows; a disk that fails is one line."""
        if not comm.is_main():
            return
        try:
            self._restore_file(trainer)
        except OSError as error:
            text = "%s could not be restored to the best checkpoint so far: %s; training continues"
            logger.warning(text, self.folder.path / BEST, error.strerror or error)

    def _restore_file(self, trainer: Trainer) -> None:
        """Restore model_best.pth.

        A kill may have come between the numbered file and the best one, and a run that continues from an earlier
        checkpoint has not reached the iteration of a later best file.
        """
        path, numbered = self.folder.path / BEST, self.folder.numbered(self.best_iteration)
        found = iteration_of(path)
        if found > trainer.iteration:
            self.folder.set_aside(BEST)
        if self.best_iteration in (0, found):
            return
        if iteration_of(numbered) == self.best_iteration:
            self.folder.copy(numbered, BEST)
            logger.info("made %s again from %s", path, numbered.name)
        else:
            self.has_file = False
            logger.warning(
                "%s does not hold iteration %d, the best so far, and %s is not there either; the next better one "
                "will be saved",
                *(path, self.best_iteration, numbered.name),
            )

    def on_score(self, trainer: Trainer, value: float, better: bool) -> None:
        """If this is the best score so far, ask for the file and log it."""
        if better:
            trainer.save_as.add(BEST)
            self.has_file = True
            logger.info("best so far: %s %s", self.metric, shown_score(self.metric, value, self.percent))
