"""Which sample stands at which place of training, and which random numbers it gets.

Both are functions of (SEED, position), where position = iteration * IMS_PER_BATCH + slot. Nothing
else is kept: a run that continues at iteration 1,000,000 asks for position 1,000,000 * IMS_PER_BATCH.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

Groups = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]  # indices of the samples of either

# Each purpose has its own output of splitmix64(SEED): 0 the keys of samples, 1 their order, 2 numbers of blocks,
# 3 and 4 the order in either group, 5 which group begins, 6 mixing.
_WORD = (1 << 64) - 1
_ONE = 1 << 32  # a sample once, in the whole numbers that factors are counted in


def splitmix64(seed: int, n: int) -> int:
    """Return output `n` (from 0) of the generator splitmix64 seeded with `seed`: 64 well-mixed bits.

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.

    >>> splitmix64(1234567, 0), splitmix64(1234567, 1)
    (6457827717110365317, 3203168211198807973)
    """
    z = (seed + (n + 1) * 0x9E3779B97F4A7C15) & _WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _WORD
    return z ^ (z >> 31)


def sample_key(seed: int, position: int) -> int:
    """Return the 64-bit key of all random numbers that the sample at `position` is given.

    torch's CPU generator seeds itself from the low 32 bits alone; these are mixed as well as the
    rest, so keys next to each other start unrelated streams, and any two keys share one with
    probability 2^-32.

    >>> sample_key(0, 0), sample_key(0, 1)
    (12035550249420947055, 12935080325729570654)
    """
    return splitmix64(splitmix64(seed, 0), position)


class SampleOrder(Protocol):
    """Which sample stands at each position; a function of the position alone."""

    def order(self, first: int, count: int) -> npt.NDArray[np.int64]:
        """Return the indices, in the data set, of the samples at the `count` positions from `first` on."""


class SampleStream:
    """The endless order of samples: one shuffled pass over the data set after the other.

    Args:
        seed: SEED; other seeds give other orders.
        size: samples in the data set, at least 1.
        repeats: (size,), how often each sample comes in a pass, on average, at least 0; None: once. They are
            scaled so that their sum, the length of every pass, is whole. A sample with 2.25 comes twice in three
            passes of four, and three times in the others: each pass draws them anew.

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
        self._last = -1, np.empty(0, np.int64)  # the pass that was asked for last

    def index(self, position: int) -> int:
        """Return the index, in the data set, of the sample at `position`: O(1) within a pass."""
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
        # Systematic sampling: samples lie end to end, each as long as its factor, and one is taken at every whole
        # number beyond a random offset. In random order: else some would never share a pass with their neighbours.
        offset = int(torch.randint(_ONE, (), generator=generator))
        ends = (np.cumsum(self._parts[order]) + offset) // _ONE
        order = np.repeat(order, np.diff(ends, prepend=0))
        return order.take(torch.randperm(len(order), generator=generator).numpy())


def _whole_sum(repeats: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return factors in units of 1 / _ONE, scaled so that they add up to a whole number, at least 1."""
    total = float(repeats.sum())
    length = max(1, round(total))
    assert length < 2**30, "sums of parts fit into 64 bits"
    parts = np.rint(repeats * (length / total * _ONE)).astype(np.int64)
    parts[parts.argmax()] += length * _ONE - parts.sum()  # what rounding has lost
    return parts


class GroupedStream:
    """The endless order of samples in batches that never mix two groups.

    Each group has a stream of its own. Which one gives a batch is settled in whole numbers, evenly spread and in
    proportion to the groups' sizes, so nothing is left out and every batch is whole.

    Args:
        seed: SEED.
        batch_size: samples of a batch; batch number t takes the positions from t * batch_size on.
        groups: indices, in the data set, of the samples of either group, at least one in each.
        repeats: how often each sample of the data set comes, as for `SampleStream`; in each group some must.

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
        """Return whose batch it is, and how many that group has given before."""
        before, after = ((t * self._first + self._offset) // self._all for t in (batch, batch + 1))
        return (0, before) if after > before else (1, batch - before)


def block_numbers(seed: int, block: int, *shape: int) -> torch.Tensor:
    """Return the uniform random numbers, float32 from [0, 1), that block number `block` of a stream is given.

    Args:
        seed: SEED.
        block: from 0.
        *shape: of what is returned; the same for all blocks.

    >>> numbers = block_numbers(0, 5, 2, 1)
    >>> numbers.equal(block_numbers(0, 5, 2, 1)), numbers.equal(block_numbers(0, 6, 2, 1))
    (True, False)
    """
    generator = torch.Generator().manual_seed(splitmix64(splitmix64(seed, 2), block))
    return torch.rand(shape, generator=generator)


def seed_random_numbers(key: int, everything: bool) -> None:
    """Start torch's global CPU generator at `key`; with `everything` also python's and numpy's.

    torch.manual_seed would reach every device and take a hundred times as long.
    """
    torch.default_generator.manual_seed(key)
    if everything:
        random.seed(key)
        # torch seeds itself from the other half: from one seed the two would draw equal numbers.
        np.random.seed(key >> 32)


@contextmanager
def random_numbers_kept(everything: bool) -> Iterator[None]:
    """Give torch's global CPU generator its state back at the end; with `everything` also python's and numpy's.

    Those two take 100 microseconds, torch's two.

    >>> with random_numbers_kept(everything=False):
    ...     inside = torch.rand(1)
    >>> bool(torch.rand(1) == inside)
    True
    """
    torch_state = torch.get_rng_state()
    others = (random.getstate(), np.random.get_state()) if everything else None
    try:
        yield
    finally:
        torch.set_rng_state(torch_state)
        if others:
            random.setstate(others[0])
            np.random.set_state(others[1])
