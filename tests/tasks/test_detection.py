"""Detection, instance segmentation and keypoint detection."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from warmstart.config import ConfigError
from warmstart.data import Batch, Objects, Sample
from warmstart.tasks import Detection, InstanceSegmentation, KeypointDetection, task_names
from warmstart.tasks.detection_evaluator import ObjectScores

from .detection_sets import info, objects, perfect

pytest.importorskip("hotcoco")

TWO = objects([[2, 4, 22, 24], [10, 10, 50, 40]], [1, 0])
CROWD = objects([[2, 4, 22, 24], [0, 0, 60, 40]], [1, 0], iscrowd=np.array([False, True]))
EMPTY = objects([], [])


def image(size: tuple[int, int] = (48, 64)) -> torch.Tensor:
    return torch.zeros(3, *size, dtype=torch.uint8)


def sample_of(task: Detection, target: Any, index: int = 0, size: tuple[int, int] = (48, 64)) -> Sample:
    sample = task.sample(image(size), target)
    task.check(sample, f"mine: sample {index}")
    return task.finish(sample) | {"index": index}


def scores(task: Detection, found: list[Any], truths: list[Objects], ranks: int = 1) -> dict[str, float]:
    """The scores of an evaluation in batches of one, dealt to several ranks."""
    parts = [task.evaluator() for _ in range(ranks)]
    for index, (prediction, truth) in enumerate(zip(found, truths, strict=True)):
        batch = task.collate([sample_of(task, truth, index, truth.size)], training=False)
        predicted = task.predict(lambda images, prediction=prediction: [dict(prediction)], batch.images)
        parts[index % ranks].update(predicted, batch.targets)
    states = [pickle.loads(pickle.dumps(part.state())) for part in parts]
    evaluator = task.evaluator()
    evaluator.merge([state for state in states if state is not None])
    return dict(evaluator.compute())


def test_the_three_tasks_have_names() -> None:
    assert {"detection", "instance_segmentation", "keypoint_detection"} <= {*task_names()}


def test_finished_sample_has_plain_tensors() -> None:
    sample = sample_of(InstanceSegmentation(info()), TWO)
    kinds = {name: type(value).__name__ for name, value in sample.items()}
    assert kinds == {
        "image": "Image",
        "original": "Objects",
        "boxes": "Tensor",
        "labels": "Tensor",
        "iscrowd": "Tensor",
        "area": "Tensor",
        "masks": "Tensor",
        "frame": "Tensor",
        "index": "int",
    }
    assert sample["boxes"].tolist() == [[2, 4, 22, 24], [10, 10, 50, 40]]
    assert sample["masks"].sum(dim=(1, 2)).tolist() == [200, 600]


def test_training_targets_have_labels_from_1_and_no_crowd() -> None:
    task = KeypointDetection(info())
    batch = task.collate([sample_of(task, CROWD), sample_of(task, EMPTY)], training=True)
    first, second = batch.targets
    assert [*first] == ["boxes", "labels", "keypoints"]
    assert first["boxes"].tolist() == [[2, 4, 22, 24]]
    assert first["labels"].tolist() == [2]
    assert first["keypoints"].tolist() == [[[12, 4, 2], [2, 24, 2], [22, 24, 1]]]
    assert second["boxes"].shape == (0, 4)
    assert second["keypoints"].shape == (0, 3, 3)
    assert {type(value) for value in first.values()} == {torch.Tensor}


def test_finish_drops_objects_without_area_from_all_entries() -> None:
    task = InstanceSegmentation(info())
    sample = sample_of(task, objects([[2, 4, 2, 24], [10, 10, 50, 40]], [1, 0]))
    lengths = {name: len(sample[name]) for name in ("boxes", "labels", "iscrowd", "area", "masks")}
    assert set(lengths.values()) == {1}
    assert sample["labels"].tolist() == [0]


def test_perfect_detections_score_one_in_all_kinds() -> None:
    truths = [TWO, EMPTY, CROWD]
    for cls in (Detection, InstanceSegmentation, KeypointDetection):
        task = cls(info())
        found = scores(task, [perfect(each) for each in truths], truths)
        assert [*found] == [score.name for score in task.scores]
        known = [value for value in found.values() if not math.isnan(value)]
        assert known == pytest.approx([1.0] * len(known))
        assert math.isnan(found["APl"])


def test_names_of_scores() -> None:
    names = [score.name for score in InstanceSegmentation(info()).scores]
    assert names == [
        *("AP", "AP50", "AP75", "APs", "APm", "APl", "AR"),
        *("segm/AP", "segm/AP50", "segm/AP75", "segm/APs", "segm/APm", "segm/APl", "segm/AR"),
        *("AP/disc", "AP/bar", "segm/AP/disc", "segm/AP/bar"),
    ]
    assert [score.name for score in Detection(info(), metric="voc").scores] == ["AP50", "AP50/disc", "AP50/bar"]
    assert [score.name for score in Detection(info(), per_class=False).scores][-1] == "AR"


@pytest.mark.parametrize("cls", [Detection, InstanceSegmentation, KeypointDetection])
def test_scores_do_not_depend_on_ranks_or_order(cls: type[Detection]) -> None:
    rng, task = np.random.default_rng(0), cls(info())
    truths, found = [], []
    for _ in range(6):
        corners = rng.integers(0, 30, (int(rng.integers(0, 5)), 2))
        boxes = np.concatenate([corners, corners + rng.integers(4, 18, corners.shape)], axis=1)
        truth = objects(boxes.tolist(), rng.integers(0, 2, len(boxes)).tolist())
        shifted = objects((boxes + rng.integers(0, 4, (len(boxes), 1))).tolist(), truth.labels.tolist())
        truths.append(truth)
        found.append(perfect(shifted, 0.5) | {"scores": torch.from_numpy(rng.choice([0.25, 0.75], len(boxes)))})
    one = scores(task, found, truths)
    assert 0 < one["AP"] < 1
    np.testing.assert_array_equal([*scores(task, found, truths, ranks=2).values()], [*one.values()])
    np.testing.assert_array_equal([*scores(task, found, truths, ranks=5).values()], [*one.values()])


def test_an_image_that_two_ranks_have_counts_once() -> None:
    task = Detection(info())
    batch = task.collate([sample_of(task, TWO, 3)], training=False)
    half = {name: value[:1] for name, value in perfect(TWO).items()}
    evaluators = [task.evaluator(), task.evaluator()]
    for evaluator in evaluators:
        predicted = task.predict(lambda images: [dict(half)], batch.images)
        evaluator.update(predicted, batch.targets)
        evaluator.update(predicted, batch.targets)
    evaluators[0].merge([evaluator.state() for evaluator in evaluators])
    values = evaluators[0].report_values()
    assert (values["index"], len(values["truths"]), len(values["detections"])) == ([3], 2, 1)


def test_detections_are_compared_in_the_image_before_transforms() -> None:
    from torchvision.transforms import v2

    task = InstanceSegmentation(info())
    sample = task.sample(image(), TWO)
    task.check(sample, "mine: sample 0")
    steps = v2.Compose([v2.Resize((96, 192)), v2.RandomHorizontalFlip(1.0), v2.Pad([8, 4])])
    sample = task.finish(steps(sample)) | {"index": 0}
    found = {
        "boxes": sample["boxes"],
        "labels": sample["labels"] + 1,
        "scores": torch.ones(2),
        "masks": sample["masks"][:, None].float(),
    }
    batch = task.collate([sample], training=False)
    evaluator = task.evaluator()
    evaluator.update(task.predict(lambda images: [found], batch.images), batch.targets)
    result = evaluator.compute()
    assert (result["AP"], result["segm/AP"]) == (pytest.approx(1.0), pytest.approx(1.0))


def test_state_of_an_evaluator_without_images_is_none() -> None:
    assert Detection(info()).evaluator().state() is None


def test_scores_of_sets_without_objects_are_nan() -> None:
    found = scores(Detection(info()), [perfect(EMPTY)], [EMPTY])
    assert all(map(math.isnan, found.values()))


def test_target_may_be_a_dict_of_torchvision() -> None:
    task = Detection(info())
    sample = sample_of(task, {"boxes": torch.tensor([[1.0, 2.0, 5.0, 6.0]]), "labels": torch.tensor([1])})
    assert (sample["labels"].tolist(), sample["area"].tolist()) == ([1], [16.0])


@pytest.mark.parametrize(
    ("cls", "changes", "message"),
    [
        (Detection, {"annotations": ()}, "detection needs objects with boxes as targets, but .* one class index"),
        (Detection, {"annotations": (), "num_classes": 0}, "has targets of an unknown kind"),
        (Detection, {"annotations": (), "num_classes": 0, "num_values": 2}, "has numbers for each"),
        (Detection, {"num_classes": 0}, "needs the number of classes; set MODEL.NUM_CLASSES"),
        (Detection, {"num_classes": 1}, "NUM_CLASSES: is 1, but the training set has 2 classes"),
        (Detection, {"object_counts": (0, 0)}, "needs objects, but no image of the training set has one"),
        (InstanceSegmentation, {"annotations": ("boxes",)}, "needs masks, but objects .* have boxes alone"),
        (
            KeypointDetection,
            {"annotations": ("boxes", "masks")},
            "needs keypoints, but .* boxes, masks alone",
        ),
        (KeypointDetection, {"keypoints": None}, "needs keypoints"),
    ],
)
def test_training_sets_without_what_a_task_needs_are_refused(cls: Any, changes: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        cls(info(**changes))


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (Detection, {"metric": "map"}, "metric: .*one of coco, voc, voc2007"),
        (
            InstanceSegmentation,
            {"metric": "voc"},
            "voc is for boxes alone; .* needs coco",
        ),
        (Detection, {"max_detections": 0}, "max_detections: .*at least 1"),
        (Detection, {"score_threshold": 1.5}, "score_threshold: .*from 0 to 1"),
    ],
)
def test_arguments_out_of_range_are_refused(cls: Any, arguments: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        cls(info(), **arguments)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            objects([[0, 0, 4, 4]], [2]),
            "mine: sample 7: object 0 has label 2; .* run from 0 to 1",
        ),
        (objects([[0, 0, 4, 4]], [-1], ids=np.array([9])), r"object 0 \(annotation 9\) has label -1"),
        (objects([[0, 0, 4, 4]], [1], segmentations=None), "sample 7 has objects without masks"),
        (objects([[0, 0, 4, 4]], [1], size=(8, 8)), "sample 7: the image is 48x64"),
        (3, "sample 7: its target is 3; return Objects, or a dict"),
    ],
)
def test_wrong_objects_are_refused(target: Any, message: str) -> None:
    task = InstanceSegmentation(info())
    with pytest.raises(ConfigError, match=message):
        task.check(task.sample(image(), target), "mine: sample 7")


def test_a_box_that_is_not_finite_is_refused() -> None:
    target = objects([[0, 0, 4, 4]], [1])
    target.boxes[0, 2] = math.nan
    task = Detection(info())
    with pytest.raises(ConfigError, match=r"object 0 has the box \[0.0, 0.0, nan, 4.0\]; a box is four finite"):
        task.check(task.sample(image(), target), "mine: sample 7")


def test_other_keypoints_are_refused() -> None:
    task = KeypointDetection(info())
    target = objects([[0, 0, 4, 4]], [1], keypoints=np.zeros((1, 2, 3)))
    with pytest.raises(ConfigError, match="2 keypoints for each object, but the .* 3: top, left, right"):
        task.check(task.sample(image(), target), "mine: sample 7")


def test_models_that_are_no_detectors_are_refused() -> None:
    task, images = Detection(info()), [torch.zeros(3, 8, 8)]
    with pytest.raises(ConfigError, match="the model returned a Tensor in training, .* returns a dict of losses"):
        task.losses(lambda images: torch.zeros(1, 2), Batch(images, [{}]))
    with pytest.raises(ConfigError, match=r"returned a Tensor of shape \(1, 2\) for 1 images"):
        task.predict(lambda images: torch.zeros(1, 2), images)
    with pytest.raises(ConfigError, match="returned a list of 2 for 1 images"):
        task.predict(lambda images: [{}, {}], images)
    boxes = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)}
    with pytest.raises(ConfigError, match="detections have boxes, labels, scores, but no masks"):
        InstanceSegmentation(info()).predict(lambda images: [boxes], images)


@pytest.mark.parametrize("label", [0, 3])
def test_detections_of_unknown_classes_are_refused(label: int) -> None:
    found = perfect(TWO) | {"labels": torch.tensor([label, 1])}
    with pytest.raises(ConfigError, match=f"detected class {label}; with 2 classes .* from 1 to 2"):
        scores(Detection(info()), [found], [TWO])


def test_evaluator_keeps_masks_encoded() -> None:
    task = InstanceSegmentation(info())
    batch = task.collate([sample_of(task, TWO)], training=False)
    evaluator = task.evaluator()
    assert isinstance(evaluator, ObjectScores)
    evaluator.update(task.predict(lambda images: [perfect(TWO)], batch.images), batch.targets)
    values = evaluator.report_values()
    assert values["detections"].masks == values["truths"].masks
    assert len(pickle.dumps(evaluator.state())) < 4000
