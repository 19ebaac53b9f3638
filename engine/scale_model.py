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
        state: bytes that the optimizer keeps.
        average: bytes of the moving average of the weights.
        activations: bytes that are kept from the forward pass for the backward pass.
        summed: bytes that are sent for each byte of a gradient: 0.5 where bf16 is.
        gathered: the same for weights, with fsdp.
    """

    gradients: tuple[int, ...]
    ready: tuple[float, ...]
    forward: Work
    backward: Work
    update: float
    weights: int
    state: int = 0
    average: int = 0
    activations: Work = field(default=Work(0.0, 0.0))
    summed: float = 1.0
    gathered: float = 1.0

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
            al. 2020). fsdp: weights are gathered bucket by bucket, one ahead, in both passes, and gradients are
            summed to where they are kept (Zhao et al. 2023).
        micro_batches: of an update; with ddp only the last one's gradients are sent.

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
        waiting = micro_batches * (_fsdp_end(profile, cluster, devices, forward, backward) - forward - backward)
    return Prediction(computed + waiting, waiting, _memory(profile, devices, images, mode))


def _ddp_end(profile: Profile, cluster: Cluster, devices: int, backward: float) -> float:
    """Return when all gradients are summed, from the beginning of the backward pass."""
    sent = 0.0
    for size, ready in profile.buckets():
        sent = max(sent, ready * backward) + cluster.all_reduce(profile.summed * size, devices)
    return max(sent, backward)


def _fsdp_end(profile: Profile, cluster: Cluster, devices: int, forward: float, backward: float) -> float:
    """Return when all gradients are where they are kept, from the beginning of the forward pass."""
    buckets = profile.buckets()
    gathers = [cluster.gather(profile.gathered * size, devices) for size, _ in buckets]
    sums = [cluster.gather(profile.summed * size, devices) for size, _ in buckets]
    shares = [end - begin for begin, end in pairwise([0.0, *(ready for _, ready in buckets)])]
    begun = _pass_end(gathers[::-1], shares[::-1], [0.0] * len(sums), forward)
    return begun + _pass_end(gathers, shares, sums, backward)


def _pass_end(gathers: Sequence[float], shares: Sequence[float], sums: Sequence[float], seconds: float) -> float:
    """Return when a pass is over: each bucket has weights to gather, a share of the seconds, gradients to sum."""
    sent = gathered = gathers[0]
    computed = 0.0
    for following, share, to_sum in zip([*gathers[1:], 0.0], shares, sums, strict=True):
        begun = max(computed, gathered)
        computed = begun + share * seconds
        gathered = sent = max(sent, begun) + following  # one ahead: while this one computes
        if to_sum:
            sent = max(sent, computed) + to_sum
    return max(computed, sent)


def _memory(profile: Profile, devices: int, images: float, mode: Mode) -> dict[str, int]:
    gradients, activations = (
        sum(profile.gradients),
        round(profile.activations.of(images)),
    )  # they lie in the buckets
    if mode == "ddp":
        return {
            "weights": profile.weights,
            "gradients": gradients,
            "optimizer": profile.state,
            "average": profile.average,
            "activations": activations,
        }
    largest = max(size for size, _ in profile.buckets()) if devices > 1 else 0
    return {
        "weights": -(-profile.weights // devices) + 2 * largest,  # one in use, one on its way
        "gradients": -(-gradients // devices) + largest,
        "optimizer": -(-profile.state // devices),
        "average": -(-profile.average // devices),
        "activations": activations,
    }


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
