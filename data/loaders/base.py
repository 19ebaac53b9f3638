"""What every training loader has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence

from ..batch import Batch
from ..datasets.registry import MapDataset
from ..datasets.unreadable import sample_path
from ..sampling.stream import SampleOrder, SampleStream

_SHOWN = 16  # samples of a batch, in a message


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
            A generator, which touches no sample before `start`. Its close() ends what it has begun.
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
