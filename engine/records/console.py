"""The console writer: records as readable lines."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Collection, Mapping
from datetime import timedelta
from fractions import Fraction
from typing import Any

import torch

from .writers import Record

logger = logging.getLogger(__name__)
NO_TEST_SETS = ("lr", "train", "memory")  # before the slash in names that are not scores of a test set


class ConsoleWriter:
    """One readable line a record, through `logging`; a progress bar only on a terminal.

    Args:
        max_iter: the run's length, for the remaining time.
        device: where training runs; the memory shown is this device's.
        bar: whether to show the progress bar; default: if stderr is a terminal.
        percent: names of scores that are shown in percent.
        hidden: names of scores that are not shown.
        epoch: iterations of an epoch; 0: lines have no epochs.
    """

    def __init__(
        self,
        max_iter: int,
        device: torch.device | str = "cpu",
        bar: bool | None = None,
        percent: Collection[str] = (),
        hidden: Collection[str] = (),
        epoch: float | Fraction = 0,
    ) -> None:
        self.max_iter = max_iter
        self.epoch = epoch
        self.percent, self.hidden = percent, hidden
        self.device = torch.device(device)
        self._wants_bar = sys.stderr.isatty() if bar is None else bar
        self._bar: Any = None
        self._first: tuple[int, float] | None = None  # iteration and time of the first write
        self._pace = 0.0  # seconds per iteration since then, evaluations and saves included

    def __str__(self) -> str:
        return "the console"

    def open(self, iteration: int) -> None:
        """Start the progress bar if there is one."""
        self._first, self._pace = None, 0.0
        if self._wants_bar:
            from tqdm import tqdm

            self._bar = tqdm(total=self.max_iter, initial=iteration, unit="it", leave=False, dynamic_ncols=True)

    def write(self, *records: Record) -> None:
        """Log the training line of each record, and one line for each test set that was evaluated."""
        if records:
            self._measure(int(records[-1]["iteration"]))
        for record in records:
            iteration = int(record["iteration"])
            if self._bar is not None:
                self._bar.update(iteration - self._bar.n)
            logger.info(self.line(record))
            done = "1 iteration" if iteration == 1 else f"{iteration:,} iterations"
            for name, scores in score_lines(record, self.percent, self.hidden).items():
                logger.info("%s after %s: %s", name, done, scores)

    def line(self, record: Record) -> str:
        """Return the text of one record.

        The remaining time follows from the time per iteration since the first record, evaluations and saves
        included; for the first record from its own. Of several learning rates the lowest and highest are shown.

        >>> writer = ConsoleWriter(max_iter=200, epoch=10)
        >>> writer.line({"iteration": 20, "total_loss": 1.25, "loss_a": 1.25, "lr": 0.05, "data_time": 0.0002,
        ...              "time": 0.01})  # doctest: +ELLIPSIS
        'iter  20/200  epoch  2.0/20.0  eta 0:00:01  loss 1.25       lr 0.05       10.0 ms/it (data 0.2)  mem ...
        """
        iteration = int(record["iteration"])
        width = len(str(self.max_iter))
        seconds = int((self.max_iter - iteration) * (self._pace or record["time"]))
        left = timedelta(seconds=min(seconds, 10**13))  # near the maximum of a timedelta
        losses = [
            (k, v)
            for k, v in record.items()
            if k.startswith("loss") and "/" not in k and v != record["total_loss"]
        ]
        rates = [value for name, value in record.items() if name == "lr" or name.startswith("lr/")]
        lowest_and_highest = dict.fromkeys(f"{rate:.4g}" for rate in (min(rates), max(rates)))
        parts = [
            f"iter {iteration:>{width}}/{self.max_iter}",
            *([self._epochs(iteration)] if self.epoch else []),
            f"eta {left}",
            f"loss {record['total_loss']:<9.4g}",
            *(f"{name.removeprefix('loss_')} {value:<9.4g}" for name, value in losses),
            f"lr {'..'.join(lowest_and_highest):<9}",
            f"{record['time'] * 1e3:.1f} ms/it (data {record['data_time'] * 1e3:.1f})",
        ]
        memory = memory_mb(self.device)
        if memory:
            parts.append(f"mem {memory:.0f} MB")
        return "  ".join(parts)

    def close(self) -> None:
        """Remove the progress bar."""
        if self._bar is not None:
            self._bar.close()

    def _measure(self, iteration: int) -> None:
        now = time.perf_counter()
        if self._first is None:
            self._first = iteration, now
        elif iteration > self._first[0]:
            self._pace = (now - self._first[1]) / (iteration - self._first[0])

    def _epochs(self, iteration: int) -> str:
        total = float(self.max_iter / self.epoch)
        digits = 1 if total >= 1 else 3
        shown = f"{total:.{digits}f}"
        return f"epoch {float(iteration / self.epoch):>{len(shown)}.{digits}f}/{shown}"


def memory_stats(device: torch.device) -> dict[str, float]:
    """Return the peak memory so far in MiB: of the host, and allocated and reserved by torch on an accelerator.

    The latter two are left out for accelerators whose peak torch does not record, such as mps.
    """
    stats = {"memory/host_mb": memory_mb(torch.device("cpu"))}
    if _records_peak(device):
        stats["memory/allocated_mb"] = memory_mb(device)
        stats["memory/reserved_mb"] = torch.get_device_module(device).max_memory_reserved(device) / 2**20
    return {name: value for name, value in stats.items() if value}


def memory_mb(device: torch.device) -> float:
    """Return the peak memory in MiB, of the accelerator if torch records its peak, else of the host.

    0 on Windows.
    """
    if _records_peak(device):
        return float(torch.get_device_module(device).max_memory_allocated(device) / 2**20)
    try:
        import resource
    except ImportError:  # Windows lacks the module
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes there, KiB elsewhere


def _records_peak(device: torch.device) -> bool:
    return device.type != "cpu" and hasattr(torch.get_device_module(device), "max_memory_reserved")


def score_lines(
    record: Mapping[str, float], percent: Collection[str] = (), hidden: Collection[str] = ()
) -> dict[str, str]:
    """Return the scores in a record as one line a test set, or several for scores whose names have a slash.

    Args:
        record: values by name, such as "val/quality".
        percent: names of scores that are fractions, shown in percent.
        hidden: names of scores that are left out.

    >>> score_lines({"iteration": 7, "train/x": 0.1, "val/quality": 0.975, "val/loss": 0.1}, percent=["quality"])
    {'val': 'quality 97.50%, loss 0.1'}
    >>> score_lines({"val/loss": 0.1, "val/ema/loss": 0.2, "val/loss/cat": 0.3}, hidden=["loss/cat"])
    {'val': 'loss 0.1', 'val/ema': 'loss 0.2'}
    """
    found: dict[str, list[str]] = {}
    for key, value in record.items():
        name, slash, score = key.rpartition("/")
        is_hidden = key.partition("/")[2].removeprefix("ema/") in hidden
        if slash and name not in NO_TEST_SETS and not is_hidden:
            found.setdefault(name, []).append(f"{score} {shown_score(score, value, percent)}")
    return {name: ", ".join(scores) for name, scores in found.items()}


def shown_score(name: str, value: float, percent: Collection[str] = ()) -> str:
    """Return a score as text.

    Args:
        name: of the score, with or without the test set.
        value: of the score.
        percent: names of scores that are fractions, shown in percent.

    >>> shown_score("val/quality", 0.975, ["quality"]), shown_score("loss", 0.12345)
    ('97.50%', '0.1235')
    """
    if math.isnan(value):
        return "nan"
    return f"{value:.2%}" if name.rpartition("/")[2] in percent else f"{value:.4g}"
