"""The benchmark startup.py itself: every contender finishes, and its lines report the requested figures."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "startup.py"


def printed(
    words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> list[dict[str, Any]]:
    monkeypatch.setattr(sys, "argv", ["startup.py", *words.split()])
    script = runpy.run_path(str(SCRIPT))
    monkeypatch.setitem(
        script["CONTENDERS"], "imports", ["-c", "import stamp; stamp.stamp()"]
    )  # no seconds of torch
    monkeypatch.setitem(script["CONTENDERS"], "help", ["-c", script["TOOL"], "tools/__init__.py", "x"])
    script["main"]()
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_each_startup_line_says_what_was_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = printed("--contenders help --rounds 3", monkeypatch, capsys)
    assert [(line["contender"], line["rounds"]) for line in lines] == [("imports", 3), ("help", 3)]
    assert lines[0]["ratio_to_imports"] == 1
    for line in lines:
        assert line["wall_s"] > 0
        assert line["cpu_s"] > 0
        assert set(line["versions"]) == {"python", "torch", "torchvision", "matplotlib", "tensorboard"}


@pytest.mark.slow
def test_every_contender_finishes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed("--rounds 1", monkeypatch, capsys)
    assert [line["contender"] for line in lines] == [
        *("imports", "bare", "train_net", "bare_resnet18", "train_net_resnet18", "plot_lr", "print_config", "help")
    ]


def test_a_contender_that_fails_is_not_measured(tmp_path: Path) -> None:
    script = runpy.run_path(str(SCRIPT))
    script["CONTENDERS"]["broken"] = ["-c", script["TOOL"], str(tmp_path / "gone.py")]
    with pytest.raises(script["subprocess"].CalledProcessError):
        script["measure"]("broken")
