"""The report of image classification: classes, confusions, and the most confident mistakes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .report_pictures import MOST_CELLS, bars_picture, images_picture, matrix_picture
from .task import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_WORST = 100  # mistakes that a report lists
MOST_IMAGES = 15  # of them in the picture
_MOST_PAIRS = 50  # of classes that are confused most often
_LARGEST = 2000  # classes up to which the full confusion matrix is written


def values_of(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Return label, predicted class and its probability for each sample, (N,) each.

    Args:
        logits: (N, K).
        targets: (N,) class indices.

    >>> values = values_of(torch.tensor([[0.0, 0.0, 2.0]]), torch.tensor([1]))
    >>> values["predicted"].item(), round(values["probability"].item(), 3)
    (2, 0.787)
    """
    probability, predicted = logits.float().softmax(dim=1).max(dim=1)
    return {"true": targets, "predicted": predicted, "probability": probability}


def build_report(
    values: Mapping[str, Tensor], names: Sequence[str], num_classes: int, sample_name: Callable[[int], str]
) -> Report:
    """Return the report of an evaluation.

    Its entries: `per_class`, for each class its samples, the share of them that are right (`accuracy`), how often
    it is predicted, and the share of those predictions that are right (`precision`); null where there are none.
    `confusion`, the counts of samples by true class (rows) and predicted class, up to 2,000 classes.
    `confused`, the pairs of classes that are confused most often. `worst`, the wrong predictions of the highest
    probability.

    Args:
        values: `values_of` all samples, with their "index".
        names: of the classes, as far as they have any.
        num_classes: number of classes.
        sample_name: returns a sample's file, or "".

    >>> true, predicted = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1])
    >>> values = {"true": true, "predicted": predicted, "probability": torch.tensor([0.9, 0.8, 0.7])}
    >>> report = build_report(values | {"index": torch.arange(3)}, ["cat", "dog"], 2, "{}.jpg".format)
    >>> report.content["confusion"], report.content["worst"][0]["file"]
    ([[1, 1], [0, 1]], '1.jpg')
    """
    true, predicted = values["true"].long(), values["predicted"].long()
    number = max(num_classes, int(predicted.max()) + 1)  # a user-defined model may have more outputs
    classes = all_names(names, number)
    right = torch.bincount(true[true == predicted], minlength=number)
    samples, chosen = torch.bincount(true, minlength=number), torch.bincount(predicted, minlength=number)
    content: dict[str, Any] = {"classes": classes}
    content["per_class"] = [
        {
            "class": name,
            "samples": count,
            "accuracy": hits / count if count else None,
            "predicted": times,
            "precision": hits / times if times else None,
        }
        for name, count, hits, times in zip(
            classes, samples.tolist(), right.tolist(), chosen.tolist(), strict=True
        )
    ]
    codes, counts = torch.unique(true * number + predicted, return_counts=True)
    tables: dict[str, Sequence[Sequence[Any]]] = {}
    if number <= _LARGEST:
        matrix = torch.zeros(number * number, dtype=torch.int64).index_put((codes,), counts)
        content["confusion"] = matrix.view(number, number).tolist()
        rows = [[name, *row] for name, row in zip(classes, content["confusion"], strict=True)]
        tables["confusion"] = [["true \\ predicted", *classes], *rows]
    content["confused"] = _confused(codes, counts, samples, classes)
    content["worst"] = _worst(values, classes, sample_name)
    tables |= {name: table_of(content[name]) for name in ("per_class", "confused", "worst")}
    return Report(content, {name: rows for name, rows in tables.items() if rows})


def draw_report(content: Mapping[str, Any], image_of: Callable[[int], Tensor | None]) -> dict[str, Figure]:
    """Return the pictures of a report: `per_class`, `confusion` and `worst`.

    Of more classes than can be read in a picture, those with the lowest accuracy, and those that are confused most
    often, are drawn.

    Args:
        content: of `build_report`.
        image_of: see `Task.report_pictures`.
    """
    figures = {}
    found = [row for row in content["per_class"] if row["samples"]]
    shown = found
    if len(found) > MOST_CELLS:
        shown = sorted(found, key=lambda row: row["accuracy"])[:MOST_CELLS]
    title = f"accuracy of {len(found)} classes" if shown is found else _part("lowest accuracy", shown, found)
    accuracies, names, counts = ([row[key] for row in shown] for key in ("accuracy", "class", "samples"))
    figures["per_class"] = bars_picture(accuracies, names, counts, title, "accuracy")
    if "confusion" in content:
        figures["confusion"] = confusion_picture(content)
    worst = content["worst"][:MOST_IMAGES]
    if worst:
        captions = [f"{row['predicted']} {row['probability']:.0%}\ntrue: {row['true']}" for row in worst]
        images = [image_of(row["index"]) for row in worst]
        figures["worst"] = images_picture(images, captions, "most confidently wrong")
    return figures


def all_names(names: Sequence[str], number: int) -> list[str]:
    """Return `number` names; an output without one is called by its index.

    >>> all_names(["cat"], 3)
    ['cat', '1', '2']
    """
    return [*names[:number], *map(str, range(len(names), number))]


def table_of(rows: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """Return dicts with the same keys as rows below a row of the keys; [] if there are none.

    >>> table_of([{"class": "cat", "samples": 3}])
    [['class', 'samples'], ['cat', 3]]
    """
    return [[*rows[0]], *([*row.values()] for row in rows)] if rows else []


def confusion_picture(content: Mapping[str, Any]) -> Figure:
    """Return a figure of `confusion` with the names in `classes`; of many classes those that are confused most."""
    matrix, classes = content["confusion"], content["classes"]
    order = [*range(len(classes))]
    if len(classes) > MOST_CELLS:  # those in the most frequent confusions, in the order of the classes
        wrong = [sum(row) - row[index] for index, row in enumerate(matrix)]
        taken = [sum(row[index] for row in matrix) - matrix[index][index] for index in order]
        order = sorted(sorted(order, key=lambda index: -wrong[index] - taken[index])[:MOST_CELLS])
    names = [classes[index] for index in order]
    cut = [[matrix[row][column] for column in order] for row in order]
    part = len(order) < len(classes)
    return matrix_picture(cut, names, _part("most confused", order, classes) if part else "confusion matrix")


def _part(what: str, shown: Sequence[Any], all_: Sequence[Any]) -> str:
    return f"{what}: {len(shown)} of {len(all_):,} classes"


def _confused(codes: Tensor, counts: Tensor, samples: Tensor, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return the pairs of true and predicted class that are confused most often."""
    number = len(classes)
    wrong = codes // number != codes % number
    codes, counts = codes[wrong], counts[wrong]
    order = torch.sort(counts, descending=True, stable=True).indices[:_MOST_PAIRS]
    return [
        {
            "true": classes[code // number],
            "predicted": classes[code % number],
            "samples": count,
            "share": count / int(samples[code // number]),
        }
        for code, count in zip(codes[order].tolist(), counts[order].tolist(), strict=True)
    ]


def _worst(
    values: Mapping[str, Tensor], classes: Sequence[str], sample_name: Callable[[int], str]
) -> list[dict[str, Any]]:
    """Return the wrong predictions of the highest probability, the first sample first among equal ones."""
    wrong = (values["true"] != values["predicted"]).nonzero().flatten()
    probability = values["probability"][wrong].nan_to_num()
    order = wrong[torch.sort(probability, descending=True, stable=True).indices[:MOST_WORST]].tolist()
    return [
        {
            "index": int(values["index"][place]),
            "file": sample_name(int(values["index"][place])),
            "predicted": classes[int(values["predicted"][place])],
            "true": classes[int(values["true"][place])],
            "probability": round(float(values["probability"][place]), 6),
        }
        for place in order
    ]
