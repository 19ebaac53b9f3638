"""Many small records in one block of memory that worker processes share."""

from __future__ import annotations

import itertools
import operator
import pickle
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, TypeVar, overload

import torch

T = TypeVar("T")


class FlatRecords(Sequence[T], Generic[T]):
    """A sequence of small Python values whose memory does not grow with the number of workers.

    A forked process shares its parent's memory until either writes to it, and Python writes to an object whenever
    it is accessed, to count references. So each worker ends up with its own copy of a list of records. Here the
    records are pickled in one buffer, and each is unpickled on access, in a few microseconds.

    Args:
        records: picklable values; later changes to them have no effect.

    >>> records = FlatRecords([("cats/1.png", 0), ("dogs/7.png", 1)])
    >>> len(records), records[-1], records[:1]
    (2, ('dogs/7.png', 1), [('cats/1.png', 0)])
    """

    def __init__(self, records: Iterable[T]) -> None:
        buffer, ends = bytearray(), [0]
        for record in records:
            buffer += pickle.dumps(record, pickle.HIGHEST_PROTOCOL)
            ends.append(len(buffer))
        # Tensors, which torch passes to spawned processes as shared memory.
        self._bytes = torch.frombuffer(buffer or bytearray(1), dtype=torch.uint8)
        self._ends = torch.tensor(ends)

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[T]:
        """Yield the records, several times faster than by index."""
        ends, content = self._ends.tolist(), self._bytes.numpy().data
        for begin, end in itertools.pairwise(ends):
            yield pickle.loads(content[begin:end])

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        """Return a record, or a list of them."""
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[operator.index(index)]
        begin, end = self._ends[place : place + 2].tolist()
        record: T = pickle.loads(self._bytes[begin:end].numpy().data)
        return record
