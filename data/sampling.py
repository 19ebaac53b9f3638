"""Which sample stands at which place of training, and which random numbers it gets.

Both are functions of (SEED, position), where position = iteration * IMS_PER_BATCH + slot. Nothing
else is kept: a run that continues at iteration 1,000,000 asks for position 1,000,000 * IMS_PER_BATCH.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch

_WORD = (1 << 64) - 1


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


class SampleStream:
    """The endless order of samples: one fresh permutation of the data set after the other.

    Args:
        seed: SEED; other seeds give other orders.
        size: samples in the data set, at least 1.

    >>> stream = SampleStream(seed=0, size=4)
    >>> stream.order(0, 4), stream.order(4, 4)
    (array([0, 3, 2, 1]), array([3, 2, 0, 1]))
    >>> stream.index(4_000_000)
    1
    """

    def __init__(self, seed: int, size: int) -> None:
        assert size > 0, "an empty data set has no order"
        self.size = size
        self._order_seed = splitmix64(seed, 1)  # sample_key is drawn from output 0
        self._epoch = -1
        self._order: npt.NDArray[np.int64] = np.empty(0, np.int64)

    def index(self, position: int) -> int:
        """Return the index, in the data set, of the sample at `position`: O(1) within an epoch."""
        return int(self.order(position, 1)[0])

    def order(self, first: int, count: int) -> npt.NDArray[np.int64]:
        """Return the indices of the samples at the `count` positions from `first` on."""
        parts = []
        while count > 0:
            epoch, place = divmod(first, self.size)
            if epoch != self._epoch:
                self._order, self._epoch = self._permutation(epoch), epoch
            parts.append(self._order[place : place + count])
            first, count = first + len(parts[-1]), count - len(parts[-1])
        return np.concatenate(parts) if len(parts) != 1 else parts[0]

    def _permutation(self, epoch: int) -> npt.NDArray[np.int64]:
        generator = torch.Generator().manual_seed(splitmix64(self._order_seed, epoch))
        order: npt.NDArray[np.int64] = torch.randperm(self.size, generator=generator).numpy()
        return order


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
        # The halves in the other order: from equal seeds the two would draw equal numbers.
        np.random.seed((key >> 32, key & 0xFFFFFFFF))


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
