"""Runs that are killed and resumed end as the unbroken one does; and the instrument sees it where they do not."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
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
    kept = tmp_path / "kept"
    train_net.main([*tiny_words, f"OUTPUT_DIR={kept}", "SOLVER.CHECKPOINT_PERIOD=7", "SOLVER.CHECKPOINT_KEEP=1"])

    def found(change: Any, whole: Path = whole) -> list[str]:
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
    cut = (other / "model_0000006.pth.cut").touch
    assert found(cut) == []
    assert len(found(cut, kept)) == 1
    listed = ["checkpoints.json: ['model_0000006.pth', 'model_0000013.pth'], then []"]
    assert found((other / "checkpoints.json").unlink) == listed
    assert found(lambda: (other / "checkpoints.json").write_text('{"checkpoints": []}')) == listed
    assert found(lambda: (other / events).unlink())[0].startswith("TensorBoard.")


@pytest.mark.slow
@pytest.mark.need("C7", "D1")
def test_killed_six_times_two_configurations_differ_in_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "torture.py --kills 3 --seed 1 --configs every_step workers --jobs 2"
    monkeypatch.setattr(sys, "argv", words.split())
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["config"], line["kills"], line["mismatches"], line["first"]) for line in lines] == [
        ("every_step", 3, 0, ""),
        ("workers", 3, 0, ""),
    ]
    assert all(line["resumes"] >= 1 and line["runs"] >= 1 for line in lines)
    assert end.value.code == 0
