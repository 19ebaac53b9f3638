"""The benchmark growth.py itself: each line has its figures, and idle hooks are idle."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from warmstart.engine import HookBase

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "growth.py"

Run = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def measure(*words: str) -> list[dict[str, Any]]:
        monkeypatch.setattr(sys, "argv", ["growth.py", *words])
        monkeypatch.syspath_prepend(str(SCRIPT.parent))
        runpy.run_path(str(SCRIPT), run_name="__main__")
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return measure


def test_a_long_run_has_a_line_for_each_tenth(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = run("length", "--updates", "4000")
    assert [line["updates"] for line in lines] == [2000, 3000, 4000]
    for line in lines:
        assert line["us_per_iter"] > 1
        assert 50 < line["memory_mb"] < 100_000
    # Records of several stretches are written together, so a stretch may have none.
    assert 0 < sum(line["record_bytes"] for line in lines) < 1500


def test_numbers_of_groups_are_compared_with_a_bare_loop(run: Run) -> None:
    lines = run("groups", "--counts", "50", "100", "--rounds", "1")
    assert [line["groups"] for line in lines] == [50, 100]
    for line in lines:
        # All are rounded: times to a tenth.
        ratio, off = line["us_per_iter"] / line["bare_us"], 0.1 / line["bare_us"]
        assert line["ratio_to_bare"] == pytest.approx(ratio, abs=1e-3 + off * max(1, ratio))
        over = (line["us_per_iter"] - line["bare_us"]) / line["groups"]
        assert line["over_bare_us_per_group"] == pytest.approx(over, abs=0.11)


def test_both_kinds_of_hooks_are_compared_with_no_hooks(run: Run) -> None:
    lines = run("hooks", "--counts", "3", "--rounds", "1", "--updates", "50")
    assert [(line["hooks"], line["count"]) for line in lines] == [("none", 0), ("inherits", 3), ("waits", 3)]
    for line in lines:
        assert line["over_none_us"] == pytest.approx(line["us_per_iter"] - lines[0]["us_per_iter"], abs=0.16)


def test_only_one_kind_of_hook_takes_part_in_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    script = runpy.run_path(str(SCRIPT))
    assert script["Inherits"].after_step is HookBase.after_step
    assert script["Waits"].after_step is not HookBase.after_step
    assert script["Waits"].period == 0
