"""The endless order of training samples.

The sample at a position is a function of (SEED, position), where position = iteration * IMS_PER_BATCH + slot.
No further state is kept: a run that resumes at iteration 1,000,000 asks for position 1,000,000 * IMS_PER_BATCH.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from ..seeds import splitmix64

Groups = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]  # indices of the samples in each group
_ONE = 1 << 32  # one occurrence of a sample, in the fixed-point numbers of repeat factors


class SampleOrder(Protocol):
    """The sample at each position; a function of the position alone."""

    def order(self, first: int, count: int) -> npt.NDArray[np.int64]:
        """Return the indices, in the data set, of the samples at the `count` positions from `first` on."""


class SampleStream:
    """The endless order of samples: one shuffled pass over the data set after another.

    Args:
        seed: SEED; different seeds give different orders.
        size: samples in the data set, at least 1.
        repeats: (size,), how often each sample occurs in a pass, on average, at least 0; None: once. They are
            scaled so that their sum, the length of every pass, is an integer. A sample with 2.25 occurs twice in
            three passes of four, and three times in the fourth: fractions are drawn for each pass.

    >>> stream = SampleStream(seed=0, size=4)
    >>> stream.order(0, 4), stream.order(4, 4)
    (array([0, 3, 2, 1]), array([3, 2, 0, 1]))
    >>> stream.index(4_000_000)
    1
    >>> SampleStream(seed=0, size=3, repeats=np.array([0, 1.5, 2.5])).order(0, 8)
    array([1, 2, 1, 2, 1, 2, 2, 2])
    """

    def __init__(self, seed: int, size: int, repeats: npt.NDArray[Any] | None = None) -> None:
        assert size > 0, "an empty data set has no order"
        self.size = size
        self._order_seed = splitmix64(seed, 1)
        self._parts = None if repeats is None else _whole_sum(repeats)
        self._length = size if self._parts is None else int(self._parts.sum()) // _ONE
        self._last = -1, np.empty(0, np.int64)  # the pass that was computed last

    def index(self, position: int) -> int:
        """Return the data set index of the sample at `position`: O(1) within a pass."""
        return int(self.order(position, 1)[0])

    def order(self, first: int, count: int) -> npt.NDArray[np.int64]:
        """Return the indices of the samples at the `count` positions from `first` on."""
        parts = []
        while count > 0:
            number, place = divmod(first, self._length)
            parts.append(self._pass(number)[place : place + count])
            first, count = first + len(parts[-1]), count - len(parts[-1])
        return np.concatenate(parts) if len(parts) != 1 else parts[0]

    def _pass(self, number: int) -> npt.NDArray[np.int64]:
        if self._last[0] != number:
            self._last = number, self._shuffled(splitmix64(self._order_seed, number))
        return self._last[1]

    def _shuffled(self, seed: int) -> npt.NDArray[np.int64]:
        generator = torch.Generator().manual_seed(seed)
        order: npt.NDArray[np.int64] = torch.randperm(self.size, generator=generator).numpy()
        if self._parts is None:
            return order
        # Systematic sampling: samples are laid end to end, each as long as its factor, and one is taken at every
        # integer beyond a random offset. They are shuffled first, or some neighbours would never share a pass.
        offset = int(torch.randint(_ONE, (), generator=generator))
        ends = (np.cumsum(self._parts[order]) + offset) // _ONE
        order = np.repeat(order, np.diff(ends, prepend=0))
        return order.take(torch.randperm(len(order), generator=generator).numpy())


def _whole_sum(repeats: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return factors in units of 1 / _ONE, scaled so that they add up to an integer of at least 1."""
    total = float(repeats.sum())
    length = max(1, round(total))
    assert length < 2**30, "sums of parts fit into 64 bits"
    parts = np.rint(repeats * (length / total * _ONE)).astype(np.int64)
    parts[parts.argmax()] += length * _ONE - parts.sum()  # the rounding error
    return parts


class GroupedStream:
    """The endless order of samples in batches that never mix two groups.

    Each group has its own stream. Integer arithmetic decides which group a batch comes from: evenly spread, and in
    proportion to the groups' sizes, so that no sample is skipped and every batch is full.

    Args:
        seed: SEED.
        batch_size: samples per batch; batch number t has the positions from t * batch_size on.
        groups: data set indices of the samples in each group, at least one in each.
        repeats: how often each sample occurs, as for `SampleStream`; not all may be 0 in a group.

    >>> stream = GroupedStream(seed=0, batch_size=2, groups=(np.arange(4), np.arange(4, 6)))
    >>> stream.order(0, 12).reshape(6, 2).tolist()
    [[2, 0], [1, 3], [5, 4], [1, 2], [3, 0], [4, 5]]
    """

    def __init__(
        self,
        seed: int,
        batch_size: int,
        groups: Groups,
        repeats: npt.NDArray[Any] | None = None,
    ) -> None:
        shares = [None if repeats is None else repeats[group] for group in groups]
        self._batch_size, self._groups = batch_size, groups
        self._streams = [
            SampleStream(splitmix64(seed, 3 + number), len(group), share)
            for number, (group, share) in enumerate(zip(groups, shares, strict=True))
        ]
        sizes = [
            len(group) * _ONE if share is None else round(float(share.sum()) * _ONE)
            for group, share in zip(groups, shares, strict=True)
        ]
        self._first, self._all = sizes[0], sum(sizes)
        self._offset = splitmix64(seed, 5) % self._all

    def order(self, first: int, count: int) -> npt.NDArray[np.int64]:
        """Return the indices, in the data set, of the samples at the `count` positions from `first` on."""
        parts = []
        while count > 0:
            batch, slot = divmod(first, self._batch_size)
            which, number = self._turn(batch)
            size = min(count, self._batch_size - slot)
            parts.append(self._groups[which][self._streams[which].order(number * self._batch_size + slot, size)])
            first, count = first + size, count - size
        return np.concatenate(parts)

    def _turn(self, batch: int) -> tuple[int, int]:
        """Return the group of a batch, and how many earlier batches came from that group."""
        before, after = ((t * self._first + self._offset) // self._all for t in (batch, batch + 1))
        return (0, before) if after > before else (1, batch - before)
