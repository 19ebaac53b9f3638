"""Agreement of ranks on stopping; with real ranks in test_distributed.py."""

from __future__ import annotations

import math
import signal

import pytest

from warmstart.engine.distributed import comm
from warmstart.engine.loop.stopping import Stopping
from warmstart.engine.runtime.signals import Interrupted


@pytest.fixture
def stops(monkeypatch: pytest.MonkeyPatch) -> Stopping:
    """Return the state of one rank of two, which receives nothing from the other."""
    with monkeypatch.context() as patched:
        patched.setattr(comm, "world_size", lambda: 2)
        return Stopping()


@pytest.mark.need("C7")
def test_stopping_of_a_resumed_run_synchronizes_first_after_one_update(stops: Stopping) -> None:
    """At the start the clock does not measure the updates that the checkpoint has."""
    stops.sync(10**9, 0.0)
    assert stops.sync_at == 10**9 + 1


def test_stopping_ends_a_rank_only_by_a_decision_of_all_ranks(stops: Stopping) -> None:
    stops.interrupt(signal.SIGTERM)
    stops.request("enough")
    assert (stops.signum, stops.reason, stops.asked) == (0, "", "enough")
    stops.sync(5, 0.0)
    assert (stops.signum, stops.reason, stops.asked) == (signal.SIGTERM, "enough", "enough")
    with pytest.raises(Interrupted):
        stops.raise_signal(5, complete=False)
    stops.begin()
    stops.sync(6, 0.0)
    assert (stops.signum, stops.reason, stops.asked) == (0, "", "")


def test_stopping_synchronizes_ten_times_a_second_and_after_each_flush(
    stops: Stopping, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 100.0
    monkeypatch.setattr("time.perf_counter", lambda: clock)
    stops.sync(0, 0.0)
    clock += 2.5  # of which half a second was evaluation
    stops.sync(100, 0.5)
    assert stops.sync_at == 105  # 0.1 s of updates that took 2 s / 100
    stops.sync_next(101)
    assert stops.sync_at == 102


def test_stopping_of_one_process_synchronizes_with_nobody() -> None:
    stops = Stopping()
    stops.sync(0, 0.0)
    stops.sync_next(3)
    stops.interrupt(signal.SIGINT)
    stops.request("enough")
    assert (stops.sync_at, stops.signum, stops.reason) == (math.inf, signal.SIGINT, "enough")
