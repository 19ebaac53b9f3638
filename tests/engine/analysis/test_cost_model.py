"""Predictions of scaling: timelines worked out by hand, torch's own buckets, and properties for any numbers."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist

from warmstart.engine.analysis.cost_model import MIB, MODES, Mode, Profile, Unit, Work, predict
from warmstart.engine.analysis.links import Cluster, Link

FREE = Link(0.0, 1e30)


def profile(sizes: list[int], forward: float = 0.0, backward: float = 0.0, **others: int) -> Profile:
    """Return a device whose gradients are ready at equal intervals, each from a separate unit."""
    ready = tuple((number + 1) / len(sizes) for number in range(len(sizes)))
    units = tuple(Unit(size, size, share) for size, share in zip(sizes, ready, strict=True))
    work = Work(forward, 0), Work(backward, 0), 0.0
    return Profile(tuple(sizes), ready, *work, others.pop("weights", sum(sizes)), units=units, **others)


@pytest.mark.parametrize(
    "sizes",
    [[4], [MIB], [MIB - 4, 4, 4], [4] * 9, [3 * MIB] * 30, [MIB // 2, 60 * MIB, 25 * MIB, 25 * MIB - 4, 8, 400]],
)
def test_buckets_equal_those_of_torch(sizes: list[int]) -> None:
    gradients = [torch.empty(size // 4, device="meta") for size in sizes]
    theirs, _ = dist._compute_bucket_assignment_by_size(gradients, [MIB, 25 * MIB])
    last = [max(bucket) for bucket in theirs]
    expected = [
        (sum(sizes[i] for i in bucket), (end + 1) / len(sizes)) for bucket, end in zip(theirs, last, strict=True)
    ]
    assert profile(sizes).buckets() == expected


def test_predict_ddp_sends_buckets_in_order_during_the_backward_pass() -> None:
    # Three buckets, ready after 1, 2 and 3 s, each sent in 2 s: 1 to 3, 3 to 5, 5 to 7.
    cluster = Cluster(2, Link(0.0, 25 * MIB / 2), FREE)
    found = predict(profile([25 * MIB] * 3, forward=1, backward=3), cluster, 2, images=1)
    assert (found.seconds, found.waiting) == pytest.approx((8, 4))
    fast = predict(profile([25 * MIB] * 3, forward=1, backward=3), Cluster(2, Link(0, 25 * MIB / 0.5), FREE), 2, 1)
    assert (fast.seconds, fast.waiting) == pytest.approx((4.5, 0.5))  # the device waits for the last one only


def test_predict_fsdp_gathers_one_unit_ahead_in_both_passes_and_sends_gradients_in_between() -> None:
    # Forward: 0-1 gather, 1-3 compute, 1-2 gather, 3-5 compute. Backward: 5-6 gather, 6-10 compute, 6-7 gather,
    # 10-11 gradients, 10-14 compute, 14-15 gradients.
    cluster = Cluster(2, Link(0.0, 25 * MIB / 2), FREE)
    found = predict(profile([25 * MIB] * 2, forward=4, backward=8), cluster, 2, 1, "fsdp")
    assert (found.seconds, found.waiting) == pytest.approx((15, 3))


def test_predict_fsdp_gathers_parameters_outside_units_first() -> None:
    # Of 3 x 25 MiB, a second each to gather, the second is a unit, made after 2/3 of the backward pass.
    # Forward: 0-2 gather the rest, 2-4 compute the rest's, 2-3 gather the unit, 4-8 compute.
    # Backward: 8-10 gather the rest, 10-11 the unit, 11-19 compute, 19-20 sum, 19-23 compute, 23-25 sum.
    cluster = Cluster(2, Link(0.0, 25 * MIB / 2), FREE)
    device = profile([25 * MIB] * 3, forward=6, backward=12)
    some = replace(device, units=device.units[1:2])
    assert predict(some, cluster, 2, 1, "fsdp").seconds == pytest.approx(25)
    # Without units, the default of MODEL.FSDP.WRAP: 3 s before each pass, and 3 s after the backward pass.
    assert predict(replace(device, units=()), cluster, 2, 1, "fsdp").waiting == pytest.approx(9)


def test_predict_fsdp_without_reshard_gathers_weights_once() -> None:
    cluster = Cluster(2, Link(0.0, 25 * MIB / 2), FREE)
    kept = replace(profile([25 * MIB] * 2, forward=4, backward=8), reshard=False)
    assert predict(kept, cluster, 2, 1, "fsdp").waiting == pytest.approx(2)  # the first gather, the last gradients


def test_predict_fsdp_has_the_gradients_of_one_unit_in_flight() -> None:
    # Backward: gathers are free; units are ready at 1, 2, 3; each sum takes 4: 1-5, 5-9, 9-13.
    device = replace(profile([25 * MIB] * 3, backward=3), gathered=0.0)
    found = predict(device, Cluster(2, Link(0.0, 25 * MIB / 8), FREE), 2, 1, "fsdp")
    assert found.seconds == pytest.approx(13)


def test_predict_half_precision_halves_communication() -> None:
    device, cluster = profile([25 * MIB], backward=1), Cluster(2, Link(0.0, 25 * MIB / 2), FREE)
    half = replace(device, summed=0.5)
    assert [predict(each, cluster, 2, 1).waiting for each in (device, half)] == pytest.approx([2, 1])
    # Weights are gathered twice, gradients summed once, a second each.
    both = replace(half, gathered=0.5)
    assert [predict(each, cluster, 2, 1, "fsdp").waiting for each in (device, half, both)] == pytest.approx(
        [3, 2.5, 1.5]
    )


def test_predict_micro_batches_send_gradients_once_but_gather_weights_each_time() -> None:
    device = profile([25 * MIB] * 2, forward=4, backward=8)
    cluster = Cluster(2, Link(0.0, 25 * MIB / 2), FREE)
    assert predict(device, cluster, 2, 1, "ddp", 3).seconds == pytest.approx(3 * 12 + 2)
    # As above, 15; without the gradients of the last unit 14.
    assert predict(device, cluster, 2, 1, "fsdp", 3).seconds == pytest.approx(14 + 14 + 15)


@pytest.mark.parametrize("mode", MODES)
def test_predict_one_device_or_free_links_do_not_wait(mode: str) -> None:
    device = profile([25 * MIB] * 3, forward=1, backward=2)
    for cluster, devices in ((Cluster(8, Link(1, 1), Link(1, 1)), 1), (Cluster(8, FREE, FREE), 64)):
        found = predict(device, cluster, devices, 1, mode)  # type: ignore[arg-type]
        assert (found.seconds, found.waiting) == pytest.approx((3, 0))


@pytest.mark.parametrize("mode", MODES)
def test_predict_more_devices_or_slower_links_never_wait_less(mode: str) -> None:
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


def test_predict_memory_of_a_device_by_purpose() -> None:
    device = profile([30 * MIB, 10 * MIB], weights=41 * MIB, state=80 * MIB, average=41 * MIB)
    cluster = Cluster(8, FREE, FREE)
    kept = {"weights": 41, "gradients": 40, "optimizer": 80, "average": 41}

    def memory(device: Profile, devices: int, mode: Mode, micro_batches: int = 1) -> dict[str, float]:
        found = predict(device, cluster, devices, 1, mode, micro_batches).memory
        return {what: size / MIB for what, size in found.items()}

    assert memory(device, 8, "ddp") == {**kept, "whole": 0, "activations": 0}
    assert memory(device, 1, "fsdp") == memory(device, 1, "ddp", 4) == memory(device, 8, "ddp")
    parts = {what: size / 8 for what, size in kept.items()}
    # 1 MiB of weights, which have no gradients, is in no unit.
    assert memory(device, 8, "fsdp") == {**parts, "whole": 41 + 40, "activations": 0}
    many = replace(device, units=tuple(Unit(10 * MIB, 10 * MIB, share) for share in (0.25, 0.5, 0.75, 1.0)))
    assert memory(many, 8, "fsdp")["whole"] == 21 + 20
    assert memory(many, 8, "fsdp", micro_batches=2)["whole"] == 21 + 40  # gradients accumulate until the last one
    some = replace(many, buffers=MIB)  # of the 41 MiB; not sharded
    assert memory(some, 8, "fsdp") == {
        **{**parts, "weights": 40 / 8 + 1, "average": 40 / 8 + 1, "whole": 20 + 20, "activations": 0}
    }
    assert memory(replace(many, reshard=False), 8, "fsdp")["whole"] == 41 + 20
    assert memory(replace(many, units=()), 8, "fsdp")["whole"] == 41 + 40
