"""Models that initialize weights from training images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from warmstart.config import CfgNode, ConfigError
from warmstart.engine import build_trainer, init_from_data, load_checkpoint, resolve_config, rng_state
from warmstart.modeling import catalog, register_model
from warmstart.tasks import build_task
from warmstart.tools import find_lr, train_net

from ...built import build_train_loader

Tiny = Callable[..., CfgNode]


class Centred(nn.Module):
    """A user-defined model, which subtracts the mean of the first two batches from its images."""

    calls = 0

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(in_channels, 8, 8))
        self.fc = nn.Linear(64 * in_channels, num_classes)

    def init_from_images(self, batches: Iterator[Tensor]) -> None:
        Centred.calls += 1
        self.mean.copy_(torch.cat([next(batches), next(batches)]).mean(dim=0))
        torch.rand(3)  # users' code may draw

    def forward(self, images: Tensor) -> Tensor:
        return self.fc((images - self.mean).flatten(1))


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "_REGISTRY", dict(catalog._REGISTRY))
    monkeypatch.setattr(Centred, "calls", 0)
    register_model("centred", Centred)


@pytest.fixture
def own(tiny: Tiny) -> Tiny:
    def make(*overrides: Any) -> CfgNode:
        return tiny("MODEL.NAME", "centred", "MODEL.ARGS", {}, *overrides)

    return make


@pytest.mark.parametrize("backend", ["worker", "resident"])
def test_init_from_images_gets_the_first_training_batches(own: Tiny, backend: str) -> None:
    cfg = own("DATALOADER.BACKEND", backend)
    trainer = build_trainer(cfg)
    batches = build_train_loader(cfg).batches()
    expected = torch.cat([next(batches).images, next(batches).images]).mean(dim=0)
    assert torch.equal(trainer.model.mean, expected)
    assert expected.abs().max() > 0.1


def test_the_moving_average_starts_from_weights_initialized_from_images(own: Tiny) -> None:
    trainer = build_trainer(own("SOLVER.EMA.ENABLED", True))
    assert trainer.ema is not None
    assert torch.equal(trainer.ema.model.mean, trainer.model.mean)


def test_init_from_data_preserves_random_states(own: Tiny) -> None:
    cfg = own()
    model = Centred(3, 1)
    before = rng_state()
    init_from_data(cfg, build_task(cfg), model, build_train_loader(cfg))
    assert Centred.calls == 1
    assert torch.equal(rng_state()["torch"], before["torch"])


def test_init_from_data_is_skipped_with_model_weights(own: Tiny, tmp_path: Path) -> None:
    torch.save({"mean": torch.full((1, 8, 8), 7.0), "fc.weight": torch.ones(3, 64)}, tmp_path / "w.pth")
    trainer = build_trainer(own("MODEL.WEIGHTS", str(tmp_path / "w.pth")))
    assert Centred.calls == 0
    assert torch.equal(trainer.model.mean, torch.full((1, 8, 8), 7.0))


def test_a_resumed_run_takes_weights_from_the_checkpoint_instead_of_images(
    own: Tiny, tiny_words: list[str], tmp_path: Path
) -> None:
    words = [*tiny_words, "MODEL.NAME=centred", "MODEL.ARGS={}"]
    words = [word for word in words if not word.startswith("MODEL.ARGS={norm")]
    train_net.main(words)
    unbroken = load_checkpoint(tmp_path / "out" / "model_final.pth")["model"]
    train_net.main([*words, "SOLVER.MAX_ITER=6", "--overwrite"])
    assert Centred.calls == 2
    train_net.main([*words, "--resume"])
    assert Centred.calls == 2
    resumed = load_checkpoint(tmp_path / "out" / "model_final.pth")["model"]
    assert all(torch.equal(resumed[name], unbroken[name]) for name in unbroken)


def test_the_range_test_starts_from_weights_initialized_from_images(own: Tiny) -> None:
    with pytest.raises(ConfigError, match="the loss"):  # noise of so few images does not tell a rate
        find_lr.run_test(resolve_config(own()), iters=12)
    assert Centred.calls == 1
