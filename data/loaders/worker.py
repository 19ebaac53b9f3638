"""The worker loader: torch's DataLoader, with batches that depend on neither the workers nor earlier batches."""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import signal
import threading
import warnings
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from warmstart.config import ConfigError

from ..batch import Batch
from ..sampling.stream import Groups, SampleOrder
from ..seeds import random_numbers_kept
from .base import TrainLoader
from .keyed_dataset import Collate, KeyedSamples, Place

logger = logging.getLogger(__name__)
_LINES = 20  # unreadable samples that are logged individually
_CONSEQUENCE = {"replace": "others took their places", "leave out": "the scores exclude them"}


class WorkerLoader:
    """Batches of given places of `samples`, loaded by `num_workers` processes or, for 0, in this one.

    Loading a batch leaves the global random state of this process unchanged.

    Args:
        samples: the data set; must be picklable if the platform spawns processes.
        num_workers: number of worker processes.
        pin_memory: whether batches are in page-locked memory, for fast copies to CUDA devices.
        training: whether the batches are for training.
    """

    def __init__(
        self, samples: KeyedSamples, *, num_workers: int, pin_memory: bool, training: bool = True
    ) -> None:
        self.samples, self.num_workers, self.pin_memory = samples, num_workers, pin_memory
        self.training = training
        self._unread: set[int] = set()
        self._running: weakref.WeakSet[Generator[Batch, None, None]] = weakref.WeakSet()

    def load(self, batches: Iterable[list[Place]]) -> Generator[Batch, None, None]:
        """Yield a batch for each list of places. Workers start with the first batch and end with the generator."""
        running = self._load(batches)
        self._running.add(running)
        return running

    def close(self) -> None:
        """End all generators that `load` returned, and their workers."""
        for running in list(self._running):
            running.close()

    def _load(self, batches: Iterable[list[Place]]) -> Generator[Batch, None, None]:
        iterator = self._start(batches)
        unread: set[int] = set()
        try:
            while True:
                with self._random_numbers_kept(), _one_sentence():
                    loaded = next(iterator, None)
                if loaded is None:
                    if len(unread) == len(self.samples):
                        raise ConfigError(f"{self.samples.name}: none of its {len(unread):,} samples can be read")
                    return
                batch, notes = loaded
                for index, why in notes:
                    unread.add(index)
                    self._tell(index, why)
                if batch is not None:
                    yield batch
        finally:
            if unread:
                share, samples = f"{len(unread):,} of {len(self.samples):,}", self.samples
                rest = _CONSEQUENCE[samples.unreadable]
                logger.warning("%s: %s samples cannot be read; %s", samples.name, share, rest)
            # torch ends workers when the iterator is garbage-collected, which an error's traceback delays.
            if self.num_workers:
                iterator._shutdown_workers()

    @contextmanager
    def _random_numbers_kept(self) -> Iterator[None]:
        on_device = torch.cuda.get_rng_state() if self.samples.on_cuda else None
        try:
            with random_numbers_kept(self.samples.seed_everything):
                yield
        finally:
            if on_device is not None:
                torch.cuda.set_rng_state(on_device)

    def _tell(self, index: int, why: str) -> None:
        """Log once per sample, in this process, that it cannot be read; only the first 20 are logged."""
        if index not in self._unread and len(self._unread) < _LINES:
            logger.warning("%s: %s", self.samples.name, why)
        self._unread.add(index)

    def _start(self, batches: Iterable[list[Place]]) -> Any:
        collate = Collate(self.samples.task, self.samples.transform, self.training)
        return start_workers(self.samples, batches, self.num_workers, collate, self.pin_memory)


def start_workers(
    samples: Dataset[Any],
    batches: Iterable[list[Any]],
    num_workers: int,
    collate: Callable[[Any], Any],
    pin_memory: bool = False,
) -> Any:
    """Return the iterator of a DataLoader whose workers ignore signals to the process group.

    Args:
        samples: has `__getitems__`; must be picklable if the platform spawns processes.
        batches: the argument of `__getitems__` for each batch.
        num_workers: number of worker processes; 0 loads in this one.
        collate: called with the result of `__getitems__`; must be picklable, too.
        pin_memory: whether batches are in page-locked memory.
    """
    with warnings.catch_warnings(), _signals_held():
        # More workers than cores are the user's choice; DataLoader forks beside torch's idle threads by design.
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
        return iter(
            DataLoader(
                samples,
                batch_sampler=batches,
                num_workers=num_workers,
                collate_fn=collate,
                pin_memory=pin_memory,
                worker_init_fn=_obey_main_process_only,
                generator=torch.Generator(),  # otherwise it draws a seed from the global generator
            )
        )


class WorkerTrainLoader(TrainLoader):
    """The endless stream of training batches from a `WorkerLoader`.

    Args:
        loader: loads the samples.
        seed: SEED, which determines the order.
        batch_size: IMS_PER_BATCH, over all ranks together; may exceed the size of the data set.
        slots: the positions in each batch that are loaded here, in order, from 0; None: all.
        stream: the order of samples; None: all samples, reshuffled for each pass.
        planned: SOLVER.MAX_ITER; workers do not load the batch of this iteration, or a later one, before it is
            asked for: those of the last updates have the cores to themselves. None: no end is known.
    """

    def __init__(
        self,
        loader: WorkerLoader,
        *,
        seed: int,
        batch_size: int,
        slots: Sequence[int] | None = None,
        stream: SampleOrder | None = None,
        planned: int | None = None,
    ) -> None:
        super().__init__(loader.samples.dataset, seed=seed, batch_size=batch_size, slots=slots, stream=stream)
        self._loader, self._planned = loader, planned

    def batches(self, start: int = 0) -> Generator[Batch, None, None]:
        """Yield the batches of iterations `start`, `start` + 1, ... without end; close() ends their workers."""
        if self._planned is not None and start < self._planned:
            yield from self._loader.load(self._places(range(start, self._planned)))
            start = self._planned
        yield from self._loader.load(self._places(itertools.count(start)))

    def close(self) -> None:
        """End all streams and their workers."""
        self._loader.close()

    def _places(self, iterations: Iterable[int]) -> Iterator[list[Place]]:
        for iteration in iterations:
            first = iteration * self.batch_size
            order = self.stream.order(first, self.batch_size).tolist()
            yield [(first + slot, order[slot]) for slot in self.slots]


class EvalLoader:
    """Every sample once, in the data set's order; the last batch may be smaller.

    Args:
        loader: loads the samples.
        batch_size: TEST.IMS_PER_BATCH.
        groups: samples that must not share a batch: one group comes after the other, each in order.
        rank: the rank of this process, which gets batches rank, rank + world_size, ...
        world_size: how many processes share the batches.
    """

    def __init__(
        self,
        loader: WorkerLoader,
        *,
        batch_size: int,
        groups: Groups | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.batch_size, self.size = batch_size, len(loader.samples)
        #: The samples before all transforms.
        self.dataset = loader.samples.dataset
        self._loader = loader
        self._batches = [
            group[first : first + batch_size]
            for group in groups or (np.arange(self.size),)
            for first in range(0, len(group), batch_size)
        ][rank::world_size]

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches."""
        return self._loader.load([(index, index) for index in batch.tolist()] for batch in self._batches)

    def close(self) -> None:
        """End all unfinished passes and their workers."""
        self._loader.close()


@contextmanager
def _one_sentence() -> Iterator[None]:
    """Strip the worker's traceback, which torch adds to an error's text, from a ConfigError."""
    try:
        yield
    except ConfigError as error:
        # ConfigError has turned the line break after that text into a backslash and an n.
        raise ConfigError(str(error).removesuffix("\\n").rpartition("ConfigError: ")[2]) from None


# Signals that a worker ignores. Without sigwaitinfo, as on macOS and Windows, SIGTERM ends it whoever sent it.
_IGNORED = {
    getattr(signal, name)
    for name in ("SIGINT", "SIGUSR1", "SIGHUP", *(["SIGTERM"] if hasattr(signal, "sigwaitinfo") else []))
    if hasattr(signal, name)
}


@contextmanager
def _signals_held() -> Iterator[None]:
    """Block these signals, so that a worker started in this block is protected from its first instruction."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _IGNORED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _obey_main_process_only(worker_id: int) -> None:
    """Make a worker ignore signals to its process group: the main process decides when to stop.

    Ctrl-C, `timeout` and batch systems signal every process of a job. A worker that died of such a signal would
    take down the main process before it has saved. The main process itself ends workers with SIGTERM, so a thread
    checks who sent it.
    """
    for signum in _IGNORED - {signal.SIGTERM}:
        signal.signal(signum, signal.SIG_IGN)
    if signal.SIGTERM in _IGNORED:
        threading.Thread(target=_leave_when_main_process_says, daemon=True).start()


def _leave_when_main_process_says() -> None:
    main = multiprocessing.parent_process()
    assert main is not None, "runs in workers"
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != main.pid:
        pass
    os._exit(0)
