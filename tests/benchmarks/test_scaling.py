"""The benchmark scaling.py itself: one line per number of ranks, with the prediction."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "scaling.py"


@pytest.mark.slow
def test_each_number_of_ranks_has_a_line() -> None:
    words = ["--ranks", "1", "2", "--rounds", "1", "--updates", "3", "MODEL.ARGS.width", "8"]
    said = subprocess.check_output([sys.executable, str(SCRIPT), *words], text=True)
    one, two = map(json.loads, said.splitlines())
    assert (one["ranks"], two["ranks"]) == (1, 2)
    assert all(line["model"] == "small_cnn" and line["ms"] > 0 for line in (one, two))
    assert one["predicted_ms"] == one["predicted_in_turn_ms"]
    assert two["predicted_ms"] <= two["predicted_in_turn_ms"]
    assert one["gb_per_s"] is None
    assert two["gb_per_s"] > 0
