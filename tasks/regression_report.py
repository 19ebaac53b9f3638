"""The report of regression: the errors of each number, and the worst predictions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .classification_report import MOST_IMAGES, MOST_WORST, table_of
from .report_pictures import images_picture, points_picture
from .task import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_POINTS = 2000  # in the picture of each number
_MOST_PLOTS = 6  # numbers in the picture


def build_report(
    values: Mapping[str, Tensor],
    names: Sequence[str],
    std: Sequence[float],
    sample_name: Callable[[int], str],
) -> Report:
    """Return the report of an evaluation.

    Its entries: `per_number`, for each number of a target its mean absolute and root mean squared error, the mean
    error (`bias`), and the mean of the targets. `worst`, the predictions with the largest errors; to compare
    numbers of several units, errors are divided by the standard deviation of the training targets. `points`,
    targets and predictions of at most 2,000 samples, evenly spread over the test set.

    Args:
        values: `predictions` and `targets` (N, K) and `index` (N,).
        names: of the K numbers, as far as they have any.
        std: K standard deviations.
        sample_name: returns a sample's file, or "".
    """
    predictions, targets, index = values["predictions"].double(), values["targets"].double(), values["index"]
    count, number = predictions.shape
    known = len(names) == number
    numbers = [*names] if known else [f"number {k}" for k in range(number)] if number > 1 else ["target"]
    errors = predictions - targets
    per_number = [
        {
            "number": name,
            "mae": float(errors[:, k].abs().mean()),
            "rmse": math.sqrt(float(errors[:, k].square().mean())),
            "bias": float(errors[:, k].mean()),
            "mean": float(targets[:, k].mean()),
        }
        for k, name in enumerate(numbers)
    ]
    sizes = (errors.abs() / torch.tensor(std, dtype=torch.float64)).flatten().nan_to_num(nan=math.inf)
    order = torch.sort(sizes, descending=True, stable=True).indices[:MOST_WORST].tolist()
    worst = [
        {
            "index": int(index[place // number]),
            "file": sample_name(int(index[place // number])),
            "number": numbers[place % number],
            "predicted": float(predictions.flatten()[place]),
            "true": float(targets.flatten()[place]),
            "error": float(errors.flatten()[place]),
        }
        for place in order
    ]
    step = -(-count // _MOST_POINTS)
    points = [[targets[::step, k].tolist(), predictions[::step, k].tolist()] for k in range(number)]
    content = {"numbers": numbers, "per_number": per_number, "worst": worst, "points": points}
    return Report(content, {"per_number": table_of(per_number), "worst": table_of(worst)})


def draw_report(content: Mapping[str, Any], image_of: Callable[[int], Tensor | None]) -> dict[str, Figure]:
    """Return the pictures of a report: `points`, of the first six numbers, and `worst`."""
    points, names = content["points"][:_MOST_PLOTS], content["numbers"][:_MOST_PLOTS]
    worst = content["worst"][:MOST_IMAGES]
    captions = [f"{row['number']}: {row['predicted']:.4g}\ntrue: {row['true']:.4g}" for row in worst]
    images = [image_of(row["index"]) for row in worst]
    return {
        "points": points_picture(points, names, "predictions over targets"),
        "worst": images_picture(images, captions, "largest errors"),
    }
