"""The order of samples and the keys of their random numbers."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from warmstart.data.sampling import (
    SampleStream,
    random_numbers_kept,
    sample_key,
    seed_random_numbers,
    splitmix64,
)


@pytest.mark.parametrize(
    ("n", "output"),
    [
        (0, 6457827717110365317),
        (1, 3203168211198807973),
        (2, 9817491932198370423),
        (3, 4593380528125082431),
        (4, 16408922859458223821),
    ],
)
def test_splitmix64_gives_the_published_outputs_of_seed_1234567(n: int, output: int) -> None:
    assert splitmix64(1234567, n) == output


def test_keys_differ_between_positions_and_between_seeds() -> None:
    keys = {sample_key(seed, position) for seed in range(10) for position in range(10_000)}
    assert len(keys) == 100_000


def test_the_low_half_of_keys_that_torch_seeds_from_is_mixed_too() -> None:
    low = np.array([sample_key(0, position) & 0xFFFFFFFF for position in range(20_000)], np.uint32)
    ones = np.unpackbits(low.view(np.uint8).reshape(-1, 4), axis=1).mean(axis=0)
    assert len(np.unique(low)) == 20_000
    assert ones == pytest.approx(np.full(32, 0.5), abs=0.02)  # 5.6 standard deviations


def test_first_draws_of_neighbouring_keys_are_uniform_and_unrelated() -> None:
    draws = []
    with random_numbers_kept(everything=False):
        for position in range(5000):
            seed_random_numbers(sample_key(0, position), everything=False)
            draws.append(torch.rand(1).item())
    assert np.mean(draws) == pytest.approx(0.5, abs=0.02)
    assert np.corrcoef(draws[:-1], draws[1:])[0, 1] == pytest.approx(0, abs=0.07)


@pytest.mark.need("C4")
def test_each_epoch_is_another_permutation() -> None:
    stream = SampleStream(seed=0, size=100)
    epochs = [stream.order(100 * e, 100).tolist() for e in range(20)]
    assert all(sorted(epoch) == list(range(100)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 20


def test_each_sample_comes_at_each_place_about_equally_often() -> None:
    stream = SampleStream(seed=0, size=5)
    counts = np.zeros((5, 5))
    for position in range(5 * 4000):
        counts[position % 5, stream.index(position)] += 1
    assert counts == pytest.approx(np.full((5, 5), 800), abs=130)  # 5 standard deviations


def test_seeds_give_other_orders() -> None:
    assert len({tuple(SampleStream(seed, 50).order(0, 50)) for seed in range(20)}) == 20


@pytest.mark.need("C1")
@pytest.mark.need("C4")
@pytest.mark.parametrize("start", [0, 1, 9, 10, 11, 19, 20, 10_000_000_007])
def test_a_new_stream_goes_on_anywhere_as_the_old_one_would(start: int) -> None:
    straight = SampleStream(seed=3, size=10)
    straight.index(start - 5 if start > 5 else 0)
    expected = [straight.index(position) for position in range(start, start + 25)]
    assert SampleStream(seed=3, size=10).order(start, 25).tolist() == expected


def test_one_sample_repeats_for_ever() -> None:
    assert SampleStream(seed=0, size=1).order(10**12, 3).tolist() == [0, 0, 0]


def _draws() -> tuple[float, float, float]:
    return torch.rand(1).item(), random.random(), np.random.rand()


def test_random_numbers_kept_restores_all_three_generators_after_an_error_too() -> None:
    with random_numbers_kept(everything=True):
        before = _draws()
    with pytest.raises(KeyError), random_numbers_kept(everything=True):
        _draws()
        raise KeyError
    assert _draws() == before


def test_seeding_everything_fixes_all_three_generators() -> None:
    with random_numbers_kept(everything=True):
        seed_random_numbers(2**64 - 1, everything=True)
        first = _draws()
        seed_random_numbers(2**64 - 1, everything=True)
        assert _draws() == first
        seed_random_numbers(2**63, everything=True)
        assert all(a != b for a, b in zip(_draws(), first, strict=True))
