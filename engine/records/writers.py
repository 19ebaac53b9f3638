"""Where records go: the console, metrics.json, TensorBoard.

A record is a dict of numbers: `iteration` (updates done), `total_loss`, each loss and each metric of training (its
name begins with `train/`; and `grad_norm` where gradients are clipped) averaged since the record before, `lr` as
used by the last update, `data_time` and `time` in seconds an iteration, and the scores of an evaluation where one
was done at that iteration.
"""

from __future__ import annotations

import contextlib
import logging
import re
import time
from pathlib import Path
from typing import Protocol, runtime_checkable

from warmstart.config import no_follow

from ..runtime import lock

logger = logging.getLogger(__name__)

Record = dict[str, float]

_EVENTS = "events.out.tfevents."
_STAMPED = re.compile(rf"{re.escape(_EVENTS)}(\d+)(?:\.(\d{{6}}))?\.")


class Writer(Protocol):
    """Anything that takes records; `str` of it is what messages call it."""

    def open(self, iteration: int) -> None:
        """Get ready for the records of iterations after `iteration`; older ones stay, newer ones go.

        After an OSError in `write` it is called again, with the iteration of the last record that was taken.
        """

    def write(self, *records: Record) -> None:
        """Take records, one or more, in their order; an iteration comes once.

        Raises:
            OSError: they could not be written, or not all.
        """

    def close(self) -> None:
        """Finish; nothing is written after it."""


@runtime_checkable
class PictureWriter(Protocol):
    """A writer that takes pictures too."""

    def write_picture(self, name: str, path: Path, iteration: int) -> None:
        """Take the picture in a PNG file."""


class RetryingWriter:
    """Keeps what another writer cannot take, the disk being full, and gives it that later, each record once.

    Args:
        writer: one whose `write` raises an OSError where a record could not be written.
    """

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self._taken = 0  # the iteration of the last record that it took whole
        self._owed: list[Record] = []

    def open(self, iteration: int) -> None:
        """Open the writer.

        Raises:
            OSError: that failed.
        """
        self.writer.open(iteration)
        self._taken, self._owed = iteration, []

    def write(self, *records: Record) -> None:
        """Give the writer records and what it has not taken before; log the first failure of a streak."""
        failing = bool(self._owed)
        self._owed += records
        try:
            self._deliver(anew=failing)
        except OSError as error:
            if not failing:
                text = "%s could not be written: %s; training goes on, and its records wait until it can be"
                logger.warning(text, self.writer, error.strerror or error)
        else:
            if failing:
                logger.info("%s is written again, with the records that waited", self.writer)

    def flush(self) -> None:
        """Try for the last time; log which records the writer lacks."""
        try:
            if self._owed:
                self._deliver(anew=True)
        except OSError as error:
            first, last = (int(self._owed[i]["iteration"]) for i in (0, -1))
            text = "%s could not be written: %s; it lacks the records of iterations %d to %d"
            logger.warning(text, self.writer, error.strerror or error, first, last)
            self._owed = []

    def close(self) -> None:
        """Try for the last time, and close the writer, whether it works or not."""
        self.flush()
        with contextlib.suppress(OSError):
            self.writer.close()

    def _deliver(self, anew: bool) -> None:
        if anew:
            self.writer.open(self._taken)  # part of the next one may be there
        while self._owed:
            count = 1 if anew else len(self._owed)  # there may be space for some of them
            self.writer.write(*self._owed[:count])
            self._taken = int(self._owed[count - 1]["iteration"])
            del self._owed[:count]


def _stamp(folder: Path) -> str:
    """Return the time for the name of a new event file, behind those of all that are there.

    TensorBoard reads a folder's files in the order of their names, and a clock may have been set back.
    """
    micros = time.time_ns() // 1000
    stamp = f"{micros // 10**6:010}.{micros % 10**6:06}"
    # As text, as TensorBoard compares them. Other writers give whole seconds, and letters sort behind digits.
    found = map(_STAMPED.match, (path.name for path in folder.glob(f"{_EVENTS}*")))
    latest = max((".".join(each.groups("999999")) for each in found if each), default="")
    if stamp > latest:
        return stamp
    seconds, fraction = latest.split(".")
    micros = int(seconds + fraction) + 1
    return f"{micros // 10**6:0{len(seconds)}}.{micros % 10**6:06}"


def _append(path: Path, data: bytes) -> None:
    """Append all of it or, where the disk is full, nothing: a part would be in the way of what comes later."""
    lock.check(path.parent)
    with open(path, "ab", buffering=0, opener=no_follow) as file:
        end = file.tell()
        try:
            while data:
                data = data[file.write(data) :]
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(end)
                if end == 0:
                    path.unlink()
            raise
