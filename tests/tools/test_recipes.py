"""Recipes: the comment at the top of each, and runs of any length from 20 iterations."""

from __future__ import annotations

from pathlib import Path

import pytest

from warmstart.config import get_cfg
from warmstart.engine import load_checkpoint, resolve_config
from warmstart.tools import train_net

RECIPES = sorted((Path(__file__).parent.parent.parent / "config" / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
@pytest.mark.parametrize("max_iter", [20, 21, 1_000_000])
def test_a_recipe_resolves_at_any_length(path: Path, max_iter: int) -> None:
    cfg = get_cfg()
    cfg.merge(path, ["SOLVER.MAX_ITER", max_iter])
    solver = resolve_config(cfg).SOLVER
    assert max_iter == solver.MAX_ITER
    assert 0 < solver.WARMUP_ITERS < max_iter
    assert 0 <= solver.CHECKPOINT_PERIOD < max_iter  # 0: only at the end


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_recipe_is_headed_by_command_time_and_score(path: Path) -> None:
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    text = "\n".join(head)
    assert f"python tools/train_net.py --config-file config/recipes/{path.name}" in text
    assert "Time: " in text
    assert "Score: " in text
    assert "n = " in text


def test_the_main_job_runs_at_its_shortest(tmp_path: Path) -> None:
    train_net.main(["--config-file", "recipe:digits.yaml", "SOLVER.MAX_ITER", "20", "OUTPUT_DIR", str(tmp_path)])
    assert load_checkpoint(tmp_path / "model_final.pth")["iteration"] == 20
