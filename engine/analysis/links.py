"""Cost of collective operations on the links between devices.

A message of n bytes takes latency + n / bandwidth (Hockney 1994). Collective operations consist of such messages:
Thakur, Rabenseifner and Gropp 2005; Patarasuk and Yuan 2009 for rings; Sanders, Speck and Träff 2009 for trees.
Times are in seconds, sizes in bytes, bandwidths in bytes per second. Nothing here imports torch or measures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Link(NamedTuple):
    """A full-duplex link between two devices.

    Attributes:
        latency: seconds until an empty message arrives.
        bandwidth: bytes per second in one direction.
    """

    latency: float
    bandwidth: float

    def ring(self, size: float, ranks: int) -> float:
        """Return the seconds of a ring reduce-scatter, or all-gather, of `size` bytes in total.

        >>> round(Link(latency=1e-5, bandwidth=1e9).ring(1e8, ranks=4), 5)  # 3 messages of 25 MB
        0.07503
        """
        return (ranks - 1) * (self.latency + size / (ranks * self.bandwidth))

    def all_reduce(self, size: float, ranks: int) -> float:
        """Return the seconds of the faster all-reduce: two ring passes, or up and down two trees.

        >>> link = Link(latency=1e-5, bandwidth=1e9)
        >>> [round(link.all_reduce(size, ranks=64), 6) for size in (1e3, 1e9)]  # tree, ring
        [0.000122, 1.97001]
        """
        tree = 2 * (math.ceil(math.log2(ranks)) * self.latency + size / self.bandwidth) if ranks > 1 else 0.0
        return min(tree, 2 * self.ring(size, ranks))


@dataclass(frozen=True)
class Cluster:
    """Machines with equal numbers of equal devices.

    Args:
        per_machine: devices per machine.
        inside: the link of a device to the others of its machine.
        between: the link of a machine to the others, with all its network cards.
    """

    per_machine: int
    inside: Link
    between: Link

    def shape(self, devices: int) -> tuple[int, int]:
        """Return (machines, devices per machine).

        Raises:
            ValueError: the last machine would not be full.

        >>> cluster = Cluster(8, Link(4e-6, 2e11), Link(1e-5, 2e11))
        >>> cluster.shape(4), cluster.shape(64)
        ((1, 4), (8, 8))
        """
        if devices <= self.per_machine:
            return 1, devices
        machines, rest = divmod(devices, self.per_machine)
        if rest:
            raise ValueError(
                f"{devices} devices do not fill machines of {self.per_machine}; give a multiple, such as "
                f"{machines * self.per_machine} or {(machines + 1) * self.per_machine}"
            )
        return machines, self.per_machine

    def gather(self, size: float, devices: int) -> float:
        """Return the seconds of an all-gather, or a reduce-scatter, of `size` bytes in total over all devices.

        Each device exchanges its shard with its counterparts in other machines, then within its machine.

        >>> cluster = Cluster(8, Link(0, 2e11), Link(0, 1e11))
        >>> round(cluster.gather(1e9, 8), 6), round(cluster.gather(1e9, 64), 6)  # + 7/8 of 1 GB between machines
        (0.004375, 0.013125)
        """
        machines, inside = self.shape(devices)
        return self.between.ring(size, machines) + self.inside.ring(size, inside)

    def all_reduce(self, size: float, devices: int) -> float:
        """Return the seconds of an all-reduce of `size` bytes over all devices.

        It is a reduce-scatter within machines, an all-reduce between them, and an all-gather within machines.

        >>> cluster = Cluster(8, Link(0, 2e11), Link(0, 1e11))
        >>> round(cluster.all_reduce(1e9, 8), 6), round(cluster.all_reduce(1e9, 64), 6)
        (0.00875, 0.02625)
        """
        machines, inside = self.shape(devices)
        if machines == 1:
            return self.inside.all_reduce(size, inside)
        return 2 * self.inside.ring(size, inside) + self.between.all_reduce(size, machines)


def fit_link(sizes: Sequence[float], seconds: Sequence[float], ranks: int) -> Link:
    """Return the link whose ring all-reduce fits the measured times best, by least squares of relative errors.

    Args:
        sizes: two or more sizes in bytes.
        seconds: the measured time of each size.
        ranks: the number of ranks that took part, 2 or more.

    >>> link = fit_link([1e4, 1e6, 1e8], [0.00021, 0.0012, 0.1002], ranks=2)
    >>> round(link.latency, 6), round(link.bandwidth)
    (0.0001, 1000000000)
    """
    steps = 2 * (ranks - 1)
    terms = np.array([[steps, steps / ranks * size] for size in sizes]) / np.array(seconds)[:, None]
    latency, per_byte = np.linalg.lstsq(terms, np.ones(len(terms)), rcond=None)[0].tolist()
    return Link(max(latency, 0.0), 1 / max(per_byte, 1e-15))  # noise may make either negative
