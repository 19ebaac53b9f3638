"""The end of a run in the log: scores, files, and commands that do what they say."""

from __future__ import annotations

import json
import logging
import shlex
from pathlib import Path

import pytest

from warmstart.config import CfgNode, get_cfg
from warmstart.engine import Trainer, load_checkpoint, log_next_commands, train
from warmstart.tools import train_net


def words(folder: Path, *more: str) -> list[str]:
    common = ["SOLVER.MAX_ITER=6", "SOLVER.IMS_PER_BATCH", "8", "MODEL.ARGS={width: 4}", "MODEL.DEVICE", "cpu"]
    return [*common, "TEST.EVAL_PERIOD", "2", "OUTPUT_DIR", str(folder), *more]


def last_lines(logged: list[logging.LogRecord]) -> dict[str, str]:
    """Return the last line that begins with each word."""
    return {text.partition(":")[0].partition(" ")[0]: text for text in (r.getMessage() for r in logged)}


def command_in(line: str) -> list[str]:
    """Return the arguments of train_net.py in a line such as "evaluate: warmstart train ..."."""
    program, tool, *arguments = shlex.split(line.partition(": ")[2])
    assert (program, tool) == ("warmstart", "train")
    return arguments


def test_the_last_lines_have_scores_files_time_and_the_report(
    tmp_path: Path, logged: list[logging.LogRecord]
) -> None:
    out = tmp_path / "out"
    assert train_net.main(words(out, "TEST.BEST.METRIC", "digits_test/accuracy")) == 0
    lines = last_lines(logged)
    record = json.loads((out / "metrics.json").read_text().splitlines()[-1])
    shown = f"accuracy {record['digits_test/accuracy']:.2%}, top5 {record['digits_test/top5']:.2%}"
    assert lines["final"].startswith(f"final: digits_test {shown}, loss ")
    assert lines["final"].endswith(f"({out / 'model_final.pth'})")
    best = load_checkpoint(out / "model_best.pth")
    score = f"{best['hooks']['BestHook']['best']:.2%}"
    assert lines["best"] == (
        f"best: digits_test/accuracy {score} after iteration {best['iteration']} ({out / 'model_best.pth'})"
    )
    assert lines["trained"].startswith("trained 6 iterations (0.033 epochs) in 0:00:0")
    assert lines["trained"].endswith(" images/s without evaluation and saving")
    assert lines["report"] == f"report: {out / 'report'}"


def test_the_command_to_evaluate_scores_the_best_checkpoint(
    tmp_path: Path, logged: list[logging.LogRecord]
) -> None:
    out = tmp_path / "my photos"
    assert train_net.main(words(out, "TEST.BEST.METRIC", "digits_test/loss")) == 0
    arguments = command_in(last_lines(logged)["evaluate"])
    assert arguments[0] == "--eval-only"
    assert arguments[-2:] == ["MODEL.WEIGHTS", str(out / "model_best.pth")]
    assert train_net.main([*arguments, "--output", str(tmp_path / "scores.json")]) == 0
    found = json.loads((tmp_path / "scores.json").read_text())
    best = load_checkpoint(out / "model_best.pth")
    assert found["scores"]["digits_test/loss"] == best["hooks"]["BestHook"]["best"]
    assert (found["iteration"], found["file"]) == (best["iteration"], str(out / "model_best.pth"))


def test_the_command_to_train_longer_resumes_for_as_long_again(
    tmp_path: Path, logged: list[logging.LogRecord]
) -> None:
    out = tmp_path / "out"
    assert train_net.main(words(out)) == 0
    arguments = command_in(last_lines(logged)["train"])
    assert arguments[-2:] == ["SOLVER.MAX_ITER", "12"]
    assert "SOLVER.MAX_ITER=6" not in arguments
    assert train_net.main(arguments) == 0
    assert load_checkpoint(out / "model_final.pth")["iteration"] == 12
    assert last_lines(logged)["trained"].startswith("trained 6 of 12 iterations ")
    assert command_in(last_lines(logged)["train"])[-2:] == ["SOLVER.MAX_ITER", "24"]


def test_the_command_to_continue_an_early_stopped_run_raises_its_patience(
    tmp_path: Path, logged: list[logging.LogRecord]
) -> None:
    more = ["TEST.BEST.METRIC=digits_test/loss", "TEST.EARLY_STOPPING.PATIENCE=1", "SOLVER.BASE_LR=1e-9"]
    assert train_net.main(words(tmp_path / "out", *more, "TEST.EARLY_STOPPING.MIN_DELTA=1")) == 0
    assert load_checkpoint(tmp_path / "out" / "model_final.pth")["iteration"] == 5
    arguments = command_in(last_lines(logged)["train"])
    assert arguments[-2:] == ["TEST.EARLY_STOPPING.PATIENCE", "2"]
    assert train_net.main(arguments) == 0


def test_the_command_to_train_longer_works_if_other_lengths_follow_from_the_length_of_the_run(
    tmp_path: Path, logged: list[logging.LogRecord]
) -> None:
    frozen, mixed = '[{MATCH: "^block1", UNTIL: "50%"}]', '[{MixUp: {until: "50%"}}]'
    out = tmp_path / "out"
    assert train_net.main(words(out, "MODEL.FREEZE", frozen, "INPUT.TRANSFORMS_TRAIN", mixed)) == 0
    assert train_net.main(command_in(last_lines(logged)["train"])) == 0
    assert load_checkpoint(out / "model_final.pth")["config"]["MODEL"]["FREEZE"][0]["UNTIL"] == 6


def test_a_best_checkpoint_that_another_folder_holds_is_not_named(
    tmp_path: Path, logged: list[logging.LogRecord]
) -> None:
    # The loss rises from the beginning.
    old, new = tmp_path / "old", tmp_path / "new"
    best = ("TEST.BEST.METRIC", "digits_test/loss", "SOLVER.BASE_LR", "3", "SOLVER.CHECKPOINT_PERIOD", "4")
    assert train_net.main(words(old, *best)) == 0
    assert load_checkpoint(old / "model_best.pth")["iteration"] == 2
    assert train_net.main([*words(new, *best), f"--resume={old / 'model_0000003.pth'}"]) == 0
    lines = last_lines(logged)
    assert lines["best"].endswith(" after iteration 2, whose checkpoint is not in this folder")
    assert train_net.main(command_in(lines["evaluate"])) == 0


def test_a_length_in_epochs_is_doubled_in_epochs_and_flags_of_the_run_stay(
    tmp_path: Path, logged: list[logging.LogRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = config(tmp_path, "SOLVER.MAX_ITER", "0.5ep")
    trainer = Trainer.__new__(Trainer)
    trainer.hooks = []
    argv = [
        "--overwrite",
        "SOLVER.MAX_ITER",
        "0.5ep",
        "--import",
        "mine",
        "--resume",
        "x.pth",
        "--trust-checkpoint",
    ]
    monkeypatch.setattr("sys.argv", ["tools/train_net.py", *argv])
    log_next_commands(cfg, trainer, train_net.FLAGS, argv)
    assert last_lines(logged)["train"] == (
        "train longer: python tools/train_net.py --import mine --trust-checkpoint --resume SOLVER.MAX_ITER 1ep"
    )
    assert last_lines(logged)["evaluate"] == (
        "evaluate: python tools/train_net.py --import mine --trust-checkpoint --eval-only SOLVER.MAX_ITER 0.5ep "
        f"MODEL.WEIGHTS {tmp_path}/model_final.pth"
    )


def test_a_run_without_test_sets_has_no_scores_and_no_command_to_evaluate(
    tmp_path: Path, logged: list[logging.LogRecord]
) -> None:
    assert train_net.main(words(tmp_path / "out", "DATASETS.TEST", "[]")) == 0
    assert not {"final", "best", "report", "evaluate"} & last_lines(logged).keys()
    assert {"trained", "train"} <= last_lines(logged).keys()


def test_output_needs_eval_only(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--output takes the scores of --eval-only; .* OUTPUT_DIR out"):
        train_net.main(words(tmp_path / "out", "--output", "out"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no/scores.json", "there is no folder no; make it"),
        (".", "it is a folder; name a file, such as scores.json"),
    ],
)
def test_output_that_cannot_be_written_is_refused_before_the_evaluation(
    tmp_path: Path, name: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(config(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        train_net.main(words(tmp_path, "--eval-only", "--resume", "--output", name))


def config(folder: Path, *more: object) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list([*words(folder), *more])
    return cfg
