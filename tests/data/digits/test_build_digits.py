"""The script that makes the shipped digits file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from warmstart.data.digits import build_digits

SHIPPED = Path(build_digits.__file__).with_name("digits.npz")


def test_build_digits_makes_the_file_that_ships(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    build_digits.main([str(tmp_path / "digits.npz")])
    with np.load(SHIPPED) as shipped, np.load(tmp_path / "digits.npz") as made:
        assert sorted(shipped.files) == ["test_images", "test_labels", "train_images", "train_labels"]
        assert all(np.array_equal(shipped[name], made[name]) for name in shipped.files)


def test_split_digits_scales_values_and_keeps_every_sample_once() -> None:
    values = np.arange(1797 * 64).reshape(1797, 8, 8) % 17
    arrays = build_digits.split_digits(values.astype(float), np.arange(1797) % 10)
    assert np.unique(arrays["train_images"]).tolist() == [
        *(0, 16, 32, 48, 64, 80, 96, 112, 128, 143, 159, 175, 191, 207, 223, 239, 255)
    ]
    labels = np.concatenate([arrays["train_labels"], arrays["test_labels"]])
    assert np.bincount(labels).tolist() == [180] * 7 + [179] * 3


def test_build_digits_prints_its_usage_without_arguments() -> None:
    with pytest.raises(SystemExit, match="usage: python -m warmstart.data.digits.build_digits OUT"):
        build_digits.main([])
