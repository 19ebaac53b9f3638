"""The hook that writes the report of a run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..checkpoint.run_files import BEST, FINAL
from ..distributed import comm
from ..loop.hook import HookBase
from ..loop.sample_values import SampleValues
from ..loop.trainer import Trainer
from ..records.reports import REPORT, ReportFolder, scores_of
from ..records.writers import PictureWriter, Writer
from ..runtime.rng import preserved_rng

logger = logging.getLogger(__name__)


class ReportHook(HookBase):
    """Writes the report of the best evaluation, or of the last one if no score decides which is the best.

    The task's pictures of an evaluation, if it draws any, are written at each one. Pictures of the report are
    drawn once, when the run ends. The hook comes after the one that finds the best score and before the
    checkpoint, so that a checkpoint is never without its report.

    Args:
        period: of the evaluation, in updates.
        reports: where they are written.
        values: of the last evaluation, by the names of the reports; the evaluation fills it.
        writers: those that take pictures, such as TensorBoard's, get them too.
        of_best: whether the report is of the best evaluation.
    """

    def __init__(
        self,
        period: int,
        reports: ReportFolder,
        values: Mapping[str, SampleValues],
        writers: Sequence[Writer],
        of_best: bool,
    ) -> None:
        self.period = period
        self.reports = reports
        self.values = values
        self.writers = list(writers)
        self.of_best = of_best
        self._file = BEST if of_best else FINAL

    def before_train(self, trainer: Trainer) -> None:
        """Delete reports of later iterations, which this run has not reached, and those of other evaluations."""
        if not comm.is_main():
            return
        for name in self.reports.names():
            found = self.reports.iteration(name, self._file)
            if found is None or found > trainer.iteration:
                self.reports.remove(name)

    def after_step(self, trainer: Trainer) -> None:
        """Write the report if it is due, and pictures of the evaluation; a disk that fails is one line."""
        due = BEST in trainer.save_as if self.of_best else trainer.is_last_step
        with trainer.paused(), preserved_rng(trainer.device):
            found = {name: each.joined() for name, each in self.values.items()} if due else {}  # on all ranks
            if not comm.is_main():
                return
            try:
                for name, values in found.items():
                    scores = scores_of(trainer.record, name)
                    facts = {"iteration": trainer.iteration, "file": self._file}
                    self.reports.write(name, facts, scores, values)
                for name, each in self.values.items():
                    paths = self.reports.draw_evaluation(name, each.kept) if each.kept else []
                    self._show(name, paths, trainer.iteration)
                for name in self.values if trainer.is_last_step else ():
                    self._show(name, self.reports.draw(name), trainer.iteration)
            except OSError as error:
                path, reason = error.filename or self.reports.path, error.strerror or error
                logger.warning("%s could not be written: %s; training continues", path, reason)

    def _show(self, name: str, paths: Sequence[Path], iteration: int) -> None:
        for path in paths:
            for writer in self.writers:
                if isinstance(writer, PictureWriter):
                    writer.write_picture(f"{REPORT}/{name}/{path.stem}", path, iteration)
