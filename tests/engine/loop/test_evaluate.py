"""Evaluation: scores equal to outside oracles, and no effect on training."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from warmstart.config import ConfigError
from warmstart.data import Batch, DatasetInfo
from warmstart.engine import evaluate, evaluation_mode
from warmstart.tasks import Classification, Evaluator, Task


class Table(nn.Module):
    """Returns its inputs as logits."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits


def task_of(num_classes: int, **arguments: Any) -> Task:
    return Classification(DatasetInfo(size=5, num_classes=num_classes, channels=1, image_size=(1, 1)), **arguments)


def test_evaluate_refuses_an_empty_test_set() -> None:
    with pytest.raises(ValueError, match="the test set is empty"):
        evaluate(Table(), task_of(5), [])


@pytest.mark.need("C10")
def test_evaluate_leaves_all_generators_unchanged() -> None:
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
    evaluate(Noisy(), task_of(5), [Batch(torch.eye(5), torch.arange(5))])
    assert (torch.rand(3).tolist(), random.random(), np.random.rand()) == expected


@pytest.mark.need("E10")
def test_evaluate_restores_the_mode_of_every_submodule_after_an_error() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2)))
    model.train()
    model[1][1].eval()  # a frozen norm layer
    before = [module.training for module in model.modules()]
    with pytest.raises(RuntimeError, match="boom"), evaluation_mode(model):
        assert not any(module.training for module in model.modules())
        raise RuntimeError("boom")
    assert [module.training for module in model.modules()] == before


@pytest.mark.need("C10", "E10")
def test_evaluate_restores_layers_that_merge_weights_in_eval_mode() -> None:
    """Layers of low-rank adapters do so in train(); one that was merged before stays merged."""

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
def test_evaluate_logs_its_progress_if_it_takes_long(
    logged: list[logging.LogRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = Batch(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64))
    evaluate(Table(), task_of(2), [batch] * 3)
    assert not logged
    monkeypatch.setattr("warmstart.engine.loop.evaluate._APART", 0.0)
    evaluate(Table(), task_of(2), [batch] * 3)
    assert [record.getMessage() for record in logged] == [
        f"evaluating: {number} of 3 batches are done" for number in range(3)
    ]


class Wrong(Classification):
    """Its evaluator returns the given scores."""

    found: Any

    def evaluator(self) -> Evaluator:
        found = self.found

        class Own:
            def update(self, predictions: Any, targets: Any) -> None: ...

            def state(self) -> int:
                return 1

            def merge(self, states: Sequence[Any]) -> None: ...

            def compute(self) -> Any:
                return found

        return Own()


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"accuracy": 1.0}, "returned accuracy; return a number for each of the task's scores: accuracy, loss"),
        ({"loss": 0.0, "accuracy": 1.0, "f1": 1.0}, "returned loss, accuracy, f1; return a number"),
        ({}, "returned nothing; return a number"),
        (0.5, "returned a float; return a number"),
    ],
    ids=["too few", "too many", "none", "no dict"],
)
def test_evaluate_refuses_scores_that_are_not_the_tasks(found: Any, message: str) -> None:
    task = Wrong(DatasetInfo(size=5, num_classes=2, channels=1, image_size=(1, 1)))
    task.found = found
    with pytest.raises(ConfigError, match=r"Wrong\.evaluator\(\)\.compute\(\) " + message):
        evaluate(Table(), task, [Batch(torch.zeros(1, 2), torch.tensor([0]))])


def test_evaluate_returns_scores_in_the_tasks_order_whatever_the_evaluators() -> None:
    task = Wrong(DatasetInfo(size=5, num_classes=2, channels=1, image_size=(1, 1)))
    task.found = {"loss": 2, "accuracy": torch.tensor(0.5)}
    scores = evaluate(Table(), task, [Batch(torch.zeros(1, 2), torch.tensor([0]))])
    assert [*scores.items()] == [("accuracy", 0.5), ("loss", 2.0)]


def test_evaluate_computes_under_autocast_and_scores_in_float32() -> None:
    """1.001 is 1 in bfloat16: the loss is ln(1 + e^-1) = 0.313262, not ln(1 + e^-1.001)."""

    class Scale(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return nn.functional.linear(images, torch.eye(2))

    task, batch = task_of(2), Batch(torch.tensor([[1.001, 0.0]]), torch.tensor([0]))
    exact = evaluate(Scale(), task, [batch])["loss"]
    assert exact == pytest.approx(math.log(1 + math.exp(-1.001)), rel=1e-6)
    half = evaluate(Scale(), task, [batch], autocast=torch.bfloat16)["loss"]
    assert half == pytest.approx(math.log(1 + math.exp(-1)), rel=1e-6)
