"""Scores from outside oracles, and no trace in training."""

from __future__ import annotations

import logging
import math
import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from warmstart.engine import evaluate, evaluation_mode


class Table(nn.Module):
    """Gives the logits that are handed in."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits


def test_scores_count_every_sample_once_over_uneven_batches() -> None:
    """7 classes, 5 samples in batches of 3 and 2; the label's rank is 1, 2, 5, 6 and 1."""
    ranks = [1, 2, 5, 6, 1]
    labels = torch.tensor([0, 3, 6, 2, 5])
    logits = torch.zeros(5, 7)
    for row, (rank, label) in enumerate(zip(ranks, labels.tolist(), strict=True)):
        others = [c for c in range(7) if c != label]
        order = others[: rank - 1] + [label] + others[rank - 1 :]
        for place, c in enumerate(order):
            logits[row, c] = -float(place)
    loader = [(logits[:3], labels[:3]), (logits[3:], labels[3:])]
    scores = evaluate(Table(), loader)
    assert list(scores) == ["accuracy", "top5", "loss"]
    assert scores["accuracy"] == pytest.approx(2 / 5)
    assert scores["top5"] == pytest.approx(4 / 5)
    assert scores["loss"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-6)


def test_a_nan_shows_in_the_loss_and_is_not_left_out() -> None:
    nan = torch.full((2, 5), float("nan"))
    scores = evaluate(Table(), [(torch.eye(5), torch.arange(5)), (nan, torch.tensor([0, 1]))])
    assert math.isnan(scores["loss"])


def test_top5_is_left_out_where_it_says_nothing() -> None:
    assert list(evaluate(Table(), [(torch.eye(5), torch.arange(5))])) == ["accuracy", "loss"]


def test_with_flip_logits_are_those_of_an_image_and_its_mirror_image_averaged() -> None:
    """Each image is one row of two pixels, and its logits are its pixels, the left one times 3.

    (1, 2) gives (3, 2) and, flipped, (6, 1): on average (4.5, 1.5). (0, 1) gives (0, 1) and (3, 0): (1.5, 0.5).
    """

    class LeftTimesThree(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1) * torch.tensor([3.0, 1.0])

    batch = torch.tensor([[1.0, 2.0], [0.0, 1.0]]).view(2, 1, 1, 2), torch.tensor([0, 0])
    assert evaluate(LeftTimesThree(), [batch])["accuracy"] == 0.5
    scores = evaluate(LeftTimesThree(), [batch], flip=True)
    assert scores["accuracy"] == 1
    # (ln(1 + e^-3) + ln(1 + e^-1)) / 2
    assert scores["loss"] == pytest.approx(0.18092451, rel=1e-6)


def test_an_empty_test_set_says_so() -> None:
    with pytest.raises(ValueError, match="the test set is empty"):
        evaluate(Table(), [])


@pytest.mark.need("C10")
def test_all_generators_stand_where_they_stood() -> None:
    class Noisy(nn.Module):
        def forward(self, logits: Tensor) -> Tensor:
            random.random()
            np.random.rand()
            return logits + torch.rand_like(logits)

    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    expected = torch.rand(3).tolist(), random.random(), np.random.rand()
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    evaluate(Noisy(), [(torch.eye(5), torch.arange(5))])
    assert (torch.rand(3).tolist(), random.random(), np.random.rand()) == expected


@pytest.mark.need("E10")
def test_every_submodule_returns_to_its_own_mode_also_after_an_error() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2)))
    model.train()
    model[1][1].eval()  # a frozen norm layer
    before = [module.training for module in model.modules()]
    with pytest.raises(RuntimeError, match="boom"), evaluation_mode(model):
        assert not any(module.training for module in model.modules())
        raise RuntimeError("boom")
    assert [module.training for module in model.modules()] == before


@pytest.mark.need("C10", "E10")
def test_layers_that_merge_weights_for_evaluation_undo_it_afterwards() -> None:
    """As those of low-rank adapters do, in train(); one that was merged before stays so."""

    class Merging(nn.Linear):
        def __init__(self) -> None:
            super().__init__(1, 1, bias=False)
            self.merged = False
            nn.init.ones_(self.weight)

        def train(self, mode: bool = True) -> Merging:
            if mode == self.merged:
                self.weight.data.add_(-1 if mode else 1)
                self.merged = not mode
            return super().train(mode)

    model = nn.Sequential(Merging(), Merging().eval())
    with evaluation_mode(model):
        assert [layer.weight.item() for layer in model] == [2, 2]
    assert [(layer.training, layer.merged, layer.weight.item()) for layer in model] == [
        (True, False, 1),
        (False, True, 2),
    ]


@pytest.mark.need("G3")
def test_an_evaluation_that_takes_long_says_how_far_it_is(
    logged: list[logging.LogRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64)
    evaluate(Table(), [batch] * 3)
    assert not logged
    monkeypatch.setattr("warmstart.engine.loop.evaluate._APART", 0.0)
    evaluate(Table(), [batch] * 3)
    assert [record.getMessage() for record in logged] == [
        f"evaluating: {number} of 3 batches are done" for number in range(3)
    ]
