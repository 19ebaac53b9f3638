"""The benchmark loop.py itself: all contenders do the same work, and its lines report the requested figures."""

from __future__ import annotations

import importlib.util
import json
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "loop.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(SCRIPT.parent)  # as python does where it is run
    return runpy.run_path(str(SCRIPT))


def printed(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines() if line.startswith('{"contender"')]


def test_each_contender_has_one_line_and_all_end_with_the_same_weights(
    script: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = "loop.py --workload overhead --contenders careful ours --rounds 2 --iterations 60 --picture"
    monkeypatch.setattr(sys, "argv", [*words.split(), str(tmp_path / "loop.png")])
    monkeypatch.setitem(script["main"].__globals__, "run_apart", script["run"])  # processes take seconds to start
    script["main"]()
    lines = printed(capsys.readouterr().out)
    assert [line["contender"] for line in lines] == ["bare", "ours", "careful"]
    for line in lines:
        assert (line["workload"], line["rounds"], line["iterations"], line["threads"]) == ("overhead", 2, 60, 1)
        assert (line["loader"], line["same_weights"]) == ("memory", True)
        assert line["us_per_iter"] > 0
        assert line["cpu_us_per_iter"] > 0
        assert line["images_per_s"] == pytest.approx(32e6 / line["us_per_iter"], rel=0.01)
        assert line["over_bare_us"] == pytest.approx(line["us_per_iter"] - lines[0]["us_per_iter"], abs=0.11)
        assert line["versions"]["torch"] == str(torch.__version__)
        assert ("warmstart" in line["versions"]) == (line["contender"] == "ours")
    assert (lines[0]["over_bare_us"], lines[0]["ratio_to_bare"]) == (0, 1)
    assert (tmp_path / "loop.png").read_bytes().startswith(b"\x89PNG")


def test_different_final_weights_are_detected(script: dict[str, Any]) -> None:
    runs = [script["run"]("bare", "overhead", iterations, "", 0, 1) for iterations in (60, 60, 61)]
    lines = [script["line"](name, {"bare": runs[:2], "ours": runs[2:]}) for name in ("bare", "ours")]
    assert [line["same_weights"] for line in lines] == [True, False]


def test_the_timed_region_is_from_after_the_first_tenth_to_the_last_batch(
    script: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = script["prepare"]("bare", "overhead", 40, Path(), "", 0).stream
    events: list[Any] = []

    def batches() -> Iterator[int]:
        for number in range(40):
            events.append(number)
            yield number

    stream.source = batches()
    monkeypatch.setattr("loops.work.cpu_seconds", lambda: events.append("clock") or 0.0)
    assert list(stream) == list(range(40))
    assert events == [0, 1, 2, 3, "clock", *range(4, 39), "clock", 39]
    stream.times = ((1.0, 5.0), (1.7, 5.35))
    assert stream.us_per_iter() == pytest.approx((20_000, 10_000))


def test_loop_skips_a_contender_that_is_not_installed(
    script: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert script["installed"](["bare", "careful", "ours", "ignite"]) == ["bare", "careful", "ours"]
    said = capsys.readouterr().err
    assert said == "ignite is skipped: pytorch-ignite is not installed; pip install -e '.[bench]'\n"


@pytest.mark.slow
def test_every_framework_does_the_same_work(script: dict[str, Any]) -> None:
    words = "--workload overhead --rounds 1 --iterations 60"
    lines = printed(subprocess.check_output([sys.executable, str(SCRIPT), *words.split()], text=True))
    assert [line["contender"] for line in lines] == script["installed"](list(script["CONTENDERS"]))
    assert [line["contender"] for line in lines if not line["same_weights"]] == []
