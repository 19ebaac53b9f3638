"""The console writer: records as readable lines."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Collection, Mapping
from datetime import timedelta
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
    """

    def __init__(
        self,
        max_iter: int,
        device: torch.device | str = "cpu",
        bar: bool | None = None,
        percent: Collection[str] = (),
    ) -> None:
        self.max_iter = max_iter
        self.percent = percent
        self.device = torch.device(device)
        self._wants_bar = sys.stderr.isatty() if bar is None else bar
        self._bar: Any = None
        self._started = 0.0

    def __str__(self) -> str:
        return "the console"

    def open(self, iteration: int) -> None:
        """Start the clock, and the progress bar if there is one."""
        self._started = time.perf_counter()
        if self._wants_bar:
            from tqdm import tqdm

            self._bar = tqdm(total=self.max_iter, initial=iteration, unit="it", leave=False, dynamic_ncols=True)

    def write(self, *records: Record) -> None:
        """Log the training line of each record, and one line for each test set that was evaluated."""
        for record in records:
            iteration = int(record["iteration"])
            if self._bar is not None:
                self._bar.update(iteration - self._bar.n)
            logger.info(self.line(record))
            for name, scores in score_lines(record, self.percent).items():
                logger.info("%s after %s iterations: %s", name, f"{iteration:,}", scores)

    def line(self, record: Record) -> str:
        """Return the text of one record.

        >>> writer = ConsoleWriter(max_iter=200)
        >>> writer.line({"iteration": 20, "total_loss": 1.25, "loss_a": 1.25, "lr": 0.05, "data_time": 0.0002,
        ...              "time": 0.01})  # doctest: +ELLIPSIS
        'iter  20/200  eta 0:00:01  loss 1.25       lr 0.05       10.0 ms/it (data 0.2)  mem ...
        """
        iteration = int(record["iteration"])
        width = len(str(self.max_iter))
        seconds = int((self.max_iter - iteration) * record["time"])
        left = timedelta(seconds=min(seconds, 10**13))  # near the maximum of a timedelta
        losses = [
            (k, v)
            for k, v in record.items()
            if k.startswith("loss") and "/" not in k and v != record["total_loss"]
        ]
        rates = {f"{v:.4g}": None for k, v in record.items() if k == "lr" or k.startswith("lr/")}
        parts = [
            f"iter {iteration:>{width}}/{self.max_iter}",
            f"eta {left}",
            f"loss {record['total_loss']:<9.4g}",
            *(f"{name.removeprefix('loss_')} {value:<9.4g}" for name, value in losses),
            f"lr {' '.join(rates):<9}",
            f"{record['time'] * 1e3:.1f} ms/it (data {record['data_time'] * 1e3:.1f})",
        ]
        memory = memory_mb(self.device)
        if memory:
            parts.append(f"mem {memory:.0f} MB")
        return "  ".join(parts)

    def close(self) -> None:
        """Remove the progress bar and log how long training took."""
        if self._bar is not None:
            self._bar.close()
        seconds = time.perf_counter() - self._started
        logger.info("trained for %s (h:mm:ss)", timedelta(seconds=round(seconds)))


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


def score_lines(record: Mapping[str, float], percent: Collection[str] = ()) -> dict[str, str]:
    """Return the scores in a record as one line a test set.

    Args:
        record: values by name, such as "val/quality".
        percent: names of scores that are fractions, shown in percent.

    >>> score_lines({"iteration": 7, "train/x": 0.1, "val/quality": 0.975, "val/loss": 0.1}, percent=["quality"])
    {'val': 'quality 97.50%, loss 0.1'}
    """
    found: dict[str, list[str]] = {}
    for key, value in record.items():
        name, slash, score = key.rpartition("/")
        if slash and name not in NO_TEST_SETS:
            text = f"{value:.2%}" if score in percent else f"{value:.4g}"
            found.setdefault(name, []).append(f"{score} {text}")
    return {name: ", ".join(scores) for name, scores in found.items()}
