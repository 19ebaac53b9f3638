"""The report of multi-label classification: scores of each class, and the most confident mistakes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .classification_report import MOST_IMAGES, MOST_WORST, all_names, table_of
from .outputs import average_precision
from .report_pictures import MOST_CELLS, bars_picture, images_picture
from .task import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def build_report(
    values: Mapping[str, Tensor], names: Sequence[str], threshold: float, sample_name: Callable[[int], str]
) -> Report:
    """Return the report of an evaluation.

    Its entries: `per_class`, for each class its positive samples, average precision (`ap`; null without a
    positive), precision and recall at the threshold, and how often it is predicted. `worst`, the pairs of sample
    and class whose prediction is wrong at the highest probability, of the class or of its absence.

    Args:
        values: `logits` (N, K), `labels` (N, K) booleans and `index` (N,).
        names: of the classes, as far as they have any.
        threshold: probability above which a class is predicted.
        sample_name: returns a sample's file, or "".
    """
    logits, labels = values["logits"], values["labels"]
    probability = logits.double().sigmoid()
    predicted = probability > threshold
    classes, per_class = all_names(names, logits.shape[1]), []
    for k, name in enumerate(classes):
        positives, chosen = int(labels[:, k].sum()), int(predicted[:, k].sum())
        hits = int((labels[:, k] & predicted[:, k]).sum())
        row = {
            "class": name,
            "positives": positives,
            "ap": average_precision(logits[:, k], labels[:, k]) if positives else None,
            "predicted": chosen,
            "precision": hits / chosen if chosen else None,
            "recall": hits / positives if positives else None,
        }
        per_class.append(row)
    worst = _worst(values["index"], probability, predicted, labels, classes, sample_name)
    content = {"classes": classes, "threshold": threshold, "per_class": per_class, "worst": worst}
    tables = {"per_class": table_of(per_class), "worst": table_of(worst)}
    return Report(content, {name: rows for name, rows in tables.items() if rows})


def draw_report(content: Mapping[str, Any], image_of: Callable[[int], Tensor | None]) -> dict[str, Figure]:
    """Return the pictures of a report: `per_class`, of many classes those of the lowest precision, and `worst`."""
    found = [row for row in content["per_class"] if row["ap"] is not None]
    shown = sorted(found, key=lambda row: row["ap"])[:MOST_CELLS] if len(found) > MOST_CELLS else found
    title = f"average precision of {len(found)} classes"
    if len(found) > MOST_CELLS:
        title = f"lowest average precision: {MOST_CELLS} of {len(found):,} classes"
    figures = {}
    if shown:
        precisions, names, counts = ([row[key] for row in shown] for key in ("ap", "class", "positives"))
        figures["per_class"] = bars_picture(precisions, names, counts, title, "average precision")
    worst = content["worst"][:MOST_IMAGES]
    if worst:
        images = [image_of(row["index"]) for row in worst]
        captions = [f"{_claim(row)} {row['probability']:.0%}\ntrue: {_truth(row)}" for row in worst]
        figures["worst"] = images_picture(images, captions, "most confidently wrong")
    return figures


def _claim(row: Mapping[str, Any]) -> str:
    return f"{'' if row['predicted'] else 'not '}{row['class']}"


def _truth(row: Mapping[str, Any]) -> str:
    return f"{'' if row['true'] else 'not '}{row['class']}"


def _worst(
    index: Tensor,
    probability: Tensor,
    predicted: Tensor,
    labels: Tensor,
    classes: Sequence[str],
    sample_name: Callable[[int], str],
) -> list[dict[str, Any]]:
    number = len(classes)
    certainty = torch.where(predicted, probability, 1 - probability)
    wrong = (predicted != labels).flatten().nonzero().flatten()
    certain = certainty.flatten()[wrong].nan_to_num()
    order = wrong[torch.sort(certain, descending=True, stable=True).indices[:MOST_WORST]].tolist()
    return [
        {
            "index": int(index[place // number]),
            "file": sample_name(int(index[place // number])),
            "class": classes[place % number],
            "predicted": int(predicted.flatten()[place]),
            "true": int(labels.flatten()[place]),
            "probability": round(float(certainty.flatten()[place]), 6),
        }
        for place in order
    ]
