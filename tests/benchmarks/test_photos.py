"""The benchmark photos.py itself: each contender trains on all photos, and its line has the figures."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "photos.py"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # timm leaves files open
def test_each_contender_has_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("timm")
    monkeypatch.syspath_prepend(SCRIPT.parent)
    script = runpy.run_path(str(SCRIPT))
    words = "photos.py --rounds 1 --images 8 --batch 4 --crop 64 --workers 0"
    monkeypatch.setattr(sys, "argv", words.split())
    monkeypatch.setitem(script["main"].__globals__, "run_apart", script["run"])
    script["main"]()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith('{"contender"')]
    assert [line["contender"] for line in lines] == ["ours", "timm", "torchvision"]
    for line in lines:
        assert (line["images"], line["batch"], line["crop"], line["workers"]) == (8, 4, 64, 0)
        assert line["images_per_s"] > 0
        assert line["epoch_s"] > 8 / line["images_per_s"]
