"""The benchmark detection.py itself: each contender has a line with its figures, and their results agree."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("hotcoco")
pytest.importorskip("pycocotools")

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "detection.py"


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    def run(words: str) -> dict[str, Any]:
        monkeypatch.syspath_prepend(SCRIPT.parent)
        monkeypatch.setattr(sys, "argv", ["detection.py", *words.split()])
        runpy.run_path(str(SCRIPT), run_name="__main__")
        found = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
        return {line["contender"]: line for line in found}

    return run


def test_both_loops_end_with_the_same_weights(lines: Any) -> None:
    found = lines("step --updates 3 --rounds 2 --batch 2 --size 48")
    assert [*found] == ["ours", "by hand"]
    assert all(line["same_weights"] and line["ms_per_step"] > 0 for line in found.values())


def test_both_evaluations_give_the_same_score_to_the_last_bit(lines: Any) -> None:
    found = lines("evaluation --images 20 --rounds 1 --model small_rcnn --image 96 96")
    assert [*found] == ["ours", "pycocotools"]
    assert found["ours"]["AP"] == found["pycocotools"]["AP"] > 0
    assert found["ours"]["share_of_model"] > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # torchvision's, with NumPy 2
def test_loaders_and_their_memory_are_measured(lines: Any) -> None:
    found = lines("loader --images 4 --rounds 1 --batch 2 --size 64 --masks")
    assert [*found] == ["ours", "torchvision"]
    assert all(line["ms_per_image"] > 0 for line in found.values())
    found = lines("memory --images 20 --batch 2 --size 64 --workers 1")
    assert [*found] == ["main", "worker 0"]
    assert all(len(line["mb"]) == 10 and min(line["mb"]) > 0 for line in found.values())
