"""The tool plan_scale."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

import pytest

from warmstart.engine import Link, Work, run_tool
from warmstart.tools import plan_scale
from warmstart.tools.plan_scale import main

DIGITS = ["--config-file", "recipe:digits.yaml", "MODEL.DEVICE=cpu"]
KNOWN = ["--forward-ms", "2", "--backward-ms", "4", "--update-ms=1", "--loader-rate", "10000"]

TABLES = """\
small_cnn on cpu: 64 images take 2 ms forward, 4 ms backward, SGD 1 ms
gradients: 0.1 MB; buckets they are sent in: 1
fsdp: MODEL.FSDP.WRAP names no module, so all 0.1 MB of weights are gathered at once
loader: 10,000 images/s from the training process itself
links: 3.4 us and 235 GB/s inside a machine of 8 devices, 10 us and 0.001 GB/s between machines

weak scaling: as many images a device, whatever their number
devices  machines  mode  batch  ms/it   it/s  images/s  efficiency  waiting ms  memory MB  loaders
      1         1  ddp      64      7  142.9     9,143        100%           0        1.5        1
      8         1  ddp     512  7.021  142.4    72,922        100%      0.0212        1.5        8
      8         1  fsdp    512  6.197  161.4    82,614        113%      0.0725        1.5        9
     64         8  ddp   4,096  175.6  5.695    23,326          4%         169        1.5        1
     64         8  fsdp  4,096  258.9  3.862    15,820          3%         253        1.5        1

strong scaling: all share SOLVER.IMS_PER_BATCH
devices  machines  mode  batch   ms/it   it/s  images/s  efficiency  waiting ms  memory MB  loaders
      1         1  ddp      64       7  142.9     9,143        100%           0        1.5        1
      8         1  ddp      64   1.771  564.6    36,133         49%      0.0212        0.4        4
      8         1  fsdp     64  0.9475  1,055    67,548         92%      0.0725        0.4        7
     64         8  ddp      64   169.7  5.893       377          0%         169        0.3        1
     64         8  fsdp     64     253  3.953       253          0%         253        0.2        1

memory of ddp on 64, weak: weights 0.1 MB, gradients 0.1 MB, optimizer 0.1 MB, activations 1.3 MB
memory of fsdp on 64, weak: weights 0.0 MB, gradients 0.0 MB, optimizer 0.0 MB, whole 0.2 MB, activations 1.3 MB
loaders: processes that load on each machine, at the rate of those here
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def output_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(words) == 0
    return capsys.readouterr().out


def test_tables_say_what_becomes_of_an_update(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # 24,058 parameters are 96,232 bytes. On 64 devices 7/8 of them leave each of 8 machines twice with ddp, by 1e6
    # a second: 168.4 ms, and 0.14 for 14 messages; with fsdp three times.
    words = [*DIGITS, *KNOWN, "--gpus", "1", "8", "64", "--between-gbs", "0.001"]
    assert output_of(words, capsys).splitlines() == TABLES.splitlines()
    assert list(folder.iterdir()) == []


def test_numbers_that_cannot_share_a_batch_have_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*DIGITS, *KNOWN, "SOLVER.IMS_PER_BATCH=24", "SOLVER.GRAD_ACCUM_STEPS=2", "--per-machine", "3"]
    rows = json.loads(output_of([*words, "--gpus", "3", "9", "--json"], capsys))["rows"]
    assert [(row["scaling"], row["devices"], row["machines"], row["mode"], row["batch"]) for row in rows] == [
        *[("weak", 3, 1, "ddp", 72), ("weak", 3, 1, "fsdp", 72), ("weak", 9, 3, "ddp", 216)],
        *[("weak", 9, 3, "fsdp", 216), ("strong", 3, 1, "ddp", 24), ("strong", 3, 1, "fsdp", 24)],
    ]


def test_a_table_without_lines_says_why_and_a_number_given_twice_has_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = output_of([*DIGITS, *KNOWN, "--gpus", "128", "128"], capsys)
    weak, strong = said.split("strong scaling")
    assert weak.count("\n    128 ") == 2  # ddp and fsdp
    assert "\nnone of these numbers of devices divides the images of a micro-batch\n" in strong


def test_fsdp_gathers_the_modules_that_the_config_names(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*DIGITS, *KNOWN, "--gpus", "8", "MODEL.FSDP.WRAP=Conv2d"]
    units = json.loads(output_of([*words, "--json"], capsys))["profile"]["units"]
    assert [unit[:2] for unit in units] == [[73728, 73728], [18432, 18432], [576, 576]]  # the last one comes first
    line = "fsdp: modules that are gathered by themselves: 3, the largest of 0.1 MB; 0.0 MB of weights are in none"
    assert line in output_of(words, capsys).splitlines()


def test_json_holds_all_that_was_known_and_found(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(output_of([*DIGITS, *KNOWN, "--json", "--images", "32", "--gpus", "8"], capsys))
    assert found["images"] == 32
    assert found["loader_images_per_s"] == 10000
    assert found["cluster"] == {"per_machine": 8, "inside": [3.4e-6, 235e9], "between": [1e-5, 2e11]}
    profile = found["profile"]
    assert sum(profile["gradients"]) == 4 * 24058
    assert Work(*profile["forward"]).of(32) == 0.002
    assert profile["state"] == 4 * 24058  # SGD's momentum
    ddp, fsdp = (row for row in found["rows"] if row["scaling"] == "weak")
    assert ddp["memory"]["optimizer"] == 4 * 24058
    assert fsdp["memory"]["optimizer"] == 4 * 24058 / 8
    assert ddp["seconds"] == pytest.approx(0.007, rel=0.01)
    assert ddp["efficiency"] == pytest.approx(0.007 / ddp["seconds"])


def test_plan_scale_measures_values_that_no_flag_gives(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plan_scale, "measure_links", lambda: Link(5e-5, 1.5e9))
    monkeypatch.setattr(plan_scale, "measure_loader", lambda cfg: 4321.0)
    lines = output_of([*DIGITS, "--measure-links", "--gpus", "2"], capsys).splitlines()
    milliseconds = r"[0-9.]+ ms"
    pattern = (
        f"small_cnn on cpu: 64 images take {milliseconds} forward, {milliseconds} backward, SGD {milliseconds}"
    )
    assert re.fullmatch(pattern, lines[0])
    assert lines[3:5] == [
        "loader: 4,321 images/s from the training process itself",
        "links: 50 us and 1.5 GB/s inside a machine of 8 devices, 10 us and 200 GB/s between machines",
    ]


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (
            "--gpus 8 12",
            "command line: --gpus: 12 devices do not fill machines of 8; give a multiple, such as 8 or 16, or ",
        ),
        (
            "--gpus 8,64",
            "command line: --gpus 8,64: expected a whole number above 0, such as 8; separate several by spaces",
        ),
        ("--gpus 1000000001", "command line: --gpus 1000000001: expected at most 1,000,000,000"),
        (
            "MODEL.FSDP.WRAP=Conv",
            "MODEL.FSDP.WRAP (command line): small_cnn has no module of class Conv; did you mean",
        ),
        ("--gpus 8 0", "command line: --gpus 0: expected a whole number above 0, such as 8"),
        ("--gpus", "command line: --gpus needs a value"),
        ("--gpus --json", "command line: --gpus needs a value"),
        ("--gpus 8 SOLVER.BASE_RL 1", "command line: --gpus SOLVER.BASE_RL: expected a whole number above 0"),
        (
            "--forward-ms 3",
            "command line: --forward-ms, --backward-ms and --update-ms belong together; give all three",
        ),
        ("--between-gbs fast", "command line: --between-gbs fast: expected a number above 0, such as 12.5"),
        ("--inside-us -1", "command line: --inside-us -1: expected a number above 0"),
        ("--inside-us inf", "command line: --inside-us inf: expected a number above 0"),
        (
            "--measure-links --inside-us 3",
            "command line: --measure-links measures what --inside-us and --inside-gbs",
        ),
        ("--images 1.5", "command line: --images 1.5: expected a whole number above 0"),
        ("--gpu 8", "command line: unknown flag --gpu; did you mean --gpus?"),
        ("SOLVER.BASE_RL 1", "command line: unknown key SOLVER.BASE_RL; did you mean SOLVER.BASE_LR?"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_no_trace(
    command: str, answer: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        run_tool(functools.partial(main, [*DIGITS, *command.split()]))
    assert end.value.code == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {answer}"), printed.err
    assert printed.err.count("\n") == 1
    assert list(folder.iterdir()) == []
