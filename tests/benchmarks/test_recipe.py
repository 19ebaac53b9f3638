"""The instrument, not what it measures: the scores are those of the tool, and the line says what was timed."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from warmstart.tools import train_net

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "recipe.py"
WORDS = ["SOLVER.MAX_ITER", "20", "SOLVER.EMA.ENABLED", "true", "SOLVER.EMA.DECAY", "0.5"]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.setattr("warmstart.engine.run.default_hooks._HOOKS", {})

    def run(*words: str) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", ["recipe.py", "--config-file", "recipe:digits.yaml", *words, *WORDS])
        runpy.run_path(str(SCRIPT))["main"]()
        return dict(json.loads(capsys.readouterr().out.splitlines()[-1]))

    return run


@pytest.mark.parametrize("score", ["accuracy", "ema/accuracy"])
def test_warm_seeds_score_as_the_tool_does(run: Any, tmp_path: Path, score: str) -> None:
    """Seeds 0 and 1; the run in front of them, which also takes a seed, does not count."""
    line = run("--warm", "--seeds", "2", "--score", score)
    scores = []
    for seed in ("0", "1"):
        folder = tmp_path / seed
        train_net.main(["--config-file", "recipe:digits.yaml", *WORDS, "SEED", seed, "OUTPUT_DIR", str(folder)])
        scores.append(json.loads((folder / "metrics.json").read_text().splitlines()[-1])[f"digits_test/{score}"])
    assert (line["n"], line["timed"], line["score"]) == (2, "learning", score)
    assert [line["score_min"], line["score_max"]] == pytest.approx(sorted(scores), abs=1e-5)
    assert line["overrides"] == WORDS


def test_a_separate_command_gives_the_same_score(run: Any) -> None:
    whole, learning = run("--seeds", "1"), run("--seeds", "1", "--warm")
    assert (whole["n"], whole["timed"], whole["score_std"]) == (1, "the whole command", None)
    assert learning["score_mean"] == whole["score_mean"]
    assert learning["seconds_median"] > 0
