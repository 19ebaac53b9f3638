"""How fast many devices train what one trains: a model of links, of gradients on their way, and of memory.

A message of n bytes takes latency + n / bandwidth (Hockney 1994). Collective operations are made of such messages:
Thakur, Rabenseifner and Gropp 2005; Patarasu and Yuan 2009 for the ring; Sanders, Speck and Träff 2009 for trees.
Nothing here imports torch or measures anything. Times are in seconds, sizes in bytes, links in bytes a second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np

MIB = 2**20
FIRST_BUCKET, BUCKET = MIB, 25 * MIB  # DistributedDataParallel's defaults

Mode = Literal["ddp", "fsdp"]
MODES: tuple[Mode, ...] = ("ddp", "fsdp")


class Link(NamedTuple):
    """What one side sends while it receives as much.

    Attributes:
        latency: seconds until a message of no bytes is there.
        bandwidth: bytes a second, in one direction.
    """

    latency: float
    bandwidth: float

    def ring(self, size: float, ranks: int) -> float:
        """Return the seconds of a reduce-scatter, or of an all-gather, of `size` bytes in all, in a ring.

        >>> round(Link(latency=1e-5, bandwidth=1e9).ring(1e8, ranks=4), 5)  # 3 messages of 25 MB
        0.07503
        """
        return (ranks - 1) * (self.latency + size / (ranks * self.bandwidth))

    def all_reduce(self, size: float, ranks: int) -> float:
        """Return the seconds of the faster all-reduce: two passes of the ring, or up and down two trees.

        >>> link = Link(latency=1e-5, bandwidth=1e9)
        >>> [round(link.all_reduce(size, ranks=64), 6) for size in (1e3, 1e9)]  # tree, ring
        [0.000122, 1.97001]
        """
        tree = 2 * (math.ceil(math.log2(ranks)) * self.latency + size / self.bandwidth) if ranks > 1 else 0.0
        return min(tree, 2 * self.ring(size, ranks))


@dataclass(frozen=True)
class Cluster:
    """Machines with equal devices in each.

    Args:
        per_machine: devices in a machine.
        inside: the link of a device to others of its machine.
        between: the link of a machine to others, all its network cards together.
    """

    per_machine: int
    inside: Link
    between: Link

    def shape(self, devices: int) -> tuple[int, int]:
        """Return (machines, devices in each).

        Raises:
            ValueError: they fill the last machine in part only.

        >>> cluster = Cluster(8, Link(4e-6, 2e11), Link(1e-5, 2e11))
        >>> cluster.shape(4), cluster.shape(64)
        ((1, 4), (8, 8))
        """
        if devices <= self.per_machine:
            return 1, devices
        machines, rest = divmod(devices, self.per_machine)
        if rest:
            raise ValueError(
                f"{devices} devices do not fill machines of {self.per_machine}; give a multiple, as "
                f"{machines * self.per_machine} or {(machines + 1) * self.per_machine}"
            )
        return machines, self.per_machine

    def gather(self, size: float, devices: int) -> float:
        """Return the seconds of an all-gather or a reduce-scatter of `size` bytes in all over all devices.

        Each device exchanges its part with its likes in other machines, then within its machine.

        >>> cluster = Cluster(8, Link(0, 2e11), Link(0, 1e11))
        >>> round(cluster.gather(1e9, 8), 6), round(cluster.gather(1e9, 64), 6)  # + 7/8 of 1 GB between machines
        (0.004375, 0.013125)
        """
        machines, inside = self.shape(devices)
        return self.between.ring(size, machines) + self.inside.ring(size, inside)

    def all_reduce(self, size: float, devices: int) -> float:
        """Return the seconds in which all devices get the sum of what each has.

        The sum is made within machines, each device then having a part of it, then between, then spread.

        >>> cluster = Cluster(8, Link(0, 2e11), Link(0, 1e11))
        >>> round(cluster.all_reduce(1e9, 8), 6), round(cluster.all_reduce(1e9, 64), 6)
        (0.00875, 0.02625)
        """
        machines, inside = self.shape(devices)
        if machines == 1:
            return self.inside.all_reduce(size, inside)
        return 2 * self.inside.ring(size, inside) + self.between.all_reduce(size, machines)


class Work(NamedTuple):
    """What grows with the images: seconds, or bytes."""

    fixed: float
    per_image: float

    def of(self, images: float) -> float:
        """Return it for so many images.

        >>> Work(0.25, 0.5).of(3)
        1.75
        """
        return self.fixed + self.per_image * images


class Unit(NamedTuple):
    """A module that fsdp puts together by itself, and takes apart.

    Attributes:
        weights: bytes of its parameters.
        gradients: bytes of their gradients; fewer where some are frozen.
        ready: the share of the backward pass after which all of these are made.
    """

    weights: int
    gradients: int
    ready: float


@dataclass(frozen=True)
class Profile:
    """One device's part of training.

    Args:
        gradients: bytes of each gradient, in the order in which the backward pass makes them.
        ready: the share of the backward pass after which each is made, growing, the last one 1.
        forward: seconds of a forward pass.
        backward: seconds of a backward pass.
        update: seconds of clipping and the optimizer's step.
        weights: bytes of parameters, and of buffers.
        buffers: bytes of `weights` that are buffers, which fsdp leaves whole on each device.
        state: bytes that the optimizer keeps.
        average: bytes of the moving average of the weights.
        activations: bytes that are kept from the forward pass for the backward pass.
        summed: bytes that are sent for each byte of a gradient: 0.5 where bf16 is.
        gathered: the same for weights, with fsdp.
        units: modules that fsdp gathers by themselves, in the order of the backward pass; what is in none of them
            is gathered for all of a pass.
        reshard: whether fsdp takes weights apart after the forward pass, and gathers them anew for the backward
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
        """Return the bytes of parameters, and of their gradients, that are in no unit.

        >>> Profile((8, 4), (0.5, 1.0), Work(0, 0), Work(0, 0), 0.0, weights=14, units=(Unit(8, 8, 0.5),)).rest()
        (6, 4)
        """
        in_units = sum(unit.weights for unit in self.units), sum(unit.gradients for unit in self.units)
        return self.weights - self.buffers - in_units[0], sum(self.gradients) - in_units[1]

    def buckets(self) -> list[tuple[int, float]]:
        """Return (bytes, share of the backward pass after which it is full) of each bucket of gradients.

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
    """What `predict` says of an update.

    Attributes:
        seconds: of an update.
        waiting: seconds of them in which a device waits for others' bytes.
        memory: bytes of a device by what they are for.
    """

    seconds: float
    waiting: float
    memory: dict[str, int]


def predict(
    profile: Profile, cluster: Cluster, devices: int, images: float, mode: Mode = "ddp", micro_batches: int = 1
) -> Prediction:
    """Return what an update of `devices` takes.

    Args:
        profile: of one device.
        cluster: where they are.
        devices: how many train together.
        images: of a device in a micro-batch.
        mode: ddp: a bucket of gradients is summed while the backward pass goes on with the layers before it (Li et
            al. 2020). fsdp: weights are gathered unit by unit, one ahead, in both passes, and gradients are summed
            to where they are kept (Zhao et al. 2023).
        micro_batches: of an update; only the last one's gradients are sent, with fsdp the weights for each.

    Raises:
        ValueError: the devices fill the last machine in part only.

    >>> profile = Profile((4_000_000,) * 2, (0.5, 1.0), Work(0, 0.01), Work(0, 0.02), 0.01, 8_000_000)
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
    """Return when all gradients are summed, from the beginning of the backward pass."""
    sent = 0.0
    for size, ready in profile.buckets():
        sent = max(sent, ready * backward) + cluster.all_reduce(profile.summed * size, devices)
    return max(sent, backward)


def _fsdp_end(
    profile: Profile, cluster: Cluster, devices: int, forward: float, backward: float, last: bool
) -> float:
    """Return when a micro-batch is done with, from the beginning of its forward pass; the last one's is summed."""

    def seconds(size: float) -> float:
        return cluster.gather(size, devices) if size else 0.0

    weights, gradients = profile.rest()
    gathers = [seconds(profile.gathered * size) for size in (weights, *(unit.weights for unit in profile.units))]
    sums = [
        seconds(profile.summed * size * last) for size in (*(unit.gradients for unit in profile.units), gradients)
    ]
    shares = [end - begin for begin, end in pairwise([0.0, *(unit.ready for unit in profile.units), 1.0])]
    # What is in no unit is gathered before all else in both passes, and its gradients are summed at the very end.
    begun = _pass_end([gathers[0], *gathers[:0:-1]], shares[::-1], [0.0] * len(shares), forward)
    again = [*gathers, 0.0] if profile.reshard else [0.0] * (len(gathers) + 1)
    return begun + _pass_end(again, [0.0, *shares], [0.0, *sums], backward)


def _pass_end(gathers: Sequence[float], shares: Sequence[float], sums: Sequence[float], seconds: float) -> float:
    """Return when a pass is over: each unit has weights to gather, a share of the seconds, gradients to sum."""
    sent = gathered = gathers[0]
    computed = summed = 0.0
    for following, share, to_sum in zip([*gathers[1:], 0.0], shares, sums, strict=True):
        begun = max(computed, gathered)
        computed = begun + share * seconds
        if following:
            gathered = sent = max(sent, begun) + following  # one ahead: while this one computes
        if to_sum:
            computed = max(computed, summed)  # torch holds one unit's gradients on their way, no more
            summed = sent = max(sent, computed) + to_sum
    return max(computed, sent)


def _memory(profile: Profile, devices: int, images: float, mode: Mode, micro_batches: int) -> dict[str, int]:
    parts = devices if mode == "fsdp" else 1
    more = (parts - 1) * profile.buffers  # each device has all of these
    kept = {
        "weights": profile.weights + more,
        "gradients": sum(profile.gradients),  # with ddp they lie in the buckets
        "optimizer": profile.state,
        "average": profile.average + more if profile.average else 0,
    }
    return {
        **{what: -(-size // parts) for what, size in kept.items()},
        "whole": _whole(profile, micro_batches) if parts > 1 else 0,
        "activations": round(profile.activations.of(images)),
    }


def _whole(profile: Profile, micro_batches: int) -> int:
    """Return the most bytes of weights and gradients that fsdp has on a device beside its part of them."""
    weights, gradients = profile.rest()
    # One unit is in use, one on its way: to here the weights, from here the gradients.
    if profile.reshard:
        weights += sum(sorted(unit.weights for unit in profile.units)[-2:])
    else:
        weights = profile.weights - profile.buffers
    if micro_batches == 1:
        gradients += sum(sorted(unit.gradients for unit in profile.units)[-2:])
    else:  # they wait for the last micro-batch
        gradients = sum(profile.gradients)
    return weights + gradients


def fit_link(sizes: Sequence[float], seconds: Sequence[float], ranks: int) -> Link:
    """Return the link whose ring explains measured all-reduces best, by least squares of the relative errors.

    Args:
        sizes: bytes, of two sizes or more.
        seconds: of each.
        ranks: that took part, 2 or more.

    >>> link = fit_link([1e4, 1e6, 1e8], [0.00021, 0.0012, 0.1002], ranks=2)
    >>> round(link.latency, 6), round(link.bandwidth)
    (0.0001, 1000000000)
    """
    steps = 2 * (ranks - 1)
    terms = np.array([[steps, steps / ranks * size] for size in sizes]) / np.array(seconds)[:, None]
    latency, per_byte = np.linalg.lstsq(terms, np.ones(len(terms)), rcond=None)[0].tolist()
    return Link(max(latency, 0.0), 1 / max(per_byte, 1e-15))  # noise may make either less than nothing


def workers_needed(images_per_second: float, of_one_worker: float) -> int:
    """Return how many loading processes keep up with a device, or a machine.

    >>> workers_needed(images_per_second=2600, of_one_worker=1000)
    3
    """
    return math.ceil(images_per_second / of_one_worker)
