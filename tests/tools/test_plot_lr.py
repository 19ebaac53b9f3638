"""The tool plot_lr."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from warmstart.engine import run_tool
from warmstart.tools.plot_lr import main

ROOT = Path(__file__).parent.parent.parent
DIGITS = ["--config-file", "recipe:digits.yaml"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def output_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(words) == 0
    return capsys.readouterr().out


@pytest.mark.need("B10")
def test_the_plan_is_printed_and_drawn(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert output_of(DIGITS, capsys).splitlines() == [
        "                    iterations  warm-up ends at  drops at  peak rate  first update  last update",
        "recipe:digits.yaml         800               40  536, 736        0.1        0.0001        0.001",
        "",
        "recipe:digits.yaml",
        "update    rate",
        "     0  0.0001  first update",
        "    39  0.0975  last of warm-up",
        "    40     0.1  first after warm-up, highest",
        "   536    0.01  drop",
        "   736   0.001  drop",
        "   799   0.001  last update",
        "   800   0.001  past the end",
        "",
        "saved lr.png",
    ]
    assert [path.name for path in folder.iterdir()] == ["lr.png"]


@pytest.mark.need("B10")
def test_several_configs_are_compared_and_overrides_hold_for_each(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("a.yaml").write_text("SOLVER: {MAX_ITER: 1000, BASE_LR: 0.1, LR_SCHEDULER_NAME: WarmupCosineLR}")
    words = ["--config-file", "a.yaml", "SOLVER.WARMUP_ITERS=10%", "--config-file=b.yaml", "--out", "both.svg"]
    Path("b.yaml").write_text(
        "SOLVER:\n  MAX_ITER: 2000\n  LR_SCHEDULER_NAME: OneCycleLR\n  LR_SCHEDULER_ARGS: {max_lr: [0.5, 0.25]}\n"
    )
    out = output_of(words, capsys)
    rows = [re.split(r"  +", line.strip()) for line in out.splitlines()]
    assert rows[1:4] == [
        ["a.yaml", "1,000", "100", "-", "0.09755", "0.0001", "2.467e-07"],
        ["b.yaml: group 0", "2,000", "200", "-", "0.5", "2e-05", "2e-06"],
        ["b.yaml: group 1", "2,000", "200", "-", "0.25", "1e-05", "1e-06"],
    ]
    assert ["update", "group 0", "group 1", "group 0 momentum", "group 1 momentum"] in rows
    assert Path("both.svg").read_text().startswith("<?xml")
    assert out.endswith("\nsaved both.svg\n")
    assert sorted(path.name for path in folder.iterdir()) == ["a.yaml", "b.yaml", "both.svg"]


def test_files_of_one_name_keep_their_folders(capsys: pytest.CaptureFixture[str]) -> None:
    for part in ("one", "two"):
        Path(part).mkdir()
        Path(part, "x.yaml").write_text("SEED: 1\n")
    out = output_of(["--config-file", "one/x.yaml", "--config-file", "two/x.yaml", "--ascii"], capsys)
    assert [line.split()[0] for line in out.splitlines()[1:3]] == ["one/x.yaml", "two/x.yaml"]
    assert out.endswith("* one/x.yaml\no two/x.yaml\n")


def test_plot_lr_replaces_an_existing_picture(capsys: pytest.CaptureFixture[str]) -> None:
    Path("lr.png").write_text("not a picture")
    output_of(["--out", "lr.png"], capsys)
    assert Path("lr.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "iterations"),
    [
        (["SOLVER.MAX_ITER", "2ep"], "180"),  # of the digits' 1,437 samples, 16 at a time
        (["SOLVER.MAX_ITER", "2ep", "--dataset-size", "160"], "20"),
        (["DATASETS.TRAIN", "npz:gone.npz", "SOLVER.MAX_ITER", "2ep", "--dataset-size", "160"], "20"),
        (["DATASETS.TRAIN", "npz:gone.npz", "SOLVER.MAX_ITER", "77"], "77"),  # no one asks for the size
    ],
)
def test_epochs_need_the_size_of_the_data_set_and_nothing_else_does(
    words: list[str], iterations: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert output_of([*words, "--ascii"], capsys).splitlines()[1].split()[1] == iterations


def test_a_schedule_in_epochs(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["SOLVER.LR_SCHEDULER_NAME", "StepLR", "SOLVER.LR_SCHEDULER_ARGS.step_size", "1"]
    words += ["SOLVER.LR_STEP_UNIT", "epoch", "SOLVER.MAX_ITER", "30", "SOLVER.WARMUP_ITERS", "0"]
    assert "10, 20" in output_of([*words, "--dataset-size", "160", "--ascii"], capsys)


def test_plot_lr_notes_that_a_schedule_follows_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    out = output_of(["SOLVER.LR_SCHEDULER_NAME", "ReduceLROnPlateau", "--ascii"], capsys)
    assert "\nthis schedule follows metrics; it is drawn as if there were none\n" in out


def test_many_drops_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["SOLVER.LR_SCHEDULER_NAME", "StepLR", "SOLVER.LR_SCHEDULER_ARGS.step_size", "10"]
    out = output_of([*words, "SOLVER.MAX_ITER", "400", "SOLVER.WARMUP_ITERS", "0", "--ascii"], capsys)
    assert "10, 20, 30, ... (39 in all)" in out
    assert out.count("drop\n") == 8


def test_a_users_schedule_is_drawn(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "falls_by_half.py").write_text(
        "from warmstart.solver import register_lr_scheduler\n"
        "register_lr_scheduler('FallsByHalf', lambda num_iters: lambda t: 1.0 if t < num_iters / 2 else 0.5)\n"
    )
    words = ["--import", "falls_by_half", "SOLVER.LR_SCHEDULER_NAME", "FallsByHalf", "SOLVER.BASE_LR", "0.1"]
    out = output_of([*words, "SOLVER.MAX_ITER", "100", "SOLVER.WARMUP_ITERS", "0", "--ascii"], capsys)
    assert out.splitlines()[1].split() == ["defaults", "100", "-", "-", "0.1", "0.1", "0.05"]


def test_print_config_prints_each(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.yaml").write_text("SEED: 1\n")
    Path("b.yaml").write_text("SEED: 2\n")
    with pytest.raises(SystemExit) as end:
        main(["--config-file", "a.yaml", "--config-file", "b.yaml", "--print-config"])
    assert end.value.code == 0
    assert re.findall(r"SEED: (\d)", capsys.readouterr().out) == ["1", "2"]


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("--out lr.jpg", "command line: --out lr.jpg: a picture's name ends in .png or .svg"),
        (
            "--out gone/lr.png",
            "command line: --out gone/lr.png: there is no folder gone; make it, or name another",
        ),
        ("--out taken.png", "command line: --out taken.png: cannot be written: Is a directory"),
        ("--ascii --out lr.png", "command line: --ascii draws in the terminal, so --out has no meaning; give one"),
        ("--dataset-size 0", "command line: --dataset-size 0: expected the number of training samples, 1 or more"),
        ("--dataset-size all", "command line: --dataset-size all: expected the number of training samples"),
        ("--config-file gone.yaml", "gone.yaml: cannot read the config file: no such file or directory"),
        ("--config-files a.yaml", "command line: unknown flag --config-files; did you mean --config-file?"),
        ("SOLVER.BASE_RL 1", "command line: unknown key SOLVER.BASE_RL; did you mean SOLVER.BASE_LR?"),
        ("SOLVER.LR_SCHEDULER_NAME Step", "SOLVER.LR_SCHEDULER_NAME (command line): no schedule is called 'Step'"),
        ("SOLVER.WARMUP_ITERS 900", "SOLVER.WARMUP_ITERS (command line): warm-up of 900 iterations never ends"),
        (
            "DATASETS.TRAIN npz:gone.npz SOLVER.MAX_ITER 3ep",
            "DATASETS.TRAIN (command line): npz:gone.npz was not found in ... --dataset-size N",
        ),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_no_trace(
    command: str, answer: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "taken.png").mkdir()
    before = sorted(folder.rglob("*"))
    with pytest.raises(SystemExit) as end:
        run_tool(functools.partial(main, [*DIGITS, *command.split()]))
    assert end.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.match("error: " + ".*".join(map(re.escape, answer.split(" ... "))), printed.err), printed.err
    assert printed.err.count("\n") == 1
    assert sorted(folder.rglob("*")) == before


@pytest.mark.need("B10")
@pytest.mark.parametrize(("words", "absent"), [(["--ascii"], ["matplotlib"]), ([], ["matplotlib.pyplot"])])
def test_plot_lr_imports_only_what_it_needs(words: list[str], absent: list[str], folder: Path) -> None:
    script = (
        "import sys; from warmstart.tools.plot_lr import main\n"
        f"main({[*DIGITS, 'SOLVER.MAX_ITER', '5ep', *words]})\n"
        f"found = [name for name in {['torchvision', 'torch._dynamo', *absent]} if name in sys.modules]\n"
        "sys.exit(', '.join(found) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "112" in done.stdout


def test_the_script_itself_exits_with_2(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "plot_lr.py"), *DIGITS, "--out", "x.gif"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: command line: --out x.gif: a picture's name ends in .png or .svg\n"
