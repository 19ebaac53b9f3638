"""Multi-label image classification: any number of K classes per image."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from warmstart.config import ConfigError
from warmstart.data import Batch, DatasetInfo, Sample, checked_number_array, checked_numbers

from .class_losses import ALPHA, GAMMA, require, require_loss
from .multilabel_report import build_report, draw_report
from .object_targets import refuse_objects
from .outputs import aux_losses, average_precision, named_outputs, require_logits, require_shape
from .task import Forward, Report, Score, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class MultilabelClassification(Task):
    """The model returns logits (N, K); targets are 0 or 1 for each class, (N, K).

    Trains on `loss_cls`, the binary cross-entropy or focal loss averaged over all N x K outputs, and on a weighted
    loss for each auxiliary classifier, as `Classification` does. Records `train/error`, the share of images with
    at least one logit of the wrong sign.

    Scores: `mAP`, the average precision (the sum of precision times gain in recall over all thresholds, without
    interpolation) averaged over the classes with a positive in the test set (NaN if there are none); `f1`,
    averaged over the classes that occur in a target or prediction (0 if there are none); `exact_match`, the share
    of images with all K predictions right; `loss`, the mean binary cross-entropy, even if training uses the focal
    loss.

    Args:
        info: info on the training set.
        loss: bce, or focal: (1 - p)^gamma times the cross-entropy, where p is the predicted probability of the
            true value. Lin et al. 2017, arXiv:1708.02002.
        gamma: exponent of the focal loss, at least 0; a higher one gives well-classified examples less weight.
        alpha: weight of positives in the focal loss, from 0 to 1; negatives have weight 1 - alpha. None: both have
            weight 1.
        threshold: probability above which a class is predicted, for `f1` and `exact_match`.
        flip: whether to average the logits of an image and of its horizontal mirror image in predictions, which
            doubles the work.

    Raises:
        ConfigError: the number of classes is not known, targets have another form, or an argument is out of range
            or has no effect.

    >>> task = MultilabelClassification(DatasetInfo(100, 0, channels=1, image_size=(8, 8), num_values=2))
    >>> logits, targets = torch.tensor([[0.0, 2.0], [-1.0, 0.0]]), torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    >>> losses = task.losses(lambda images: logits, Batch(torch.zeros(2, 1, 8, 8), targets))
    >>> {name: round(value.item(), 4) for name, value in losses.items()}
    {'loss_cls': 0.7066, 'train/error': 1.0}
    """

    reads = ("MODEL.STEM",)
    evaluation_args = ("threshold", "flip")
    scores = (
        Score("mAP", percent=True),
        Score("f1", percent=True),
        Score("exact_match", percent=True),
        Score("loss", higher_is_better=False),
    )

    def __init__(
        self,
        info: DatasetInfo,
        *,
        loss: str = "bce",
        gamma: float = GAMMA,
        alpha: float | None = ALPHA,
        threshold: float = 0.5,
        flip: bool = False,
    ) -> None:
        self.num_outputs, self.classes = _number_of_classes(info), info.classes
        require_loss(loss, ("bce", "focal"), gamma, alpha)
        require(0 < threshold < 1, "threshold", "a number above 0 and below 1", threshold)
        self.loss, self.gamma, self.alpha = loss, gamma, -1.0 if alpha is None else alpha
        self.threshold, self.flip = threshold, flip

    def sample(self, image: Tensor, target: Any) -> Sample:
        """Return the image and its K labels."""
        return {"image": image, "labels": target}

    def check(self, sample: Sample, where: str) -> None:
        """Refuse labels that are not K numbers of 0 or 1; make them float32 (K,)."""
        sample["labels"] = checked_numbers(sample["labels"], self.num_outputs, where, binary=True)

    def resident_targets(self, targets: Tensor, name: str) -> Tensor:
        """Return the labels (N, K), float32."""
        return checked_number_array(targets, self.num_outputs, name, binary=True)

    def losses(self, forward: Forward, batch: Batch) -> dict[str, Tensor]:
        """Return the loss of each classifier, and the error."""
        outputs, targets = named_outputs(forward(batch.images)), batch.targets
        losses = {"loss_cls": self._loss(outputs["logits"], targets)}
        losses |= aux_losses(outputs, lambda logits: self._loss(logits, targets))
        wrong = (outputs["logits"] > 0) != (targets > 0)
        return losses | {"train/error": wrong.any(dim=1).float().mean()}

    def own_losses(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the model's losses unchanged."""
        if self.loss != "bce":
            raise ConfigError(
                f"MODEL.TASK_ARGS.loss: is {self.loss}, but the model computes its own losses; leave it out"
            )
        return losses

    def predict(self, forward: Forward, images: Tensor) -> Tensor:
        """Return logits (N, K), float32."""
        logits = require_shape(require_logits(forward(images)), self.num_outputs)
        return (logits + forward(images.flip(-1)).float()) / 2 if self.flip else logits

    def evaluator(self) -> _Scores:
        """Return an evaluator that keeps all logits and labels, because precision depends on their ranking."""
        return _Scores(self.threshold)

    def report_values(self, predictions: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return logits and labels."""
        return {"logits": predictions, "labels": targets > 0}

    def report(self, values: Mapping[str, Tensor], sample_name: Callable[[int], str]) -> Report:
        """Return scores of classes, and the most confident mistakes."""
        return build_report(values, self.classes, self.threshold, sample_name)

    def report_pictures(
        self, content: Mapping[str, Any], image_of: Callable[[int], Tensor | None]
    ) -> dict[str, Figure]:
        """Return a picture of each of them."""
        return draw_report(content, image_of)

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        logits = require_shape(logits, self.num_outputs)
        if self.loss == "bce":
            return F.binary_cross_entropy_with_logits(logits, targets)
        from torchvision.ops import sigmoid_focal_loss  # slow to import, and needed only for this loss

        loss: Tensor = sigmoid_focal_loss(logits, targets, self.alpha, self.gamma, reduction="mean")
        return loss


class _Scores:
    """Scores computed from all logits and labels, which stay on their device until the end.

    torchmetrics' MultilabelAveragePrecision does something similar, but counts a class without positives as 0, and
    takes logits for probabilities if all in a batch are between 0 and 1.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._logits: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._losses: list[Tensor] = []  # the sum over each batch

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Take logits (N, K) and labels (N, K)."""
        loss = F.binary_cross_entropy_with_logits(predictions.double(), targets.double(), reduction="sum")
        self._losses.append(loss)
        self._logits.append(predictions)
        self._labels.append(targets > 0)

    def state(self) -> Any:
        """Return all logits, labels and losses of batches."""
        if not self._losses:
            return None
        return torch.cat(self._logits).cpu(), torch.cat(self._labels).cpu(), torch.stack(self._losses).cpu()

    def merge(self, states: Sequence[Any]) -> None:
        """Join the states."""
        logits, labels, losses = zip(*states, strict=True)
        self._logits, self._labels, self._losses = [*logits], [*labels], [*losses]

    def compute(self) -> dict[str, float]:
        """Return the scores; they do not depend on the order of samples, and so not on the number of ranks."""
        logits, labels = torch.cat(self._logits), torch.cat(self._labels)
        predicted = logits.double().sigmoid() > self._threshold
        found = [average_precision(logits[:, k], labels[:, k]) for k in labels.any(dim=0).nonzero().flatten()]
        right, either = 2 * (predicted & labels).sum(dim=0), predicted.sum(dim=0) + labels.sum(dim=0)
        f1 = (right / either.double())[either > 0]
        return {
            "mAP": math.fsum(found) / len(found) if found else math.nan,
            "f1": float(f1.mean()) if len(f1) else 0.0,
            "exact_match": float((predicted == labels).all(dim=1).double().mean()),
            # Rounded once, so the order in which ranks have summed batches does not matter.
            "loss": math.fsum(torch.hstack(self._losses).tolist()) / labels.numel(),
        }


def _number_of_classes(info: DatasetInfo) -> int:
    refuse_objects(info, "multilabel_classification")
    form = "0 or 1 for each of K classes as targets, of shape (N, K)"
    if info.num_classes and not info.num_values:
        raise ConfigError(
            f"DATASETS.TRAIN: MODEL.TASK multilabel_classification needs {form}, but the training set has a class"
            " index for each image; set MODEL.TASK to classification"
        )
    if not info.num_values:
        raise ConfigError(
            f"DATASETS.TRAIN: MODEL.TASK multilabel_classification needs {form}, but the training set does not say"
            " how many; set MODEL.NUM_CLASSES, register it with a DatasetInfo that has num_values, or give it an"
            " attribute targets"
        )
    return info.num_values
