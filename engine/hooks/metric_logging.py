"""Records: the averages of losses, learning rates, times and scores that a run writes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from warmstart.config import ConfigError

from ..loop.hook import HookBase
from ..loop.trainer import Trainer
from ..records.writers import Record, RetryingWriter, Writer

_APART = 0.25  # seconds between two writes, at least


class _Mark(NamedTuple):
    """A point of a run: completed updates, and seconds."""

    iteration: int
    clock: float
    data: float
    paused: float

    @classmethod
    def now(cls, trainer: Trainer) -> _Mark:
        return cls(trainer.iteration, time.perf_counter(), trainer.data_seconds, trainer.paused_seconds)


class _Found(NamedTuple):
    """The contents of a record, as they were when it was due."""

    begin: _Mark
    end: _Mark
    means: dict[str, float]
    rates: list[float | Tensor]
    skipped: int
    scalars: dict[str, float]

    def record(self, names: Sequence[str], gauges: Iterable[Callable[[], Mapping[str, float]]]) -> Record:
        # No update if a resumed run begins with the evaluation that a signal cut off.
        updates = self.end.iteration - self.begin.iteration or 1
        seconds = self.end.clock - self.begin.clock - (self.end.paused - self.begin.paused)
        record: Record = {"iteration": self.end.iteration, **self.means, "lr": float(self.rates[0])}
        if len(names) > 1:
            record |= {f"lr/{name}": float(rate) for name, rate in zip(names, self.rates, strict=False)}
        record |= {"data_time": (self.end.data - self.begin.data) / updates, "time": seconds / updates}
        if self.skipped:
            record["skipped_steps"] = self.skipped
        record |= {name: float(value) for name, value in self.scalars.items()}
        for gauge in gauges:
            record |= gauge()
        return record


class RecordHook(HookBase):
    """Makes a record every `period` updates, when another hook has scores, and after the last update.

    A writer that fails does not end the run: its records are kept until it works again. If iterations are so fast
    that records are due more often than four times a second, several are made and written together; a
    checkpoint, an evaluation and the end of the run write all of them first.

    Args:
        period: in updates.
        writers: what takes the records.
        gauges: functions that return more numbers for each record, called when it is made.
        at_once: whether each record is made when it is due, because a later hook reads `trainer.record`.
    """

    takes = "scalars"

    def __init__(
        self,
        period: int,
        writers: Sequence[Writer],
        gauges: Sequence[Callable[[], Mapping[str, float]]] = (),
        at_once: bool = False,
    ) -> None:
        self.period = period
        self.writers = [RetryingWriter(writer) for writer in writers]
        self.gauges = list(gauges)
        self._apart = 0.0 if at_once else _APART
        self._mark = _Mark(0, 0.0, 0.0, 0.0)
        self._names: list[str] = []
        self._kept: list[_Found] = []
        self._written = -math.inf  # when

    def before_train(self, trainer: Trainer) -> None:
        """Open the writers and start the clock.

        Raises:
            ConfigError: one of them cannot be opened.
        """
        for writer in self.writers:
            try:
                # A pending iteration is recorded now, and may already have been recorded before a kill.
                writer.open(trainer.iteration - trainer.pending)
            except OSError as error:
                path = error.filename or writer.writer
                raise ConfigError(f"OUTPUT_DIR: cannot write to {path}: {error.strerror or error}") from None
        groups = trainer.optimizer.param_groups
        self._names = [group.get("name", str(index)) for index, group in enumerate(groups)]
        self._mark = _Mark.now(trainer)

    def after_step(self, trainer: Trainer) -> None:
        """Make a record."""
        trainer.flush_losses()
        begin, self._mark = self._mark, _Mark.now(trainer)
        scores, trainer.scalars = trainer.scalars, {}
        means, skipped = trainer.losses.averages(), trainer.skipped.total
        self._kept.append(_Found(begin, self._mark, means, [*trainer.rates], skipped, scores))
        if scores or trainer.is_last_step or self._mark.clock - self._written >= self._apart:
            trainer.record = self._write()
        if trainer.is_last_step:  # not in after_train: the last save may fail before it
            self._flush()

    def after_train(self, trainer: Trainer) -> None:
        """Close the writers."""
        self._flush()
        for writer in self.writers:
            writer.close()

    def close(self, trainer: Trainer) -> None:
        """Write all records if an exception ends the run."""
        self._flush()

    def state_dict(self) -> dict[str, Any]:
        """Write all records: a run resumed from a checkpoint does not make the ones before it again."""
        self._flush()
        return {}

    def _write(self) -> Record:
        """Make and write records; return the last one."""
        records = [found.record(self._names, self.gauges) for found in self._kept]
        if not records:
            return {}
        self._kept, self._written = [], self._mark.clock
        for writer in self.writers:
            writer.write(*records)
        return records[-1]

    def _flush(self) -> None:
        self._write()
        for writer in self.writers:
            writer.flush()
