"""The data sets of a config."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from warmstart.config import CfgNode, ConfigError
from warmstart.data import DatasetEntry, data_spec, named_test_sets, num_workers, register_dataset, train_info
from warmstart.data.datasets.arrays import ArrayDataset

from ..built import build_test_loader, build_train_loader, check_data, choose_backend

Configured = Callable[..., CfgNode]


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    """A folder with the files a/val.npz and b/val.npz, of 3 and 4 images."""
    for name, size in (("a", 3), ("b", 4)):
        (tmp_path / name).mkdir()
        labels = np.arange(size) % 2
        np.savez(tmp_path / name / "val.npz", images=np.zeros((size, 8, 8), np.uint8), labels=labels)
    return tmp_path


def test_named_test_sets_have_root_in_place_and_their_names(configured: Configured) -> None:
    cfg = configured(
        "DATASETS.ROOT", "sets", "DATASETS.TEST", "npz:{ROOT}/a/val, npz:/b/val, digits_test, real=npz:c"
    )
    assert [*map(str, named_test_sets(cfg).values())] == [
        *("a_val (npz:sets/a/val)", "b_val (npz:/b/val)", "digits_test", "real (npz:c)")
    ]


def test_training_sets_need_no_names(configured: Configured) -> None:
    cfg = configured(
        "DATASETS.ROOT", "sets", "DATASETS.TRAIN", "npz:{ROOT}/train, npz:{ROOT}/train, x=digits_train"
    )
    one = DatasetEntry("npz", "sets/train")
    assert data_spec(cfg).training_sets == [one, one, DatasetEntry("digits_train", name="x")]


def test_the_config_keeps_entries_as_they_were_written(configured: Configured) -> None:
    cfg = configured("DATASETS.TEST", ["val=npz:{ROOT}/x", {"npz": {"path": "y", "name": "y"}}])
    named_test_sets(cfg)
    assert cfg.DATASETS.TRAIN == ("digits_train",)
    assert cfg.DATASETS.TEST == ("val=npz:{ROOT}/x", {"npz": {"path": "y", "name": "y"}})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("TEST", "npz:train", "DATASETS.TEST .override.: the scores of npz:train cannot be called 'train'"),
        ("TEST", "a/b=npz:x", "DATASETS.TEST .override.: 'a/b' cannot be a data set's name because it holds '/'"),
        ("TRAIN", "a/b=npz:x", "DATASETS.TRAIN .override.: 'a/b' cannot be a data set's name because it"),
        ("TEST", "digits_test,digits_test", "DATASETS.TEST .override.: digits_test is listed twice; list it once"),
    ],
)
def test_check_data_refuses_names(configured: Configured, key: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        check_data(configured(f"DATASETS.{key}", value))


def test_loaders_take_test_sets_by_name_and_by_entry(configured: Configured, sets: Path) -> None:
    tests = ["npz:{ROOT}/a/val.npz", {"npz": {"path": "{ROOT}/b/val.npz"}}, f"digits_test=npz:{sets}/a/val.npz"]
    cfg = configured("DATASETS.ROOT", str(sets), "DATASETS.TRAIN", "npz:{ROOT}/a/val.npz", "DATASETS.TEST", tests)
    assert [*named_test_sets(cfg)] == ["a_val.npz", "b_val.npz", "digits_test"]
    names = ("a_val.npz", "b_val.npz", "digits_test", "npz:{ROOT}/b/val.npz", f"npz:{sets}/a/val.npz", tests[1])
    sizes = [sum(len(labels) for _, labels in build_test_loader(cfg, name)) for name in names]
    assert sizes == [3, 4, 3, 4, 3, 4]


@pytest.mark.parametrize("backend", ["worker", "resident"])
def test_a_data_set_by_its_mapping_is_loaded_as_by_its_text(
    configured: Configured, sets: Path, backend: str
) -> None:
    text, mapping = f"npz:{sets}/a/val.npz", {"npz": {"path": f"{sets}/a/val.npz", "name": "x"}}
    batches = []
    for value in (text, [mapping]):
        cfg = configured("DATASETS.TRAIN", value, "DATASETS.TEST", value, "DATALOADER.BACKEND", backend)
        cfg.merge_from_list(["SOLVER.IMS_PER_BATCH", 3, "MODEL.DEVICE", "cpu"])
        check_data(cfg)
        assert (train_info(cfg).size, num_workers(cfg, data_spec(cfg))) == (3, 0)
        loader = build_train_loader(cfg)
        batches.append(next(loader.batches()).targets.tolist())
        loader.close()
    assert batches[0] == batches[1]


def test_options_reach_the_builder_in_training_and_evaluation(configured: Configured) -> None:
    def build(path: str, download: bool, count: int = 2) -> ArrayDataset:
        return ArrayDataset(np.full((count, 8, 8), len(path), np.uint8), np.zeros(count, np.int64), ("a",))

    register_dataset("mine:", build, in_memory=True)
    options = [{"mine": {"path": "four", "count": 6}}]
    cfg = configured("DATASETS.TRAIN", options, "DATASETS.TEST", "[{mine: {path: four, count: 5}}, two=mine:four]")
    cfg.merge_from_list(["INPUT.MEAN", 0.0, "INPUT.STD", 1 / 255, "SOLVER.IMS_PER_BATCH", 2])
    check_data(cfg)
    assert train_info(cfg).size == 6
    assert choose_backend(cfg) == "resident"
    batches = [next(iter(build_test_loader(cfg, name))).images for name in named_test_sets(cfg)]
    assert [(len(images), round(images.max().item())) for images in batches] == [(5, 4), (2, 4)]
