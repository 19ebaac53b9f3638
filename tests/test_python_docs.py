"""The program in docs/PYTHON.md: it runs as printed, and continues from a checkpoint."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from warmstart.engine import load_checkpoint

from .engine.dying import assert_same_bits

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "PYTHON.md").read_text(encoding="utf-8")
PROGRAM, _ = re.findall(r"^```python\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
RUN = Path("output/sine")


def run_program() -> dict[str, Any]:
    """Run the program in the current folder and return its names."""
    names: dict[str, Any] = {"__name__": "program"}
    exec(compile(PROGRAM, "PYTHON.md", "exec"), names)
    return names


def records() -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (RUN / "metrics.json").read_text().splitlines()]
    return [{name: line[name] for name in line if not name.endswith("time")} for line in lines]


def test_the_program_trains_records_and_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_program()["trainer"].iteration == 200
    found = records()
    assert [r["iteration"] for r in found if "test/rmse" in r] == [50, 100, 150, 200]
    assert {*found[0]} == {"iteration", "total_loss", "loss_mse", "train/largest_error", "lr"}
    assert found[-1]["test/rmse"] < 0.3 < found[0]["loss_mse"]
    unbroken = load_checkpoint(RUN / "model_final.pth")

    # A kill between the two checkpoints leaves this, records of later updates included.
    for name in ("model_0000199.pth", "model_final.pth", "last_checkpoint"):
        (RUN / name).unlink()
    assert run_program()["trainer"].iteration == 200
    assert records() == found
    resumed = load_checkpoint(RUN / "model_final.pth")
    for part in ("model", "optimizer", "scheduler", "rng"):
        assert_same_bits(resumed[part], unbroken[part], part)


def test_the_program_does_nothing_after_its_last_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_program()
    shutil.copytree(RUN, "before")
    run_program()
    for path in Path("before").iterdir():
        assert (RUN / path.name).read_bytes() == path.read_bytes(), path.name


def test_best_and_early_stopping_hooks_take_the_arguments_that_the_page_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    calls = re.findall(r"`((?:BestHook|EarlyStoppingHook)\(.*?\))`", TEXT)
    assert len(calls) == 2
    program = PROGRAM.replace("    CheckpointHook(", f"    {calls[0]},\n    {calls[1]},\n    CheckpointHook(")
    program = f"from warmstart.engine import BestHook, EarlyStoppingHook\n{program}"
    exec(compile(program, "PYTHON.md", "exec"), {"__name__": "program"})
    scores = {record["iteration"]: record["test/rmse"] for record in records() if "test/rmse" in record}
    best = min(scores, key=lambda iteration: scores[iteration])
    assert load_checkpoint(RUN / "model_best.pth")["iteration"] == best
