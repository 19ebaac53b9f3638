"""The order of samples and the keys of their random numbers."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch

from warmstart.data.sampling.stream import GroupedStream, SampleOrder, SampleStream
from warmstart.data.seeds import random_numbers_kept, sample_key, seed_random_numbers, splitmix64


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


def test_the_low_half_of_keys_which_seeds_torch_is_well_mixed() -> None:
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
def test_each_epoch_is_a_different_permutation() -> None:
    stream = SampleStream(seed=0, size=100)
    epochs = [stream.order(100 * e, 100).tolist() for e in range(20)]
    assert all(sorted(epoch) == list(range(100)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 20


def test_each_sample_occurs_at_each_position_about_equally_often() -> None:
    stream = SampleStream(seed=0, size=5)
    counts = np.zeros((5, 5))
    for position in range(5 * 4000):
        counts[position % 5, stream.index(position)] += 1
    assert counts == pytest.approx(np.full((5, 5), 800), abs=130)  # 5 standard deviations


def test_different_seeds_give_different_orders() -> None:
    assert len({tuple(SampleStream(seed, 50).order(0, 50)) for seed in range(20)}) == 20


@pytest.mark.need("C1")
@pytest.mark.need("C4")
@pytest.mark.parametrize("start", [0, 1, 9, 10, 11, 19, 20, 10_000_000_007])
def test_a_new_stream_gives_the_same_order_from_any_position(start: int) -> None:
    straight = SampleStream(seed=3, size=10)
    straight.index(start - 5 if start > 5 else 0)
    expected = [straight.index(position) for position in range(start, start + 25)]
    assert SampleStream(seed=3, size=10).order(start, 25).tolist() == expected


def test_one_sample_repeats_for_ever() -> None:
    assert SampleStream(seed=0, size=1).order(10**12, 3).tolist() == [0, 0, 0]


REPEATS = np.array([0, 0.25, 1.25, 2.5])
GROUPS = np.array([0, 2, 3, 5]), np.array([1, 4])


def repeated(seed: int = 7) -> SampleStream:
    return SampleStream(seed, 4, REPEATS)


def grouped(seed: int = 7, repeats: object = None) -> GroupedStream:
    return GroupedStream(seed, 3, GROUPS, repeats)  # type: ignore[arg-type]


def test_the_orders_of_a_seed_are_pinned() -> None:
    passes = repeated().order(0, 16).reshape(4, 4).tolist()
    assert passes == [[3, 3, 2, 3], [2, 1, 3, 3], [3, 2, 3, 3], [2, 2, 3, 3]]
    batches = grouped().order(0, 18).reshape(6, 3).tolist()
    assert batches == [[0, 5, 2], [4, 1, 4], [3, 5, 0], [3, 2, 5], [1, 1, 4], [2, 3, 0]]


def test_a_pass_holds_each_sample_as_often_as_its_factor_rounded_up_or_down() -> None:
    """Every pass is as long as the factors' sum, and on average each sample comes as often as its factor says."""
    counts = np.array([np.bincount(repeated().order(4 * number, 4), minlength=4) for number in range(4000)])
    assert (counts >= np.floor(REPEATS)).all()
    assert (counts <= np.ceil(REPEATS)).all()
    assert counts.mean(0) == pytest.approx(REPEATS, abs=0.04)  # 5 standard deviations


@pytest.mark.parametrize("number", [0, 1, 5, 1_000_000])
def test_over_all_offsets_each_sample_occurs_exactly_as_often_as_its_factor(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """If factors are quarters, four offsets represent all."""
    counts = np.zeros(4)
    for quarter in range(4):
        monkeypatch.setattr(torch, "randint", lambda *_, quarter=quarter, **__: torch.tensor(quarter * 2**30 + 5))
        counts += np.bincount(repeated().order(4 * number, 4), minlength=4)
    assert counts.tolist() == (4 * REPEATS).tolist()


def test_repeat_factors_are_scaled_to_an_integer_pass_length() -> None:
    stream = SampleStream(0, 3, np.array([1.0, 1.0, 1.4]))  # 3.4 become 3
    counts = np.bincount(stream.order(0, 3 * 2000), minlength=3) / 2000
    assert counts == pytest.approx([3 / 3.4, 3 / 3.4, 4.2 / 3.4], abs=0.05)
    assert SampleStream(0, 3, np.array([0.0, 0.1, 0.0])).order(0, 4).tolist() == [1, 1, 1, 1]


def test_repeat_factors_of_one_give_permutations() -> None:
    stream = SampleStream(0, 50, np.ones(50))
    assert all(sorted(stream.order(50 * number, 50)) == list(range(50)) for number in range(5))


def test_samples_of_equal_factors_share_passes_with_all_others() -> None:
    """Taken in the data set's order, of four halves only 0 with 2, or 1 with 3, could ever come together."""
    stream = SampleStream(0, 4, np.full(4, 0.5))
    pairs = [tuple(sorted(stream.order(2 * number, 2).tolist())) for number in range(600)]
    counts = {pair: pairs.count(pair) for pair in {*pairs}}
    assert sorted(counts) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert min(counts.values()) > 55  # 100 expected, standard deviation 9


@pytest.mark.need("C1", "C6")
@pytest.mark.parametrize("start", [0, 1, 3, 4, 17, 10_000_000_007])
@pytest.mark.parametrize(
    "make", [repeated, grouped, lambda: grouped(repeats=np.array([1, 0.3, 2, 1, 1.9, 0]))], ids=["r", "g", "gr"]
)
def test_the_sample_at_a_position_does_not_depend_on_earlier_calls(
    make: Callable[[], SampleOrder], start: int
) -> None:
    straight = make()
    straight.order(max(0, start - 5), 3)
    expected = [int(straight.order(position, 1)[0]) for position in range(start, start + 25)]
    straight.order(2, 7)
    assert make().order(start, 25).tolist() == straight.order(start, 25).tolist() == expected


@pytest.mark.need("C3")
@pytest.mark.parametrize("make", [repeated, grouped], ids=["repeated", "grouped"])
def test_an_order_starts_anywhere_with_one_pass(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[], SampleOrder]
) -> None:
    made = []
    shuffled = SampleStream._shuffled
    monkeypatch.setattr(SampleStream, "_shuffled", lambda self, seed: (made.append(seed), shuffled(self, seed))[1])
    make().order(4 * 10**12, 1)
    assert len(made) == 1


def test_grouped_stream_batches_are_of_one_group_and_skip_no_sample() -> None:
    """Four samples and two: in 6 batches of 3 each group gives whole passes, so each sample comes 3 times."""
    batches = grouped().order(0, 60 * 3).reshape(60, 3)
    of_second = np.isin(batches, GROUPS[1])
    assert (of_second.all(1) | ~of_second.any(1)).all()
    for first in range(0, 60, 6):
        assert np.bincount(batches[first : first + 6].ravel()).tolist() == [3] * 6
    turns = of_second[:, 0]
    assert [turns[i : i + 3].sum() for i in range(57)] == [1] * 57  # evenly spread


def test_grouped_stream_gives_batches_by_the_repeat_factors_of_a_group() -> None:
    repeats = np.array([1, 0.5, 2, 0, 2.5, 1])  # 4 of 7 are of the first group
    counts = np.bincount(grouped(repeats=repeats).order(0, 3 * 7000), minlength=6)
    assert counts / 3000 == pytest.approx(repeats, abs=0.02)
    assert counts[GROUPS[0]].sum() == 12_000


def test_grouped_stream_begins_with_a_group_chosen_by_the_seed() -> None:
    first = {bool(np.isin(grouped(seed).order(0, 1), GROUPS[1])[0]) for seed in range(20)}
    assert first == {True, False}


def _draws() -> tuple[float, float, float]:
    return torch.rand(1).item(), random.random(), np.random.rand()


def test_random_numbers_kept_restores_all_three_generators_after_an_error_too() -> None:
    with random_numbers_kept(everything=True):
        before = _draws()
    with pytest.raises(KeyError), random_numbers_kept(everything=True):
        _draws()
        raise KeyError
    assert _draws() == before


def test_seed_random_numbers_with_everything_fixes_all_three_generators() -> None:
    with random_numbers_kept(everything=True):
        seed_random_numbers(2**64 - 1, everything=True)
        first = _draws()
        seed_random_numbers(2**64 - 1, everything=True)
        assert _draws() == first
        seed_random_numbers(2**63, everything=True)
        assert all(a != b for a, b in zip(_draws(), first, strict=True))
