"""Prediction of the time and memory of an update on many devices, from the measured profile of one.

The model covers computation, communication of gradients and weights, and memory. Times are in seconds, sizes in
bytes. Nothing here imports torch or measures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, NamedTuple

from .links import Cluster

MIB = 2**20
FIRST_BUCKET, BUCKET = MIB, 25 * MIB  # DistributedDataParallel's defaults

Mode = Literal["ddp", "fsdp"]
MODES: tuple[Mode, ...] = ("ddp", "fsdp")


class Work(NamedTuple):
    """A cost that is linear in the number of images: seconds, or bytes."""

    fixed: float
    per_image: float

    def of(self, images: float) -> float:
        """Return the cost of a number of images.

        >>> Work(0.25, 0.5).of(3)
        1.75
        """
        return self.fixed + self.per_image * images


class Unit(NamedTuple):
    """A module whose parameters FSDP all-gathers and reshards as one unit.

    Attributes:
        weights: bytes of its parameters.
        gradients: bytes of their gradients; fewer if some are frozen.
        ready: the fraction of the backward pass after which all of these gradients are computed.
    """

    weights: int
    gradients: int
    ready: float


@dataclass(frozen=True)
class Profile:
    """The times and sizes of training on one device.

    Args:
        gradients: bytes of each gradient, in the order in which the backward pass computes them.
        ready: the fraction of the backward pass after which each gradient is computed, increasing to 1.
        forward: seconds of a forward pass.
        backward: seconds of a backward pass.
        update: seconds of clipping and the optimizer's step.
        weights: bytes of parameters and buffers.
        buffers: bytes of `weights` that are buffers, which FSDP does not shard.
        state: bytes of the optimizer state.
        average: bytes of the moving average of the weights.
        activations: bytes that are saved in the forward pass for the backward pass.
        summed: bytes sent for each byte of a gradient: 0.5 if gradients are sent in bf16.
        gathered: bytes sent for each byte of a weight, with FSDP.
        units: modules that FSDP all-gathers separately, in the order of the backward pass; all other parameters
            are gathered for the full pass.
        reshard: whether FSDP reshards weights after the forward pass, and all-gathers them again for the backward
            pass.
    """

    gradients: tuple[int, ...]
    ready: tuple[float, ...]
    forward: Work
    backward: Work
    update: float
    weights: int
    buffers: int = 0
    state: int = 0
    average: int = 0
    activations: Work = field(default=Work(0.0, 0.0))
    summed: float = 1.0
    gathered: float = 1.0
    units: tuple[Unit, ...] = ()
    reshard: bool = True

    def rest(self) -> tuple[int, int]:
        """Return the bytes of the parameters outside all units, and of their gradients.

        >>> Profile((8, 4), (0.5, 1.0), Work(0, 0), Work(0, 0), 0.0, weights=14, units=(Unit(8, 8, 0.5),)).rest()
        (6, 4)
        """
        in_units = sum(unit.weights for unit in self.units), sum(unit.gradients for unit in self.units)
        return self.weights - self.buffers - in_units[0], sum(self.gradients) - in_units[1]

    def buckets(self) -> list[tuple[int, float]]:
        """Return (bytes, fraction of the backward pass after which it is full) of each bucket of gradients.

        >>> profile = Profile((MIB, 20 * MIB, 9 * MIB, 4), (0.1, 0.5, 0.8, 1.0), Work(0, 0), Work(0, 0), 0, 0)
        >>> [(size / MIB, ready) for size, ready in profile.buckets()]
        [(1.0, 0.1), (29.0, 0.8), (3.814697265625e-06, 1.0)]
        """
        found: list[tuple[int, float]] = []
        size = 0
        for gradient, ready in zip(self.gradients, self.ready, strict=True):
            size += gradient
            if size >= (BUCKET if found else FIRST_BUCKET):
                found.append((size, ready))
                size = 0
        return [*found, (size, self.ready[-1])] if size else found


class Prediction(NamedTuple):
    """The predicted cost of an update.

    Attributes:
        seconds: the duration of an update.
        waiting: seconds of it in which a device waits for communication.
        memory: bytes on a device, by purpose.
    """

    seconds: float
    waiting: float
    memory: dict[str, int]


def predict(
    profile: Profile, cluster: Cluster, devices: int, images: float, mode: Mode = "ddp", micro_batches: int = 1
) -> Prediction:
    """Return the predicted time and memory of an update on several devices.

    Args:
        profile: of one device.
        cluster: the machines of the devices.
        devices: the number of devices that train together.
        images: images per device and micro-batch.
        mode: ddp: each bucket of gradients is all-reduced while the backward pass continues with earlier layers
            (Li et al. 2020). fsdp: weights are all-gathered unit by unit, one unit ahead, in both passes, and
            gradients are reduce-scattered (Zhao et al. 2023).
        micro_batches: micro-batches per update; gradients are sent for the last one only, weights, with fsdp, for
            each.

    Raises:
        ValueError: the devices do not fill the last machine.

    >>> profile = Profile((4_000_000,) * 2, (0.5, 1.0), Work(0, 0.01), Work(0, 0.02), 0.01, 8_000_000)
    >>> from warmstart.engine.analysis.links import Link
    >>> slow = Cluster(1, Link(0, 1e9), Link(0, 1e7))
    >>> found = predict(profile, slow, devices=4, images=10)  # 2 x 0.6 s, the first 0.1 s after the forward pass
    >>> round(found.seconds, 3), round(found.waiting, 3)
    (1.41, 1.1)
    """
    forward, backward = profile.forward.of(images), profile.backward.of(images)
    if mode == "ddp":
        computed = micro_batches * (forward + backward) + profile.update
        waiting = _ddp_end(profile, cluster, devices, backward) - backward
    else:
        computed = micro_batches * (forward + backward) + profile.update / devices
        ends = [_fsdp_end(profile, cluster, devices, forward, backward, last) for last in (False, True)]
        waiting = (micro_batches - 1) * ends[0] + ends[1] - micro_batches * (forward + backward)
    return Prediction(computed + waiting, waiting, _memory(profile, devices, images, mode, micro_batches))


def _ddp_end(profile: Profile, cluster: Cluster, devices: int, backward: float) -> float:
    """Return the seconds from the start of the backward pass until all gradients are all-reduced."""
    sent = 0.0
    for size, ready in profile.buckets():
        sent = max(sent, ready * backward) + cluster.all_reduce(profile.summed * size, devices)
    return max(sent, backward)


def _fsdp_end(
    profile: Profile, cluster: Cluster, devices: int, forward: float, backward: float, last: bool
) -> float:
    """Return the seconds of a micro-batch; only the gradients of the last one are reduce-scattered."""

    def seconds(size: float) -> float:
        return cluster.gather(size, devices) if size else 0.0

    weights, gradients = profile.rest()
    gathers = [seconds(profile.gathered * size) for size in (weights, *(unit.weights for unit in profile.units))]
    sums = [
        seconds(profile.summed * size * last) for size in (*(unit.gradients for unit in profile.units), gradients)
    ]
    shares = [end - begin for begin, end in pairwise([0.0, *(unit.ready for unit in profile.units), 1.0])]
    # Parameters outside all units are gathered first in both passes, and their gradients are reduced last.
    begun = _pass_end([gathers[0], *gathers[:0:-1]], shares[::-1], [0.0] * len(shares), forward)
    again = [*gathers, 0.0] if profile.reshard else [0.0] * (len(gathers) + 1)
    return begun + _pass_end(again, [0.0, *shares], [0.0, *sums], backward)


def _pass_end(gathers: Sequence[float], shares: Sequence[float], sums: Sequence[float], seconds: float) -> float:
    """Return the seconds of a pass with a gather, a share of the computation and a reduction for each unit."""
    sent = gathered = gathers[0]
    computed = summed = 0.0
    for following, share, to_sum in zip([*gathers[1:], 0.0], shares, sums, strict=True):
        begun = max(computed, gathered)
        computed = begun + share * seconds
        if following:
            gathered = sent = max(sent, begun) + following  # one unit ahead, while this one computes
        if to_sum:
            computed = max(computed, summed)  # torch has at most one unit's gradients in flight
            summed = sent = max(sent, computed) + to_sum
    return max(computed, sent)


def _memory(profile: Profile, devices: int, images: float, mode: Mode, micro_batches: int) -> dict[str, int]:
    parts = devices if mode == "fsdp" else 1
    more = (parts - 1) * profile.buffers  # which are not sharded
    kept = {
        "weights": profile.weights + more,
        "gradients": sum(profile.gradients),  # with DDP, views into the buckets
        "optimizer": profile.state,
        "average": profile.average + more if profile.average else 0,
    }
    return {
        **{what: -(-size // parts) for what, size in kept.items()},
        "whole": _whole(profile, micro_batches) if parts > 1 else 0,
        "activations": round(profile.activations.of(images)),
    }


def _whole(profile: Profile, micro_batches: int) -> int:
    """Return the peak bytes of unsharded weights and gradients that FSDP has on a device besides its shards."""
    weights, gradients = profile.rest()
    # One unit is in use and one in flight: its weights are being gathered, or its gradients reduced.
    if profile.reshard:
        weights += sum(sorted(unit.weights for unit in profile.units)[-2:])
    else:
        weights = profile.weights - profile.buffers
    if micro_batches == 1:
        gradients += sum(sorted(unit.gradients for unit in profile.units)[-2:])
    else:  # they accumulate, unsharded, until the last micro-batch
        gradients = sum(profile.gradients)
    return weights + gradients


def workers_needed(images_per_second: float, of_one_worker: float) -> int:
    """Return the number of loading processes that keep up with a device, or a machine.

    >>> workers_needed(images_per_second=2600, of_one_worker=1000)
    3
    """
    return math.ceil(images_per_second / of_one_worker)
