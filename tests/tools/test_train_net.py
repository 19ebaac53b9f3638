"""The tool train_net."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from warmstart.config import ConfigError
from warmstart.engine import load_checkpoint, register_hook, run_tool
from warmstart.engine.run import evaluate as run_evaluate
from warmstart.engine.run.default_hooks import _HOOKS
from warmstart.modeling import catalog
from warmstart.tools import export_weights, plain_train_net, train_net

ROOT = Path(__file__).parent.parent.parent
DIGITS = ["--config-file", "recipe:digits.yaml", "SOLVER.MAX_ITER", "40"]


def records(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def test_a_run_leaves_the_files_that_users_know(tiny_words: list[str], tmp_path: Path) -> None:
    assert train_net.main(tiny_words) == 0
    names = {path.name.partition(".tfevents")[0] for path in (tmp_path / "out").iterdir()}
    assert names == {
        "checkpoints.json",
        "config.yaml",
        "events.out",
        "last_checkpoint",
        "log.txt",
        "lr.png",
        "metrics.json",
        "model_0000013.pth",
        "model_final.pth",
        "report",
        "warmstart.json",
    }
    assert (tmp_path / "out" / "last_checkpoint").read_text() == "model_0000013.pth"


@pytest.mark.need("E8", "B11", "B13")
def test_records_are_written_at_the_log_period_at_evaluations_and_at_the_end(
    tiny_words: list[str], tmp_path: Path
) -> None:
    """The rate is the one that the update used: index k - 1; base 0.05, warm-up 4 from 0.001, drop at 9."""
    train_net.main([*tiny_words, "TEST.EVAL_PERIOD", "7", "SOLVER.MAX_ITER", "16", "SOLVER.BIAS_LR_FACTOR", "2"])
    found = records(tmp_path / "out")
    assert [r["iteration"] for r in found] == [5, 7, 10, 14, 15, 16]
    assert [r["lr"] for r in found] == pytest.approx([0.05, 0.05, 0.005, 0.005, 0.005, 0.005])
    evaluated = [r["iteration"] for r in found if any(key.endswith("/accuracy") for key in r)]
    assert evaluated == [7, 14, 16]
    factors = {value / r["lr"] for r in found for key, value in r.items() if key.startswith("lr/")}
    assert sorted(round(factor, 9) for factor in factors) == [1.0, 2.0]


@pytest.mark.need("F1", "S1")
def test_the_planned_command_resumes(tiny_words: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    train_net.main([*tiny_words, "SOLVER.CHECKPOINT_PERIOD", "5"])
    for name in ("last_checkpoint", "model_0000013.pth", "model_final.pth"):
        (out / name).unlink()
    assert train_net.main(["--resume", *tiny_words, "SOLVER.BASE_LR", "0.01"]) == 0
    assert [r["iteration"] for r in records(out)] == [5, 10, 14]
    assert [r["lr"] for r in records(out)] == pytest.approx([0.05, 0.005, 0.001])


def test_the_log_file_contains_messages_from_before_the_folder_existed(
    tiny_words: list[str], tmp_path: Path
) -> None:
    train_net.main([*tiny_words, "SOLVER.CHECKPOINT_PERIOD", "5"])
    train_net.main([*tiny_words, "SOLVER.MAX_ITER", "15", "SOLVER.STEPS", "9,99", "--resume"])
    log = (tmp_path / "out" / "log.txt").read_text()
    for words in (
        "dropped 99",
        "reading ",
        "changed since the checkpoint: SOLVER.MAX_ITER: 14 -> 15",
        "continuing",
    ):
        assert log.count(words) == 1, words


def test_eval_only_gives_the_same_scores_again_where_weights_lack_a_part(
    tiny_words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_net.main(tiny_words)
    weights = load_checkpoint(tmp_path / "out" / "model_final.pth")["model"]
    torch.save({name: tensor for name, tensor in weights.items() if "fc" not in name}, tmp_path / "part.pth")
    lines = []
    for _ in range(2):
        capsys.readouterr()
        train_net.main([*tiny_words, "--eval-only", "MODEL.WEIGHTS", str(tmp_path / "part.pth")])
        lines.append(capsys.readouterr().out.splitlines()[-1].partition("accuracy")[2])
    assert lines[0] == lines[1] != ""


@pytest.mark.need("C12")
def test_a_finished_run_says_so_and_touches_no_file(
    tiny_words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_net.main(tiny_words)
    before = {
        path: (path.stat().st_mtime_ns, path.read_bytes())
        for path in (tmp_path / "out").rglob("*.*")
        if path.is_file()
    }
    assert train_net.main([*tiny_words, "--resume"]) == 0
    assert "the checkpoint is at iteration 14, SOLVER.MAX_ITER is 14: nothing to do" in capsys.readouterr().out
    assert before == {
        path: (path.stat().st_mtime_ns, path.read_bytes())
        for path in (tmp_path / "out").rglob("*.*")
        if path.is_file()
    }


@pytest.mark.need("C12")
def test_a_run_that_is_longer_than_it_is_asked_for_says_so_and_touches_no_file(
    tiny_words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_net.main(tiny_words)
    before = {
        path: (path.stat().st_mtime_ns, path.read_bytes())
        for path in (tmp_path / "out").rglob("*.*")
        if path.is_file()
    }
    assert train_net.main([*tiny_words, "--resume", "SOLVER.MAX_ITER=10"]) == 0
    assert "the checkpoint is at iteration 14, SOLVER.MAX_ITER is 10" in capsys.readouterr().out
    assert before == {
        path: (path.stat().st_mtime_ns, path.read_bytes())
        for path in (tmp_path / "out").rglob("*.*")
        if path.is_file()
    }


@pytest.mark.need("A8")
@pytest.mark.parametrize("part", ["scheduler", "optimizer", "rng"])
def test_a_checkpoint_that_lacks_a_part_ends_the_command_in_one_sentence(
    tiny_words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], part: str
) -> None:
    train_net.main(tiny_words)
    file = tmp_path / "part.pth"
    content = load_checkpoint(tmp_path / "out" / "model_final.pth")
    del content[part]
    torch.save(content, file)
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        run_tool(lambda: train_net.main([*tiny_words, f"OUTPUT_DIR={tmp_path}/new", f"--resume={file}"]))
    assert caught.value.code == 2
    assert capsys.readouterr().err == (
        f"error: checkpoint: {file} is incomplete, it lacks {part}; to start a new run from its weights use "
        f"MODEL.WEIGHTS {file}\n"
    )
    assert not (tmp_path / "new").exists()


def test_eval_only_scores_weights_and_checkpoints_and_writes_nothing(
    tiny_words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_net.main(tiny_words)
    scores = next(r for r in records(tmp_path / "out") if r["iteration"] == 14)
    accuracy = next(value for key, value in scores.items() if key.endswith("/accuracy"))
    before = sorted((tmp_path / "out").iterdir())
    out = tmp_path / "out"
    for words in (["--resume"], [f"--resume={out}/model_0000013.pth"], [f"MODEL.WEIGHTS={out}/model_final.pth"]):
        capsys.readouterr()
        assert train_net.main([*tiny_words, "--eval-only", *words]) == 0
        assert f"accuracy {accuracy:.2%}" in capsys.readouterr().out
    assert sorted((tmp_path / "out").iterdir()) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--eval-only needs weights; give MODEL.WEIGHTS FILE or --resume=PATH"),
        (["--resume"], "--eval-only found no checkpoint in .*out; give"),
        (["--overwrite"], "--overwrite has no meaning; leave it out"),
        (["--allow-config-change"], "--eval-only compares no configs; leave --allow-config-change out"),
        (
            [f"MODEL.WEIGHTS={ROOT}/README.md", "DATASETS.TEST=[]"],
            "DATASETS.TEST .*names no data set to evaluate on",
        ),
    ],
)
def test_eval_only_without_weights_says_what_to_give(
    tiny_words: list[str], words: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train_net.main([*tiny_words, "--eval-only", *words])


def test_eval_only_of_another_model_says_that_it_does_not_fit(tiny_words: list[str]) -> None:
    train_net.main(tiny_words)
    with pytest.raises(ConfigError, match="the checkpoint does not fit this model"):
        train_net.main([*tiny_words, "--eval-only", "--resume", "MODEL.ARGS.width=8"])


@pytest.mark.need("E4", "E11", "E12")
@pytest.mark.parametrize(
    "words",
    [
        [],
        ["SOLVER.GRAD_ACCUM_STEPS=4"],
        ["SOLVER.CLIP_GRADIENTS.ENABLED=true", "SOLVER.CLIP_GRADIENTS.CLIP_VALUE=0.01"],
        [
            *("SOLVER.EMA.ENABLED=true", "SOLVER.EMA.DECAY=0.8", "SOLVER.EMA.PERIOD=3"),
            *("SOLVER.CLIP_GRADIENTS.ENABLED=true", "SOLVER.CLIP_GRADIENTS.CLIP_TYPE=full_model"),
            *("SOLVER.CLIP_GRADIENTS.CLIP_VALUE=0.1", "SOLVER.GRAD_ACCUM_STEPS=2"),
        ],
        [
            *("SOLVER.AMP.ENABLED=true", "SOLVER.AMP.PRECISION=fp16", "SOLVER.GRAD_ACCUM_STEPS=2"),
            *("SOLVER.CLIP_GRADIENTS.ENABLED=true", "SOLVER.CLIP_GRADIENTS.CLIP_VALUE=0.01"),
        ],
    ],
    ids=["plain", "accumulation", "clipping", "all", "fp16"],
)
def test_the_plain_loop_gives_the_same_bits(tiny_words: list[str], tmp_path: Path, words: list[str]) -> None:
    train_net.main([*tiny_words, *words, "DATALOADER.NUM_WORKERS", "2", "TEST.EVAL_PERIOD", "3"])
    plain_train_net.main([*tiny_words, *words])
    require_equal_weights(tmp_path / "out")


@pytest.mark.slow
@pytest.mark.need("E12")
def test_the_plain_loop_gives_the_same_bits_where_first_weights_follow_from_the_images(
    tiny_words: list[str], tmp_path: Path
) -> None:
    words = [
        *(word for word in tiny_words if not word.startswith("MODEL.ARGS")),
        *("MODEL.NAME=speed_net", "MODEL.ARGS.widths=[4, 4, 4]"),
        "MODEL.TASK_ARGS={label_smoothing: 0.2, flip: true}",
        "INPUT.TRANSFORMS_TRAIN=[{RandomCrop: {size: 12, padding: 3}}]",
        "INPUT.TRANSFORMS_TEST=[{Pad: {padding: 2}}]",
        *("SOLVER.EMA.ENABLED=true", "SOLVER.EMA.PERIOD=3"),
    ]
    train_net.main(words)
    plain_train_net.main(words)
    require_equal_weights(tmp_path / "out")


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (
            ["SOLVER.LR_SCHEDULER_NAME=ReduceLROnPlateau", "SOLVER.LR_METRIC=total_loss"],
            "SOLVER.LR_SCHEDULER_NAME",
        ),
        (["SOLVER.WARMUP_UNTIL={METRIC: train/error, BELOW: 0.5}"], "SOLVER.WARMUP_UNTIL.METRIC"),
        (["SOLVER.NAN_POLICY=skip"], "SOLVER.NAN_POLICY"),
        (["TEST.PRECISE_BN.ENABLED=true"], "TEST.PRECISE_BN.ENABLED"),
        (["PROFILER.ITERS=2"], "PROFILER.ITERS"),
        (["MEMORY_STATS=true"], "MEMORY_STATS"),
    ],
)
def test_the_plain_loop_refuses_what_only_hooks_do(
    tiny_words: list[str], tmp_path: Path, words: list[str], key: str
) -> None:
    message = rf"^{key} \(command line\): the plain loop does not support it"
    with pytest.raises(ConfigError, match=message):
        plain_train_net.main([*tiny_words, *words])
    assert not (tmp_path / "out").exists()


def require_equal_weights(folder: Path) -> None:
    ours = load_checkpoint(folder / "model_final.pth")
    plain = torch.load(folder / "plain_model_final.pth", weights_only=True)
    pairs = [(ours["model"], plain["model"])]
    assert (ours["ema"] is None) == (plain["ema"] is None)
    if plain["ema"] is not None:
        assert ours["ema"]["num_updates"] == plain["ema"]["num_updates"] == 4
        pairs.append((ours["ema"]["model"], plain["ema"]["model"]))
    for mine, theirs in pairs:
        assert list(mine) == list(theirs)
        for name in mine:
            assert torch.equal(mine[name], theirs[name]), name


@pytest.mark.need("B16", "E12")
def test_four_micro_batches_of_two_give_the_run_of_a_batch_of_eight(tiny_words: list[str], tmp_path: Path) -> None:
    """Without batch statistics and dropout, which see micro-batches."""
    words = [*tiny_words, "MODEL.ARGS={norm: group, dropout: 0.0, width: 4}"]
    runs = []
    for steps in (1, 4):
        out = tmp_path / str(steps)
        train_net.main([*words, f"SOLVER.GRAD_ACCUM_STEPS={steps}", f"OUTPUT_DIR={out}"])
        runs.append((load_checkpoint(out / "model_final.pth"), records(out)))
    (one, one_records), (four, four_records) = runs
    for name, tensor in one["model"].items():
        torch.testing.assert_close(four["model"][name], tensor, rtol=0, atol=1e-6)
    assert one["scheduler"] == four["scheduler"]
    for ours, theirs in zip(four_records, one_records, strict=True):
        assert ours["lr"] == theirs["lr"]
        assert ours["train/error"] == pytest.approx(theirs["train/error"])
        assert ours["total_loss"] == pytest.approx(theirs["total_loss"], abs=1e-6)


def test_the_gradient_norm_and_the_training_error_are_in_every_record(
    tiny_words: list[str], tmp_path: Path
) -> None:
    train_net.main([*tiny_words, "SOLVER.CLIP_GRADIENTS.ENABLED=true"])
    found = records(tmp_path / "out")
    assert len(found) == 3
    assert all(r["grad_norm"] > 0 for r in found)
    # 5, 5 and 4 updates of 8 images: whole images are wrong.
    wrong = [r["train/error"] * images for r, images in zip(found, (40, 40, 32), strict=True)]
    assert wrong == pytest.approx([round(w) for w in wrong], abs=1e-5)
    assert all(0 < w < 40 for w in wrong)


@pytest.mark.need("E4")
def test_the_average_is_evaluated_beside_the_model_in_the_run_and_alone(
    tiny_words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*tiny_words, "SOLVER.EMA.ENABLED=true", "SOLVER.EMA.DECAY=0.9", "SOLVER.BASE_LR=0.2"]
    train_net.main([*words, "TEST.EVAL_PERIOD=7"])
    found = records(tmp_path / "out")
    for iteration in (7, 14):
        record = next(r for r in found if r["iteration"] == iteration)
        scores = {key.removeprefix("noise.npz/") for key in record if key.startswith("noise.npz/")}
        assert scores == {"accuracy", "loss", "ema/accuracy", "ema/loss"}
    of_set = {k.removeprefix("noise.npz/"): v for k, v in found[-1].items() if k.startswith("noise.npz/")}
    assert of_set["loss"] != of_set["ema/loss"]
    capsys.readouterr()
    assert train_net.main([*words, "--eval-only", "--resume"]) == 0
    said = capsys.readouterr().out
    assert f"] noise.npz: accuracy {of_set['accuracy']:.2%}, loss {of_set['loss']:.4g}\n" in said
    assert f"] noise.npz/ema: accuracy {of_set['ema/accuracy']:.2%}, loss {of_set['ema/loss']:.4g}\n" in said


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, float]]:
    """The scores of each evaluation apart from a run, unrounded."""
    found: list[dict[str, float]] = []
    monkeypatch.setattr(run_evaluate, "log_scores", lambda scores, task: found.append(scores))
    return found


def scores_of(record: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in record.items() if "noise.npz/" in name}


class Dropping(torch.nn.Module):
    """Its statistics depend on what dropout draws."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.drop, self.norm = torch.nn.Dropout(0.5), torch.nn.BatchNorm1d(64 * in_channels)
        self.fc = torch.nn.Linear(64 * in_channels, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.fc(self.norm(self.drop(images.flatten(1))))
        return logits


def test_eval_only_sets_precise_statistics_as_the_run_does_bit_for_bit(
    tiny_words: list[str], tmp_path: Path, scored: list[dict[str, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a checkpoint that has them, and of one of the same run without, of which the weights are the same."""
    monkeypatch.setattr(catalog, "_REGISTRY", {**catalog._REGISTRY, "dropping": Dropping})
    words = [word for word in tiny_words if not word.startswith("MODEL.ARGS")]
    words += [
        "MODEL.NAME=dropping",
        "SOLVER.EMA.ENABLED=true",
        "SOLVER.EMA.DECAY=0.8",
        "SOLVER.GRAD_ACCUM_STEPS=2",
    ]
    precise = ["TEST.PRECISE_BN.ENABLED=true", "TEST.PRECISE_BN.NUM_ITER=3"]
    for name, more in (("with", precise), ("without", [])):
        train_net.main([*words, *more, f"OUTPUT_DIR={tmp_path}/{name}"])
    expected = scores_of(records(tmp_path / "with")[-1])
    assert len(expected) == 4
    assert expected != scores_of(records(tmp_path / "without")[-1])
    for name in ("with", "without"):
        train_net.main([*words, *precise, f"OUTPUT_DIR={tmp_path}/{name}", "--eval-only", "--resume"])
        assert scored[-1] == expected
    train_net.main([*words, *precise, "--eval-only", f"MODEL.WEIGHTS={tmp_path}/without/model_final.pth"])
    assert scored[-1] == {name: value for name, value in expected.items() if "/ema/" not in name}
    train_net.main(
        [*words, "--eval-only", "--resume", f"OUTPUT_DIR={tmp_path}/without", "SOLVER.EMA.ENABLED=false"]
    )
    assert scored[-1] == scores_of(records(tmp_path / "without")[-1])


def test_a_best_file_chosen_by_the_average_is_scored_loaded_and_exported_as_the_average(
    tiny_words: list[str], tmp_path: Path, scored: list[dict[str, float]]
) -> None:
    out = tmp_path / "out"
    words = [*tiny_words, "SOLVER.EMA.ENABLED=true", "SOLVER.EMA.DECAY=0.8", "TEST.EVAL_PERIOD=4"]
    train_net.main([*words, "TEST.BEST.METRIC=noise.npz/ema/loss", "TEST.BEST.MODE=min"])
    best = load_checkpoint(out / "model_best.pth")["iteration"]
    record = scores_of(next(r for r in records(out) if r["iteration"] == best))
    average = {name.replace("/ema/", "/"): value for name, value in record.items() if "/ema/" in name}
    plain = {name: value for name, value in record.items() if "/ema/" not in name}
    exported = tmp_path / "best.safetensors"
    assert export_weights.main([str(out / "model_best.pth"), str(exported)]) == 0
    for more, expected in (
        ([f"MODEL.WEIGHTS={out}"], average),
        ([f"MODEL.WEIGHTS={out}/model_best.pth"], average),
        ([f"MODEL.WEIGHTS={exported}"], average),
        ([f"MODEL.WEIGHTS={out}", "MODEL.WEIGHTS_ENTRY=model"], plain),
        ([f"--resume={out}/model_best.pth", "SOLVER.EMA.ENABLED=false"], record),
    ):
        train_net.main([*tiny_words, "--eval-only", *more])
        assert scored[-1] == expected, more
    assert export_weights.main([str(out / "model_best.pth"), str(exported), "--model"]) == 0
    train_net.main([*tiny_words, "--eval-only", f"MODEL.WEIGHTS={exported}"])
    assert scored[-1] == plain


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (["model_best.pth", "model_final.pth", "model_0000009.pth"], "model_best.pth"),
        (["model_final.pth", "model_0000009.pth", "model_0000099.pth"], "model_final.pth"),
        (["model_0000009.pth", "model_0000099.pth", "model_0000100.pth.cut"], "model_0000099.pth"),
    ],
)
def test_model_weights_takes_the_best_the_final_or_the_newest_of_a_runs_folder(
    tiny_words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], names: list[str], taken: str
) -> None:
    train_net.main(tiny_words)
    folder = tmp_path / "old"
    folder.mkdir()
    for name in names:
        shutil.copy(tmp_path / "out" / "model_final.pth", folder / name)
    train_net.main([*tiny_words, "--eval-only", f"MODEL.WEIGHTS={folder}"])
    assert f"loaded 17/17 tensors from {folder}/{taken}\n" in capsys.readouterr().out


def test_model_weights_refuses_a_folder_without_checkpoints(tiny_words: list[str], tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"MODEL.WEIGHTS \(command line\): .* is a folder without checkpoints; name"
    ):
        train_net.main([*tiny_words, f"MODEL.WEIGHTS={tmp_path}"])
    assert not (tmp_path / "out").exists()


def test_foreign_weights_are_refused_before_anything_is_written_unless_partial_ones_are_asked_for(
    tiny_words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(
        {"layer.weight": torch.ones(3, 3), "block1.1.num_batches_tracked": torch.tensor(3)}, tmp_path / "w.pth"
    )
    words = [*tiny_words, f"MODEL.WEIGHTS={tmp_path}/w.pth"]
    with pytest.raises(
        ConfigError, match=r"no parameter of .*w.pth fits the model: block1.0.weight is not in the file"
    ):
        train_net.main(words)
    assert not (tmp_path / "out").exists()
    assert train_net.main([*words, "MODEL.WEIGHTS_PARTIAL=true"]) == 0
    assert "loaded 0/17 tensors from" in capsys.readouterr().out


@pytest.mark.need("E4")
def test_eval_only_says_that_a_checkpoint_has_no_average(
    tiny_words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    train_net.main(tiny_words)
    capsys.readouterr()
    assert train_net.main([*tiny_words, "--eval-only", "--resume", "SOLVER.EMA.ENABLED=true"]) == 0
    said = capsys.readouterr().out
    assert "SOLVER.EMA is on, but the checkpoint has no moving average" in said
    assert said.count("accuracy") == 1


@pytest.mark.need("E12")
def test_a_batch_that_cannot_be_cut_is_refused_before_anything_is_written(
    tiny_words: list[str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"SOLVER.GRAD_ACCUM_STEPS \(command line\): 8 images .* 3 equal"):
        train_net.main([*tiny_words, "SOLVER.GRAD_ACCUM_STEPS=3"])
    assert not (tmp_path / "out").exists()


def test_a_registered_hook_runs_and_its_scalars_are_recorded(
    tiny_words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from warmstart.engine import HookBase, Trainer

    class Norm(HookBase):
        def after_step(self, trainer: Trainer) -> None:
            if trainer.iteration == 3:
                trainer.scalars["weight_norm"] = 2.5

    monkeypatch.setattr("warmstart.engine.run.default_hooks._HOOKS", dict(_HOOKS))
    register_hook("norm", lambda cfg: Norm())
    train_net.main(tiny_words)
    assert [r.get("weight_norm") for r in records(tmp_path / "out")] == [2.5, None, None, None]


@pytest.mark.slow
def test_a_users_module_registers_and_a_users_own_config_and_data_disturb_nothing(tmp_path: Path) -> None:
    """The run of a stranger: another folder, with files and folders called like ours."""
    (tmp_path / "config.py").write_text("raise RuntimeError('the user\\'s config.py was imported')\n")
    (tmp_path / "solver.py").write_text("raise RuntimeError('the user\\'s solver.py was imported')\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "__init__.py").write_text("raise RuntimeError('the user\\'s data was imported')\n")
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "from warmstart.modeling import register_model\n"
        "def flat(num_classes, in_channels, scale=1.0):\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(in_channels * 64, num_classes))\n"
        "register_model('flat', flat)\n"
    )
    command = [sys.executable, str(ROOT / "tools" / "train_net.py"), *DIGITS]
    words = ["--import", "mine", "MODEL.NAME", "flat", "MODEL.ARGS.scale", "2.0", "OUTPUT_DIR", "out"]
    done = subprocess.run(
        [*command, *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "error,ignore::ResourceWarning", "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "\r" not in done.stdout
    assert "40/40" in done.stdout
    assert (tmp_path / "out" / "model_final.pth").exists()


@pytest.mark.slow
@pytest.mark.need("C7", "D1", "E4")
def test_killed_and_resumed_processes_end_with_the_weights_of_the_unbroken_run(
    tiny_words: list[str], tmp_path: Path
) -> None:
    """SIGKILL at whatever instant the third and the sixth checkpoint have appeared; workers changed between."""
    words = [
        *(*tiny_words, "SOLVER.MAX_ITER=60", "SOLVER.CHECKPOINT_PERIOD=3", "TEST.EVAL_PERIOD=7"),
        *("SOLVER.EMA.ENABLED=true", "SOLVER.GRAD_ACCUM_STEPS=2", "SOLVER.CLIP_GRADIENTS.ENABLED=true"),
    ]
    train_net.main([*words, f"OUTPUT_DIR={tmp_path}/whole"])
    command = [sys.executable, str(ROOT / "tools" / "train_net.py"), *words, f"OUTPUT_DIR={tmp_path}/killed"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for checkpoints, workers in ((3, "0"), (6, "2")):
        process = subprocess.Popen(
            [*command, "--resume", "DATALOADER.NUM_WORKERS", workers],
            env=environment,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        while len(list((tmp_path / "killed").glob("model_0*.pth"))) < checkpoints and process.poll() is None:
            time.sleep(0.001)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run([*command, "--resume"], env=environment, check=True, stdout=subprocess.DEVNULL)
    whole, killed = (load_checkpoint(tmp_path / name / "model_final.pth") for name in ("whole", "killed"))
    for name, tensor in whole["model"].items():
        assert torch.equal(tensor, killed["model"][name]), name
        assert torch.equal(whole["ema"]["model"][name], killed["ema"]["model"][name]), name
    assert [r["iteration"] for r in records(tmp_path / "killed")] == [
        r["iteration"] for r in records(tmp_path / "whole")
    ]


@pytest.mark.slow
def test_a_run_continues_after_the_reader_of_its_output_has_closed_the_pipe(
    tiny_words: list[str], tmp_path: Path
) -> None:
    """`train_net.py ... | head -1`."""
    command = [sys.executable, str(ROOT / "tools" / "train_net.py"), *tiny_words, "LOG_PERIOD=1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0
    assert (tmp_path / "out" / "model_final.pth").exists()


@pytest.mark.slow
def test_the_digits_recipe_reaches_its_score(tmp_path: Path) -> None:
    train_net.main(["--config-file", "recipe:digits.yaml", "OUTPUT_DIR", str(tmp_path)])
    assert records(tmp_path)[-1]["digits_test/accuracy"] >= 0.97
