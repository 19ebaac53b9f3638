"""Cost of collective operations, worked out by hand."""

from __future__ import annotations

import pytest

from warmstart.engine.analysis.links import Cluster, Link, fit_link

FREE = Link(0.0, 1e30)


def test_cluster_uses_the_link_between_machines_for_several_machines() -> None:
    # Thakur et al. 2005 and Patarasuk and Yuan 2009: (p - 1) / p of the bytes leave each rank twice.
    cluster = Cluster(4, Link(0.0, 1e9), Link(0.0, 1e8))
    assert cluster.all_reduce(1e8, 4) == pytest.approx(2 * 3 / 4 * 0.1)
    assert cluster.all_reduce(1e8, 16) == pytest.approx(2 * 3 / 4 * 0.1 + 2 * 3 / 4 * 1.0)
    assert cluster.gather(1e8, 16) == pytest.approx(3 / 4 * 0.1 + 3 / 4 * 1.0)


def test_link_all_reduces_small_messages_by_trees_and_large_ones_by_the_ring() -> None:
    link = Link(1e-5, 1e9)
    assert link.all_reduce(4, 1024) == pytest.approx(2 * 10 * 1e-5, rel=1e-3)
    assert link.all_reduce(1e11, 1024) == pytest.approx(2 * 1023 * (1e-5 + 1e11 / 1024 / 1e9))


@pytest.mark.parametrize("ranks", [2, 8])
def test_fit_link_recovers_the_link_from_ring_times(ranks: int) -> None:
    link, sizes = Link(2e-5, 3e9), [4096.0, 1e6, 1e8]
    found = fit_link(sizes, [2 * link.ring(size, ranks) for size in sizes], ranks)
    assert found == pytest.approx(link)


def test_cluster_refuses_devices_that_do_not_fill_the_last_machine() -> None:
    cluster = Cluster(8, FREE, FREE)
    assert [cluster.shape(n) for n in (1, 5, 8, 16)] == [(1, 1), (1, 5), (1, 8), (2, 8)]
    with pytest.raises(
        ValueError, match="^12 devices do not fill machines of 8; give a multiple, such as 8 or 16$"
    ):
        cluster.shape(12)
