"""Loading batches on torch's DataLoader, so that no process and no earlier batch has a say in them."""

from __future__ import annotations

import bisect
import itertools
import multiprocessing
import os
import signal
import threading
import warnings
import weakref
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, default_collate, get_worker_info

from warmstart.config import ConfigError

from .datasets import MapDataset, checked_label
from .sampling import Groups, SampleOrder, SampleStream, random_numbers_kept, sample_key, seed_random_numbers
from .transforms import ImageTransform

Batch = tuple[Tensor, Tensor]  # images (N, C, H, W) float32, labels (N,) int64; of mixed ones (N, classes) float32
Place = tuple[int, int]  # (position, index): the key of the random numbers, the sample in the data set

_SHOWN = 16  # samples of a batch, in a message


class KeyedSamples(Dataset[tuple[Tensor, int]]):
    """A data set with its transform, whose random numbers depend on (seed, position) alone.

    Args:
        dataset: samples by index.
        transform: makes an image the model's input.
        seed: SEED.
        num_classes: labels outside 0 to num_classes - 1 are refused.
        name: the data set's name, for messages.
        seed_everything: whether python's and numpy's generators are keyed beside torch's, for users'
            own code; torchvision draws from torch's.
    """

    def __init__(
        self,
        dataset: MapDataset,
        transform: ImageTransform,
        *,
        seed: int,
        num_classes: int,
        name: str,
        seed_everything: bool = False,
    ) -> None:
        self.dataset, self.transform = dataset, transform
        self.seed, self.num_classes, self.name = seed, num_classes, name
        self.seed_everything = seed_everything

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.dataset)

    def __getitem__(self, place: Place) -> tuple[Tensor, int]:
        """Return (augmented image, label) for (position, index); leaves the global generators changed."""
        position, index = place
        seed_random_numbers(sample_key(self.seed, position), self.seed_everything)
        image, label = self.dataset[index]
        augmented = self.transform.augmented(image)
        return augmented, checked_label(label, self.num_classes, f"{self.name}: sample {index}")


class WorkerLoader:
    """Batches of given places of `samples`, loaded by `num_workers` processes or, for 0, in this one.

    The global random state of this process is the same after each batch as before it.

    Args:
        samples: the data set, picklable where the platform starts processes afresh.
        num_workers: loading processes.
        pin_memory: whether batches lie in page-locked memory, for fast copies to CUDA devices.
    """

    def __init__(self, samples: KeyedSamples, *, num_workers: int, pin_memory: bool) -> None:
        self.samples, self.num_workers, self.pin_memory = samples, num_workers, pin_memory
        self._running: weakref.WeakSet[Generator[Batch, None, None]] = weakref.WeakSet()

    def load(self, batches: Iterable[list[Place]]) -> Generator[Batch, None, None]:
        """Yield a batch for each list of places. Workers start at the first and end with the generator."""
        running = self._load(batches)
        self._running.add(running)
        return running

    def close(self) -> None:
        """End all generators that `load` gave out, and their workers."""
        for running in list(self._running):
            running.close()

    def _load(self, batches: Iterable[list[Place]]) -> Generator[Batch, None, None]:
        iterator = self._start(batches)
        try:
            while True:
                with random_numbers_kept(self.samples.seed_everything), _one_sentence():
                    batch = next(iterator, None)
                if batch is None:
                    return
                yield batch[0], batch[1]
        finally:
            # torch ends workers when the iterator is collected, which an error's traceback puts off.
            if self.num_workers:
                iterator._shutdown_workers()

    def _start(self, batches: Iterable[list[Place]]) -> Any:
        with warnings.catch_warnings():
            # More workers than cores is the user's choice; forking beside torch's idle threads is what
            # DataLoader does by design.
            warnings.filterwarnings("ignore", message="This DataLoader will create")
            warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
            return iter(
                DataLoader(
                    self.samples,
                    batch_sampler=batches,
                    num_workers=self.num_workers,
                    collate_fn=_Collate(self.samples.transform),
                    pin_memory=self.pin_memory,
                    worker_init_fn=_obey_main_process_only,
                    generator=torch.Generator(),  # else it draws a seed from the global one
                )
            )


class TrainLoader(ABC):
    """The endless stream of training batches, from any iteration.

    Args:
        dataset: the samples.
        seed: SEED, which the order follows from.
        batch_size: IMS_PER_BATCH, over all ranks together; may exceed the size of the data set.
        slots: the places in each batch that are loaded here, in their order, from 0; None: all.
        stream: which sample stands where; None: all, shuffled anew in each pass.
    """

    def __init__(
        self,
        dataset: MapDataset,
        *,
        seed: int,
        batch_size: int,
        slots: Sequence[int] | None = None,
        stream: SampleOrder | None = None,
    ) -> None:
        self.dataset, self.size = dataset, len(dataset)
        self.seed, self.batch_size = seed, batch_size
        self.slots = list(range(batch_size) if slots is None else slots)
        self.stream = stream or SampleStream(seed, self.size)

    def __iter__(self) -> Iterator[Batch]:
        """Begin at iteration 0."""
        return self.batches()

    @abstractmethod
    def batches(self, start: int = 0) -> Generator[Batch, None, None]:
        """Yield the batches of iterations `start`, `start` + 1, ... without end.

        Returns:
            A generator of (images (N, C, H, W) float32, labels (N,) int64); no sample before `start`
            is touched. Its close() ends what it has begun.
        """

    @abstractmethod
    def close(self) -> None:
        """End all streams, and processes that load for them."""

    def sample_indices(self, iteration: int) -> list[int]:
        """Return the indices, in the data set, of the samples that batch number `iteration`, from 0, has here."""
        order = self.stream.order(iteration * self.batch_size, self.batch_size)
        return [int(index) for index in order[self.slots]]

    def describe_samples(self, iteration: int) -> str:
        """Return the same for a message: at most 16, with their files where the data set tells them.

        For example "12 (dogs/7.png), 3 (cats/2.png), ...".
        """
        indices = self.sample_indices(iteration)
        paths = [sample_path(self.dataset, index) for index in indices[:_SHOWN]]
        shown = [f"{index} ({path})" if path else str(index) for index, path in zip(indices, paths, strict=False)]
        return ", ".join([*shown, "..."] if len(indices) > _SHOWN else shown)


class WorkerTrainLoader(TrainLoader):
    """That stream from a `WorkerLoader`.

    Args:
        loader: loads the samples.
        seed: SEED, which the order follows from.
        batch_size: IMS_PER_BATCH, over all ranks together; may exceed the size of the data set.
        slots: the places in each batch that are loaded here, in their order, from 0; None: all.
        stream: which sample stands where; None: all, shuffled anew in each pass.
    """

    def __init__(
        self,
        loader: WorkerLoader,
        *,
        seed: int,
        batch_size: int,
        slots: Sequence[int] | None = None,
        stream: SampleOrder | None = None,
    ) -> None:
        super().__init__(loader.samples.dataset, seed=seed, batch_size=batch_size, slots=slots, stream=stream)
        self._loader = loader

    def batches(self, start: int = 0) -> Generator[Batch, None, None]:
        """Yield the batches of iterations `start`, `start` + 1, ... without end; close() ends their workers."""
        return self._loader.load(self._places(start))

    def close(self) -> None:
        """End all streams and their workers."""
        self._loader.close()

    def _places(self, start: int) -> Iterator[list[Place]]:
        for first in itertools.count(start * self.batch_size, self.batch_size):
            order = self.stream.order(first, self.batch_size).tolist()
            yield [(first + slot, order[slot]) for slot in self.slots]


class EvalLoader:
    """Every sample once, in the data set's order; the last batch may be smaller.

    Args:
        loader: loads the samples.
        batch_size: TEST.IMS_PER_BATCH.
        groups: samples that are not to share a batch: one group comes after the other, each in order.
    """

    def __init__(self, loader: WorkerLoader, *, batch_size: int, groups: Groups | None = None) -> None:
        self.batch_size, self.size = batch_size, len(loader.samples)
        self._loader = loader
        self._batches = [
            group[first : first + batch_size]
            for group in groups or (np.arange(self.size),)
            for first in range(0, len(group), batch_size)
        ]

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        """Yield (images (N, C, H, W) float32, labels (N,) int64)."""
        return self._loader.load([(index, index) for index in batch.tolist()] for batch in self._batches)

    def close(self) -> None:
        """End all passes that were left in the middle, and their workers."""
        self._loader.close()


def sample_path(dataset: Any, index: int) -> str:
    """Return the file of a sample of a data set that has pairs (file, label) as `samples`, as torchvision's do.

    >>> from types import SimpleNamespace
    >>> folder = SimpleNamespace(samples=[("cats/1.png", 0), ("dogs/7.png", 1)])
    >>> sample_path(folder, 1), sample_path([5, 6], 1)
    ('dogs/7.png', '')
    """
    if isinstance(dataset, ConcatDataset):
        part = bisect.bisect_right(dataset.cumulative_sizes, index)
        first = dataset.cumulative_sizes[part - 1] if part else 0
        return sample_path(dataset.datasets[part], index - first)
    samples = getattr(dataset, "samples", None)
    pair = samples[index] if isinstance(samples, (list, tuple)) and index < len(samples) else None
    path = pair[0] if isinstance(pair, (list, tuple)) and pair else None
    return str(path) if isinstance(path, (str, os.PathLike)) else ""


class _Collate:
    """Makes a normalised batch of augmented samples.

    A worker normalises in memory that it keeps, and copies the result into the memory it shares: with memory that
    is new for each batch, images of 224 pixels a side take twice as long. A batch that this process has loaded is
    never written again, since someone may still hold it.
    """

    def __init__(self, transform: ImageTransform) -> None:
        self._transform = transform
        self._kept = torch.empty(0)

    def __call__(self, samples: list[tuple[Tensor, int]]) -> list[Tensor]:
        """Return [images (N, C, H, W) float32, labels (N,) int64]."""
        images, labels = [image for image, _ in samples], torch.tensor([label for _, label in samples])
        if len({(image.shape, image.dtype) for image in images}) > 1:
            images = [self._transform.normalised(image) for image in images]
            sizes = {"x".join(map(str, image.shape)) for image in images}
            if len(sizes) > 1:
                raise ConfigError(
                    "images of one batch differ in size after the transforms: "
                    f"{', '.join(sorted(sizes))} (C x H x W); end INPUT.TRANSFORMS_TRAIN and "
                    "INPUT.TRANSFORMS_TEST with {Resize: {size: [224, 224]}} or a crop"
                )
            return [torch.stack(images), labels]
        batch = torch.stack(images)
        if get_worker_info() is None:
            return [self._transform.normalised(batch), labels]
        if self._kept.shape != batch.shape:
            self._kept = torch.empty(batch.shape)
        shared: Tensor = default_collate(list(self._transform.normalised(batch, self._kept)))
        return [shared, labels]


@contextmanager
def _one_sentence() -> Iterator[None]:
    """Take the worker's traceback, which torch puts into an error's text, off a ConfigError."""
    try:
        yield
    except ConfigError as error:
        last = str(error).strip().splitlines()[-1]
        raise ConfigError(last.rpartition("ConfigError: ")[2]) from None


def _obey_main_process_only(worker_id: int) -> None:
    """Let a worker sleep through signals to the whole group: the main process decides when to stop.

    Ctrl-C, `timeout` and batch systems signal every process of a job. A worker that died of it would
    take the main process down before it has saved. SIGTERM is what the main process itself ends
    workers with, so a thread looks at who sent it.
    """
    for name in ("SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS and Windows: there SIGTERM ends the worker
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_leave_when_main_process_says, daemon=True).start()


def _leave_when_main_process_says() -> None:
    main = multiprocessing.parent_process()
    assert main is not None, "runs in workers"
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != main.pid:
        pass
    os._exit(0)
