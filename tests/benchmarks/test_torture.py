"""The torture test: killed and resumed runs end like the uninterrupted one, and differences are detected."""

from __future__ import annotations

import json
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from warmstart.engine import load_checkpoint
from warmstart.tools import train_net

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "torture.py"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def test_every_configuration_is_known(script: dict[str, Any]) -> None:
    assert script["known_configs"]() == list(script["CONFIGS"])


@pytest.mark.parametrize(
    ("a", "b", "found"),
    [
        ({"x": [1, 2]}, {"x": [1, 2]}, []),
        ({"x": 1}, {"x": 1.0}, ["part.x: 1, then 1.0"]),
        ({"x": 1}, {}, ["part.x: 1, then missing"]),
        ({"x": [1, (2, 3)]}, {"x": [1, (2, 4)]}, ["part.x[1][1]: 3, then 4"]),
        ([1], [1, 2], ["part: [1], then [1, 2]"]),
        ({"x": float("nan")}, {"x": float("nan")}, []),
        ({"x": torch.zeros(2)}, {"x": torch.zeros(2)}, []),
        ({"x": torch.zeros(2)}, {"x": -torch.zeros(2)}, ["part.x: tensor (2,), then tensor (2,)"]),
        ({"x": torch.zeros(2)}, {"x": torch.zeros(2).double()}, ["part.x: tensor (2,), then tensor (2,)"]),
    ],
)
def test_differences_in_type_or_any_bit_are_named(
    script: dict[str, Any], a: Any, b: Any, found: list[str]
) -> None:
    assert list(script["differences"](a, b, "part")) == found


@pytest.mark.slow
def test_each_part_of_a_folder_is_compared(script: dict[str, Any], tiny_words: list[str], tmp_path: Path) -> None:
    compare, whole, other = script["compare"], tmp_path / "whole", tmp_path / "other"
    train_net.main([*tiny_words, f"OUTPUT_DIR={whole}", "SOLVER.CHECKPOINT_PERIOD=7"])

    def found(change: Any) -> list[str]:
        shutil.rmtree(other, ignore_errors=True)
        shutil.copytree(whole, other)
        change()
        return list(compare(whole, other))

    def spoil() -> None:
        content = load_checkpoint(other / "model_final.pth")
        content["model"]["fc.bias"][0] += 1e-7
        torch.save(content, other / "model_final.pth")

    lines = (whole / "metrics.json").read_text().splitlines(keepends=True)
    later = json.dumps(json.loads(lines[1]) | {"time": 9.0}) + "\n"
    events = next(whole.glob("events*")).name
    assert found(lambda: None) == []
    assert found(spoil) == ["model_final.pth.model.fc.bias: tensor (3,), then tensor (3,)"]
    assert found(lambda: (other / "last_checkpoint").write_text("model_0000006.pth")) == [
        "last_checkpoint: b'model_0000013.pth', then b'model_0000006.pth'"
    ]
    assert found(lambda: (other / "metrics.json").write_text("".join([lines[0], later, *lines[2:]]))) == []
    assert [text.split(":")[0] for text in found(lambda: (other / "metrics.json").write_text(lines[0]))] == [
        "metrics.json"
    ]
    assert found(lambda: (other / ".model_0000006.pth.1.tmp").touch())[0].startswith("files: ")
    for name in ("config.yaml", "log.txt", "lr.png", "model_final.pth"):
        (said,) = found((other / name).unlink)
        assert said.startswith("files: "), name
        assert name in said
    assert found((other / "model_0000006.pth.cut").touch)[0].startswith("files: ")
    listed = ["checkpoints.json: ['model_0000006.pth', 'model_0000013.pth'], then []"]
    assert found((other / "checkpoints.json").unlink) == listed
    assert found(lambda: (other / "checkpoints.json").write_text('{"checkpoints": []}')) == listed
    assert found(lambda: (other / events).unlink())[0].startswith("TensorBoard.")


def test_a_shard_folder_that_no_checkpoint_names_is_detected(script: dict[str, Any], tmp_path: Path) -> None:
    for name, folder in (("model_0000003.pth", "a"), ("model_0000006.pth.cut", "b"), ("model_final.pth", None)):
        torch.save({"shards": {"folder": folder}} if folder else {}, tmp_path / name)
    for folder in ("a", "b", "left"):
        (tmp_path / "shards" / folder).mkdir(parents=True)
    assert script["named_parts"](tmp_path) == ["a", "b"]
    assert sorted(script["_names"](tmp_path / "shards")) == ["a", "b", "left"]
    before = script["parts"](tmp_path)
    (tmp_path / "shards" / "left" / "__0_0.distcp").touch()
    assert script["parts"](tmp_path) - before == {("left", "__0_0.distcp")}


@pytest.mark.slow
@pytest.mark.parametrize("group", [True, False])
def test_a_kill_hits_all_processes_of_a_launcher_or_one_rank(
    script: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: bool
) -> None:
    """Instead of ranks: two shells, each of which has started a process."""
    launcher = """
import subprocess, sys, time
ranks = [subprocess.Popen(["sh", "-c", "sleep 60 & wait"]) for _ in range(2)]
while all(rank.poll() is None for rank in ranks):
    time.sleep(0.01)
for rank in ranks:
    rank.kill()
    rank.wait()
sys.exit(137)
"""
    frozen, state = script["frozen"], lambda pid: script["parent_and_state"](pid)[1]
    life = script["Life"].__new__(script["Life"])
    life.folder, life.ranks = tmp_path, 2
    life._process = subprocess.Popen([sys.executable, "-c", launcher])
    found: list[tuple[int, int]] = []
    while len(found) < 5:
        time.sleep(0.5)  # for them to make progress: a process that is frozen repeatedly starts nothing
        found = frozen(life._process.pid)
        assert [state(pid) for pid, _ in found] == ["T"] * len(found)
        for pid, _ in found:
            os.kill(pid, signal.SIGCONT)
    ranks = [pid for pid, parent in found if parent == life._process.pid]
    inner = [pid for pid, parent in found if parent in ranks]
    assert [len(ranks), len(inner)] == [2, 2]
    assert life.kill(group, random.Random(0)) is not group
    assert life.end() == (-signal.SIGKILL if group else 137)
    assert {state(pid) in script["GONE"] for pid in ranks} == {True}
    assert {state(pid) in script["GONE"] for pid in inner} == {group}
    for pid in () if group else inner:
        os.kill(pid, signal.SIGKILL)
    assert life.kill(group, random.Random(0)) is False  # nobody is left


@pytest.mark.slow
@pytest.mark.need("C7", "D1")
@pytest.mark.parametrize(
    "configs", [["every_step", "workers"], pytest.param(["parts_keep_two"], marks=pytest.mark.soak)]
)
def test_a_configuration_killed_three_times_has_no_mismatch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], configs: list[str]
) -> None:
    words = f"torture.py --kills 3 --seed 1 --configs {' '.join(configs)} --jobs {len(configs)}"
    monkeypatch.setattr(sys, "argv", words.split())
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = [(line["config"], line["kills"], line["mismatches"], line["first"]) for line in lines]
    assert found == [(config, 3, 0, "") for config in configs]
    assert all(line["resumes"] >= 1 and line["runs"] >= 1 for line in lines)
    assert end.value.code == 0
