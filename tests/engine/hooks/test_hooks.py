"""Hooks: precise BatchNorm, the profiler, memory in the records, and when records are written."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from warmstart.config import CfgNode, ConfigError
from warmstart.engine import (
    HookBase,
    JSONWriter,
    Trainer,
    build_trainer,
    load_checkpoint,
    prepare_folder,
    resolve_config,
)
from warmstart.engine.loop.precise_bn import norm_layers, update_statistics

from ...built import build_train_loader
from ..faults import FullDisk

Tiny = Callable[..., CfgNode]


def run(cfg: CfgNode) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """Train, and return the last checkpoint and the records."""
    out = Path(cfg.OUTPUT_DIR)
    build_trainer(cfg).train()
    lines = (out / "metrics.json").read_text().splitlines()
    return load_checkpoint(out / "model_final.pth"), [json.loads(line) for line in lines]


def precise(*more: Any) -> tuple[Any, ...]:
    return ("TEST.PRECISE_BN.ENABLED", True, "TEST.PRECISE_BN.NUM_ITER", 6, *more)


@pytest.mark.parametrize("workers", [0, 2])
def test_precise_bn_leaves_losses_weights_and_generators_of_training_unchanged(
    tiny: Tiny, tmp_path: Path, workers: int
) -> None:
    words = ("TEST.EVAL_PERIOD", 3, "LOG_PERIOD", 1, "DATALOADER.NUM_WORKERS", workers)
    off, off_records = run(tiny(*words, "OUTPUT_DIR", str(tmp_path / "off")))
    on, on_records = run(tiny(*words, *precise("OUTPUT_DIR", str(tmp_path / "on"))))
    losses, expected = (
        [(r["iteration"], r["total_loss"], r["train/error"]) for r in found] for found in (on_records, off_records)
    )
    assert losses == expected
    assert len(losses) == 14
    assert torch.equal(on["rng"][0]["torch"], off["rng"][0]["torch"])
    assert on["rng"][0]["python"] == off["rng"][0]["python"]
    assert on["rng"][0]["numpy"] == off["rng"][0]["numpy"]
    for name, tensor in off["model"].items():
        same = torch.equal(on["model"][name], tensor)
        assert same != name.endswith(("running_mean", "running_var")), name


@pytest.mark.parametrize("steps", [1, 2])
def test_precise_bn_takes_statistics_over_all_images_of_the_next_batches_with_the_last_weights(
    tiny: Tiny, steps: int
) -> None:
    """The inputs of the first layer are the images: torch computes mean and variance over all of them."""
    cfg = resolve_config(tiny(*precise("SOLVER.GRAD_ACCUM_STEPS", steps)))
    checkpoint, _ = run(cfg)
    stream = build_train_loader(cfg).batches(14)
    images = torch.cat([next(stream).images for _ in range(6)])
    stream.close()
    model = build_trainer(cfg).model
    model.load_state_dict(checkpoint["model"])
    with torch.no_grad():
        seen = model.block1[0](images).transpose(0, 1).flatten(1)
    saved = checkpoint["model"]
    torch.testing.assert_close(saved["block1.1.running_mean"], seen.mean(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(saved["block1.1.running_var"], seen.var(1, correction=0), rtol=1e-4, atol=1e-5)


def test_precise_bn_computes_separate_statistics_for_the_average(tiny: Tiny) -> None:
    checkpoint, _ = run(tiny(*precise("SOLVER.EMA.ENABLED", True, "SOLVER.EMA.DECAY", 0.9)))
    model, ema = checkpoint["model"], checkpoint["ema"]["model"]
    assert not torch.equal(ema["block2.1.running_mean"], model["block2.1.running_mean"])
    assert ema["block2.1.num_batches_tracked"] == model["block2.1.num_batches_tracked"] == 14


def test_precise_bn_logs_once_that_a_model_has_no_batch_norm(tiny: Tiny, logged: list[logging.LogRecord]) -> None:
    run(tiny(*precise("MODEL.ARGS.norm", "group", "TEST.EVAL_PERIOD", 3, "SOLVER.EMA.ENABLED", True)))
    lines = [record.getMessage() for record in logged if "PRECISE_BN" in record.getMessage()]
    assert lines == ["TEST.PRECISE_BN: the model has no BatchNorm layer that trains, nothing to do"]


def test_precise_bn_keeps_other_buffers_and_layers_in_evaluation_mode_unchanged() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frozen, self.live = nn.BatchNorm1d(2).eval(), nn.BatchNorm1d(2)
            self.linear = nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(self.live(self.frozen(x)))

    torch.manual_seed(0)
    model = Net()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    assert norm_layers(model) == [model.live]
    update_statistics(model, [(torch.randn(8, 2) + 3,) for _ in range(4)], 4)
    changed = {name for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])}
    assert changed == {"live.running_mean", "live.running_var"}


def test_profiler_writes_a_readable_trace_of_the_requested_iterations(tiny: Tiny, tmp_path: Path) -> None:
    run(tiny("PROFILER.START", 3, "PROFILER.ITERS", 2, "TEST.EVAL_PERIOD", 1))
    (path,) = (tmp_path / "out" / "profile").iterdir()
    assert path.name.endswith(".pt.trace.json")
    names = [event.get("name", "") for event in json.loads(path.read_text())["traceEvents"]]
    assert sum(name.startswith("Optimizer.step") for name in names) == 2


def test_profiler_writes_its_trace_if_the_run_ends_first(tiny: Tiny, tmp_path: Path) -> None:
    run(tiny("PROFILER.START", 12, "PROFILER.ITERS", 100))
    assert len(list((tmp_path / "out" / "profile").iterdir())) == 1


def test_profiler_warns_if_the_run_ends_before_its_iterations(tiny: Tiny, logged: list[logging.LogRecord]) -> None:
    build_trainer(tiny("PROFILER.START", 14, "PROFILER.ITERS", 2)).train()
    assert "PROFILER: the run ends at iteration 14, nothing is profiled; set PROFILER.START below that" in [
        record.getMessage() for record in logged
    ]


def test_profiler_logs_that_a_resumed_run_is_past_its_iterations(
    tiny: Tiny, tmp_path: Path, logged: list[logging.LogRecord]
) -> None:
    trainer = build_trainer(tiny("PROFILER.ITERS", 2))
    trainer.iteration = 12
    trainer.train()
    assert "PROFILER: iteration 2 is past, nothing is profiled; set PROFILER.START" in [
        record.getMessage() for record in logged
    ]
    assert not (tmp_path / "out" / "profile").exists()


def test_overwrite_deletes_profiles(tiny: Tiny, tmp_path: Path) -> None:
    run(tiny("PROFILER.ITERS", 1))
    (tmp_path / "out" / "profile" / "notes.txt").write_text("mine")
    prepare_folder(resolve_config(tiny()), overwrite=True)
    assert [path.name for path in (tmp_path / "out" / "profile").iterdir()] == ["notes.txt"]


def test_record_hook_adds_memory_to_each_record_and_no_extra_record(tiny: Tiny, tmp_path: Path) -> None:
    _, on = run(tiny("MEMORY_STATS", True, "OUTPUT_DIR", str(tmp_path / "on")))
    _, off = run(tiny("OUTPUT_DIR", str(tmp_path / "off")))
    assert [r["iteration"] for r in on] == [r["iteration"] for r in off] == [5, 10, 14]
    assert all(50 < r["memory/host_mb"] < 100_000 for r in on)
    assert not any(key.startswith("memory/") for r in off for key in r)


class At(HookBase):
    """Does something before some iterations."""

    def __init__(self, actions: dict[int, Callable[[], object]]) -> None:
        self.actions = actions

    def before_step(self, trainer: Trainer) -> None:
        self.actions.get(trainer.iteration, int)()


def iterations_in(out: Path) -> tuple[list[int], list[int]]:
    """Return those in metrics.json and in TensorBoard."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(out)).Reload()
    lines = (out / "metrics.json").read_text().splitlines()
    return [json.loads(line)["iteration"] for line in lines], [e.step for e in events.Scalars("total_loss")]


@pytest.mark.need("D5")
@pytest.mark.parametrize("space_at", [8, 14])
def test_record_hook_survives_a_full_disk(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: list[logging.LogRecord], space_at: int
) -> None:
    disk = FullDisk(monkeypatch)
    monkeypatch.setattr("warmstart.engine.hooks.metric_logging._APART", 0)
    trainer = build_trainer(tiny("LOG_PERIOD", 2))
    actions = {4: lambda: setattr(disk, "full", True), space_at: lambda: setattr(disk, "full", False)}
    trainer.hooks.append(At(actions))
    trainer.train()
    written = list(range(2, 15, 2)) if space_at == 8 else [2, 4]
    assert iterations_in(tmp_path / "out") == (written, written)
    warnings = [record.getMessage() for record in logged if record.levelno == logging.WARNING]
    lacking = [line for line in warnings if line.endswith("it lacks the records of iterations 6 to 14")]
    assert (len(warnings), len(lacking)) == ((2, 0) if space_at == 8 else (4, 2))
    assert (tmp_path / "out" / "model_final.pth").exists()


def test_record_hook_refuses_a_writer_that_cannot_be_opened(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out" / "metrics.json"
    opened = JSONWriter.open

    def open_a_folder(writer: JSONWriter, iteration: int) -> None:
        path.mkdir()
        opened(writer, iteration)

    monkeypatch.setattr(JSONWriter, "open", open_a_folder)
    with pytest.raises(ConfigError) as error:
        build_trainer(tiny()).train()
    assert str(error.value) == f"OUTPUT_DIR: cannot write to {path}: Is a directory"


@pytest.mark.need("C6", "D5")
def test_record_hook_writes_fast_records_together_and_before_a_checkpoint_or_with_scores(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warmstart.engine.hooks.metric_logging._APART", 60)
    trainer = build_trainer(tiny("LOG_PERIOD", 1, "SOLVER.CHECKPOINT_PERIOD", 5, "TEST.EVAL_PERIOD", 8))
    found = {}

    def look() -> None:
        found[trainer.iteration] = iterations_in(tmp_path / "out")[0][-1]

    trainer.hooks.append(At(dict.fromkeys((4, 7, 9, 10, 12), look)))
    trainer.train()
    # The first is written at once; the hook looks before each iteration, after `iteration` updates.
    assert found == {4: 1, 7: 5, 9: 8, 10: 10, 12: 10}
    assert iterations_in(tmp_path / "out") == ([*range(1, 15)], [*range(1, 15)])


def test_record_hook_writes_records_when_an_exception_ends_the_run(tiny: Tiny, tmp_path: Path) -> None:
    trainer = build_trainer(tiny())
    trainer.hooks.append(At({12: lambda: 1 // 0}))
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    assert iterations_in(tmp_path / "out") == ([5, 10], [5, 10])


@pytest.mark.gpu
def test_record_hook_adds_allocated_and_reserved_memory_on_cuda(tiny: Tiny) -> None:
    _, records = run(tiny("MEMORY_STATS", True, "MODEL.DEVICE", "cuda"))
    assert all(0 < r["memory/allocated_mb"] <= r["memory/reserved_mb"] for r in records)
