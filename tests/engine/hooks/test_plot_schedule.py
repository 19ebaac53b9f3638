"""The picture of a run's schedule."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from warmstart.config import CfgNode
from warmstart.engine import (
    HookBase,
    JSONWriter,
    PictureHook,
    PictureWriter,
    TensorBoardWriter,
    Trainer,
    build_trainer,
    prepare_folder,
    resolve_config,
)

Tiny = Callable[..., CfgNode]


@pytest.fixture(autouse=True)
def quick_pictures() -> None:
    """Draw real pictures here."""


def pixels(path: Path) -> np.ndarray:  # type: ignore[type-arg]
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def expected(cfg: CfgNode, path: Path) -> np.ndarray:  # type: ignore[type-arg]
    from warmstart.solver import build_plan, plan_picture, save_picture

    save_picture(plan_picture(build_plan(cfg)), path)
    return pixels(path)


def draw(hook: PictureHook, trainer: Trainer) -> None:
    hook.before_train(trainer)
    trainer.iteration += 1
    hook.after_step(trainer)
    trainer.iteration -= 1


@pytest.mark.need("B10")
def test_picture_hook_draws_the_schedule_and_writes_it_to_tensorboard(tiny: Tiny, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    cfg = tiny()
    build_trainer(cfg).train()
    assert np.array_equal(pixels(tmp_path / "out" / "lr.png"), expected(cfg, tmp_path / "plan.png"))
    events = accumulator.EventAccumulator(str(tmp_path / "out")).Reload()
    (image,) = events.Images("plan/lr")
    assert (image.step, image.width, image.height) == (1, 800, 450)


def test_picture_hook_draws_the_schedule_of_a_resumed_config(tiny: Tiny, tmp_path: Path) -> None:
    trainer = build_trainer(tiny("SOLVER.CHECKPOINT_PERIOD", 5))
    trainer.train()
    before = pixels(tmp_path / "out" / "lr.png")
    cfg = tiny("SOLVER.MAX_ITER", 16, "SOLVER.BASE_LR", 0.02)
    again = build_trainer(cfg)
    again.load_state_dict(trainer.state_dict())
    again.train()
    after = pixels(tmp_path / "out" / "lr.png")
    assert not np.array_equal(before, after)
    assert np.array_equal(after, expected(cfg, tmp_path / "plan.png"))


def test_picture_hook_draws_once_after_the_first_update(tiny: Tiny, tmp_path: Path) -> None:
    drawn = []

    class Seen(HookBase):
        def after_step(self, trainer: Trainer) -> None:
            path = tmp_path / "out" / "lr.png"
            drawn.append((path.exists(), bool(list(path.parent.glob("events*")))))
            path.unlink(missing_ok=True)

    trainer = build_trainer(tiny("SOLVER.MAX_ITER", 5, "SOLVER.STEPS", [], "SOLVER.WARMUP_ITERS", 0))
    trainer.hooks.insert(0, Seen())
    trainer.train()
    assert drawn == [(False, False), (True, True), (False, True), (False, True), (False, True)]


@pytest.mark.need("H1")
def test_picture_hook_writes_one_picture_per_step_to_tensorboard(tiny: Tiny, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    trainer = build_trainer(tiny())
    for trainer.iteration in (0, 0, 10, 10, 10):
        writer = TensorBoardWriter(tmp_path)
        writer.open(trainer.iteration)
        draw(PictureHook(tmp_path, [writer]), trainer)
    events = accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert [image.step for image in events.Images("plan/lr")] == [1, 11]


def test_picture_hook_warns_if_the_picture_cannot_be_saved(
    tiny: Tiny, tmp_path: Path, logged: list[logging.LogRecord]
) -> None:
    path = tmp_path / "out" / "lr.png"

    class InTheWay(HookBase):
        def before_step(self, trainer: Trainer) -> None:
            path.mkdir(exist_ok=True)

    trainer = build_trainer(tiny())
    trainer.hooks.append(InTheWay())
    trainer.train()
    assert [record.getMessage() for record in logged if record.levelno == logging.WARNING] == [
        f"{path} could not be saved: Is a directory; training continues"
    ]
    assert (tmp_path / "out" / "model_final.pth").exists()


def test_picture_hook_draws_outside_the_training_time(tiny: Tiny) -> None:
    trainer = build_trainer(tiny())
    hook = next(hook for hook in trainer.hooks if isinstance(hook, PictureHook))
    hook.path.parent.mkdir()
    before = torch.get_rng_state()
    hook.writers = []
    draw(hook, trainer)
    assert trainer.paused_seconds > 0
    assert torch.equal(torch.get_rng_state(), before)


def test_picture_hook_draws_nothing_for_a_scheduler_of_torch(
    tmp_path: Path, logged: list[logging.LogRecord]
) -> None:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = Trainer(model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 3), [], max_iter=3)
    draw(PictureHook(tmp_path), trainer)
    assert list(tmp_path.iterdir()) == []
    assert [r.getMessage() for r in logged] == [
        "no lr.png: StepLR does not give the learning rates of future iterations"
    ]


def test_picture_hook_uses_only_writers_that_take_pictures(tmp_path: Path) -> None:
    assert isinstance(TensorBoardWriter(tmp_path), PictureWriter)
    assert not isinstance(JSONWriter(tmp_path / "metrics.json"), PictureWriter)


def test_overwrite_removes_the_picture(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for name in ("lr.png", "mine.png", "model_final.pth"):
        (tmp_path / "out" / name).write_bytes(b"x")
    prepare_folder(resolve_config(tiny()), overwrite=True)
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["mine.png"]
