"""The inspection of a config's data sets: every sample is read once, by as many processes as there are cores."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from warmstart.config import ConfigError, gathering

from ..batch import SampleTask
from ..datasets.entries import DatasetEntry
from ..datasets.registry import is_in_memory, is_users_own
from ..datasets.targets import read_targets
from ..datasets.unreadable import sample_path
from ..loaders.build_workers import usable_cores
from ..loaders.worker import start_workers
from ..seeds import random_numbers_kept
from ..spec import DataSpec
from ..transforms.image import ImageTransform
from .facts import Facts, InspectedSamples
from .report import Numbers, SetReport, report_of

_AT_ONCE = 16  # samples that a process reads before it reports
_WORTH_PROCESSES = 256  # samples from which starting processes takes less time than it saves


@dataclass(frozen=True)
class Inspection:
    """A data set that can be inspected.

    Args:
        key: TRAIN or TEST.
        name: of the set, in messages and scores.
        root: the path of the set; "" if it has none.
        samples: its samples.
        workers: number of processes that read them; 0: this one.
    """

    key: str
    name: str
    root: str
    samples: InspectedSamples
    workers: int

    def run(self, tell: Callable[[int], Any] = lambda count: None) -> SetReport:
        """Read every sample and return the report.

        Args:
            tell: called with the number of samples that have been read since the last call.

        Raises:
            ConfigError: the targets that the data set lists are not finite.
        """
        dataset = self.samples.dataset
        targets = _targets_of(dataset, self.name)
        is_index = targets is None or (targets.ndim == 1 and targets.dtype.kind == "i")
        classes = tuple(map(str, getattr(dataset, "classes", ())))
        return report_of(
            self._facts(tell),
            self.key,
            self.name,
            classes=classes if is_index else (),
            num_classes=getattr(dataset, "num_classes", len(classes)) if is_index else 0,
            labels=targets.tolist() if is_index and targets is not None else None,
            numbers=() if is_index or targets is None else _numbers(targets, classes),
            file=partial(_file, dataset),
            root=self.root,
        )

    def _facts(self, tell: Callable[[int], Any]) -> Iterator[Facts]:
        size = len(self.samples)
        pieces = [list(range(first, min(first + _AT_ONCE, size))) for first in range(0, size, _AT_ONCE)]
        running = start_workers(self.samples, pieces, self.workers, _as_it_is)
        try:
            while True:
                with random_numbers_kept(everything=True):
                    found = next(running, None)
                if found is None:
                    return
                yield from found
                tell(len(found))
        finally:
            if self.workers:
                running._shutdown_workers()


def build_inspections(data: DataSpec, task: SampleTask | None, problems: list[str]) -> list[Inspection]:
    """Return the data sets that can be inspected: the training sets, then the test sets.

    Args:
        data: the data sets of a config.
        task: checks targets; None: neither targets nor transforms are tried.
        problems: gets the mistakes because of which a set cannot be inspected.
    """
    sets: list[tuple[str, str, DatasetEntry]] = []
    with gathering(problems):
        sets += [("TRAIN", str(entry), entry) for entry in data.training_sets]
    with gathering(problems):
        sets += [("TEST", str(entry), entry) for entry in data.test_sets.values()]
    found = []
    for key, name, entry in sets:
        with gathering(problems):
            transform = _transform(data, key) if task is not None else None
            everything = is_users_own(entry) or (transform is not None and transform.is_users_own)
            samples = InspectedSamples(data.build(key, entry), name, task, transform, everything)
            alone = is_in_memory(entry) or len(samples) < _WORTH_PROCESSES
            root = os.path.expanduser(entry.path or "")
            found.append(Inspection(key, name, root, samples, 0 if alone else usable_cores()))
    return found


def _transform(data: DataSpec, key: str) -> ImageTransform | None:
    """Return the transforms; None if they are wrong, which `check_data` reports."""
    try:
        return data.transform(key)
    except ConfigError:
        return None


def _targets_of(dataset: Any, name: str) -> npt.NDArray[Any] | None:
    try:
        return read_targets(dataset)
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from None


def _numbers(targets: npt.NDArray[Any], names: tuple[str, ...]) -> list[Numbers]:
    """Return least, mean and greatest value of each number of targets (N,) or (N, K).

    >>> _numbers(np.array([[0, 1.5], [1, 2.5]]), ("striped", "kg"))[1]
    Numbers(name='kg', least=1.5, mean=2.0, greatest=2.5)
    """
    columns = targets.reshape(len(targets), -1).T.astype(np.float64)
    if len(names) != len(columns):
        names = tuple(f"number {place}" for place in range(len(columns)))
    return [
        Numbers(name, float(values.min()), float(values.mean()), float(values.max()))
        for name, values in zip(names, columns, strict=True)
    ]


def _file(dataset: Any, index: int) -> str:
    return sample_path(dataset, index) or f"sample {index}"


def _as_it_is(found: list[Facts]) -> list[Facts]:
    return found
