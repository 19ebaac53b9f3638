"""The benchmark recipe.py itself: its scores equal the tool's, and the line says what was timed."""

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


@pytest.fixture(scope="module")
def last_records(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, float]]:
    """The last records of the tool's runs with seeds 0 and 1."""
    records = []
    for seed in ("0", "1"):
        folder = tmp_path_factory.mktemp("run")
        train_net.main(["--config-file", "recipe:digits.yaml", *WORDS, "SEED", seed, "OUTPUT_DIR", str(folder)])
        records.append(json.loads((folder / "metrics.json").read_text().splitlines()[-1]))
    return records


@pytest.mark.parametrize("score", ["accuracy", "ema/accuracy"])
def test_warm_seeds_score_as_the_tool_does(run: Any, last_records: list[dict[str, float]], score: str) -> None:
    """Seeds 0 and 1; the warm-up run before them, which also takes a seed, does not count."""
    line = run("--warm", "--seeds", "2", "--score", score)
    scores = [record[f"digits_test/{score}"] for record in last_records]
    assert (line["n"], line["timed"], line["score"]) == (2, "learning", score)
    assert [line["score_min"], line["score_max"]] == pytest.approx(sorted(scores), abs=1e-5)
    assert line["seconds_median"] > 0
    assert line["overrides"] == WORDS


def test_a_separate_command_gives_the_same_score(
    run: Any, last_records: list[dict[str, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command runs in this process, which saves its imports."""
    commands = []

    def run_command(command: list[str], **options: Any) -> None:
        commands.append(command[:2])
        assert options["check"]
        assert train_net.main(command[2:]) == 0

    monkeypatch.setattr("subprocess.run", run_command)
    line = run("--seeds", "1")
    tool = SCRIPT.parent.parent / "tools" / "train_net.py"
    assert tool.is_file()
    assert commands == [[sys.executable, str(tool)]]
    assert (line["n"], line["timed"], line["score_std"]) == (1, "the full command", None)
    assert line["score_mean"] == round(last_records[0]["digits_test/accuracy"], 5)
