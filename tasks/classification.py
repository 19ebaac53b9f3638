"""Image classification: one class per image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from warmstart.config import ConfigError
from warmstart.data import Batch, DatasetInfo, Sample, checked_label

from .class_losses import ALPHA, GAMMA, LOSSES, ClassLoss, class_weights_of, require_loss
from .classification_report import build_report, draw_report, values_of
from .object_targets import refuse_objects
from .outputs import aux_losses, named_outputs, require_logits
from .task import Forward, Report, Score, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Classification(Task):
    """The model returns logits (N, num_classes); targets are class indices (N,).

    Trains on `loss_cls`, the mean cross-entropy or another loss as `ClassLoss` defines them, and on one weighted
    loss for each auxiliary classifier, `loss_aux1` and `loss_aux2`, or `loss_aux`. Records `train/error`, the
    share of images whose highest logit is not the target; for mixed images the target is the class with the
    largest share. Scores: `accuracy`, the share of images whose label has the highest logit; with more than five
    classes `top5`, the share whose label is among the five highest; `loss`, the mean cross-entropy without
    smoothing and weights, whatever the model is trained on.

    Args:
        info: info on the training set.
        loss: cross_entropy; bce, the binary cross-entropy of each class against all others; or focal, its focal
            loss.
        gamma: exponent of the focal loss, at least 0; a higher one gives well-classified examples less weight.
        alpha: weight of the right class in the focal loss, from 0 to 1; the others have weight 1 - alpha. None:
            all have weight 1.
        label_smoothing: s, at least 0 and below 1. Each training target t becomes (1 - s) t + s / num_classes:
            Szegedy et al. 2015, arXiv:1512.00567, section 7. 0.1 and 0.2 are usual.
        class_weights: one number of at least 0 for each class; "balanced": inversely proportional to the number of
            its samples in the training set, see `class_weights_of`; None: 1 each.
        flip: whether to average the logits of an image and of its horizontal mirror image in predictions, which
            doubles the work.

    Raises:
        ConfigError: the number of classes is not known, or an argument is out of range or has no effect.

    >>> task = Classification(DatasetInfo(size=100, num_classes=3, channels=1, image_size=(8, 8)))
    >>> logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    >>> losses = task.losses(lambda images: logits, Batch(torch.zeros(2, 1, 8, 8), torch.tensor([0, 2])))
    >>> {name: round(value.item(), 4) for name, value in losses.items()}
    {'loss_cls': 1.2395, 'train/error': 0.5}
    """

    mixes = True
    reads = ("MODEL.STEM",)
    evaluation_args = ("flip",)

    def __init__(
        self,
        info: DatasetInfo,
        *,
        loss: str = "cross_entropy",
        gamma: float = GAMMA,
        alpha: float | None = ALPHA,
        label_smoothing: float = 0.0,
        class_weights: str | Sequence[float] | None = None,
        flip: bool = False,
    ) -> None:
        refuse_objects(info, "classification")
        self.num_classes, self.classes = _require_classes(info), info.classes
        require_loss(loss, LOSSES, gamma, alpha)
        if not 0 <= label_smoothing < 1:
            raise ConfigError(
                "MODEL.TASK_ARGS.label_smoothing: expected a number of at least 0 and below 1; got"
                f" {label_smoothing:g} (for example: MODEL.TASK_ARGS.label_smoothing 0.1)"
            )
        weights = None
        if class_weights is not None:
            weights = class_weights_of(class_weights, info.class_counts, self.num_classes)
            self.resolved_args = {"class_weights": weights}
        options: dict[str, Any] = {"gamma": gamma, "alpha": alpha, "label_smoothing": label_smoothing}
        self.loss, self.flip = ClassLoss(loss, class_weights=weights, **options), flip
        # Arguments that a model's own losses are not affected by: value, default, and what to do instead.
        self._of_loss = {
            "loss": (loss, "cross_entropy", "leave it out"),
            "label_smoothing": (label_smoothing, 0.0, "set it to 0, and smooth the targets in the model"),
            "class_weights": (class_weights, None, "leave it out, and weight the losses in the model"),
        }
        self.scores = [
            Score("accuracy", percent=True),
            *([Score("top5", percent=True)] if self.num_classes > 5 else []),
            Score("loss", higher_is_better=False),
        ]

    def sample(self, image: Tensor, target: Any) -> Sample:
        """Return the image and its label."""
        return {"image": image, "label": target}

    def check(self, sample: Sample, where: str) -> None:
        """Refuse a label that is not an integer from 0 to num_classes - 1."""
        sample["label"] = checked_label(sample["label"], self.num_classes, where)

    def resident_targets(self, targets: Tensor, name: str) -> Tensor:
        """Return the labels (N,), int64."""
        outside = (targets < 0) | (targets >= self.num_classes)
        for index in outside.nonzero()[:1].flatten().tolist():
            checked_label(targets[index].item(), self.num_classes, f"{name}: sample {index}")
        return targets

    def losses(self, forward: Forward, batch: Batch) -> dict[str, Tensor]:
        """Return the loss of each classifier, and the error."""
        outputs, targets = named_outputs(forward(batch.images)), batch.targets
        losses = {"loss_cls": self.loss(outputs["logits"], targets)}
        losses |= aux_losses(outputs, lambda logits: self.loss(logits, targets))
        return losses | {"train/error": _error(outputs["logits"], targets)}

    def own_losses(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the model's losses, which cannot be replaced, smoothed or weighted."""
        for name, (value, unset, advice) in self._of_loss.items():
            if value != unset:
                raise ConfigError(
                    f"MODEL.TASK_ARGS.{name}: is {value}, but the model computes its own losses, which it does not"
                    f" affect; {advice}"
                )
        return losses

    def predict(self, forward: Forward, images: Tensor) -> Tensor:
        """Return logits (N, num_classes), float32."""
        logits = require_logits(forward(images)).float()
        return (logits + forward(images.flip(-1)).float()) / 2 if self.flip else logits

    def evaluator(self) -> _Scores:
        """Return an evaluator that counts hits and sums the cross-entropy."""
        return _Scores()

    def report_values(self, predictions: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return label, predicted class and its probability."""
        return values_of(predictions, targets)

    def report(self, values: Mapping[str, Tensor], sample_name: Callable[[int], str]) -> Report:
        """Return accuracies of classes, the confusion matrix, and the most confident mistakes."""
        return build_report(values, self.classes, self.num_classes, sample_name)

    def report_pictures(
        self, content: Mapping[str, Any], image_of: Callable[[int], Tensor | None]
    ) -> dict[str, Figure]:
        """Return a picture of each of them."""
        return draw_report(content, image_of)


class _Scores:
    """Accuracy and top-5 accuracy, computed by torchmetrics, and the mean cross-entropy."""

    def __init__(self) -> None:
        self._metrics: Any = None
        # Not torchmetrics' mean, which synchronises with the device at each batch to check for NaN, and drops NaN.
        self._loss: Tensor | float = 0.0
        self._samples = 0

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Take logits (N, num_classes) and labels (N,)."""
        if self._metrics is None:
            self._metrics = _metrics(predictions.shape[1]).to(predictions.device)
            self._loss = torch.zeros((), dtype=torch.float64, device=predictions.device)
        self._metrics.update(predictions, targets)
        self._loss += F.cross_entropy(predictions, targets, reduction="sum")
        self._samples += len(targets)

    def state(self) -> Any:
        """Return the metrics, the sum of the losses and the number of samples."""
        return None if self._metrics is None else (self._metrics.to("cpu"), float(self._loss), self._samples)

    def merge(self, states: Sequence[Any]) -> None:
        """Add up the states."""
        self._metrics = states[0][0]
        for name, metric in self._metrics.items():
            for others, _, _ in states[1:]:
                metric.merge_state(others[name])
        self._loss = sum(loss for _, loss, _ in states)
        self._samples = sum(samples for _, _, samples in states)

    def compute(self) -> dict[str, float]:
        """Return the scores."""
        hits = {name: float(value) for name, value in self._metrics.compute().items()}
        return hits | {"loss": float(self._loss) / self._samples}


def _metrics(num_classes: int) -> Any:
    from torchmetrics import MetricCollection  # slow to import, and needed only for evaluation
    from torchmetrics.classification import MulticlassAccuracy

    ranks = {"accuracy": 1} | ({"top5": 5} if num_classes > 5 else {})
    options: dict[str, Any] = {"average": "micro", "validate_args": False, "sync_on_compute": False}
    return MetricCollection(
        {name: MulticlassAccuracy(num_classes, top_k=k, **options) for name, k in ranks.items()},
        compute_groups=False,
    )


def _error(logits: Tensor, targets: Tensor) -> Tensor:
    classes = targets.argmax(dim=1) if targets.ndim == 2 else targets
    return (logits.argmax(dim=1) != classes).float().mean()  # computed from integers, so it has no gradient


def _numbers(count: int) -> str:
    return f"{count} numbers for each" if count > 1 else "a number that is not a class index for each"


def _require_classes(info: DatasetInfo) -> int:
    """Return the number of classes of the training set.

    Raises:
        ConfigError: it is not known, or targets are not class indices.
    """
    if info.num_values and not info.num_classes:
        raise ConfigError(
            "DATASETS.TRAIN: MODEL.TASK classification needs class indices as targets, an integer from 0 for"
            f" each image, but the training set has {_numbers(info.num_values)}; set MODEL.TASK to regression, or"
            " to multilabel_classification if each is 0 or 1"
        )
    if not info.num_classes:
        raise ConfigError(
            "DATASETS.TRAIN: the training set does not say how many classes it has; set MODEL.NUM_CLASSES,"
            " register it with a DatasetInfo, or give it an attribute classes or num_classes"
        )
    return info.num_classes
