"""The hooks of a default run."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .checkpoint import FINAL, checkpoint_name, point_to, refuse_used_folder, save_checkpoint
from .trainer import HookBase, Trainer, every
from .writers import Record, Writer

logger = logging.getLogger(__name__)


class FolderHook(HookBase):
    """Sees that the run's folder is there and is no other run's, before anything is written into it.

    Args:
        folder: OUTPUT_DIR.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def before_train(self, trainer: Trainer) -> None:
        """Make the folder.

        Raises:
            ConfigError: the run is new, and the folder holds the checkpoints of another.
        """
        if trainer.iteration == 0:
            refuse_used_folder(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)


class EvaluationHook(HookBase):
    """Evaluates every `period` updates and after the last one; 0 is only after the last one.

    Args:
        period: in updates.
        evaluate: returns the scores by their names in the record, such as {"digits_test/accuracy": 0.98}.
    """

    def __init__(self, period: int, evaluate: Callable[[], Mapping[str, float]]) -> None:
        self.period = period
        self.evaluate = evaluate

    def after_step(self, trainer: Trainer) -> None:
        """Put the scores into this iteration's record."""
        if every(self.period, trainer.iteration) or trainer.is_last_step:
            with trainer.paused():
                trainer.scalars.update(self.evaluate())


class RecordHook(HookBase):
    """Makes a record every `period` updates, where another hook has scores, and after the last update.

    Args:
        period: in updates.
        writers: what takes the records.
    """

    def __init__(self, period: int, writers: Sequence[Writer]) -> None:
        self.period = period
        self.writers = list(writers)
        self._mark = (0, 0.0, 0.0, 0.0)

    def before_train(self, trainer: Trainer) -> None:
        """Open the writers and start the clock."""
        for writer in self.writers:
            writer.open(trainer.iteration)
        self._mark = self._now(trainer)

    def after_step(self, trainer: Trainer) -> None:
        """Write a record where one is due."""
        if every(self.period, trainer.iteration) or trainer.scalars or trainer.is_last_step:
            record = self._record(trainer)
            for writer in self.writers:
                writer.write(record)

    def after_train(self, trainer: Trainer) -> None:
        """Close the writers."""
        for writer in self.writers:
            writer.close()

    def _record(self, trainer: Trainer) -> Record:
        trainer.settle()
        before, self._mark = self._mark, self._now(trainer)
        updates, seconds, data, paused = (b - a for a, b in zip(before, self._mark, strict=True))
        names = [group.get("name", index) for index, group in enumerate(trainer.optimizer.param_groups)]
        rates = {f"lr/{name}": float(rate) for name, rate in zip(names, trainer.rates, strict=False)}
        record: Record = {
            "iteration": trainer.iteration,
            **trainer.losses.averages(),
            "lr": float(trainer.rates[0]),
            **(rates if len(rates) > 1 else {}),
            "data_time": data / updates,
            "time": (seconds - paused) / updates,
            **{name: float(value) for name, value in trainer.scalars.items()},
        }
        trainer.scalars = {}
        return record

    @staticmethod
    def _now(trainer: Trainer) -> tuple[int, float, float, float]:
        return trainer.iteration, time.perf_counter(), trainer.data_seconds, trainer.paused_seconds


class CheckpointHook(HookBase):
    """Saves every `period` updates and when the run ends; 0 is only when it ends.

    Args:
        period: in updates.
        folder: where the files go.
        constants: what each checkpoint holds besides the trainer's state (config, versions).
    """

    def __init__(self, period: int, folder: str | Path, constants: Mapping[str, Any]) -> None:
        self.period = period
        self.folder = Path(folder)
        self.constants = dict(constants)

    def after_step(self, trainer: Trainer) -> None:
        """Save the state of this instant, then move the pointer.

        Raises:
            NonFiniteLossError: the weights are no longer finite; nothing is saved.
        """
        if not (every(self.period, trainer.iteration) or trainer.is_last_step):
            return
        with trainer.paused():
            content = trainer.state_dict() | self.constants
            path = self.folder / checkpoint_name(trainer.iteration)
            if trainer.iteration >= trainer.max_iter:  # before the pointer says that the run is complete
                save_checkpoint(content, self.folder / FINAL)
            save_checkpoint(content, path)
            point_to(path)
        logger.info("saved %s", path)
