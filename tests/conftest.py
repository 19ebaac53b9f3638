"""What every test may rely on: one thread, quiet logs afterwards, and a small data set of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from warmstart.config import CfgNode, get_cfg


@pytest.fixture(autouse=True)
def clean_logging() -> Iterator[None]:
    yield
    logger = logging.getLogger("warmstart")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = True


class _Messages(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def logged() -> list[logging.LogRecord]:
    """What our loggers say, also after setup_logging has cut them off from the root."""
    handler = _Messages()
    logger = logging.getLogger("warmstart")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    return handler.records


@pytest.fixture(autouse=True)
def quick_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run's picture has one pixel: drawing the real one takes as long as training models as small as these."""
    monkeypatch.setattr("warmstart.engine.hooks.plot_schedule.plan_picture", lambda plan: Image.new("RGB", (1, 1)))
    monkeypatch.setattr(
        "warmstart.engine.hooks.plot_schedule.save_picture", lambda picture, path: picture.save(path)
    )
    monkeypatch.setattr("warmstart.engine.records.reports.draw_pictures", lambda task, content, dataset: {})


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Two test processes on two cores are faster with one thread each, and bits are comparable."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def noise_npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 grey 8x8 images of noise with labels of 3 classes: an epoch of 8 is 6 iterations."""
    path = tmp_path_factory.mktemp("data") / "noise.npz"
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (48, 8, 8), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(48) % 3)
    return path


@pytest.fixture
def tiny(noise_npz: Path, tmp_path: Path) -> Callable[..., CfgNode]:
    """A config of 14 iterations that draws on everything random: order, crop, flip, dropout."""

    def make(*overrides: Any) -> CfgNode:
        cfg = get_cfg()
        cfg.merge_from_list(tiny_overrides(noise_npz, tmp_path / "out"))
        cfg.merge_from_list(overrides)
        return cfg

    return make


@pytest.fixture
def tiny_words(noise_npz: Path, tmp_path: Path) -> list[str]:
    """The same config as the words of a command line."""
    return tiny_overrides(noise_npz, tmp_path / "out")


def tiny_overrides(data: Path, output: Path) -> list[str]:
    return [
        f"DATASETS.TRAIN=npz:{data}",
        f"DATASETS.TEST=npz:{data}",
        "MODEL.ARGS={norm: batch, dropout: 0.2, width: 4}",
        "INPUT.TRANSFORMS_TRAIN=[{RandomCrop: {size: 8, padding: 1}}, RandomHorizontalFlip]",
        "DATALOADER.BACKEND=worker",
        "DATALOADER.NUM_WORKERS=0",
        "SOLVER.IMS_PER_BATCH=8",
        "SOLVER.MAX_ITER=14",
        "SOLVER.BASE_LR=0.05",
        "SOLVER.STEPS=9",
        "SOLVER.WARMUP_ITERS=4",
        "SOLVER.CHECKPOINT_KEEP=0",
        "LOG_PERIOD=5",
        f"OUTPUT_DIR={output}",
    ]
