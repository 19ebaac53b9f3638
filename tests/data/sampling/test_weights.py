"""Repeat factors and aspect-ratio groups, and the config's keys for them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from torch.utils.data import ConcatDataset, Subset

from warmstart.config import CfgNode, ConfigError
from warmstart.data import DatasetInfo, register_dataset
from warmstart.data.datasets.arrays import ArrayDataset
from warmstart.data.sampling.weights import aspect_groups, class_repeats, labels_of, repeat_factors

from ...built import build_test_loader, build_train_loader, check_data

Configured = Callable[..., CfgNode]
REPEAT = ("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler")
WEIGHTED = ("DATALOADER.SAMPLER_TRAIN", "WeightedTrainingSampler")
GROUPING = ("DATALOADER.ASPECT_RATIO_GROUPING", True)


class Uneven:
    """20 samples, labelled with their index modulo 4 or as given; every third image is higher than wide."""

    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[Any, int]:
        shape = (9, 6) if index % 3 == 0 else (6, 9)
        return np.full(shape, index, np.uint8), index % 4


SIZES = [(9, 6) if index % 3 == 0 else (6, 9) for index in range(20)]


def use(**attributes: Any) -> tuple[Any, ...]:
    """Register such a set, and return what sets the config on it, its pixels unchanged."""
    info = DatasetInfo(20, num_classes=4, channels=1, image_size=None)
    register_dataset("uneven", lambda *_: Uneven(**attributes), info)
    return (
        *("DATASETS.TRAIN", "uneven", "DATASETS.TEST", "uneven", "SOLVER.IMS_PER_BATCH", 6),
        *("TEST.IMS_PER_BATCH", 5, "INPUT.MEAN", 0, "INPUT.STD", 1),
    )


@pytest.fixture
def rare(tmp_path: Path) -> tuple[Any, ...]:
    """Set the config on 100 images of noise: 64 of class 0, 32 of class 1, 4 of class 2."""
    images = np.random.default_rng(0).integers(0, 256, (100, 8, 8), np.uint8)
    np.savez(tmp_path / "rare.npz", images=images, labels=np.repeat([0, 1, 2], [64, 32, 4]))
    name = f"npz:{tmp_path}/rare.npz"
    return "DATASETS.TRAIN", name, "DATASETS.TEST", name, "SOLVER.IMS_PER_BATCH", 10


@pytest.mark.parametrize(
    ("root", "by_class"),
    # Worked by hand, t = 0.36: sqrt(0.36 / 0.32) = sqrt(1.125), sqrt(0.36 / 0.04) = 3; 0.36 / 0.64 is below 1.
    [(True, [1, 1.0606601717798212, 3]), (False, [1, 1.125, 9])],
)
def test_repeat_factors_follow_the_papers_formula(root: bool, by_class: list[float]) -> None:
    labels = np.repeat([0, 1, 2], [64, 32, 4])
    factors = repeat_factors(labels, 0.36, root)
    assert factors.tolist() == [by_class[label] for label in labels]


def test_repeat_factors_are_one_for_common_and_empty_classes() -> None:
    assert repeat_factors(np.array([0, 0, 2, 2]), 0.5).tolist() == [1, 1, 1, 1]


def test_class_repeats_give_each_class_its_share_whatever_its_size() -> None:
    repeats = class_repeats(np.repeat([0, 1, 2], [6, 3, 1]), np.array([1, 1, 2]))
    assert repeats == pytest.approx(np.repeat([2.5 / 6, 2.5 / 3, 5], [6, 3, 1]))
    assert class_repeats(np.array([0, 2, 2, 2]), np.ones(3)) == pytest.approx([2, 2 / 3, 2 / 3, 2 / 3])


@pytest.mark.parametrize("backend", ["worker", "resident"])
@pytest.mark.parametrize(
    ("words", "of_100"),
    [
        ((), [64, 32, 4]),
        # A pass is 64 + 32 * 1.0607 + 4 * 3 = 109.94, rounded to 110.
        ((*REPEAT, "DATALOADER.REPEAT_THRESHOLD", 0.36), [58.21, 30.87, 10.91]),
        (WEIGHTED, [33.33, 33.33, 33.33]),
        ((*WEIGHTED, "DATALOADER.CLASS_WEIGHTS", [1, 1, 2]), [25, 25, 50]),
        ((*WEIGHTED, "DATALOADER.CLASS_WEIGHTS", [0, 3, 1]), [0, 75, 25]),
    ],
    ids=["all", "repeated", "balanced", "weighted", "without one"],
)
def test_class_weights_determine_how_often_classes_occur(
    configured: Configured, rare: tuple[Any, ...], words: tuple[Any, ...], of_100: list[float], backend: str
) -> None:
    loader = build_train_loader(configured(*rare, *words, "DATALOADER.BACKEND", backend))
    labels = torch.cat([labels for _, labels in itertools.islice(loader, 550)])
    assert (torch.bincount(labels, minlength=3) / 55).tolist() == pytest.approx(of_100, abs=1.5)


def test_sample_weights_in_a_file_determine_how_often_samples_occur(
    configured: Configured, rare: tuple[Any, ...], tmp_path: Path
) -> None:
    weights = np.r_[np.zeros(90), np.full(10, 0.5)]
    np.save(tmp_path / "w.npy", weights)
    (tmp_path / "w.txt").write_text("\n".join(map(str, weights)))
    found = []
    for name in ("w.npy", "w.txt"):
        loader = build_train_loader(
            configured(*rare, *WEIGHTED, "DATALOADER.SAMPLE_WEIGHTS", f"{tmp_path}/{name}")
        )
        found.append([loader.sample_indices(iteration) for iteration in range(10)])
    assert found[0] == found[1]
    assert np.bincount(np.ravel(found[0]), minlength=100).tolist() == [0] * 90 + [10] * 10


@pytest.mark.need("C1")
@pytest.mark.parametrize("backend", ["worker", "resident"])
@pytest.mark.parametrize("words", [(*REPEAT, "DATALOADER.REPEAT_THRESHOLD", 0.3), WEIGHTED], ids=["r", "w"])
@pytest.mark.parametrize("start", [0, 10, 11, 1_000_000])
def test_every_sampler_starts_at_any_iteration_and_reports_its_samples(
    configured: Configured, rare: tuple[Any, ...], words: tuple[Any, ...], backend: str, start: int
) -> None:
    cfg = configured(*rare, *words, "DATALOADER.BACKEND", backend, "INPUT.MEAN", 0, "INPUT.STD", 1)
    straight = itertools.islice(build_train_loader(cfg).batches(max(0, start - 3)), min(start, 3), None)
    loader = build_train_loader(cfg)
    pixels = torch.from_numpy(loader.dataset.images)  # type: ignore[attr-defined]
    for iteration, (images, _), (expected, _) in zip(
        range(start, start + 4), loader.batches(start), straight, strict=False
    ):
        assert torch.equal(images, expected)
        given = pixels[loader.sample_indices(iteration)]
        assert torch.equal((images[:, 0] * 255).round().to(torch.uint8), given)


def test_labels_of_reads_either_attribute_of_joined_sets_and_subsets() -> None:
    listed = type("Listed", (), {"targets": [2, 0, 1], "__len__": lambda self: 3})()
    tensor = type("Tensor", (), {"targets": torch.tensor([1, 1]), "__len__": lambda self: 2})()
    array = ArrayDataset(np.zeros((2, 8, 8), np.uint8), np.array([3, 0]))
    joined: Any = ConcatDataset([listed, tensor, array])
    assert labels_of(joined, 4).tolist() == [2, 0, 1, 1, 1, 3, 0]
    assert labels_of(Subset(joined, [5, 0]), 4).tolist() == [3, 2]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("attributes", "problem"),
    [
        (
            {},
            "needs information that the data set lacks; give it an attribute targets or labels, one",
        ),
        ({"labels": [0, 1]}, r"its attribute labels has shape \(2,\), not \(20,\)"),
        ({"targets": ["cat"] * 20}, "its labels are of type <U3, not whole numbers"),
        ({"targets": [0, 1, 2, 3, 4] * 4}, "sample 4 has label 4; with 4 classes labels run from 0 to 3"),
    ],
)
def test_missing_labels_are_reported_with_what_to_add(
    configured: Configured, attributes: dict[str, Any], problem: str
) -> None:
    cfg = configured(*use(**attributes), *WEIGHTED)
    with pytest.raises(ConfigError, match=f"^DATASETS.TRAIN .*: WeightedTrainingSampler:? {problem}"):
        build_train_loader(cfg)


@pytest.mark.parametrize("workers", [0, 1])
def test_aspect_ratio_grouping_separates_wide_and_high_images(configured: Configured, workers: int) -> None:
    words = use(sizes=SIZES, labels=[index % 4 for index in range(20)])
    loader = build_train_loader(configured(*words, *GROUPING, *WEIGHTED, "DATALOADER.NUM_WORKERS", workers))
    for iteration, (images, _) in enumerate(itertools.islice(loader, 20)):  # 6 passes
        given = (images[:, 0, 0, 0] * 255).round().int().tolist()
        assert given == loader.sample_indices(iteration)
        assert len({index % 3 == 0 for index in given}) == 1
    loader.close()
    counts = np.bincount([index for t in range(20) for index in loader.sample_indices(t)])
    assert (counts.min(), counts.max()) == (6, 6)


def test_ranks_share_each_batch_of_an_aspect_ratio_group(configured: Configured) -> None:
    cfg = configured(*use(sizes=SIZES, targets=[0, 1, 2, 3] * 5), *GROUPING, *WEIGHTED)
    whole, *parts = (build_train_loader(cfg), *(build_train_loader(cfg, rank, 3) for rank in range(3)))
    for iteration in range(1_000_000, 1_000_006):
        joined = [index for part in parts for index in part.sample_indices(iteration)]
        assert joined == whole.sample_indices(iteration)
    shapes = [{images.shape[2:] for images, _ in itertools.islice(part.batches(7), 6)} for part in parts]
    assert shapes[0] == shapes[1] == shapes[2] == {(9, 6), (6, 9)}


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_with_grouping_gives_wide_images_first_and_each_sample_once(
    configured: Configured, workers: int
) -> None:
    cfg = configured(*use(sizes=np.array(SIZES)), *GROUPING, "DATALOADER.NUM_WORKERS", workers)
    loader = build_test_loader(cfg, "uneven")
    given = [(images[:, 0, 0, 0] * 255).round().int().tolist() for images, _ in loader]
    assert given == [[1, 2, 4, 5, 7], [8, 10, 11, 13, 14], [16, 17, 19], [0, 3, 6, 9, 12], [15, 18]]
    assert (len(loader), loader.size) == (5, 20)
    loader.close()


def test_aspect_groups_read_sizes_from_file_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import ImageFolder

    for name, size in (("a/1.png", (4, 4)), ("a/2.jpg", (4, 5)), ("b/3.png", (5, 4)), ("b/4.jpg", (3, 9))):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", size).save(tmp_path / name)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("pixels were read"))
    array = ArrayDataset(np.zeros((1, 8, 6), np.uint8), np.array([0]))
    groups = aspect_groups(ConcatDataset([ImageFolder(tmp_path), array]))  # type: ignore[arg-type, list-item]
    assert groups is not None
    assert [group.tolist() for group in groups] == [[0, 2], [1, 3, 4]]
    (tmp_path / "a/1.png").write_text("no image")
    with pytest.raises(OSError, match="a/1.png"):
        aspect_groups(ImageFolder(tmp_path))


@pytest.mark.parametrize("backend", ["worker", "resident"])
def test_aspect_ratio_grouping_changes_nothing_if_all_images_have_one_shape(
    configured: Configured, rare: tuple[Any, ...], backend: str
) -> None:
    words = (*rare, "DATALOADER.BACKEND", backend)
    first, second = (
        torch.cat([images for images, _ in itertools.islice(build_train_loader(configured(*each)), 12)])
        for each in (words, (*words, *GROUPING))
    )
    assert torch.equal(first, second)


def test_an_aspect_ratio_group_of_weight_0_never_occurs(configured: Configured, tmp_path: Path) -> None:
    np.save(tmp_path / "w.npy", [float(index % 3 > 0) for index in range(20)])
    words = (*use(sizes=SIZES), *GROUPING, *WEIGHTED, "DATALOADER.SAMPLE_WEIGHTS", f"{tmp_path}/w.npy")
    loader = build_train_loader(configured(*words))
    assert all(index % 3 for t in range(20) for index in loader.sample_indices(t))


@pytest.mark.parametrize(
    ("attributes", "problem"),
    [
        (
            {},
            r"needs information that the data set lacks; give it an attribute sizes, \(height, width\) of each",
        ),
        ({"sizes": [1, 2]}, r"its attribute sizes has shape \(2,\), not \(20, 2\)"),
    ],
)
def test_missing_sizes_are_reported_with_what_to_add(
    configured: Configured, attributes: dict[str, Any], problem: str
) -> None:
    cfg = configured(*use(**attributes), *GROUPING)
    for key, build in (("TRAIN", build_train_loader), ("TEST", lambda cfg: build_test_loader(cfg, "uneven"))):
        with pytest.raises(ConfigError, match=f"^DATASETS.{key} .*: DATALOADER.ASPECT_RATIO_GROUPING:? {problem}"):
            build(cfg)


@pytest.mark.parametrize(
    ("words", "problems"),
    [
        (
            ("DATALOADER.REPEAT_THRESHOLD", 0.1, "DATALOADER.CLASS_WEIGHTS", [1, 1, 1]),
            [
                "DATALOADER.REPEAT_THRESHOLD (override): only RepeatFactorTrainingSampler reads it, and"
                " DATALOADER.SAMPLER_TRAIN is TrainingSampler; change the sampler, or remove this key",
                "DATALOADER.CLASS_WEIGHTS (override): only WeightedTrainingSampler reads it, and"
                " DATALOADER.SAMPLER_TRAIN is TrainingSampler; change the sampler, or remove this key",
            ],
        ),
        (
            (*WEIGHTED, "DATALOADER.REPEAT_SQRT", False),
            [
                "DATALOADER.REPEAT_SQRT (override): only RepeatFactorTrainingSampler reads it, and"
                " DATALOADER.SAMPLER_TRAIN is WeightedTrainingSampler; change the sampler, or remove this key"
            ],
        ),
        (
            REPEAT,
            [
                "DATALOADER.SAMPLER_TRAIN (override): RepeatFactorTrainingSampler needs"
                " DATALOADER.REPEAT_THRESHOLD, the share of all images below which a class is repeated, such as"
                " 0.05",
            ],
        ),
        (
            (*WEIGHTED, "DATALOADER.CLASS_WEIGHTS", [1, 2]),
            ["DATALOADER.CLASS_WEIGHTS (override): 2 weights where 3 are expected, one per class"],
        ),
        (
            (*WEIGHTED, "DATALOADER.CLASS_WEIGHTS", [0, 0, 0]),
            ["DATALOADER.CLASS_WEIGHTS (override): all weights are 0; give at least one class a positive weight"],
        ),
        (
            (*WEIGHTED, "DATALOADER.CLASS_WEIGHTS", [1, 1, 1], "DATALOADER.SAMPLE_WEIGHTS", "none.npy"),
            [
                "DATALOADER.SAMPLE_WEIGHTS (override): CLASS_WEIGHTS is set too; give one of them",
                "DATALOADER.SAMPLE_WEIGHTS (override): none.npy: no such file",
            ],
        ),
    ],
)
def test_contradictory_sampler_keys_are_refused_before_data_is_read(
    configured: Configured, rare: tuple[Any, ...], words: tuple[Any, ...], problems: list[str]
) -> None:
    with pytest.raises(ConfigError) as error:
        check_data(configured(*rare, *words))
    assert error.value.problems == problems


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("1 2 3", "3 weights where 100 are expected, one per sample"),
        ("1 " * 99 + "-1", "sample 99 has weight -1; weights are finite and 0 or more"),
        ("1 " * 99 + "nan", "sample 99 has weight nan; weights are finite and 0 or more"),
        ("0 " * 100, "all weights are 0; give at least one sample a positive weight"),
        ("", "0 weights where 100 are expected, one per sample"),
        ("one two", "it does not hold numbers alone$"),
    ],
)
def test_a_file_of_wrong_weights_is_refused(
    configured: Configured, rare: tuple[Any, ...], tmp_path: Path, content: str, problem: str
) -> None:
    path = tmp_path / "w.txt"
    path.write_text(content)
    cfg = configured(*rare, *WEIGHTED, "DATALOADER.SAMPLE_WEIGHTS", str(path))
    with pytest.raises(ConfigError, match=f"^DATALOADER.SAMPLE_WEIGHTS .*w.txt: {problem}"):
        check_data(cfg)


def test_sample_weights_refuse_arrays_of_another_shape_or_type(
    configured: Configured, rare: tuple[Any, ...], tmp_path: Path
) -> None:
    for name, array in (("square", np.ones((10, 10))), ("objects", np.array([{}], object))):
        np.save(tmp_path / f"{name}.npy", array)
        cfg = configured(*rare, *WEIGHTED, "DATALOADER.SAMPLE_WEIGHTS", f"{tmp_path}/{name}.npy")
        with pytest.raises(
            ConfigError, match=r"^DATALOADER.SAMPLE_WEIGHTS .*npy: (100 weights|it does not hold numbers alone)"
        ):
            check_data(cfg)


def test_class_weights_refuse_a_weight_for_a_class_without_images(configured: Configured) -> None:
    words = use(labels=[0, 1] * 10)
    with pytest.raises(ConfigError, match="^DATALOADER.CLASS_WEIGHTS .*: class 3 has a weight, but no sample"):
        build_train_loader(configured(*words, *WEIGHTED, "DATALOADER.CLASS_WEIGHTS", [1, 1, 0, 1]))
    loader = build_train_loader(configured(*words, *WEIGHTED, "DATALOADER.CLASS_WEIGHTS", [1, 0, 0, 0]))
    assert all(index % 2 == 0 for t in range(10) for index in loader.sample_indices(t))
