"""The base class of training loaders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence

from ..batch import Batch
from ..datasets.registry import MapDataset
from ..datasets.unreadable import sample_path
from ..sampling.stream import SampleOrder, SampleStream

_SHOWN = 16  # samples of a batch that a message lists


class TrainLoader(ABC):
    """The endless stream of training batches, starting at any iteration.

    Args:
        dataset: the samples.
        seed: SEED, which determines the order.
        batch_size: IMS_PER_BATCH, over all ranks together; may exceed the size of the data set.
        slots: the positions in each batch that are loaded here, in order, from 0; None: all.
        stream: the order of samples; None: all samples, reshuffled for each pass.
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
            A generator that reads no sample before `start`. Its close() ends the workers it has started.
        """

    @abstractmethod
    def close(self) -> None:
        """End all streams and their workers."""

    def sample_indices(self, iteration: int) -> list[int]:
        """Return the data set indices of the samples that are loaded here for iteration `iteration`, from 0."""
        order = self.stream.order(iteration * self.batch_size, self.batch_size)
        return [int(index) for index in order[self.slots]]

    def describe_samples(self, iteration: int) -> str:
        """Return these indices as text for a message: at most 16, with their files if the data set names them.

        For example "12 (dogs/7.png), 3 (cats/2.png), ...".
        """
        indices = self.sample_indices(iteration)
        paths = [sample_path(self.dataset, index) for index in indices[:_SHOWN]]
        shown = [f"{index} ({path})" if path else str(index) for index, path in zip(indices, paths, strict=False)]
        return ", ".join([*shown, "..."] if len(indices) > _SHOWN else shown)
