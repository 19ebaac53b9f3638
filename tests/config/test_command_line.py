"""Command lines of flags and overrides in any order."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from warmstart.config import ConfigError, Flag, get_cfg, parse_command_line, usage

FLAGS = [
    Flag("--config-file", "one", "YAML file"),
    Flag("--resume", "path", "continue"),
    Flag("--eval-only", "none", "only evaluate"),
    Flag("--import", "one", "module", repeated=True),
    Flag("--num-gpus", "one", "ranks", convert=int),
    Flag("--gpus", "many", "numbers", convert=int),
]
NOTHING = {"config_file": None, "resume": None, "eval_only": False, "import": [], "num_gpus": None, "gpus": None}


def parse(*words: str) -> tuple[dict[str, Any], list[str]]:
    found, overrides = parse_command_line(words, FLAGS, get_cfg().has_key)
    return {key: value for key, value in found.items() if value != NOTHING[key]}, overrides


@pytest.mark.need("F1", "S1")
@pytest.mark.parametrize(
    "parts",
    list(itertools.permutations([("--config-file", "x.yaml"), ("SOLVER.BASE_LR", "-1e-4"), ("--resume",)])),
)
def test_parse_command_line_accepts_every_order(parts: tuple[tuple[str, ...], ...]) -> None:
    assert parse(*itertools.chain(*parts)) == (
        {"config_file": "x.yaml", "resume": ""},
        ["SOLVER.BASE_LR", "-1e-4"],
    )


@pytest.mark.need("F1")
@pytest.mark.parametrize(
    ("words", "found", "overrides"),
    [
        ("", {}, []),
        ("--config-file=x.yaml", {"config_file": "x.yaml"}, []),
        ("--config-file=a=b", {"config_file": "a=b"}, []),
        ("--config-file a --config-file b", {"config_file": "b"}, []),
        ("--import a SEED 1 --import=b", {"import": ["a", "b"]}, ["SEED", "1"]),
        ("--num-gpus 8 SEED=1", {"num_gpus": 8}, ["SEED=1"]),
        ("--gpus 8 64 -1 --eval-only", {"gpus": [8, 64, -1], "eval_only": True}, []),
        ("--gpus 8 64 SEED=1", {"gpus": [8, 64]}, ["SEED=1"]),
        ("--gpus=8 64 SEED 1", {"gpus": [8, 64]}, ["SEED", "1"]),
        ("--gpus 8 --gpus 9", {"gpus": [9]}, []),
        ("SEED 1 --eval-only", {"eval_only": True}, ["SEED", "1"]),
        ("--resume", {"resume": ""}, []),
        ("--resume --eval-only", {"resume": "", "eval_only": True}, []),
        ("--resume gone.pth SEED 1", {"resume": "gone.pth"}, ["SEED", "1"]),
        ("--resume run SEED 1", {"resume": "run"}, ["SEED", "1"]),
        ("--resume=gone", {"resume": "gone"}, []),
        ("--resume=", {"resume": ""}, []),
        ("--resume nothing-here SEED", {"resume": ""}, ["nothing-here", "SEED"]),
        ("--resume SEED 1", {"resume": ""}, ["SEED", "1"]),
        ("--resume MODEL.WEIGHTS=a.pth", {"resume": ""}, ["MODEL.WEIGHTS=a.pth"]),
        ("--resume TEST.EVAL_PERIOD 5", {"resume": ""}, ["TEST.EVAL_PERIOD", "5"]),
        ("OUTPUT_DIR=--x", {}, ["OUTPUT_DIR=--x"]),
        ("SOLVER.BASE_LR -1e-4 -h", {}, ["SOLVER.BASE_LR", "-1e-4", "-h"]),
    ],
)
def test_parse_command_line_separates_flags_and_overrides(
    words: str,
    found: dict[str, Any],
    overrides: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("run", "SEED", "TEST.EVAL_PERIOD"):  # folders; all but the first are keys too
        (tmp_path / name).mkdir()
    assert parse(*words.split()) == (found, overrides)


@pytest.mark.need("F1")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--resum"], "^command line: unknown flag --resum; did you mean --resume?"),
        (["SEED", "1", "--eval_only"], "^command line: unknown flag --eval_only; did you mean --eval-only?"),
        (
            ["--zzz=1"],
            "^command line: unknown flag --zzz; known: --config-file, --resume, --eval-only, --import, ",
        ),
        (["--"], "^command line: unknown flag --; known: "),
        (["--config-file"], "^command line: --config-file needs a value$"),
        (["--config-file", "--resume"], "^command line: --config-file needs a value$"),
        (["--config-file="], "^command line: --config-file needs a value$"),
        (["--config-file", ""], "^command line: --config-file needs a value$"),
        (["--eval-only=yes"], "^command line: --eval-only takes no value; got 'yes'$"),
        (["--num-gpus", "two"], "^command line: --num-gpus two: invalid literal"),
    ],
)
def test_parse_command_line_refuses_wrong_flags(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(*words)


def test_usage() -> None:
    assert usage("train_net.py", "Train.", FLAGS[:3]).splitlines() == [
        "usage: train_net.py [flags] [KEY VALUE | KEY=VALUE ...]",
        "",
        "Train.",
        "",
        "  --config-file VALUE      YAML file",
        "  --resume [PATH]          continue",
        "  --eval-only              only evaluate",
        "",
        "config/defaults.py describes every KEY; flags may appear anywhere.",
    ]
