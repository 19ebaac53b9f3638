"""When ranks tell each other what they were asked, and what each knows before; with ranks: test_distributed.py."""

from __future__ import annotations

import math
import signal

import pytest

from warmstart.engine.distributed import comm
from warmstart.engine.loop.stopping import Stops


@pytest.fixture
def stops(monkeypatch: pytest.MonkeyPatch) -> Stops:
    """Those of one rank of two, which then hears of no other."""
    with monkeypatch.context() as patched:
        patched.setattr(comm, "world_size", lambda: 2)
        return Stops()


@pytest.mark.need("C7")
def test_ranks_that_go_on_late_in_a_run_first_ask_each_other_after_one_update(stops: Stops) -> None:
    """What the clock says at the start is no measure of how long the updates took that the checkpoint has."""
    stops.agree(10**9, 0.0)
    assert stops.agree_at == 10**9 + 1


def test_a_rank_ends_only_by_what_all_know(stops: Stops) -> None:
    stops.interrupt(signal.SIGTERM)
    stops.request("enough")
    assert (stops.signum, stops.reason, stops.asked) == (0, "", "enough")
    stops.agree(5, 0.0)
    assert (stops.signum, stops.reason, stops.asked) == (signal.SIGTERM, "enough", "enough")
    assert stops.take_signal() == signal.SIGTERM
    stops.forget_reason()
    stops.agree(6, 0.0)
    assert (stops.signum, stops.reason, stops.asked) == (0, "", "")


def test_ranks_ask_each_other_ten_times_a_second_and_after_each_settling(
    stops: Stops, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 100.0
    monkeypatch.setattr("time.perf_counter", lambda: clock)
    stops.agree(0, 0.0)
    clock += 2.5  # of which half a second was evaluation
    stops.agree(100, 0.5)
    assert stops.agree_at == 105  # 0.1 s of updates that took 2 s / 100
    stops.agree_next(101)
    assert stops.agree_at == 102


def test_one_process_asks_nobody() -> None:
    stops = Stops()
    stops.agree(0, 0.0)
    stops.agree_next(3)
    stops.interrupt(signal.SIGINT)
    stops.request("enough")
    assert (stops.agree_at, stops.signum, stops.reason) == (math.inf, signal.SIGINT, "enough")
