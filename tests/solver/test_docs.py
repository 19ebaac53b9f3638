"""The figures and examples of docs/SCHEDULES.md and docs/OPTIMIZERS.md, compared with the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from torchvision.models import resnet18

from warmstart.config import get_cfg, resolve_durations
from warmstart.solver import build_optimizer, build_schedule, registry, schedule_names
from warmstart.solver.optimizers import OPTIMIZERS, REFUSED

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "SCHEDULES.md").read_text(encoding="utf-8")
FIGURES = TEXT.partition("## Warm up for 2 of 10")[2].partition("\n## ")[0]
ROWS = re.findall(r"^\| `(.+?)` \|(.+)\|$", FIGURES, re.MULTILINE)


def shown(factor: float) -> str:
    return {"0.000": "0", "1.000": "1"}.get(f"{factor:.3f}", f"{factor:.3f}".removeprefix("0"))


@pytest.mark.usefixtures("math_imported")
@pytest.mark.parametrize(("keys", "cells"), ROWS, ids=[keys for keys, _ in ROWS])
def test_figures_of_a_row(keys: str, cells: str) -> None:
    common = re.search(r"`(MAX_ITER=.+?)`", FIGURES)
    head = re.search(r"^\| keys of SOLVER \|(.+)\|$", FIGURES, re.MULTILINE)
    assert common is not None
    assert head is not None
    cfg = get_cfg()
    cfg.merge_from_list([f"SOLVER.{override}" for override in re.split(r" (?=[A-Z_]+=)", f"{common[1]} {keys}")])
    schedule = build_schedule(cfg)
    iterations = [int(t.removeprefix("t=")) for t in head[1].replace(" ", "").split("|")]
    assert [shown(schedule(t)) for t in iterations] == cells.replace(" ", "").split("|")


def test_each_name_is_documented_and_has_figures() -> None:
    names = {*schedule_names()}
    assert set(re.findall(r"^\| `(\w+(?:LR|Restarts|Plateau|Scheduler))` \|", TEXT, re.MULTILINE)) == names
    assert {re.match(r"LR_SCHEDULER_NAME=(\w+)", keys)[1] for keys, _ in ROWS} == names  # type: ignore[index]


@pytest.mark.parametrize("block", re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))
def test_yaml_in_schedules_md_can_be_used(block: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(block)
    cfg = get_cfg()
    cfg.merge_from_file(tmp_path / "x.yaml")
    schedule, max_iter = build_schedule(cfg, 100), resolve_durations(cfg, 100).SOLVER.MAX_ITER
    starts = {"WarmupCosineLR": 0.001, "SequentialLR": 0.0001, "WARMUP_UNTIL": 0.1}
    (start,) = [factor for name, factor in starts.items() if name in block]
    assert schedule(0) == pytest.approx(start)
    assert schedule(max_iter // 2) == pytest.approx(0.5 if "WarmupCosineLR" in block else 1.0)


def test_example_of_schedules_md_can_be_registered_and_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.SCHEDULES, "Descent", None)  # puts back what there was: nothing
    monkeypatch.delitem(registry.SCHEDULES, "Descent")
    (block,) = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    exec(block, {})
    cfg = get_cfg()
    cfg.merge_from_list(["SOLVER.LR_SCHEDULER_NAME", "Descent", "SOLVER.LR_SCHEDULER_ARGS.end", "0.1"])
    cfg.merge_from_list(["SOLVER.MAX_ITER", 10, "SOLVER.WARMUP_ITERS", 2])
    schedule = build_schedule(cfg)
    assert [schedule(t) for t in (2, 6, 9, 10, 99)] == pytest.approx([1, 0.5, 0.125, 0.1, 0.1])


def test_yaml_in_optimizers_md_can_be_used(tmp_path: Path) -> None:
    text = (DOCS / "OPTIMIZERS.md").read_text(encoding="utf-8")
    groups, freezing = re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "x.yaml").write_text(groups)
    (tmp_path / "freeze.yaml").write_text(freezing)
    cfg = get_cfg()
    cfg.merge_from_file(tmp_path / "freeze.yaml")
    assert [rule.get("UNTIL") for rule in resolve_durations(cfg, 10).MODEL.FREEZE] == [20, 40, None]
    cfg = get_cfg()
    cfg.merge_from_file(tmp_path / "x.yaml")
    rates = {group["name"]: group["lr"] for group in build_optimizer(cfg, resnet18()).param_groups}
    assert rates["head"] == pytest.approx(0.01)
    assert rates["stem"] == 0
    assert rates["layer08"] == pytest.approx(0.00075)


def test_every_optimizer_is_in_the_table_of_optimizers_md() -> None:
    table = (DOCS / "OPTIMIZERS.md").read_text(encoding="utf-8").partition("## Parameter groups")[0]
    named = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.+?) \|", table, re.MULTILINE)))
    assert sorted(named) == sorted({*OPTIMIZERS} | {*REFUSED})
