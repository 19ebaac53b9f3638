"""The conversion of CIFAR-10: sheets become arrays only if they hold the original data."""

from __future__ import annotations

import hashlib
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from warmstart.data.datasets.registry import build_dataset

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "prepare_cifar10.py"


@pytest.fixture
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


@pytest.fixture
def package(tmp_path: Path, script: dict[str, Any]) -> Path:
    """A package of 20 images per sheet, two of each class, whose MD5 sums the script is given."""
    folder = tmp_path / "package"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for part, sheets in script["PARTS"].items():
        labels: list[int] = []
        for name in sheets:
            images = rng.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
            own = rng.permutation(20) % 10
            Image.fromarray(images.reshape(20, 1024, 3)).save(folder / name)
            records = [
                bytes([label]) + image.transpose(2, 0, 1).tobytes()
                for label, image in zip(own, images, strict=True)
            ]
            sheets[name] = hashlib.md5(b"".join(records)).hexdigest()
            labels += own.tolist()
        (folder / f"{part}_lables.json").write_text(json.dumps(labels))
    return folder


def run(script: dict[str, Any], monkeypatch: pytest.MonkeyPatch, package: Path) -> int:
    monkeypatch.setattr(sys, "argv", ["prepare_cifar10.py", str(package), str(package.parent / "out")])
    code: int = script["main"]()
    return code


def test_the_arrays_are_the_images_of_the_sheets(
    script: dict[str, Any], package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(script, monkeypatch, package) == 0
    train = build_dataset(f"npz:{package.parent}/out/cifar10_train.npz", "")
    test = build_dataset(f"npz:{package.parent}/out/cifar10_test.npz", "")
    assert (len(train), len(test)) == (100, 20)
    with Image.open(package / "data_batch_2.png") as sheet:
        pixels = np.asarray(sheet)
    image, label = train[25]
    assert np.array_equal(image, pixels[5].reshape(32, 32, 3))
    assert label == json.loads((package / "train_lables.json").read_text())[25]


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        ("pixel", "data_batch_3.png with its labels is not the original: MD5"),
        ("labels swapped", "data_batch_1.png with its labels is not the original: MD5"),
        ("label missing", "99 labels for 100 images of train"),
        ("class", "the classes of train are not equally frequent"),
        ("size", "test_batch.png is not a sheet of 32x32 RGB images"),
        ("file missing", "No such file or directory"),
    ],
)
def test_sheets_that_are_not_the_original_are_refused_and_nothing_is_written(
    script: dict[str, Any],
    package: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: str,
    problem: str,
) -> None:
    path = package / "train_lables.json"
    labels = json.loads(path.read_text())
    if damage == "pixel":
        with Image.open(package / "data_batch_3.png") as sheet:
            pixels = np.array(sheet)
        pixels[7, 7, 1] ^= 1
        Image.fromarray(pixels).save(package / "data_batch_3.png")
    elif damage == "labels swapped":
        other = next(i for i in range(20) if labels[i] != labels[0])
        labels[0], labels[other] = labels[other], labels[0]
    elif damage == "label missing":
        labels.pop()
    elif damage == "class":
        labels[0] = (labels[0] + 1) % 10
    elif damage == "size":
        Image.new("RGB", (1000, 20)).save(package / "test_batch.png")
    else:
        (package / "data_batch_5.png").unlink()
    path.write_text(json.dumps(labels))
    assert run(script, monkeypatch, package) == 2
    error = capsys.readouterr().err
    assert problem in error
    assert error.count("\n") == 1
    assert not (package.parent / "out").exists()
