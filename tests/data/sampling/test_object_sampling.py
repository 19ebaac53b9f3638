"""The order of training images with several objects each, and loaders of such images."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from warmstart.config import CfgNode, ConfigError
from warmstart.data import Batch, Objects, Sample, build_train_loader, data_spec, finish_objects, register_dataset
from warmstart.data.datasets.object_labels import ObjectLabels
from warmstart.data.datasets.shapes import Shapes
from warmstart.data.sampling.build import build_order, check_sampler
from warmstart.data.sampling.weights import object_repeat_factors
from warmstart.tasks import Task

from ..transforms.object_samples import sample_of

Configured = Callable[..., CfgNode]
FILTER = ("DATALOADER.FILTER_EMPTY_ANNOTATIONS", True)
REPEAT = ("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler")
SHAPES = ("DATASETS.TRAIN", "[{shapes: {number: 120, size: [48, 80]}}]", "DATASETS.TEST", [])


class Located(Task):
    """Samples and batches of objects as detectors take them."""

    scores = ()
    normalise = False

    def sample(self, image: Tensor, target: Objects) -> Sample:
        return sample_of(image.permute(1, 2, 0).numpy(), target)

    def finish(self, sample: Sample) -> Sample:
        return finish_objects(sample, [(1, 2)])

    def collate(self, samples: Any, training: bool) -> Batch:
        names = ("boxes", "labels", "masks", "keypoints", "visibility")
        targets = [{name: sample[name] for name in names} for sample in samples]
        return Batch([sample["image"] for sample in samples], targets)

    def losses(self, forward: Any, batch: Batch) -> dict[str, Tensor]:
        raise NotImplementedError

    predict = evaluator = losses  # type: ignore[assignment]


def shares(configured: Configured, *words: object) -> tuple[Counter[int], Shapes]:
    """Return how often each image occurs in 40 passes of 120 images, and the data set."""
    cfg = configured(*SHAPES, *words)
    data = data_spec(cfg)
    dataset = data.build("TRAIN", data.training_sets[0])
    assert isinstance(dataset, Shapes)
    return Counter(build_order(cfg, dataset, data.train).order(0, 120 * 40).tolist()), dataset


def test_object_repeat_factors_are_the_highest_of_an_images_classes() -> None:
    # Class 0 is in 4 of 8 images, class 1 in 2, class 2 in 1: factors at 0.5 are 1, sqrt(2) and 2.
    objects = ObjectLabels(np.array([0, 1, 1, 2, 3, 3, 4, 5, 5, 5]), np.array([0, 0, 1, 1, 0, 2, 2, 0, 0, 0]))
    assert (object_repeat_factors(objects, 8, 0.5) == 1).tolist() == [1, 0, 0, 0, 0, 1, 1, 1]
    objects = ObjectLabels(np.array([0, 1, 1, 2, 3, 3, 5, 5]), np.array([0, 0, 1, 1, 0, 2, 0, 0]))
    expected = [1, 2**0.5, 2**0.5, 2, 1, 1, 1, 1]
    assert object_repeat_factors(objects, 8, 0.5) == pytest.approx(expected)
    assert object_repeat_factors(objects, 8, 0.5, root=False) == pytest.approx([1, 2, 2, 4, 1, 1, 1, 1])
    none = ObjectLabels(np.empty(0, np.int64), np.empty(0, np.int64))
    assert object_repeat_factors(none, 2, 0.5).tolist() == [1, 1]


def test_repeat_factor_sampler_repeats_images_of_rare_objects(configured: Configured) -> None:
    seen, dataset = shares(configured, *REPEAT, "DATALOADER.REPEAT_THRESHOLD", 1.0)
    factors = object_repeat_factors(dataset.object_labels, 120, 1.0)
    assert len({*factors.tolist()}) == 5  # of four classes, and of images without objects
    for index in range(120):
        assert seen[index] == pytest.approx(factors[index] / factors.sum() * 4800, abs=9)  # fractions are drawn


def test_filter_empty_annotations_leaves_images_without_objects_out(configured: Configured) -> None:
    seen, dataset = shares(configured, *FILTER)
    empty = [index for index in range(120) if not len(dataset[index][1])]
    assert len(empty) == 2
    assert sorted(seen) == sorted({*range(120)} - {*empty})
    assert max(seen.values()) - min(seen.values()) <= 1
    assert {*shares(configured)[0]} == {*range(120)}  # off by default


def test_filter_and_repeat_factors_and_grouping_go_together(configured: Configured) -> None:
    words = (*FILTER, *REPEAT, "DATALOADER.REPEAT_THRESHOLD", 1.0, "DATALOADER.ASPECT_RATIO_GROUPING", True)
    cfg = configured(*SHAPES, *words, "SOLVER.IMS_PER_BATCH", 6)
    data = data_spec(cfg)
    dataset = Shapes("train", 120, (48, 80))
    batches = build_order(cfg, dataset, data.train).order(0, 6 * 200).reshape(200, 6)
    wide = dataset.sizes[:, 1] >= dataset.sizes[:, 0]
    assert {tuple({*wide[batch].tolist()}) for batch in batches} == {(True,), (False,)}
    assert all(len(dataset[int(index)][1]) for index in {*batches.flatten().tolist()})


class Empty(Shapes):
    """Images of which no object is annotated."""

    object_counts = (0, 0, 0, 0)

    def __init__(self) -> None:
        super().__init__("train", 4)
        self.__dict__["object_labels"] = ObjectLabels(np.empty(0, np.int64), np.empty(0, np.int64))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (FILTER, "FILTER_EMPTY_ANNOTATIONS.*: it is for training sets with objects in the images; remove it"),
        (
            ("DATASETS.TRAIN", "shapes_train", "DATALOADER.SAMPLER_TRAIN", "WeightedTrainingSampler"),
            "WeightedTrainingSampler needs one class for each image, and these have several objects; use Repeat",
        ),
    ],
)
def test_check_sampler_refuses_what_has_no_effect_or_no_meaning(
    configured: Configured, words: tuple[object, ...], message: str
) -> None:
    cfg = configured(*words)
    with pytest.raises(ConfigError, match=message):
        check_sampler(cfg, data_spec(cfg).train)


def test_filter_refuses_a_set_without_any_object(configured: Configured) -> None:
    register_dataset("empty", lambda *_: Empty())
    cfg = configured("DATASETS.TRAIN", "empty", "DATASETS.TEST", [], *FILTER)
    data = data_spec(cfg)
    message = "no image of the training set has an object, so that none remains; check DATASETS.TRAIN"
    with pytest.raises(ConfigError, match=message):
        build_order(cfg, data.build("TRAIN", data.training_sets[0]), data.train)


MOVES = "[{RandomHorizontalFlip: {}}, {RandomIoUCrop: {}}, {ScaleJitter: {target_size: [64, 64]}}, RandomZoomOut]"


def loaded(configured: Configured, start: int, workers: int, ranks: int = 1) -> list[bytes]:
    """Return the bytes of each sample of three batches of 4."""
    overrides = (*SHAPES, "INPUT.TRANSFORMS_TRAIN", MOVES, "SOLVER.IMS_PER_BATCH", 4)
    cfg = configured(*overrides, "DATALOADER.NUM_WORKERS", workers, "DATALOADER.ASPECT_RATIO_GROUPING", True)
    loaders = [build_train_loader(cfg, Located(data_spec(cfg).train), rank, ranks) for rank in range(ranks)]
    found = []
    for parts in itertools.islice(zip(*(loader.batches(start) for loader in loaders), strict=True), 3):
        for batch in parts:
            for image, target in zip(batch.images, batch.targets, strict=True):
                assert image.dtype == torch.float32
                assert {type(value) for value in target.values()} == {Tensor}
                arrays = [image, *target.values()]
                found.append(b"".join(repr(each.shape).encode() + each.numpy().tobytes() for each in arrays))
    for loader in loaders:
        loader.close()
    return found


def test_images_and_objects_are_the_same_bytes_for_any_number_of_workers_and_ranks(configured: Configured) -> None:
    expected = loaded(configured, 7, workers=0)
    assert len({*expected}) == 12
    assert loaded(configured, 7, workers=2) == expected
    assert loaded(configured, 7, workers=0, ranks=2) == expected
    assert loaded(configured, 8, workers=0)[:8] == expected[4:]
