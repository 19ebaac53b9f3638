"""Export of weights to a .safetensors file: bits, names, metadata, and use as MODEL.WEIGHTS."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from warmstart.config import disk
from warmstart.engine import load_checkpoint, run_tool
from warmstart.tools import export_weights, train_net


@pytest.fixture
def trained(tiny_words: list[str], tmp_path: Path) -> Path:
    train_net.main([*tiny_words, "SOLVER.EMA.ENABLED=true", "SOLVER.EMA.DECAY=0.9"])
    return tmp_path / "out"


def error_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        run_tool(functools.partial(export_weights.main, words))
    assert caught.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(("words", "part"), [([], "weights"), (["--ema"], "average")])
@pytest.mark.parametrize("source", ["", "model_final.pth"])
def test_the_file_holds_the_bits_under_the_models_names_and_says_what_it_is(
    trained: Path, tmp_path: Path, words: list[str], part: str, source: str
) -> None:
    target = tmp_path / "shared.safetensors"
    assert export_weights.main([*words, str(trained / source), str(target)]) == 0
    checkpoint = load_checkpoint(trained / "model_final.pth")
    expected = checkpoint["ema"]["model"] if words else checkpoint["model"]
    found = load_file(target)
    assert sorted(found) == sorted(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name
    with safe_open(target, "pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "pt"
    assert (metadata["iteration"], metadata["part"]) == ("14", part)
    assert metadata["torch"] == torch.__version__
    assert metadata["python"].startswith("3.")
    assert "classes" not in metadata  # noise.npz names none
    assert not list(tmp_path.glob(".*"))


def test_model_weights_takes_the_file_and_scores_the_same(
    trained: Path, tiny_words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "shared.safetensors"
    export_weights.main([str(trained / "model_final.pth"), str(target)])
    names = load_checkpoint(trained / "model_final.pth")["model"]
    count = sum("num_batches" not in name for name in names)
    lines = []
    for weights in (trained / "model_final.pth", target):
        capsys.readouterr()
        assert train_net.main([*tiny_words, "--eval-only", f"MODEL.WEIGHTS={weights}"]) == 0
        said = capsys.readouterr().out
        which = "the model in " if weights.suffix == ".pth" else ""  # that file holds a moving average, too
        assert f"loaded {count}/{count} tensors from {which}{weights}\n" in said
        lines.append(said.splitlines()[-1].partition("accuracy")[2])
    assert lines[0] == lines[1] != ""


def test_export_weights_writes_tied_weights_and_strides_as_separate_tensors(tmp_path: Path) -> None:
    weight = torch.arange(6.0).view(2, 3)
    checkpoint = {"model": {"a": weight, "b": weight, "c": weight.T, "extra": 3}}
    found = export_weights.weights_of(checkpoint, ema=False, source=tmp_path)
    assert sorted(found) == ["a", "b", "c"]
    assert found["a"].data_ptr() != found["b"].data_ptr()
    assert found["c"].is_contiguous()
    assert torch.equal(found["c"], weight.T)


@pytest.mark.parametrize(
    ("change", "words", "message"),
    [
        ({"versions": 3}, [], "the checkpoint's versions are not a dict, but int"),
        ({"ema": {}}, ["--ema"], "{} has no moving average (SOLVER.EMA was off); leave --ema out"),
        ({"ema": {"model": 3}}, ["--ema"], "{} holds no weights to write"),
        ({"ema": [1]}, ["--ema"], "{} holds no weights to write"),
        ({"model": {}}, [], "{} holds no weights to write"),
        ({"model": {"a": 3}}, [], "{} holds no weights to write"),
        (
            {"model": {"a": torch.eye(2).to_sparse()}},
            [],
            "{} cannot be written as .safetensors: a is sparse",
        ),
        (
            {"model": {"a": torch.zeros(2, dtype=torch.complex128)}},
            [],
            "{} cannot be written as .safetensors: a is of torch.complex128",
        ),
        ({"model": {3: torch.zeros(2)}}, [], "{} cannot be written as .safetensors: the name 3 is not a string"),
    ],
)
@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
def test_a_checkpoint_that_the_format_cannot_hold_gets_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], words: list[str], message: str
) -> None:
    parts = {"optimizer": {}, "scheduler": {}, "hooks": {}, "rng": [], "config": {}, "iteration": 3}
    source, target = tmp_path / "odd.pth", tmp_path / "x.safetensors"
    torch.save({**parts, "model": {"a": torch.zeros(2)}, **change}, source)
    said = error_of([str(source), str(target), *words], capsys)
    label = "command line: " if message.startswith("{}") else ""
    assert said == f"error: {label}{message.format(source)}\n"
    assert os.listdir(tmp_path) == ["odd.pth"]


def test_a_file_of_that_name_is_replaced(trained: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.safetensors"
    target.write_bytes(b"old")
    assert export_weights.main([str(trained), str(target)]) == 0
    assert "fc.bias" in load_file(target)


def test_a_wrong_command_gets_one_sentence(
    trained: Path, tiny_words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    final, out = str(trained / "model_final.pth"), str(tmp_path / "x.safetensors")
    usage = "expected CHECKPOINT OUT.safetensors [--ema | --model] [--trust-checkpoint]; got "
    assert error_of([], capsys) == f"error: command line: {usage}nothing\n"
    assert error_of([final, "x.pth"], capsys) == f"error: command line: {usage}{final} x.pth\n"
    assert error_of(["gone.pth", out], capsys) == "error: checkpoint: no such file: gone.pth\n"
    assert error_of([final, out, "--emma"], capsys) == (
        "error: command line: unknown flag --emma; did you mean --ema?\n"
    )
    (tmp_path / "empty").mkdir()
    assert error_of([str(tmp_path / "empty"), out], capsys) == (
        f"error: command line: {tmp_path}/empty: the folder holds no checkpoint\n"
    )
    gone = tmp_path / "gone" / "x.safetensors"
    assert error_of([final, str(gone)], capsys) == (
        f"error: command line: cannot write {gone}: No such file or directory\n"
    )
    train_net.main([*tiny_words, f"OUTPUT_DIR={tmp_path}/plain"])
    plain = tmp_path / "plain" / "model_final.pth"
    capsys.readouterr()
    assert error_of([str(plain), out, "--ema"], capsys) == (
        f"error: command line: {plain} has no moving average (SOLVER.EMA was off); leave --ema out\n"
    )
    assert not Path(out).exists()


@pytest.mark.need("D8")
def test_a_checkpoint_that_could_run_code_is_refused_unless_trusted(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Foreign:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    content = load_checkpoint(trained / "model_final.pth") | {"foreign": Foreign()}
    torch.save(content, tmp_path / "foreign.pth")
    words = [str(tmp_path / "foreign.pth"), str(tmp_path / "x.safetensors")]
    assert error_of(words, capsys).endswith("if you trust who wrote it, give --trust-checkpoint\n")
    assert not (tmp_path / "ran").exists()
    assert export_weights.main([*words, "--trust-checkpoint"]) == 0
    assert (tmp_path / "ran").exists()


def test_a_full_disk_leaves_the_old_file(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "x.safetensors"
    target.write_bytes(b"old")

    def full(file: Any, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk, "write", full)
    said = error_of([str(trained), str(target)], capsys)
    assert said == f"error: command line: cannot write {target}: No space left on device\n"
    assert target.read_bytes() == b"old"


def test_help_says_what_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert export_weights.main(["--help"]) == 0
    said = capsys.readouterr().out
    assert "CHECKPOINT OUT.safetensors" in said
    assert "--ema " in said
