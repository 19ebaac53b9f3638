"""Keyed random numbers: functions of seed, iteration and slot alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

# Each purpose has its own output of splitmix64(SEED): 0 sample keys, 1 sample order, 2 the resident loader's
# blocks, 3 and 4 the order in each aspect-ratio group, 5 which group begins, 6 MixUp and CutMix, 7 draws in a
# forward pass.
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
    """Return the 64-bit key of all random numbers used for the sample at `position`.

    torch's CPU generator seeds itself from the low 32 bits alone. These are mixed as well as the other bits, so
    adjacent keys start unrelated streams, and any two keys share a stream with probability 2^-32.

    >>> sample_key(0, 0), sample_key(0, 1)
    (12035550249420947055, 12935080325729570654)
    """
    return splitmix64(splitmix64(seed, 0), position)


def forward_key(seed: int, position: int) -> int:
    """Return the 64-bit key of the model's random draws for the micro-batch whose first sample is at `position`.

    >>> forward_key(0, 0) == sample_key(0, 0)
    False
    """
    return splitmix64(splitmix64(seed, 7), position)


def block_numbers(seed: int, block: int, *shape: int) -> torch.Tensor:
    """Return the uniform random numbers, float32 in [0, 1), of block number `block` of a stream.

    Args:
        seed: SEED.
        block: from 0.
        *shape: shape of the result; the same for all blocks.

    >>> numbers = block_numbers(0, 5, 2, 1)
    >>> numbers.equal(block_numbers(0, 5, 2, 1)), numbers.equal(block_numbers(0, 6, 2, 1))
    (True, False)
    """
    generator = torch.Generator().manual_seed(splitmix64(splitmix64(seed, 2), block))
    return torch.rand(shape, generator=generator)


def seed_random_numbers(key: int, everything: bool) -> None:
    """Seed torch's global CPU generator with `key`; with `everything`, Python's and numpy's as well.

    torch.manual_seed would seed every device and take a hundred times as long.
    """
    torch.default_generator.manual_seed(key)
    if everything:
        random.seed(key)
        # The half that torch does not use: seeded alike, the two would draw equal numbers.
        np.random.seed(key >> 32)


@contextmanager
def random_numbers_kept(everything: bool) -> Iterator[None]:
    """Restore the state of torch's global CPU generator on exit; with `everything`, Python's and numpy's as well.

    The latter two take 100 microseconds, torch's takes 2.

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
