"""Object detection, instance segmentation and keypoint detection."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from warmstart.config import ConfigError
from warmstart.data import (
    Batch,
    DatasetInfo,
    Objects,
    Sample,
    finish_objects,
    masks_of,
    sample_name,
)

from .class_losses import require
from .classification_report import all_names
from .coco_scores import Kind, coco_module
from .detection_evaluator import VOC_POINTS, ObjectScores, class_score_names, score_names
from .detection_report import build_report, draw_report, result_files
from .object_pictures import Drawn, detections_in, draw_objects, tiled
from .object_targets import object_sample, require_annotations, require_objects, training_target, truth_table
from .task import Forward, Report, Score, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_METRICS = ("coco", *VOC_POINTS)


class Detection(Task):
    """The model finds the box and the class of each object.

    The data set returns `Objects`, or a dict in torchvision's form with labels from 0. The model is one of
    torchvision's detectors, or has their interface: in training, `model(images, targets)` returns its losses,
    which are trained on; in evaluation, `model(images)` returns a dict for each image, with "boxes" (n, 4) in
    pixels, "labels" (n,) from 1, where 0 is background, and "scores" (n,). It gets images in [0, 1] of any sizes
    and normalises them itself.

    Scores, all from 0 to 1 (NaN without objects in the test set): COCO's `AP`, `AP50`, `AP75`, `APs`, `APm`,
    `APl` (of small, medium and large objects) and `AR`; `AP/CLASS` of each class. Detections are compared with
    objects in the image before all transforms. Lin et al. 2014, arXiv:1405.0312.

    Args:
        info: info on the training set.
        metric: coco; or PASCAL VOC's average precision at an intersection over union of 0.5, AP50: voc, with the
            area below the curve, as since 2010, or voc2007, with 11 points of the curve.
        max_detections: per image and class that count for COCO's scores, those with the highest scores.
        score_threshold: score from which detections are drawn, and counted in the report.
        per_class: whether `AP/CLASS` is recorded.
        pictures: how many images of the test set are drawn with their detections at each evaluation.

    Raises:
        ConfigError: the training set has other targets or no objects, an argument is out of range, or the package
            that computes COCO's scores is not installed.
    """

    normalise = False
    extra_outputs = 1  # background
    draws_in_forward = True
    any_size = True
    evaluation_args = ("metric", "max_detections", "score_threshold", "per_class", "pictures")

    #: MODEL.TASK's name.
    name: ClassVar[str] = "detection"
    #: What it needs to know of objects.
    needs: ClassVar[str] = "boxes"
    kinds: ClassVar[Sequence[Kind]] = ("bbox",)
    model_arguments: Mapping[str, Any] = {"masks": False, "num_keypoints": 0}

    def __init__(
        self,
        info: DatasetInfo,
        *,
        metric: str = "coco",
        max_detections: int = 100,
        score_threshold: float = 0.5,
        per_class: bool = True,
        pictures: int = 8,
    ) -> None:
        require_annotations(info, self.name, self.needs)
        require(metric in _METRICS, "metric", f"one of {', '.join(_METRICS)}", metric)
        require(max_detections >= 1, "max_detections", "at least 1", max_detections)
        require(0 <= score_threshold <= 1, "score_threshold", "a number from 0 to 1", score_threshold)
        require(pictures >= 0, "pictures", "at least 0", pictures)
        if metric == "coco":
            coco_module()
        elif len(self.kinds) > 1:
            raise ConfigError(
                f"MODEL.TASK_ARGS.metric: {metric} is for boxes alone; MODEL.TASK {self.name} needs coco"
            )
        self.model_family, self.num_outputs = self.name, info.num_classes
        self.classes = all_names(info.classes, info.num_classes)
        self.keypoints = info.keypoints if self.has_keypoints else None
        if self.keypoints is not None:
            self.model_arguments = {"masks": False, "num_keypoints": len(self.keypoints.names)}
        self.metric, self.max_detections = metric, max_detections
        self.score_threshold, self.per_class, self.pictures = score_threshold, per_class, pictures
        self.scores = self._scores()

    @property
    def has_masks(self) -> bool:
        """Whether objects have masks."""
        return "segm" in self.kinds

    @property
    def has_keypoints(self) -> bool:
        """Whether objects have keypoints."""
        return "keypoints" in self.kinds

    def _scores(self) -> list[Score]:
        """Return the scores over all classes, then of each class, which the console does not show."""
        found = [Score(name, percent=True) for name in score_names(self.kinds, self.metric)]
        if self.per_class:
            names = class_score_names(self.kinds, self.metric, self.classes)
            found += [Score(name, percent=True, console=False) for name in names]
        return found

    def sample(self, image: Tensor, target: Any) -> Sample:
        """Return the image, and what the data set returned; `check` makes the other entries of it."""
        return {"image": image, "original": target}

    def check(self, sample: Sample, where: str) -> None:
        """Refuse targets that are not objects in this image, and make them entries that follow the transforms."""
        image = sample["image"]
        objects = Objects.from_target(sample["original"], tuple(image.shape[1:]), where)
        require_objects(objects, where, len(self.classes), self.has_masks, self.keypoints)
        sample.update(object_sample(image, objects, self.has_masks, self.has_keypoints))

    def finish(self, sample: Sample) -> Sample:
        """Return the sample without objects that have no area left."""
        return finish_objects(sample, () if self.keypoints is None else self.keypoints.flip_pairs)

    def collate(self, samples: Sequence[Sample], training: bool) -> Batch:
        """Return images (C, H, W) as a list and a dict for each, in torchvision's form.

        For evaluation it also has what the evaluator needs: "index", the image's number in the test set, its
        "size" (H, W), "truth", its objects with crowd regions, before all transforms, and "frame", which leads
        back there.
        """
        targets: list[dict[str, Any]] = [training_target(sample) for sample in samples]
        for sample, target in zip(samples, targets, strict=True) if not training else ():
            objects: Objects = sample["original"]
            target |= {
                "index": sample["index"],
                "size": objects.size,
                "truth": truth_table(objects, sample["index"], self.has_masks, self.has_keypoints),
                "frame": sample["frame"],
            }
        return Batch([sample["image"] for sample in samples], targets)

    def losses(self, forward: Forward, batch: Batch) -> dict[str, Tensor]:
        """Return nothing: the model's own losses are trained on.

        Raises:
            ConfigError: it returned none.
        """
        found = forward(batch.images)
        raise ConfigError(
            f"MODEL.NAME: the model returned a {type(found).__name__} in training, but MODEL.TASK {self.name}"
            " needs a detector, which takes images and targets and returns a dict of losses, such as small_rcnn"
        )

    def predict(self, forward: Forward, images: Any) -> list[dict[str, Tensor]]:
        """Return the detections in each image.

        "boxes" (n, 4), x0, y0, x1, y1 in pixels, "labels" (n,), class indices from 0, "scores" (n,); and "masks"
        (n, H, W), probabilities, or "keypoints" (n, K, 3), x, y and a third number that the model chooses.
        """
        found = forward(images)
        names = ["boxes", "labels", "scores", *self.kinds[1:]]
        names = ["masks" if name == "segm" else name for name in names]
        if not isinstance(found, (list, tuple)) or len(found) != len(images) or not all(map(_is_dict, found)):
            raise ConfigError(
                f"MODEL.NAME: in evaluation the model returned {_described(found)} for {len(images)} images, but"
                f" MODEL.TASK {self.name} needs a detector, which returns a dict for each image"
            )
        predictions = []
        for each in found:
            missing = [name for name in names if name not in each]
            if missing:
                raise ConfigError(
                    f"MODEL.NAME: the model's detections have {', '.join(each)}, but no"
                    f" {' and no '.join(missing)}, which MODEL.TASK {self.name} needs"
                )
            kept = {name: each[name] for name in names} | {"labels": each["labels"] - 1}
            if "masks" in kept:  # (n, 1, H, W)
                kept["masks"] = kept["masks"][:, 0]
            predictions.append(kept)
        return predictions

    def evaluator(self) -> ObjectScores:
        """Return an evaluator that keeps all objects and detections; masks run-length encoded."""
        return ObjectScores(
            self.kinds,
            self.classes,
            metric=self.metric,
            max_detections=self.max_detections,
            per_class=self.per_class,
            sigmas=() if self.keypoints is None else self.keypoints.sigmas,
        )

    def report(self, values: Mapping[str, Any], sample_name: Callable[[int], str]) -> Report:
        """Return scores of classes, the confusion matrix, curves, and the images with the most mistakes."""
        return build_report(values, self.classes, self.score_threshold, sample_name)

    def report_files(self, values: Mapping[str, Any], dataset: Any) -> dict[str, Any]:
        """Return all detections as COCO's result files; and the objects, unless the test set is a COCO file."""
        ids = getattr(dataset, "image_ids", ()), getattr(dataset, "category_ids", ())
        return result_files(values, self.kinds, self.classes, *ids, lambda index: sample_name(dataset, index))

    def report_pictures(
        self, content: Mapping[str, Any], image_of: Callable[[int], Tensor | None]
    ) -> dict[str, Figure]:
        """Return pictures of the classes, confusions, curves and the worst images."""
        return draw_report(content, image_of)

    def evaluation_pictures(
        self, values: Mapping[str, Any], image_of: Callable[[int], Tensor | None]
    ) -> dict[str, Tensor]:
        """Return one picture, `detections`, of the same images at each evaluation, spread over the test set."""
        indices = values["index"]
        count = min(self.pictures, len(indices))
        chosen = [indices[place * len(indices) // count] for place in range(count)]
        found = [(image_of(index), index) for index in chosen]
        drawn = [
            self.draw(image, detections_in(values, index, (image.shape[1], image.shape[2])))
            for image, index in found
            if image is not None
        ]
        return {"detections": tiled(drawn)} if drawn else {}

    def draw(self, image: Tensor, prediction: Any) -> Tensor:
        """Return a picture of the detections whose score reaches `score_threshold`; a small image is enlarged."""
        found = {
            name: value[prediction["scores"] >= self.score_threshold].cpu() for name, value in prediction.items()
        }
        labels, scores = found["labels"].tolist(), found["scores"].tolist()
        drawn = Drawn(
            found["boxes"].double().numpy(),
            found["labels"].numpy(),
            [f"{self.classes[label]} {score:.2f}" for label, score in zip(labels, scores, strict=True)],
            (found["masks"] > 0.5).numpy() if "masks" in found else None,
            found["keypoints"].double().numpy() if "keypoints" in found else None,
            () if self.keypoints is None else self.keypoints.skeleton,
        )
        return draw_objects(image, drawn)

    def draw_target(self, image: Tensor, target: Any) -> Tensor:
        """Return a picture of the objects in an image; crowd regions are called so."""
        objects = Objects.from_target(target, (image.shape[1], image.shape[2]), "it")
        crowds = zip(objects.labels.tolist(), objects.iscrowd.tolist(), strict=True)
        has_keypoints = self.keypoints is not None and objects.keypoints is not None
        drawn = Drawn(
            objects.boxes,
            objects.labels,
            [self.classes[label] + " (crowd)" * crowd for label, crowd in crowds],
            masks_of(objects) if self.has_masks else None,
            objects.keypoints if has_keypoints else None,
            self.keypoints.skeleton if self.keypoints is not None else (),
        )
        return draw_objects(image, drawn)


class InstanceSegmentation(Detection):
    """The model also finds the mask of each object.

    Its detections have "masks" (n, 1, H, W), probabilities at the size of the image. Scores: those of `Detection`
    for boxes, and for masks the same as `segm/AP`, ... `segm/AP/CLASS`.
    """

    name, needs = "instance_segmentation", "masks"
    kinds = ("bbox", "segm")
    model_arguments: Mapping[str, Any] = {"masks": True, "num_keypoints": 0}


class KeypointDetection(Detection):
    """The model also finds the keypoints of each object, such as the joints of a person.

    Its detections have "keypoints" (n, K, 3). Scores: those of `Detection` for boxes, and for keypoints
    `keypoints/AP`, ... `keypoints/AP/CLASS` by COCO's object keypoint similarity, which has no `APs`.
    """

    name, needs = "keypoint_detection", "keypoints"
    kinds = ("bbox", "keypoints")


def _is_dict(value: Any) -> bool:
    return isinstance(value, Mapping)


def _described(found: Any) -> str:
    if isinstance(found, (list, tuple)):
        return f"a {type(found).__name__} of {len(found)}"
    shape = f" of shape {tuple(found.shape)}" if isinstance(found, torch.Tensor) else ""
    return f"a {type(found).__name__}{shape}"
