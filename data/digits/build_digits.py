"""The script that makes digits.npz from scikit-learn's copy.

Usage: `python -m warmstart.data.digits.build_digits OUT`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

TRAIN_SIZE = 1437  # of 1,797; the other 360 are the test set


def split_digits(
    images: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]
) -> dict[str, npt.NDArray[np.uint8]]:
    """Return the arrays of digits.npz: `train_images`, `train_labels`, `test_images`, `test_labels`.

    The values 0 to 16 become 0 to 255, rounded half up: 8 becomes 128. The split is numpy's legacy
    permutation with seed 0, whose stream numpy guarantees to keep.

    Args:
        images: (1797, 8, 8), values 0 to 16.
        labels: (1797,), the digits.
    """
    scaled = ((images.astype(np.int64) * 255 + 8) // 16).astype(np.uint8)
    order = np.random.RandomState(0).permutation(len(images))
    parts = {"train": order[:TRAIN_SIZE], "test": order[TRAIN_SIZE:]}
    return {
        f"{part}_{name}": array[chosen].astype(np.uint8)
        for part, chosen in parts.items()
        for name, array in (("images", scaled), ("labels", labels))
    }


def main(arguments: list[str]) -> None:
    """Write the file to the path given as the only argument."""
    if len(arguments) != 1:
        sys.exit("usage: python -m warmstart.data.digits.build_digits OUT")
    from sklearn.datasets import load_digits  # from the extra `dev`

    digits = load_digits()
    arrays: dict[str, Any] = split_digits(digits.images, digits.target)
    np.savez_compressed(Path(arguments[0]), **arrays)


if __name__ == "__main__":
    main(sys.argv[1:])
