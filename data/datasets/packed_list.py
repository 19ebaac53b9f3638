"""Many small records in one piece of memory, which loading processes share."""

from __future__ import annotations

import operator
import pickle
from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar, overload

import torch

T = TypeVar("T")


class FlatRecords(Sequence[T], Generic[T]):
    """A sequence of small Python values that does not grow with the number of loading processes.

    A forked process shares its parent's memory until either writes to it, and Python writes to an object whenever
    it looks at it, to count references. So each worker ends up with its own copy of a list of records. Here they
    lie pickled in one buffer, and an object is made of a record when it is asked for, in a few microseconds.

    Args:
        records: what can be pickled; changes to them afterwards are not seen.

    >>> records = FlatRecords([("cats/1.png", 0), ("dogs/7.png", 1)])
    >>> len(records), records[-1], records[:1]
    (2, ('dogs/7.png', 1), [('cats/1.png', 0)])
    """

    def __init__(self, records: Iterable[T]) -> None:
        buffer, ends = bytearray(), [0]
        for record in records:
            buffer += pickle.dumps(record, pickle.HIGHEST_PROTOCOL)
            ends.append(len(buffer))
        # Tensors: to processes that are started afresh torch hands them on as shared memory.
        self._bytes = torch.frombuffer(buffer or bytearray(1), dtype=torch.uint8)
        self._ends = torch.tensor(ends)

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self._ends) - 1

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
