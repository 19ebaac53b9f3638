"""Losses on a test set: as in training, but without a trace and without noise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from warmstart.data import Batch, DatasetInfo
from warmstart.engine import evaluate
from warmstart.tasks import Classification, Task


class OwnLosses(nn.Module):
    """Returns losses in training, one of them noise, and logits in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5))

    def forward(self, images: Tensor, targets: Tensor | None = None) -> Any:
        logits = self.layers(images)
        if not self.training:
            return logits
        return {"loss_cls": F.cross_entropy(logits, targets), "loss_noise": torch.rand(()) + 0 * logits.sum()}


def task() -> Task:
    return Classification(DatasetInfo(size=3, num_classes=2, channels=1, image_size=(1, 1)))


def batches() -> list[Batch]:
    images, labels = torch.tensor([[0.0, 1.0], [2.0, 0.0], [3.0, 3.0]]), torch.tensor([0, 1, 1])
    indices = torch.arange(3)
    return [Batch(images[part], labels[part], indices[part]) for part in (slice(0, 2), slice(2, 3))]


def test_losses_are_averaged_over_images() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2, eps=0.0), nn.Dropout(0.5))
    scores = evaluate(model, task(), batches(), with_losses=True)
    assert [*scores] == ["accuracy", "loss", "total_loss", "loss_cls"]
    assert scores["total_loss"] == pytest.approx(
        scores["loss"], abs=1e-7
    )  # statistics of an untrained layer: 0, 1
    assert scores["loss_cls"] == scores["total_loss"]
    assert [*evaluate(model, task(), batches())] == ["accuracy", "loss"]


def test_losses_of_a_model_leave_statistics_modes_and_generators() -> None:
    model = OwnLosses()
    model.layers[0].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    scores = evaluate(model, task(), batches(), with_losses=True)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == [True, True, False, True]
    assert scores["loss_cls"] == pytest.approx(scores["loss"], abs=1e-7)
    assert scores["total_loss"] == pytest.approx(scores["loss_cls"] + scores["loss_noise"])


def test_losses_do_not_depend_on_what_was_drawn_before() -> None:
    torch.manual_seed(1)
    one = evaluate(OwnLosses(), task(), batches(), with_losses=True)
    torch.manual_seed(2)
    two = evaluate(OwnLosses(), task(), batches()[::-1], with_losses=True)
    assert one == two
