"""A run that continues from a checkpoint equals the run that was never stopped."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from warmstart import engine
from warmstart.config import CfgNode, ConfigError
from warmstart.data import DatasetInfo, register_dataset
from warmstart.data.datasets import registry as datasets
from warmstart.data.sampling.stream import SampleStream
from warmstart.engine import (
    HookBase,
    Interrupted,
    Trainer,
    build_trainer,
    compare_configs,
    find_start,
    hold_folder,
    load_checkpoint,
    load_start,
    prepare_folder,
    resolve_config,
    save_checkpoint,
)
from warmstart.engine.checkpoint import run_folder
from warmstart.engine.runtime.owned import own
from warmstart.tasks import evaluation_arguments
from warmstart.tools import train_net

from ..dying import Kill, Killed, assert_same_bits

Tiny = Callable[..., CfgNode]


def train(cfg: CfgNode, resume: str | None = None) -> dict[str, Any]:
    """Train and return the last checkpoint."""
    engine.train(cfg, resume=resume)
    return load_checkpoint(Path(cfg.OUTPUT_DIR) / "model_final.pth")


def recorded(folder: Path) -> list[int]:
    return [json.loads(line)["iteration"] for line in (folder / "metrics.json").read_text().splitlines()]


def messages(logged: list[logging.LogRecord]) -> list[str]:
    return [record.getMessage() for record in logged]


class DieBefore(HookBase):
    """Ends the process's work as a kill does: nothing after it runs."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def before_step(self, trainer: Trainer) -> None:
        if trainer.iteration == self.iteration:
            raise KeyboardInterrupt


@pytest.mark.need("C1", "C2", "C4", "C6", "C7", "A6", "S10")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_resumed_at_any_iteration_has_the_bits_of_the_unbroken_one(
    tiny: Tiny, tmp_path: Path, workers: int
) -> None:
    """k at 1, inside warm-up (3), before, at and after an epoch's edge (5, 6, 7), and n - 1."""
    whole = train(tiny("OUTPUT_DIR", str(tmp_path / "whole"), "SOLVER.CHECKPOINT_PERIOD", 1))
    for k in (1, 3, 5, 6, 7, 13):
        if workers and k not in (3, 6):
            continue
        torch.manual_seed(k)  # whatever happened in this process must not matter
        part = train(
            tiny("OUTPUT_DIR", str(tmp_path / f"from{k}"), "DATALOADER.NUM_WORKERS", workers),
            resume=str(tmp_path / "whole" / f"model_{k - 1:07d}.pth"),
        )
        for key in ("model", "optimizer", "scheduler", "iteration", "hooks", "rng"):
            assert_same_bits(part[key], whole[key], f"from {k}: {key}")


@pytest.mark.need("C1", "C6", "C7")
@pytest.mark.parametrize(
    "words",
    [
        ("INPUT.TRANSFORMS_TRAIN", "[RandomHorizontalFlip, {MixUp: {alpha: 0.4}}, CutMix]"),
        ("MODEL.CHANNELS_LAST", True, "DATALOADER.BACKEND", "resident", "SOLVER.EMA.ENABLED", True),
        ("MODEL.CHANNELS_LAST", True),
    ],
    ids=["mixed", "channels last, resident", "channels last, worker"],
)
def test_a_resumed_run_has_the_bits_of_the_unbroken_one_with_mixed_batches_and_channels_last(
    tiny: Tiny, tmp_path: Path, words: tuple[Any, ...]
) -> None:
    whole = train(tiny(*words, "OUTPUT_DIR", str(tmp_path / "whole"), "SOLVER.CHECKPOINT_PERIOD", 5))
    start = str(tmp_path / "whole" / "model_0000004.pth")
    part = train(tiny(*words, "OUTPUT_DIR", str(tmp_path / "part")), resume=start)
    for key in ("model", "optimizer", "hooks", "rng"):
        assert_same_bits(part[key], whole[key], key)


@pytest.mark.need("C12", "E1")
def test_a_run_that_a_hook_has_stopped_continues_only_with_a_larger_max_iter(
    tiny_words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Enough(HookBase):
        def after_step(self, trainer: Trainer) -> None:
            if trainer.iteration == 6:
                trainer.request_stop("good enough")

    monkeypatch.setattr("warmstart.engine.run.default_hooks._HOOKS", {"enough": lambda cfg: Enough()})
    assert train_net.main(tiny_words) == 0
    out = tmp_path / "out"
    assert load_checkpoint(out / "model_final.pth")["iteration"] == 7
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    capsys.readouterr()
    assert train_net.main([*tiny_words, "--resume"]) == 0
    said = "the run has stopped at iteration 7: good enough; raise SOLVER.MAX_ITER to continue"
    assert said in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    assert train_net.main([*tiny_words, "--resume", "SOLVER.MAX_ITER=16"]) == 0
    assert load_checkpoint(out / "model_final.pth")["iteration"] == 16


@pytest.mark.need("D2", "D3")
def test_resume_sets_aside_a_newest_checkpoint_that_could_not_be_read(
    tiny_words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*tiny_words, "SOLVER.CHECKPOINT_PERIOD=3", "SOLVER.CHECKPOINT_KEEP=3"]
    train_net.main([*words, "SOLVER.MAX_ITER=12"])
    out = tmp_path / "out"
    newest = (out / "model_0000011.pth").read_bytes()
    load = load_checkpoint

    def fail_once(path: Path, trust: bool = False, whole: bool = True) -> Any:
        if path.name == "model_0000011.pth":
            raise ConfigError(f"{path} cannot be read: Input/output error")
        return load(path, trust)

    monkeypatch.setattr(run_folder, "load_checkpoint", fail_once)
    assert train_net.main([*words, "SOLVER.MAX_ITER=12", "--resume"]) == 0
    assert (out / "model_0000011.pth.cut").read_bytes() == newest


@pytest.mark.need("D14", "H1")
def test_a_kill_in_the_evaluation_that_a_signal_had_put_off_leaves_each_record_once(
    tiny: Tiny, tmp_path: Path
) -> None:
    """It comes when the record is written, and the checkpoint is not."""
    settings = ("TEST.EVAL_PERIOD", 6, "SOLVER.CHECKPOINT_PERIOD", 3)
    whole = train(tiny(*settings, "OUTPUT_DIR", str(tmp_path / "whole")))

    class Interrupt(HookBase):
        def before_step(self, trainer: Trainer) -> None:
            if trainer.iteration == 5:
                trainer.interrupt(15)

    trainer = build_trainer(tiny(*settings))
    trainer.hooks.append(Interrupt())
    with pytest.raises(Interrupted):
        trainer.train()
    assert recorded(tmp_path / "out") == [5]
    kill = Kill(6)
    kill.runs_last = False
    trainer = build_trainer(tiny(*settings))
    load_start(trainer, load_checkpoint(tmp_path / "out" / "model_0000005.pth"))
    trainer.hooks.append(kill)
    with pytest.raises(Killed):
        trainer.train()
    assert recorded(tmp_path / "out") == [5, 6]
    resumed = train(tiny(*settings), resume="")
    assert recorded(tmp_path / "out") == recorded(tmp_path / "whole") == [5, 6, 10, 12, 14]
    for key in ("model", "optimizer", "scheduler", "iteration", "hooks", "rng"):
        assert_same_bits(resumed[key], whole[key], key)


@pytest.mark.need("C3")
@pytest.mark.parametrize("schedule", ["WarmupMultiStepLR", "WarmupCosineLR", "CyclicLR"])
def test_a_run_resumed_after_a_million_iterations_reads_no_earlier_sample(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schedule: str
) -> None:
    touched: list[int] = []

    class Touched:
        def __len__(self) -> int:
            return 48

        def __getitem__(self, index: int) -> tuple[Any, int]:
            touched.append(index)
            return np.full((8, 8), index, dtype=np.uint8), index % 3

    monkeypatch.setattr(datasets, "_REGISTRY", dict(datasets._REGISTRY))
    register_dataset(
        "touched", lambda *_: Touched(), DatasetInfo(48, num_classes=3, channels=1, image_size=(8, 8))
    )
    cyclic = ("SOLVER.LR_SCHEDULER_ARGS", {"base_lr": 0.01, "max_lr": 0.1}) if schedule == "CyclicLR" else ()
    settings = ("DATASETS.TRAIN", "touched", "SOLVER.LR_SCHEDULER_NAME", schedule, *cyclic)
    early = train(tiny(*settings, "SOLVER.MAX_ITER", 10, "OUTPUT_DIR", str(tmp_path / "early")))
    late = early | {"iteration": 1_000_000, "scheduler": {"last_epoch": 1_000_000}}
    save_checkpoint(late, tmp_path / "model_0999999.pth")
    touched.clear()
    end = train(tiny(*settings, "SOLVER.MAX_ITER", 1_000_002), resume=str(tmp_path / "model_0999999.pth"))
    assert (end["iteration"], end["scheduler"]) == (1_000_002, {"last_epoch": 1_000_002})
    stream = SampleStream(0, 48)
    assert touched == [stream.index(position) for position in range(8_000_000, 8_000_016)]


EVERYTHING = (
    *("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.1),
    *("SOLVER.EMA.ENABLED", True, "SOLVER.EMA.DECAY", 0.7, "SOLVER.EMA.PERIOD", 2, "TEST.EVAL_PERIOD", 4),
    *("TEST.PRECISE_BN.ENABLED", True, "TEST.PRECISE_BN.NUM_ITER", 2, "SOLVER.GRAD_ACCUM_STEPS", 2),
)


@pytest.mark.need("C7", "E4", "E11", "E12")
def test_a_resumed_run_has_the_bits_of_the_unbroken_one_with_accumulation_clipping_average_and_precise_bn(
    tiny: Tiny, tmp_path: Path
) -> None:
    whole = train(tiny(*EVERYTHING, "OUTPUT_DIR", str(tmp_path / "whole"), "SOLVER.CHECKPOINT_PERIOD", 1))
    assert whole["ema"]["num_updates"] == 7
    for k in (1, 4, 7, 13):
        torch.manual_seed(k)
        part = train(
            tiny(*EVERYTHING, "OUTPUT_DIR", str(tmp_path / f"from{k}")),
            resume=str(tmp_path / "whole" / f"model_{k - 1:07d}.pth"),
        )
        for key in ("model", "optimizer", "scheduler", "ema", "iteration", "hooks", "rng"):
            assert_same_bits(part[key], whole[key], f"from {k}: {key}")
    records = [
        (tmp_path / name / "metrics.json").read_text().splitlines()[-1] for name in ("whole", "from7", "from13")
    ]
    timeless = [{k: v for k, v in json.loads(line).items() if k not in ("time", "data_time")} for line in records]
    assert timeless[0] == timeless[1] == timeless[2]
    assert {"grad_norm", "train/error"} <= timeless[0].keys()


@pytest.mark.need("E4")
def test_the_average_in_a_checkpoint_is_another_model_under_the_models_own_names(tiny: Tiny) -> None:
    checkpoint = train(tiny("SOLVER.EMA.ENABLED", True, "SOLVER.EMA.DECAY", 0.9))
    model, ema = checkpoint["model"], checkpoint["ema"]
    assert sorted(ema) == ["model", "num_updates"]
    assert list(ema["model"]) == list(model)
    assert not torch.equal(ema["model"]["fc.weight"], model["fc.weight"])
    assert not torch.equal(ema["model"]["block1.1.running_mean"], model["block1.1.running_mean"])
    assert ema["model"]["block1.1.num_batches_tracked"] == model["block1.1.num_batches_tracked"] == 14


@pytest.mark.need("E4")
def test_an_average_switched_on_at_a_resume_begins_with_the_checkpoints_weights_and_says_so(
    tiny: Tiny, tmp_path: Path, logged: list[logging.LogRecord]
) -> None:
    train(tiny("SOLVER.CHECKPOINT_PERIOD", 6))
    checkpoint = load_checkpoint(tmp_path / "out" / "model_0000005.pth")
    assert checkpoint["ema"] is None
    logged.clear()
    cfg = resolve_config(tiny("SOLVER.EMA.ENABLED", True))
    compare_configs(cfg, checkpoint["config"], allow_change=False)
    trainer = build_trainer(cfg)
    load_start(trainer, checkpoint)
    assert messages(logged) == [
        "changed since the checkpoint: SOLVER.EMA.ENABLED: False -> True",
        "the checkpoint has no moving average: SOLVER.EMA begins with its weights",
        "continuing after iteration 6",
    ]
    assert trainer.ema is not None
    assert trainer.ema.num_updates == 0
    assert_same_bits(dict(trainer.ema.model.state_dict()), dict(checkpoint["model"]))


@pytest.mark.need("E4")
def test_an_average_switched_off_at_a_resume_is_left_behind_and_says_so(
    tiny: Tiny, tmp_path: Path, logged: list[logging.LogRecord]
) -> None:
    train(tiny("SOLVER.EMA.ENABLED", True))
    trainer = build_trainer(tiny())
    load_start(trainer, load_checkpoint(tmp_path / "out" / "model_final.pth"))
    assert "SOLVER.EMA is off: the checkpoint's moving average is ignored" in messages(logged)
    assert trainer.state_dict()["ema"] is None


@pytest.mark.need("E4")
def test_the_average_of_another_model_does_not_fit(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny("SOLVER.EMA.ENABLED", True))
    checkpoint = load_checkpoint(tmp_path / "out" / "model_final.pth")
    checkpoint["ema"]["model"].popitem()
    with pytest.raises(ConfigError, match="does not fit .*Missing key"):
        load_start(build_trainer(tiny("SOLVER.EMA.ENABLED", True)), checkpoint)


@pytest.mark.need("C10")
def test_evaluating_more_often_changes_no_bit(tiny: Tiny, tmp_path: Path) -> None:
    runs = [
        train(tiny("OUTPUT_DIR", str(tmp_path / f"every{period}"), "TEST.EVAL_PERIOD", period))
        for period in (0, 3, 5)
    ]
    for run in runs[1:]:
        assert_same_bits(run["model"], runs[0]["model"])
        assert_same_bits(run["rng"], runs[0]["rng"])


@pytest.mark.need("H1")
def test_resumed_in_its_folder_a_run_records_each_iteration_once_with_the_same_losses(
    tiny: Tiny, tmp_path: Path
) -> None:
    """Stopped at 7, between the records of 5 and 10: the running sums are part of the checkpoint."""
    train(tiny("OUTPUT_DIR", str(tmp_path / "whole")))
    cfg = resolve_config(tiny("OUTPUT_DIR", str(tmp_path / "broken"), "SOLVER.CHECKPOINT_PERIOD", 7))
    trainer = build_trainer(cfg)
    prepare_folder(cfg, overwrite=False)
    trainer.hooks.insert(0, DieBefore(12))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    train(tiny("OUTPUT_DIR", str(tmp_path / "broken")), resume="")
    whole, broken = (
        [json.loads(line) for line in (tmp_path / name / "metrics.json").read_text().splitlines()]
        for name in ("whole", "broken")
    )
    assert [record["iteration"] for record in broken] == [5, 10, 14]
    for ours, theirs in zip(broken, whole, strict=True):
        for key in ("total_loss", "loss_cls", "lr"):
            assert ours[key] == theirs[key]
    scores = {key: value for key, value in whole[-1].items() if "/" in key}
    assert scores == {key: value for key, value in broken[-1].items() if "/" in key}
    assert len(scores) == 5  # the training error, two rates, accuracy and loss


@pytest.mark.need("A1", "A3", "S7")
def test_compare_configs_prints_a_changed_learning_rate_which_applies_from_the_first_iteration(
    tiny: Tiny, tmp_path: Path, logged: list[logging.LogRecord]
) -> None:
    train(tiny("OUTPUT_DIR", str(tmp_path / "a"), "SOLVER.CHECKPOINT_PERIOD", 6))
    checkpoint = load_checkpoint(tmp_path / "a" / "model_0000005.pth")
    cfg = resolve_config(tiny("SOLVER.BASE_LR", 0.025, "SOLVER.WEIGHT_DECAY", 0.5, "LOG_PERIOD", 3))
    logged.clear()
    compare_configs(cfg, checkpoint["config"], allow_change=False)
    assert messages(logged) == [
        "changed since the checkpoint: SOLVER.BASE_LR: 0.05 -> 0.025",
        "changed since the checkpoint: SOLVER.WEIGHT_DECAY: 0.0001 -> 0.5",
    ]
    trainer = build_trainer(cfg)
    load_start(trainer, checkpoint)
    group = trainer.optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.025, 0.5)


@pytest.mark.need("A1", "A2")
def test_another_schedule_continues_from_the_same_iteration(
    tiny: Tiny, tmp_path: Path, logged: list[logging.LogRecord]
) -> None:
    train(tiny("OUTPUT_DIR", str(tmp_path / "a"), "SOLVER.CHECKPOINT_PERIOD", 6))
    checkpoint = load_checkpoint(tmp_path / "a" / "model_0000005.pth")
    cycle = ["SOLVER.LR_SCHEDULER_NAME", "OneCycleLR", "SOLVER.LR_SCHEDULER_ARGS.max_lr", 0.5]
    cfg = resolve_config(tiny(*cycle, "SOLVER.MAX_ITER", 20, "SOLVER.WARMUP_ITERS", 0))
    logged.clear()
    compare_configs(cfg, checkpoint["config"], allow_change=False)
    assert (
        "changed since the checkpoint: SOLVER.LR_SCHEDULER_NAME: 'WarmupMultiStepLR' -> 'OneCycleLR'"
        in messages(logged)
    )
    assert "changed since the checkpoint: SOLVER.LR_SCHEDULER_ARGS.max_lr: None -> 0.5" in messages(logged)
    trainer = build_trainer(cfg)
    load_start(trainer, checkpoint)
    (group, *_) = trainer.optimizer.param_groups
    parameter = torch.nn.Parameter(torch.zeros(1))
    theirs = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    reference = torch.optim.lr_scheduler.OneCycleLR(theirs, 0.5, total_steps=20)
    for _ in range(6):
        theirs.step()
        reference.step()
    assert group["lr"] == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-9)
    assert group["momentum"] == pytest.approx(theirs.param_groups[0]["momentum"], rel=1e-9)


@pytest.mark.need("A2")
def test_a_longer_run_continues_on_the_longer_curve(tiny: Tiny, tmp_path: Path) -> None:
    cosine = ("SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.WARMUP_ITERS", 0, "SOLVER.BASE_LR", 0.5)
    train(tiny(*cosine, "OUTPUT_DIR", str(tmp_path / "out")))
    cfg = resolve_config(tiny(*cosine, "OUTPUT_DIR", str(tmp_path / "out"), "SOLVER.MAX_ITER", 28))
    start = find_start(cfg, "", overwrite=False)
    assert start is not None
    trainer = build_trainer(cfg)
    load_start(trainer, start[1])
    # Half of the longer cosine: (1 + cos(pi/2)) / 2 = 1/2.
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.25, rel=1e-12)


@pytest.mark.need("A3")
@pytest.mark.parametrize(
    ("key", "value", "change"),
    [
        ("MODEL.NAME", "resnet18", "MODEL.NAME: 'small_cnn' -> 'resnet18'"),
        ("SEED", 1, "SEED: 0 -> 1"),
        ("INPUT.TRANSFORMS_TRAIN", [], "INPUT.TRANSFORMS_TRAIN: "),
        ("DATALOADER.ASPECT_RATIO_GROUPING", True, "DATALOADER.ASPECT_RATIO_GROUPING: False -> True"),
        ("DATALOADER.SAMPLER_TRAIN", "WeightedTrainingSampler", "DATALOADER.SAMPLER_TRAIN: 'TrainingSampler' -> "),
    ],
)
def test_another_model_seed_or_input_is_refused_unless_allowed(
    tiny: Tiny, key: str, value: Any, change: str, logged: list[logging.LogRecord]
) -> None:
    saved = resolve_config(tiny()).to_dict()
    cfg = resolve_config(tiny(key, value))
    with pytest.raises(
        ConfigError, match="not the run that wrote the checkpoint: .*--allow-config-change"
    ) as error:
        compare_configs(cfg, saved, allow_change=False)
    assert change in str(error.value)
    compare_configs(cfg, saved, allow_change=True)
    assert change in "\n".join(messages(logged))


@pytest.mark.need("A3")
def test_compare_configs_does_not_mention_keys_that_cannot_change_the_result(
    tiny: Tiny, logged: list[logging.LogRecord]
) -> None:
    saved = resolve_config(tiny()).to_dict()
    cfg = resolve_config(
        tiny(
            *("OUTPUT_DIR", "elsewhere", "LOG_PERIOD", 1, "DATALOADER.NUM_WORKERS", 2, "TEST.EVAL_PERIOD", 2),
            *("MODEL.ACTIVATION_CHECKPOINTING", ["^block1"]),
            *("MEMORY_STATS", True, "PROFILER.START", 3, "PROFILER.ITERS", 2, "SOLVER.CHECKPOINT_KEEP", 2),
            *("DISTRIBUTED.TIMEOUT", 60, "DISTRIBUTED.MAX_RESTARTS", 1),
        )
    )
    compare_configs(cfg, saved, allow_change=False)
    assert messages(logged) == []


def test_a_key_that_came_after_the_checkpoint_counts_as_its_default(
    tiny: Tiny, logged: list[logging.LogRecord]
) -> None:
    saved = resolve_config(tiny()).to_dict()
    del saved["DATALOADER"]["SAMPLER_TRAIN"], saved["SOLVER"]["EMA"]
    compare_configs(resolve_config(tiny()), saved, allow_change=False)
    assert messages(logged) == []
    changed = resolve_config(tiny("DATALOADER.SAMPLER_TRAIN", "WeightedTrainingSampler"))
    with pytest.raises(ConfigError, match="SAMPLER_TRAIN: 'TrainingSampler' -> 'WeightedTrainingSampler'"):
        compare_configs(changed, saved, allow_change=False)


@pytest.mark.need("A3")
def test_compare_configs_prints_changes_of_gradients_and_of_saved_entries(
    tiny: Tiny, logged: list[logging.LogRecord]
) -> None:
    saved = resolve_config(tiny()).to_dict()
    changes = {
        "MODEL.TASK_ARGS.flip": True,
        "MODEL.COMPILE": "default",
        "DATALOADER.UNREADABLE": "skip",  # to continue a run that a damaged file has ended
        "SOLVER.GRAD_ACCUM_STEPS": 4,
        "SOLVER.AMP.ENABLED": True,
        "SOLVER.AMP.PRECISION": "fp16",
        "SOLVER.CLIP_GRADIENTS.ENABLED": True,
        "SOLVER.EMA.ENABLED": True,
        "TEST.PRECISE_BN.ENABLED": True,
        "DISTRIBUTED.GRADIENTS": "bf16",
    }
    cfg = resolve_config(tiny(*(word for change in changes.items() for word in change)))
    compare_configs(cfg, saved, allow_change=False, evaluation_args=evaluation_arguments("classification"))
    assert [line.split(": ")[1] for line in messages(logged)] == list(changes)


@pytest.mark.need("F8")
def test_a_folder_with_another_run_is_refused_with_three_ways_out(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny())
    with pytest.raises(ConfigError, match="earlier run; give --resume .* --overwrite .* OUTPUT_DIR"):
        find_start(resolve_config(tiny()), None, overwrite=False)
    assert find_start(resolve_config(tiny()), None, overwrite=True) is None


def test_a_run_is_not_resumed_into_the_folder_of_another(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny())
    train(tiny("OUTPUT_DIR", str(tmp_path / "other")))
    checkpoint = str(tmp_path / "out" / "model_final.pth")
    with pytest.raises(ConfigError, match="checkpoints of another run than .*; give --resume without a path"):
        find_start(resolve_config(tiny("OUTPUT_DIR", str(tmp_path / "other"))), checkpoint, overwrite=False)


@pytest.mark.need("F8")
def test_folder_hook_refuses_the_folder_of_another_run(tiny: Tiny) -> None:
    train(tiny())
    with pytest.raises(ConfigError, match="holds the checkpoints of an earlier run"):
        build_trainer(tiny()).train()


@pytest.mark.need("F8")
def test_resume_without_a_checkpoint_starts_at_zero_and_says_so(
    tiny: Tiny, logged: list[logging.LogRecord]
) -> None:
    assert find_start(resolve_config(tiny()), "", overwrite=False) is None
    assert "no checkpoint in" in "\n".join(messages(logged))
    assert "starting at iteration 0" in "\n".join(messages(logged))


def test_a_pointer_to_nothing_is_a_start_from_zero(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "last_checkpoint").write_text("model_0000004.pth")
    own(tmp_path / "out", "last_checkpoint")
    assert train(tiny(), resume="")["iteration"] == 14
    assert (tmp_path / "out" / "last_checkpoint").read_text() == "model_0000013.pth"


def test_a_refused_second_run_leaves_the_first_ones_records(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny())
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").rglob("*.*") if path.is_file()}
    with pytest.raises(ConfigError, match="earlier run"):
        build_trainer(tiny()).train()
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "out").rglob("*.*") if path.is_file()}


@pytest.mark.need("A3")
def test_another_optimizer_is_refused_with_the_way_out(tiny: Tiny) -> None:
    saved = resolve_config(tiny()).to_dict()
    cfg = resolve_config(tiny("SOLVER.OPTIMIZER", "AdamW"))
    with pytest.raises(
        ConfigError, match=r"written with SGD, .* AdamW cannot use; start a new run with MODEL.WEIGHTS"
    ):
        compare_configs(cfg, saved, allow_change=True)


def test_another_decay_for_biases_regroups_and_resumes(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny("SOLVER.CHECKPOINT_PERIOD", 6))
    cfg = resolve_config(tiny("SOLVER.WEIGHT_DECAY_BIAS", 0.3, "SOLVER.WEIGHT_DECAY_NORM", 0.2))
    trainer = build_trainer(cfg)
    load_start(trainer, load_checkpoint(tmp_path / "out" / "model_0000005.pth"))
    assert sorted(group["weight_decay"] for group in trainer.optimizer.param_groups) == [0.0001, 0.2, 0.3]


@pytest.mark.need("H1")
def test_resumed_from_an_older_file_a_folder_holds_one_history(tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "out"
    train(tiny("SOLVER.CHECKPOINT_PERIOD", 3))
    cfg = resolve_config(tiny("SOLVER.CHECKPOINT_PERIOD", 3))
    start = find_start(cfg, str(out / "model_0000005.pth"), overwrite=False)
    assert start is not None
    prepare_folder(cfg, start)
    assert sorted(path.name for path in out.glob("model_*")) == [
        "model_0000002.pth",
        "model_0000005.pth",
        "model_0000008.pth.cut",
        "model_0000011.pth.cut",
        "model_0000013.pth.cut",
        "model_final.pth.cut",
    ]
    assert (out / "last_checkpoint").read_text() == "model_0000005.pth"


def test_a_checkpoint_of_another_model_says_that_it_does_not_fit(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny())
    trainer = build_trainer(tiny("MODEL.ARGS.width", 8))
    with pytest.raises(ConfigError, match="the checkpoint does not fit this model and optimizer: .*size mismatch"):
        load_start(trainer, load_checkpoint(tmp_path / "out" / "model_final.pth"))


def test_load_start_warns_once_of_other_versions(
    tiny: Tiny, tmp_path: Path, logged: list[logging.LogRecord]
) -> None:
    train(tiny())
    checkpoint = load_checkpoint(tmp_path / "out" / "model_final.pth")
    checkpoint["versions"]["torch"] = "1.0"
    load_start(build_trainer(tiny()), checkpoint)
    warnings = [record.getMessage() for record in logged if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert warnings[0].startswith("the continued run may differ in the last bits: torch 1.0 -> ")


@pytest.mark.need("D10", "S5")
def test_a_state_that_lacks_a_hooks_part_is_loaded_but_a_model_that_lacks_a_tensor_is_not(
    tiny: Tiny, tmp_path: Path
) -> None:
    train(tiny())
    checkpoint = load_checkpoint(tmp_path / "out" / "model_final.pth")
    checkpoint["model"].popitem()
    with pytest.raises(ConfigError, match="does not fit .*Missing key"):
        load_start(build_trainer(tiny()), checkpoint)


@pytest.mark.need("H1")
def test_cut_twice_a_folder_keeps_what_was_cut_first(tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "out"
    cfg = resolve_config(tiny("SOLVER.CHECKPOINT_PERIOD", 7, "SOLVER.CHECKPOINT_KEEP", 9))
    train(cfg)
    start = find_start(cfg, str(out / "model_0000006.pth"), overwrite=False)
    for _ in range(3):
        prepare_folder(cfg, start)
        (out / "model_0000013.pth").write_bytes(b"of another attempt")
    assert sorted(path.name for path in out.glob("model_*")) == [
        "model_0000006.pth",
        "model_0000013.pth",
        "model_0000013.pth.cut",
        "model_0000013.pth.cut2",
        "model_0000013.pth.cut3",
        "model_final.pth.cut",
    ]
    assert load_checkpoint(out / "model_0000013.pth.cut")["iteration"] == 14


@pytest.mark.need("D3")
@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("resume", ["--resume", "--resume=model_0000004.pth"])
def test_resume_sets_aside_numbered_files_later_than_the_one_that_the_pointer_names(
    tiny_words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: int, resume: str
) -> None:
    """As version 0.1 left them where it was killed between the numbered file and the pointer."""
    words = [*tiny_words, "SOLVER.CHECKPOINT_PERIOD=5", f"SOLVER.CHECKPOINT_KEEP={keep}"]
    train_net.main([*words, "SOLVER.CHECKPOINT_KEEP=2", "SOLVER.MAX_ITER=10"])
    monkeypatch.chdir(tmp_path / "out")
    Path("model_final.pth").unlink()
    Path("last_checkpoint").write_text("model_0000004.pth")
    shutil.copy("model_0000004.pth", "model_0000999.pth")
    assert train_net.main([*words, resume]) == 0
    assert sorted(path.name for path in Path().glob("model*.cut*")) == [
        "model_0000009.pth.cut",
        "model_0000999.pth.cut",
    ]


def test_resume_does_not_need_the_file_of_model_weights(
    tiny_words: list[str], tmp_path: Path, logged: list[logging.LogRecord]
) -> None:
    out, weights = tmp_path / "out", tmp_path / "pretrained.pth"
    train_net.main([*tiny_words, f"OUTPUT_DIR={tmp_path}/first"])
    (tmp_path / "first" / "model_final.pth").rename(weights)
    words = [*tiny_words, f"MODEL.WEIGHTS={weights}", "SOLVER.CHECKPOINT_PERIOD=5"]
    train_net.main(words)
    whole = load_checkpoint(out / "model_final.pth")
    for name in ("model_final.pth", "model_0000013.pth", "last_checkpoint"):
        (out / name).unlink()
    weights.unlink()
    with pytest.raises(ConfigError, match=f"no such file: {weights}"):
        train_net.main([*words, f"OUTPUT_DIR={tmp_path}/new", "--resume"])
    assert not (tmp_path / "new").exists()
    logged.clear()
    assert train_net.main([*words, "--resume"]) == 0
    assert not [line for line in messages(logged) if line.startswith("loaded ")]
    again = load_checkpoint(out / "model_final.pth")
    for part in ("model", "optimizer", "config"):
        assert_same_bits(again[part], whole[part], part)
    assert again["config"]["MODEL"]["WEIGHTS"] == str(weights)
    assert train_net.main([*words, "--eval-only", "--resume"]) == 0


@pytest.mark.need("A3")
@pytest.mark.parametrize(
    ("optimizer", "before", "now", "missing"),
    [
        ("Adam", [], ["SOLVER.OPTIMIZER_ARGS.amsgrad", True], "max_exp_avg_sq"),
        ("RMSprop", ["SOLVER.MOMENTUM", 0], ["SOLVER.OPTIMIZER_ARGS.centered", True], "grad_avg"),
        ("RMSprop", ["SOLVER.MOMENTUM", 0], ["SOLVER.MOMENTUM", 0.9], "momentum_buffer"),
    ],
)
def test_resume_refuses_settings_that_need_optimizer_state_which_the_checkpoint_lacks(
    tiny_words: list[str], tmp_path: Path, optimizer: str, before: list[Any], now: list[Any], missing: str
) -> None:
    words = [*tiny_words, f"SOLVER.OPTIMIZER={optimizer}", "SOLVER.CHECKPOINT_PERIOD=5"]
    train_net.main([*words, *map(str, before)])
    files = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.*") if path.is_file()}
    with pytest.raises(ConfigError) as error:
        train_net.main([*words, *map(str, before + now), "SOLVER.MAX_ITER=20", "--resume"])
    assert str(error.value) == (
        f"the checkpoint does not hold {missing}, which {optimizer} needs with these settings; set "
        "SOLVER.OPTIMIZER_ARGS and SOLVER.MOMENTUM to their old values, or start a new run with MODEL.WEIGHTS "
        "FILE and another OUTPUT_DIR"
    )
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.*") if path.is_file()} == files


@pytest.mark.need("A3")
def test_resume_ignores_optimizer_state_that_is_no_longer_needed(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny("SOLVER.OPTIMIZER", "Adam", "SOLVER.OPTIMIZER_ARGS.amsgrad", True, "SOLVER.CHECKPOINT_PERIOD", 5))
    (tmp_path / "out" / "model_final.pth").unlink()
    cfg = tiny("SOLVER.OPTIMIZER", "Adam", "SOLVER.MAX_ITER", 15)
    assert train(cfg, resume="")["iteration"] == 15


@pytest.mark.need("A3", "E1")
def test_how_often_a_run_is_evaluated_is_printed_where_the_best_is_kept(
    tiny: Tiny, tmp_path: Path, logged: list[logging.LogRecord]
) -> None:
    words = ("TEST.BEST.METRIC", "noise.npz/accuracy", "TEST.EVAL_PERIOD", 2)
    saved = resolve_config(tiny(*words)).to_dict()
    compare_configs(resolve_config(tiny(*words, "TEST.EVAL_PERIOD", 3)), saved, allow_change=False)
    assert messages(logged) == ["changed since the checkpoint: TEST.EVAL_PERIOD: 2 -> 3"]


def test_load_start_warns_of_another_processor_and_not_of_versions_that_a_checkpoint_lacks(
    tiny: Tiny, tmp_path: Path, logged: list[logging.LogRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny())
    checkpoint = load_checkpoint(tmp_path / "out" / "model_final.pth")
    older = {"python", "numpy", "torch", "threads", "device"}
    assert checkpoint["versions"].keys() == older | {"cpu", "instructions"}
    monkeypatch.setattr("warmstart.engine.runtime.device._cpu_name", lambda: "Another CPU")
    for versions in (checkpoint["versions"], {name: checkpoint["versions"][name] for name in older}):
        load_start(build_trainer(tiny()), {**checkpoint, "versions": versions})
    name = checkpoint["versions"]["cpu"]
    assert [record.getMessage() for record in logged if record.levelname == "WARNING"] == [
        f"the continued run may differ in the last bits: cpu {name} -> Another CPU"
    ]


def test_hold_folder_releases_the_folder_after_the_last_save(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal comes while the end of the block waits for a save."""
    held: list[bool] = []

    def wait() -> None:
        held.append((tmp_path / "out" / ".lock").exists())
        if len(held) == 1:
            raise Interrupted(15)

    monkeypatch.setattr("warmstart.engine.run.folder.finish_saves", wait)
    with pytest.raises(Interrupted), hold_folder(tiny()):
        pass
    assert held == [True, True]
    assert not (tmp_path / "out").exists()


def test_hold_folder_refuses_a_name_that_is_not_utf_8(tiny: Tiny, tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/x\xff")
    with pytest.raises(ConfigError) as error, hold_folder(tiny("OUTPUT_DIR", name)):
        pass
    assert str(error.value).endswith(rf"{tmp_path}/x\udcff is not valid UTF-8; choose another name")
    assert list(tmp_path.iterdir()) == []
