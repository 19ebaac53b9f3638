"""The tool find_lr."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest

from warmstart.engine import run_tool
from warmstart.tools.find_lr import main

DIGITS = ["--config-file", "recipe:digits.yaml"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def output_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(words) == 0
    return capsys.readouterr().out


def test_find_lr_prints_a_table_and_a_key_and_saves_a_picture(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = output_of([*DIGITS, "--iters", "60"], capsys)
    lines = out.splitlines()
    assert lines[0].split() == ["rate", "loss", "smoothed"]
    assert [float(line.split()[0]) for line in (lines[1], lines[12])] == [1e-7, 10.0]
    steepest = re.search(r"^the loss falls fastest at learning rate (\S+)$", out, re.MULTILINE)
    tenth = re.search(r"^it is lowest at \S+; a tenth of that, (\S+), is another good start$", out, re.MULTILINE)
    assert steepest is not None
    assert tenth is not None
    assert 0.01 < float(steepest[1]) < 1
    assert 0.01 < float(tenth[1]) < 1
    assert lines[-2:] == [f"to use the first of them: SOLVER.BASE_LR {steepest[1]}", "saved find_lr.png"]
    assert [path.name for path in folder.iterdir()] == ["find_lr.png"]
    assert (folder / "find_lr.png").read_bytes().startswith(b"\x89PNG")


def test_one_seed_gives_one_answer_and_warm_up_and_schedule_have_no_part_in_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [*DIGITS, "--iters", "20", "--max-lr", "1", "SOLVER.IMS_PER_BATCH", "16"]
    once = output_of(words, capsys)
    assert (
        output_of([*words, "SOLVER.WARMUP_ITERS", "0", "SOLVER.STEPS", "1", "--out", "find_lr.png"], capsys)
        == once
    )
    assert output_of([*words, "SEED", "1"], capsys) != once


def test_find_lr_suggests_max_lr_for_a_schedule_without_base_lr(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*DIGITS, "--iters", "20", "SOLVER.LR_SCHEDULER_NAME", "OneCycleLR"]
    out = output_of([*words, "SOLVER.LR_SCHEDULER_ARGS.max_lr", "0.3", "--out", "x.svg"], capsys)
    assert re.search(r"^to use the first of them: SOLVER.LR_SCHEDULER_ARGS.max_lr \S+$", out, re.MULTILINE)
    assert out.endswith("saved x.svg\n")


def test_the_folder_of_a_run_is_left_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "model_final.pth").write_text("a run's")
    output_of([*DIGITS, "--iters", "20", "OUTPUT_DIR", "out"], capsys)
    assert [path.name for path in (folder / "out").iterdir()] == ["model_final.pth"]
    assert sorted(path.name for path in folder.iterdir()) == ["find_lr.png", "out"]


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("--min-lr 1000 --max-lr 1e6", "the loss diverged after [0-9] updates, .*; start lower, with min_lr 1$"),
        (
            "--min-lr 1e-9 --max-lr 1e-8",
            "the loss did not fall between learning rates 1e-09 and 1e-08; set min_lr",
        ),
        ("--min-lr 1 --max-lr 0.1", "min_lr must be above 0 and max_lr above that; got 1 and 0.1"),
        ("--min-lr low", "command line: --min-lr low: expected a number, such as 1e-5"),
        ("--iters 1e2", "command line: --iters 1e2: expected a whole number, such as 100"),
        ("--iters 3", "iters must be 10 or more, to choose a learning rate; got 3"),
        ("--smooth 2", "smooth must be above 0 and at most 1, which disables smoothing; got 2"),
        ("--out x.txt", r"command line: --out x.txt: a picture's name ends in .png or .svg"),
        ("--outt x.png", "command line: unknown flag --outt; did you mean --out?"),
        ("SOLVER.BASE_RL 1", "command line: unknown key SOLVER.BASE_RL; did you mean SOLVER.BASE_LR?"),
        ("MODEL.NAME resnet19", r"MODEL.NAME \(command line\): no model is called 'resnet19'"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_no_trace(
    command: str, answer: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        run_tool(functools.partial(main, [*DIGITS, *command.split()]))
    assert end.value.code == 2
    printed = capsys.readouterr()
    assert re.match(f"error: {answer}", printed.err), printed.err
    assert printed.err.count("\n") == 1
    assert list(folder.iterdir()) == []
