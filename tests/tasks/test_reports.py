"""Reports of the tasks: numbers equal to scikit-learn's, order of mistakes, pictures of long lists of classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from warmstart.data import DatasetInfo
from warmstart.solver import picture_bytes
from warmstart.tasks import Classification, MultilabelClassification, Regression, Task

metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is missing: pip install -e '.[dev]'")


def nameless(index: int) -> str:
    return ""


def joined(task: Task, predictions: Tensor, targets: Tensor) -> dict[str, Tensor]:
    return {"index": torch.arange(len(targets)), **task.report_values(predictions, targets)}


def classification(num_classes: int, classes: tuple[str, ...] = ()) -> Classification:
    return Classification(DatasetInfo(9, num_classes, channels=1, image_size=(8, 8), classes=classes))


def content_of(task: Task, predictions: Tensor, targets: Tensor) -> Mapping[str, Any]:
    return task.report(joined(task, predictions, targets), nameless).content


def test_classification_report_equals_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(3)
    logits, targets = torch.randn(400, 7, generator=generator), torch.randint(7, (400,), generator=generator)
    content = content_of(classification(7), logits, targets)
    predicted = logits.argmax(dim=1)
    assert content["confusion"] == metrics.confusion_matrix(targets, predicted).tolist()
    precision, recall, _, support = metrics.precision_recall_fscore_support(targets, predicted)
    rows = content["per_class"]
    assert [row["samples"] for row in rows] == support.tolist()
    assert [row["accuracy"] for row in rows] == pytest.approx(recall.tolist())
    assert [row["precision"] for row in rows] == pytest.approx(precision.tolist())


def test_classification_report_lists_the_most_confident_mistakes_first() -> None:
    shares = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.05, 0.95], [0.2, 0.8]])
    task = classification(2, ("cat", "dog"))
    report = task.report(joined(task, shares.log(), torch.tensor([0, 0, 0, 1, 0])), "photo{}.jpg".format)
    assert [(row["index"], row["file"], row["probability"]) for row in report.content["worst"]] == [
        (2, "photo2.jpg", 0.8),
        (4, "photo4.jpg", 0.8),
        (1, "photo1.jpg", 0.6),
    ]
    assert report.tables["worst"][:2] == [
        ["index", "file", "predicted", "true", "probability"],
        [2, "photo2.jpg", "dog", "cat", 0.8],
    ]
    assert report.tables["confusion"] == [["true \\ predicted", "cat", "dog"], ["cat", 1, 3], ["dog", 0, 1]]
    assert report.tables["confused"][1] == ["cat", "dog", 3, 0.75]


def test_classification_report_of_a_test_set_without_some_classes_has_nulls() -> None:
    content = content_of(classification(3, ("a", "b")), torch.eye(3)[[0, 0]], torch.tensor([0, 0]))
    assert content["classes"] == ["a", "b", "2"]
    assert content["per_class"][2] == {
        "class": "2",
        "samples": 0,
        "accuracy": None,
        "predicted": 0,
        "precision": None,
    }
    assert (content["worst"], content["confused"]) == ([], [])


def test_classification_report_of_more_outputs_than_classes_counts_them() -> None:
    content = content_of(classification(2), torch.eye(4)[[3, 0]], torch.tensor([1, 0]))
    assert content["confused"] == [{"true": "1", "predicted": "3", "samples": 1, "share": 1.0}]


def test_classification_report_of_very_many_classes_has_pairs_but_no_matrix() -> None:
    targets = torch.tensor([0, 1, 2_000])
    content = content_of(classification(2_001), torch.eye(2_001)[[1, 1, 1]], targets)
    assert "confusion" not in content
    assert [(row["true"], row["predicted"]) for row in content["confused"]] == [("0", "1"), ("2000", "1")]


@pytest.mark.parametrize("number", [100, *(pytest.param(k, marks=pytest.mark.slow) for k in (2, 10, 1000))])
def test_classification_pictures_stay_small_and_show_the_worst_of_many_classes(number: int) -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(number).repeat(3)
    logits = torch.randn(len(targets), number, generator=generator)
    task = classification(number, tuple(f"a rather long name of class {k} with $" for k in range(number)))
    image = torch.zeros(1, 8, 8, dtype=torch.uint8)
    pictures = task.report_pictures(content_of(task, logits, targets), lambda index: image if index else None)
    assert sorted(pictures) == ["confusion", "per_class", "worst"]
    for name, figure in pictures.items():
        width, height = figure.get_size_inches()
        assert 2 < width < 17, name
        assert 1 < height < 17, name
        assert picture_bytes(figure).startswith(b"\x89PNG")
    shown = [text.get_text() for text in pictures["confusion"].axes[0].get_yticklabels()]
    assert len(shown) == min(number, 40)
    assert all(len(name) <= 24 for name in shown)


def test_multilabel_report_equals_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(1)
    logits, targets = torch.randn(200, 5, generator=generator), torch.rand(200, 5, generator=generator).round()
    task = MultilabelClassification(DatasetInfo(9, 0, channels=1, image_size=(8, 8), num_values=5), threshold=0.4)
    rows = content_of(task, logits, targets)["per_class"]
    predicted = logits.sigmoid() > 0.4
    precision, recall, _, support = metrics.precision_recall_fscore_support(targets, predicted)
    assert [row["positives"] for row in rows] == support.tolist()
    assert [row["precision"] for row in rows] == pytest.approx(precision.tolist())
    assert [row["recall"] for row in rows] == pytest.approx(recall.tolist())
    expected = metrics.average_precision_score(targets, logits, average=None)
    assert [row["ap"] for row in rows] == pytest.approx(expected.tolist())


def test_multilabel_report_lists_claims_that_are_wrong_with_their_certainty() -> None:
    info = DatasetInfo(9, 0, channels=1, image_size=(8, 8), num_values=2, classes=("red", "round"))
    task = MultilabelClassification(info)
    logits = torch.tensor([[0.9, 0.2], [0.3, 0.01]]).logit()
    content = content_of(task, logits, torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    assert [(row["index"], row["class"], row["predicted"], row["probability"]) for row in content["worst"]] == [
        (1, "round", 0, 0.99),
        (0, "red", 1, 0.9),
        (1, "red", 0, 0.7),
    ]
    pictures = task.report_pictures(content, lambda index: None)
    assert sorted(pictures) == ["per_class", "worst"]


def test_multilabel_report_of_a_class_without_positives_has_null() -> None:
    task = MultilabelClassification(DatasetInfo(9, 0, channels=1, image_size=(8, 8), num_values=1))
    content = content_of(task, torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [0.0]]))
    assert (content["per_class"][0]["ap"], content["per_class"][0]["recall"]) == (None, None)
    assert sorted(task.report_pictures(content, lambda index: None)) == ["worst"]


def test_regression_report_equals_scikit_learn_and_orders_errors_by_their_unit() -> None:
    info = DatasetInfo(9, 0, channels=1, image_size=(8, 8), num_values=2, classes=("age", "weight"))
    task = Regression(info, mean=[0.0, 0.0], std=[1.0, 100.0])
    targets = torch.tensor([[1.0, 100.0], [2.0, 300.0], [4.0, 200.0]])
    predictions = torch.tensor([[1.5, 110.0], [2.0, 150.0], [3.0, 190.0]])
    content = content_of(task, predictions, targets)
    assert [row["number"] for row in content["per_number"]] == ["age", "weight"]
    mae = metrics.mean_absolute_error(targets, predictions, multioutput="raw_values")
    rmse = metrics.root_mean_squared_error(targets, predictions, multioutput="raw_values")
    assert [row["mae"] for row in content["per_number"]] == pytest.approx(mae.tolist())
    assert [row["rmse"] for row in content["per_number"]] == pytest.approx(rmse.tolist())
    assert [row["bias"] for row in content["per_number"]] == pytest.approx([-0.5 / 3, -150 / 3])
    worst = [(row["index"], row["number"], row["error"]) for row in content["worst"][:3]]
    assert worst == [(1, "weight", -150.0), (2, "age", -1.0), (0, "age", 0.5)]
    assert content["points"][1] == [[100.0, 300.0, 200.0], [110.0, 150.0, 190.0]]
    assert sorted(task.report_pictures(content, lambda index: None)) == ["points", "worst"]


def test_regression_report_keeps_at_most_2000_points() -> None:
    task = Regression(DatasetInfo(9, 0, channels=1, image_size=(8, 8), num_values=1), mean=[0.0], std=[1.0])
    content = content_of(task, torch.zeros(4001, 1), torch.zeros(4001, 1))
    assert len(content["points"][0][0]) == 1334


def test_a_task_makes_no_report_unless_it_keeps_values() -> None:
    assert Task.report_values(classification(2), torch.zeros(1, 2), torch.zeros(1)) == {}
    assert Task.report(classification(2), {}, nameless).content == {}
    assert Task.report_pictures(classification(2), {}, lambda index: None) == {}
