"""The benchmark scaling_links.py itself: bytes match the formulas, and times come with predictions."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "scaling_links.py"
ONCE = ["--cases", "links", "--mbit", "800", "--rounds", "1", "--updates", "1"]

pytestmark = pytest.mark.slow


def lines_of(*words: str) -> dict[str, dict[str, Any]]:
    """Return what the script says of each mode."""
    done = subprocess.run([sys.executable, str(SCRIPT), *ONCE, *words], capture_output=True, text=True)
    if "not permitted here" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return {line["mode"]: line for line in map(json.loads, done.stdout.splitlines())}


def assert_as_predicted(line: dict[str, Any], sent_mib: float, held_mib: float) -> None:
    assert (line["predicted_sent_mib"], line["predicted_held_mib"]) == (sent_mib, held_mib)
    assert line["held_mib"] == held_mib
    assert line["gradient"] == 1  # the mean of ones, so all was summed
    assert sent_mib < line["sent_mib"] < 1.05 * sent_mib  # headers, and 4 bytes for a loss or two
    assert line["ms"] / line["predicted_ms"] == pytest.approx(line["ratio"], abs=1e-3)


def test_ranks_send_and_hold_what_is_predicted() -> None:
    found = lines_of("--ranks", "2")
    # Half of 34 MiB leaves each of two ranks twice; weights, gradients, momentum and average are whole on both.
    assert_as_predicted(found["ddp"], sent_mib=34, held_mib=4 * 34)
    # Half of 12 MiB three times; where gloo reduces and scatters by an all-reduce, four times. Each rank has half.
    assert_as_predicted(found["fsdp"], sent_mib=18, held_mib=4 * 6)
    assert_as_predicted(found["fsdp in turn"], sent_mib=24, held_mib=4 * 6)


@pytest.mark.soak
def test_sums_in_two_levels_send_less_between_machines_than_a_ring_of_all_ranks() -> None:
    found = lines_of("--ranks", "4", "--per-machine", "2")
    assert_as_predicted(found["ddp"], sent_mib=2 * 3 / 4 * 34, held_mib=4 * 34)
    assert_as_predicted(found["ddp in two levels"], sent_mib=2 * 1 / 2 * 34, held_mib=4 * 34)
