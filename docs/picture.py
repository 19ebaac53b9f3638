r"""Draw the picture of the README: the learning rate and the accuracy of a run of the digits recipe.

    python tools/train_net.py --config-file config/recipes/digits.yaml \
        LOG_PERIOD 1 TEST.EVAL_PERIOD 20 OUTPUT_DIR output/picture
    python docs/picture.py output/picture/metrics.json

The second argument, docs/digits.png by default, is the picture to write. Records and evaluations change nothing
in a run, so these are the learning rates and weights of the recipe itself, which evaluates every 200 updates.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from matplotlib.figure import Figure

from warmstart.solver import save_picture

ACCURACY = "digits_test/accuracy"


def draw(records: list[dict[str, float]]) -> Figure:
    """Return the picture of a run: the learning rate of each record, and the accuracy of those that have one."""
    scored = [record for record in records if ACCURACY in record]
    accuracies = [100 * record[ACCURACY] for record in scored]
    figure = Figure(figsize=(8, 3), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([record["iteration"] for record in records], [record["lr"] for record in records], color="tab:blue")
    left.set(title="learning rate", yscale="log", xlabel="iteration")
    right.plot([record["iteration"] for record in scored], accuracies, color="tab:green")
    right.set(title="test accuracy, %", ylim=(min(90, *accuracies), 100.3), xlabel="iteration")
    right.annotate(
        f"{accuracies[-1]:.2f} %",
        (scored[-1]["iteration"], accuracies[-1]),
        xytext=(0, -14),
        textcoords="offset points",
        ha="right",
    )
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    """Draw the records in the file that the command line names."""
    source, *target = sys.argv[1:]
    records = [json.loads(line) for line in Path(source).read_text(encoding="utf-8").splitlines()]
    save_picture(draw(records), target[0] if target else Path(__file__).parent / "digits.png")


if __name__ == "__main__":
    main()
