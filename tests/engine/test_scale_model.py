"""The model of scaling: timelines worked out by hand, torch's own buckets, and what must hold for any numbers."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist

from warmstart.engine.scale_model import MIB, MODES, Cluster, Link, Profile, Work, fit_link, predict

FREE = Link(0.0, 1e30)


def profile(sizes: list[int], forward: float = 0.0, backward: float = 0.0, **others: int) -> Profile:
    """Return a device whose gradients come at even distances."""
    ready = tuple((number + 1) / len(sizes) for number in range(len(sizes)))
    return Profile(
        tuple(sizes), ready, Work(forward, 0), Work(backward, 0), 0.0, others.pop("weights", 0), **others
    )


@pytest.mark.parametrize(
    "sizes",
    [[4], [MIB], [MIB - 4, 4, 4], [4] * 9, [3 * MIB] * 30, [MIB // 2, 60 * MIB, 25 * MIB, 25 * MIB - 4, 8, 400]],
)
def test_buckets_are_torchs(sizes: list[int]) -> None:
    gradients = [torch.empty(size // 4, device="meta") for size in sizes]
    theirs, _ = dist._compute_bucket_assignment_by_size(gradients, [MIB, 25 * MIB])
    last = [max(bucket) for bucket in theirs]
    expected = [
        (sum(sizes[i] for i in bucket), (end + 1) / len(sizes)) for bucket, end in zip(theirs, last, strict=True)
    ]
    assert profile(sizes).buckets() == expected


def test_ddp_sends_bucket_after_bucket_while_the_backward_pass_goes_on() -> None:
    # Three buckets, ready after 1, 2 and 3 s, each 2 s on its way: 1 to 3, 3 to 5, 5 to 7.
    cluster = Cluster(2, Link(0.0, 25 * MIB / 2), FREE)
    found = predict(profile([25 * MIB] * 3, forward=1, backward=3), cluster, 2, images=1)
    assert (found.seconds, found.waiting) == pytest.approx((8, 4))
    fast = predict(profile([25 * MIB] * 3, forward=1, backward=3), Cluster(2, Link(0, 25 * MIB / 0.5), FREE), 2, 1)
    assert (fast.seconds, fast.waiting) == pytest.approx((4.5, 0.5))  # only the last one is waited for


def test_fsdp_gathers_one_ahead_in_both_passes_and_sends_gradients_between() -> None:
    # Forward: 0-1 gather, 1-3 compute, 1-2 gather, 3-5 compute. Backward: 5-6 gather, 6-10 compute, 6-7 gather,
    # 10-11 gradients, 10-14 compute, 14-15 gradients.
    cluster = Cluster(2, Link(0.0, 25 * MIB / 2), FREE)
    found = predict(profile([25 * MIB] * 2, forward=4, backward=8), cluster, 2, 1, "fsdp")
    assert (found.seconds, found.waiting) == pytest.approx((15, 3))


def test_half_precision_sends_half() -> None:
    device, cluster = profile([25 * MIB], backward=1), Cluster(2, Link(0.0, 25 * MIB / 2), FREE)
    half = replace(device, summed=0.5)
    assert [predict(each, cluster, 2, 1).waiting for each in (device, half)] == pytest.approx([2, 1])
    # Weights are gathered twice, gradients summed once, a second each.
    both = replace(half, gathered=0.5)
    assert [predict(each, cluster, 2, 1, "fsdp").waiting for each in (device, half, both)] == pytest.approx(
        [3, 2.5, 1.5]
    )


def test_micro_batches_send_once_with_ddp_and_each_time_with_fsdp() -> None:
    device = profile([25 * MIB] * 2, forward=4, backward=8)
    cluster = Cluster(2, Link(0.0, 25 * MIB / 2), FREE)
    assert predict(device, cluster, 2, 1, "ddp", 3).seconds == pytest.approx(3 * 12 + 2)
    assert predict(device, cluster, 2, 1, "fsdp", 3).seconds == pytest.approx(3 * 15)


def test_the_slower_link_counts_where_there_are_several_machines() -> None:
    # Thakur et al. 2005 and Patarasu and Yuan 2009: (p - 1) / p of the bytes leave each rank twice.
    cluster = Cluster(4, Link(0.0, 1e9), Link(0.0, 1e8))
    assert cluster.all_reduce(1e8, 4) == pytest.approx(2 * 3 / 4 * 0.1)
    assert cluster.all_reduce(1e8, 16) == pytest.approx(2 * 3 / 4 * 0.1 + 2 * 3 / 4 * 1.0)
    assert cluster.gather(1e8, 16) == pytest.approx(3 / 4 * 0.1 + 3 / 4 * 1.0)


def test_small_messages_go_through_trees() -> None:
    link = Link(1e-5, 1e9)
    assert link.all_reduce(4, 1024) == pytest.approx(2 * 10 * 1e-5, rel=1e-3)
    assert link.all_reduce(1e11, 1024) == pytest.approx(2 * 1023 * (1e-5 + 1e11 / 1024 / 1e9))


@pytest.mark.parametrize("mode", MODES)
def test_one_device_and_links_without_cost_wait_for_nothing(mode: str) -> None:
    device = profile([25 * MIB] * 3, forward=1, backward=2)
    for cluster, devices in ((Cluster(8, Link(1, 1), Link(1, 1)), 1), (Cluster(8, FREE, FREE), 64)):
        found = predict(device, cluster, devices, 1, mode)  # type: ignore[arg-type]
        assert (found.seconds, found.waiting) == pytest.approx((3, 0))


@pytest.mark.parametrize("mode", MODES)
def test_more_devices_and_slower_links_never_wait_less(mode: str) -> None:
    device = profile([MIB, 5 * MIB, 30 * MIB, 4], forward=0.01, backward=0.02)
    links = [Link(latency, bandwidth) for latency in (1e-6, 1e-3) for bandwidth in (1e11, 1e8)]
    for inside, between in itertools.product(links, links):
        waits = [
            predict(device, Cluster(8, inside, between), devices, 1, mode).waiting  # type: ignore[arg-type]
            for devices in (1, 8, 16, 64, 1024)
        ]
        assert waits == sorted(waits)
    slow, fast = (predict(device, Cluster(8, FREE, link), 64, 1, mode).waiting for link in (links[3], links[0]))  # type: ignore[arg-type]
    assert slow > fast


def test_memory_of_a_device_by_what_it_is_for() -> None:
    device = profile([30 * MIB, 10 * MIB], weights=41 * MIB, state=80 * MIB, average=41 * MIB)
    cluster = Cluster(8, FREE, FREE)
    ddp, fsdp = (predict(device, cluster, 8, 1, mode).memory for mode in MODES)
    assert {what: size / MIB for what, size in ddp.items()} == {
        **{"weights": 41, "gradients": 40, "optimizer": 80, "average": 41, "activations": 0}
    }
    assert {what: size / MIB for what, size in fsdp.items()} == {
        **{"weights": 41 / 8 + 60, "gradients": 5 + 30, "optimizer": 10, "average": 41 / 8, "activations": 0}
    }
    assert predict(device, cluster, 1, 1, "fsdp").memory == ddp


@pytest.mark.parametrize("ranks", [2, 8])
def test_a_link_is_found_again_in_what_it_takes(ranks: int) -> None:
    link, sizes = Link(2e-5, 3e9), [4096.0, 1e6, 1e8]
    found = fit_link(sizes, [2 * link.ring(size, ranks) for size in sizes], ranks)
    assert found == pytest.approx(link)


def test_devices_fill_machines() -> None:
    cluster = Cluster(8, FREE, FREE)
    assert [cluster.shape(n) for n in (1, 5, 8, 16)] == [(1, 1), (1, 5), (1, 8), (2, 8)]
    with pytest.raises(ValueError, match="^12 devices do not fill machines of 8; give a multiple, as 8 or 16$"):
        predict(profile([4]), cluster, 12, 1)
