"""The benchmark decoding.py itself: one line per decoder, over files of the size of photographs."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "decoding.py"


def test_each_decoder_has_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["decoding.py", "--files", "2", "--rounds", "2"])
    runpy.run_path(str(SCRIPT))["main"]()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["decoder"] for line in lines] == ["torchvision", "pil"]
    assert all(line["ms"] > 0 and 60 < line["kilobytes"] < 100 for line in lines)
