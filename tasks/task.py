"""The interfaces of tasks, scores and evaluators."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor

from warmstart.data import Batch, DatasetInfo, Sample, stack_images

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # slow to import

#: Calls the model: `forward(images)`. It includes DDP, FSDP2, compile and autocast; outputs in half precision are
#: returned in float32.
Forward = Callable[..., Any]


@dataclass(frozen=True)
class Score:
    """A number that an evaluation computes.

    Args:
        name: the name, such as "accuracy"; in records the data set's name and a slash precede it.
        higher_is_better: whether the higher of two values is better, for the best checkpoint and early stopping.
        percent: whether it is a share from 0 to 1, which the console shows as a percentage.
        console: whether the console shows it; records have it in either case.
    """

    name: str
    higher_is_better: bool = True
    percent: bool = False
    console: bool = True


class Evaluator(Protocol):
    """Computes the scores of one pass over a test set, on one rank or several."""

    def update(self, predictions: Any, targets: Any) -> None:
        """Take the predictions for a batch, as `Task.predict` returns them, and the batch's targets."""

    def state(self) -> Any:
        """Return this rank's state, picklable and with tensors on the CPU; None if it has seen no batch."""

    def merge(self, states: Sequence[Any]) -> None:
        """Replace this evaluator's state by the states of all ranks, its own included, in rank order."""

    def compute(self) -> Mapping[str, float]:
        """Return the task's scores by name."""


@dataclass(frozen=True)
class Report:
    """What an evaluation tells beyond its scores: written into `report/` in a run's folder.

    Args:
        content: entries of report.json: numbers, text, lists and dicts of them.
        tables: rows by the name of a .csv file; the first row has the names of the columns.
    """

    content: Mapping[str, Any]
    tables: Mapping[str, Sequence[Sequence[Any]]] = field(default_factory=dict)


class Task(ABC):
    """The code that depends on the kind of target: samples, batches, losses, predictions, scores, pictures.

    A subclass implements `sample`, `losses`, `predict` and `evaluator`; the other methods have defaults. It is
    constructed with the training set's `DatasetInfo` and MODEL.TASK_ARGS as keywords, which are checked against
    the signature of its `__init__`; `super().__init__()` need not be called.

        dataset[i] -> sample -> check -> transforms -> finish -> collate -> Batch -> losses
        Batch -> predict -> evaluator.update -> states of all ranks -> merge -> compute

    Attributes:
        scores: the scores of an evaluation, in the order of records; may depend on the instance.
        normalise: whether INPUT.MEAN and INPUT.STD are applied. `losses` and `predict` always get images as
            floats, in [0, 1] before this normalisation.
        extra_outputs: outputs of the model beyond MODEL.NUM_CLASSES, such as 1 for a background class.
        model_family: which of torchvision's models it trains: classification, detection, instance_segmentation or
            keypoint_detection; "" accepts all. Registered models belong to no family.
        model_arguments: arguments that the model's builder gets if its signature has them, such as the number of
            keypoints; MODEL.ARGS cannot set these.
        classes: the names of the classes in the order of labels, as far as known, by which the rows of a trained
            head are found.
        num_outputs: outputs of the model, which MODEL.NUM_CLASSES must not contradict; 0: MODEL.NUM_CLASSES, or
            one per class of the training set.
        draws_in_forward: whether to seed the generators before each forward pass in training by SEED, iteration
            and sample, so that random draws do not depend on the number of ranks; for models that sample inside
            (detectors).
        any_size: whether images of a batch may differ in size, which `collate` then returns as a list.
        mixes: whether targets are class indices (N,), which MixUp and CutMix turn into shares (N, num_classes).
        reads: config keys that this task reads but not every task does: MODEL.STEM. Setting a key that the task
            does not read is an error.
        evaluation_args: names of TASK_ARGS that affect only evaluation, so a resumed run may change them.
        resolved_args: TASK_ARGS that follow from the training set; they replace the given ones in the run's
            config.
    """

    scores: Sequence[Score] = ()
    normalise: bool = True
    extra_outputs: int = 0
    model_family: str = "classification"
    model_arguments: Mapping[str, Any] = {}
    classes: Sequence[str] = ()
    num_outputs: int = 0
    draws_in_forward: bool = False
    any_size: bool = False
    mixes: bool = False
    reads: ClassVar[Sequence[str]] = ()
    evaluation_args: ClassVar[Sequence[str]] = ()
    resolved_args: Mapping[str, Any] = {}

    def __init__(self, info: DatasetInfo) -> None:  # noqa: B027  # optional
        """Create the task for a training set.

        Args:
            info: info on the training set; num_classes is MODEL.NUM_CLASSES if that is set, and so is num_values
                if the kind of targets is not known.
        """

    @abstractmethod
    def sample(self, image: Tensor, target: Any) -> Sample:
        """Return a sample: the image under "image", and targets under names that the task chooses.

        Args:
            image: uint8 (C, H, W).
            target: the target that the data set returned.
        """

    def check(self, sample: Sample, where: str) -> None:  # noqa: B027  # optional
        """Raise ConfigError if a sample cannot be trained on; called right after `sample`.

        Args:
            sample: the result of `sample`.
            where: the sample, for messages: "digits_train: sample 7".
        """

    def finish(self, sample: Sample) -> Sample:
        """Return a sample in its final form after the transforms, for example without boxes of zero area."""
        return sample

    def collate(self, samples: Sequence[Sample], training: bool) -> Batch:
        """Return a batch: by default the stacked images and targets; several targets are a dict of stacks.

        Args:
            samples: at least one; each also holds its index in the data set under "index".
            training: whether the batch is for training.

        Raises:
            ConfigError: images differ in size.
        """
        images = stack_images([sample["image"] for sample in samples])
        names = [name for name in samples[0] if name not in ("image", "index")]
        targets = {name: _stacked([sample[name] for sample in samples]) for name in names}
        return Batch(images, targets[names[0]] if len(names) == 1 else targets)

    def resident_targets(self, targets: Tensor, name: str) -> Tensor:
        """Return the targets of a data set that is held in memory, stacked as `collate` stacks them.

        A task that implements this can use the resident loader, whose transforms work on batches of images and
        leave targets as they are.

        Args:
            targets: (N, ...), the data set's array.
            name: the data set's name, for messages.

        Raises:
            ConfigError: one of them is wrong.
        """
        raise NotImplementedError

    @property
    def resident(self) -> bool:
        """Whether the resident loader can serve this task."""
        return type(self).resident_targets is not Task.resident_targets

    @abstractmethod
    def losses(self, forward: Forward, batch: Batch) -> dict[str, Tensor]:
        """Return the losses of a micro-batch by name, 0-dim tensors; training minimises their sum.

        Values whose names begin with `train/` are recorded but not summed.

        Args:
            forward: calls the model with images; call it exactly once.
            batch: on the model's device.
        """

    def own_losses(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the losses to train on if the model itself returns losses; by default these.

        `losses` is not called then: a model's losses are never replaced.

        Raises:
            ConfigError: a setting of the task would have no effect on them.
        """
        return losses

    @abstractmethod
    def predict(self, forward: Forward, images: Any) -> Any:
        """Return the predictions for images, without gradients.

        Args:
            forward: calls the model, which is in evaluation mode, with images.
            images: as in a batch.
        """

    @abstractmethod
    def evaluator(self) -> Evaluator:
        """Return a new evaluator for one pass over a test set."""

    def report_values(self, predictions: Any, targets: Any) -> Mapping[str, Tensor]:
        """Return what a report needs to know of each sample of a batch, as tensors (N, ...); {} by default.

        Called once a batch in every evaluation: compute little, and do not wait for the device.

        Args:
            predictions: of a batch, as `predict` returns them.
            targets: of the batch.
        """
        return {}

    def report(self, values: Mapping[str, Any], sample_name: Callable[[int], str]) -> Report:
        """Return the report of one evaluation; not called if `report_values` returns nothing.

        Args:
            values: of all samples, joined over batches and ranks, on the CPU, with the samples' indices in the
                test set under "index", in increasing order. If the evaluator has a method `report_values`, what
                that returned after `compute` instead, which also has "index".
            sample_name: returns the file of a sample, "" if it has none.
        """
        return Report({})

    def report_files(self, values: Mapping[str, Any], dataset: Any) -> Mapping[str, Any]:
        """Return further files of a report by the names of their .json files; none by default.

        Args:
            values: as `report` gets them.
            dataset: the test set, before all transforms.
        """
        return {}

    def evaluation_pictures(
        self, values: Mapping[str, Any], image_of: Callable[[int], Tensor | None]
    ) -> Mapping[str, Tensor]:
        """Return pictures of every evaluation, uint8 (3, H, W), by the names of their .png files; none by default.

        Args:
            values: as the evaluator's `report_values` returned them.
            image_of: returns a sample's image before all transforms, uint8 (C, H, W); None if it cannot be read.
        """
        return {}

    def report_pictures(
        self, content: Mapping[str, Any], image_of: Callable[[int], Tensor | None]
    ) -> Mapping[str, Figure]:
        """Return the pictures of a report by the names of their .png files; none by default.

        Args:
            content: of the report, as it was read from report.json.
            image_of: returns a sample's image before all transforms, uint8 (C, H, W); None if it cannot be read.
        """
        return {}

    def draw(self, image: Tensor, prediction: Any) -> Tensor:
        """Return a picture of a prediction, uint8 (3, H, W); by default the prediction as text on the image.

        Args:
            image: uint8 (C, H, W).
            prediction: for this image.
        """
        from PIL import ImageDraw
        from torchvision.transforms.v2 import functional

        picture = functional.to_pil_image(image).convert("RGB")
        ImageDraw.Draw(picture).text((2, 2), str(prediction), fill="white", stroke_width=1, stroke_fill="black")
        drawn: Tensor = functional.pil_to_tensor(picture)
        return drawn

    def draw_target(self, image: Tensor, target: Any) -> Tensor:
        """Return a picture of what the data set returned for an image, uint8 (3, H, W); by default as `draw` does.

        Args:
            image: uint8 (C, H, W).
            target: of this image, valid.
        """
        return self.draw(image, target)


def _stacked(values: Sequence[Any]) -> Any:
    """Stack one value per sample; return a list if they are not numbers, or tensors of several shapes."""
    if all(isinstance(value, Tensor) for value in values):
        same = len({value.shape for value in values}) == 1
        return torch.stack([value.as_subclass(Tensor) for value in values]) if same else list(values)
    try:
        return torch.tensor(values) if isinstance(values[0], (bool, int, float)) else list(values)
    except (TypeError, ValueError):  # values of several kinds
        return list(values)
