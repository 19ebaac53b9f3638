"""Regression: K numbers per image."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from warmstart.config import ConfigError, unknown_name
from warmstart.data import Batch, DatasetInfo, Sample, checked_number_array, checked_numbers

from .object_targets import refuse_objects
from .outputs import aux_losses, named_outputs, require_logits, require_shape
from .regression_report import build_report, draw_report
from .task import Forward, Report, Score, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

_LOSSES = ("l1", "l2", "huber")
_DELTA = 1.0
_FINE = 2.0**-14  # std / mean below which float32's 24 bits leave fewer than 10 for deviations from the mean


class Regression(Task):
    """The model returns (N, K); targets are numbers, in batches always of shape (N, K).

    The model learns standardised targets, (t - mean) / std, with the mean and std of the training set by default;
    a prediction is output * std + mean, in the units of the targets. Trains on `loss_l1`, `loss_l2` or
    `loss_huber`, the standardised error averaged over all N x K outputs, and on a weighted loss for each auxiliary
    classifier, as `Classification` does. Records `train/mae`, defined like the score.

    Scores, in the units of the targets, computed for each of the K numbers and averaged over them: `mae`, the mean
    absolute error; `rmse`, the root mean squared error; `r2`, 1 - the sum of squared errors / the sum of squared
    deviations from the mean of the test set (if all targets are equal: 1 if all predictions are right, else 0).

    Args:
        info: info on the training set.
        loss: l1, the absolute error; l2, the squared error; huber, 0.5 e^2 up to an absolute error e of delta, and
            delta (e - 0.5 delta) beyond (Huber 1964, doi:10.1214/aoms/1177703732).
        delta: parameter of the Huber loss, in standard deviations, above 0.
        mean: K numbers; None: the means over the training set.
        std: K numbers above 0; None: the population standard deviations over the training set, with 1 for a number
            that is the same in every sample.

    Raises:
        ConfigError: K, mean or std is not known, the targets do not vary enough for float32, or an argument is out
            of range or has no effect.

    >>> info = DatasetInfo(9, 0, channels=1, image_size=(8, 8), num_values=1, value_mean=(5.0,), value_std=(2.0,))
    >>> task, outputs = Regression(info), torch.tensor([[1.0], [0.0]])
    >>> losses = task.losses(lambda images: outputs, Batch(torch.zeros(2, 1, 8, 8), torch.tensor([[7.0], [6.0]])))
    >>> {name: value.item() for name, value in losses.items()}
    {'loss_l1': 0.25, 'train/mae': 0.5}
    >>> task.predict(lambda images: outputs, torch.zeros(2, 1, 8, 8)).tolist()
    [[7.0], [5.0]]
    """

    reads = ("MODEL.STEM",)
    scores = (Score("mae", higher_is_better=False), Score("rmse", higher_is_better=False), Score("r2"))

    def __init__(
        self,
        info: DatasetInfo,
        *,
        loss: str = "l1",
        delta: float = _DELTA,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        if loss not in _LOSSES:
            raise unknown_name("MODEL.TASK_ARGS.loss", "loss", loss, _LOSSES)
        if not 0 < delta < math.inf:
            raise ConfigError(f"MODEL.TASK_ARGS.delta: expected a number above 0; got {delta:g}")
        if loss != "huber" and delta != _DELTA:
            raise ConfigError(
                f"MODEL.TASK_ARGS.delta: only the Huber loss has it, but loss is {loss}; leave it out, or set"
                " loss to huber"
            )
        self.loss, self.delta = loss, delta
        self.num_outputs, self.names = _number_of_values(info, mean), info.classes
        _require_variation(info)
        means = _statistic("mean", mean, info.value_mean, self.num_outputs)
        stds = _statistic("std", std, info.value_std, self.num_outputs)
        if std is None:
            stds = [_not_constant(number, *each) for number, each in enumerate(zip(stds, means, strict=True))]
        self.resolved_args = {"mean": means, "std": stds}
        self._mean, self._std = torch.tensor(means), torch.tensor(stds)

    def sample(self, image: Tensor, target: Any) -> Sample:
        """Return the image and its K numbers."""
        return {"image": image, "values": target}

    def check(self, sample: Sample, where: str) -> None:
        """Refuse a target that is not K finite numbers; make it float32 (K,)."""
        sample["values"] = checked_numbers(sample["values"], self.num_outputs, where)

    def resident_targets(self, targets: Tensor, name: str) -> Tensor:
        """Return the targets (N, K), float32."""
        return checked_number_array(targets, self.num_outputs, name)

    def losses(self, forward: Forward, batch: Batch) -> dict[str, Tensor]:
        """Return the loss of each output, and the mean absolute error."""
        outputs = named_outputs(forward(batch.images))
        mean, std = self._statistics(batch.targets.device)
        targets = (batch.targets - mean) / std
        losses = {f"loss_{self.loss}": self._loss(outputs["logits"], targets)}
        losses |= aux_losses(outputs, lambda output: self._loss(output, targets))
        errors = (outputs["logits"].detach().float() - targets).abs() * std
        return losses | {"train/mae": errors.mean()}

    def own_losses(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the model's losses, which it computes from targets in their own units."""
        if self.loss != "l1":
            raise ConfigError(
                f"MODEL.TASK_ARGS.loss: is {self.loss}, but the model computes its own losses; leave it out"
            )
        if self.resolved_args != {"mean": [0.0] * self.num_outputs, "std": [1.0] * self.num_outputs}:
            raise ConfigError(
                "MODEL.TASK_ARGS.mean: the model computes its own losses from targets that are not standardised,"
                f" so its outputs are not standardised either; set mean to {[0.0] * self.num_outputs} and std to"
                f" {[1.0] * self.num_outputs}"
            )
        return losses

    def predict(self, forward: Forward, images: Tensor) -> Tensor:
        """Return predictions (N, K) in the targets' own units, float32."""
        outputs = require_shape(require_logits(forward(images)), self.num_outputs)
        mean, std = self._statistics(outputs.device)
        return outputs * std + mean

    def evaluator(self) -> _Scores:
        """Return an evaluator that sums up errors."""
        return _Scores(self.resolved_args["mean"])

    def report_values(self, predictions: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return predictions and targets."""
        return {"predictions": predictions, "targets": targets}

    def report(self, values: Mapping[str, Tensor], sample_name: Callable[[int], str]) -> Report:
        """Return the errors of each number, and the worst predictions."""
        return build_report(values, self.names, self.resolved_args["std"], sample_name)

    def report_pictures(
        self, content: Mapping[str, Any], image_of: Callable[[int], Tensor | None]
    ) -> dict[str, Figure]:
        """Return predictions over targets, and the images with the largest errors."""
        return draw_report(content, image_of)

    def _statistics(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if self._mean.device != device:  # once: a copy in every iteration would synchronise with the device
            self._mean, self._std = self._mean.to(device), self._std.to(device)
        return self._mean, self._std

    def _loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        outputs = require_shape(outputs, self.num_outputs)
        if self.loss == "huber":
            return F.huber_loss(outputs, targets, delta=self.delta)
        return F.l1_loss(outputs, targets) if self.loss == "l1" else F.mse_loss(outputs, targets)


class _Scores:
    """Errors summed in float64 for each batch; the total is rounded once, so the order of batches does not matter.

    Args:
        mean: K numbers near the targets, which are subtracted before squares are summed.
    """

    def __init__(self, mean: Sequence[float]) -> None:
        self._mean = torch.tensor(mean, dtype=torch.float64)
        self._sums: list[Tensor] = []  # (4, K)
        self._extremes: list[Tensor] = []  # (2, K)
        self._samples = 0

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Take predictions (N, K) and targets (N, K)."""
        self._mean = self._mean.to(targets.device)
        errors, deviations = predictions.double() - targets.double(), targets.double() - self._mean
        sums = [each.sum(dim=0) for each in (errors.abs(), errors.square(), deviations, deviations.square())]
        self._sums.append(torch.stack(sums))
        self._extremes.append(torch.stack([targets.amin(dim=0), targets.amax(dim=0)]))
        self._samples += len(targets)

    def state(self) -> Any:
        """Return sums and extremes of each batch, and the number of samples."""
        if not self._samples:
            return None
        return torch.stack(self._sums).cpu(), torch.stack(self._extremes).cpu(), self._samples

    def merge(self, states: Sequence[Any]) -> None:
        """Join the states."""
        self._sums = [each for sums, _, _ in states for each in sums]
        self._extremes = [each for _, extremes, _ in states for each in extremes]
        self._samples = sum(samples for _, _, samples in states)

    def compute(self) -> dict[str, float]:
        """Return the scores."""
        extremes, size = torch.stack(self._extremes), self._samples
        is_constant = (extremes[:, 0].amin(dim=0) == extremes[:, 1].amax(dim=0)).tolist()
        maes, rmses, r2s = [], [], []
        for sums, constant in zip(torch.stack(self._sums).permute(2, 1, 0).tolist(), is_constant, strict=True):
            absolute, squared, deviation, squared_deviation = map(math.fsum, sums)
            maes.append(absolute / size)
            rmses.append(math.sqrt(squared / size))
            spread = squared_deviation - deviation**2 / size
            r2s.append(float(squared == 0) if constant else 1 - squared / spread)
        return {name: _mean(each) for name, each in (("mae", maes), ("rmse", rmses), ("r2", r2s))}


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _number_of_values(info: DatasetInfo, mean: Sequence[float] | None) -> int:
    """Return K: 1 for class indices; if the data set's targets are not known, the number of means."""
    refuse_objects(info, "regression")
    known = info.num_values or len(info.value_mean) or int(info.num_classes > 0)
    if not known and mean is None:
        raise ConfigError(
            "DATASETS.TRAIN: MODEL.TASK regression needs numbers as targets, (N,) or (N, K), but the training"
            " set does not say how many; give it an attribute targets, register it with a DatasetInfo that has"
            " num_values, value_mean and value_std, or set MODEL.TASK_ARGS.mean and std"
        )
    return known or (len(mean) if isinstance(mean, (list, tuple)) else 1)


def _statistic(name: str, given: Any, known: tuple[float, ...], count: int) -> list[float]:
    """Return MODEL.TASK_ARGS.mean or std if it is given, else the training set's."""
    if given is None:
        if not known:
            raise ConfigError(
                f"MODEL.TASK_ARGS.{name}: the training set does not provide it; give a list of {count}, such as"
                f" {[float(name == 'std')] * count}, which leaves targets as they are, or give the data set an"
                " attribute targets"
            )
        return [*known]
    is_number = [type(each) in (int, float) and math.isfinite(each) for each in given] if _is_list(given) else []
    if len(is_number) != count or not all(is_number) or (name == "std" and min(given) <= 0):
        above = " above 0" if name == "std" else ""
        raise ConfigError(
            f"MODEL.TASK_ARGS.{name}: expected a list of {count} number{'s' if count > 1 else ''}{above}, or"
            f" null to use the training set's; got {given}"
        )
    return [float(each) for each in given]


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _not_constant(number: int, std: float, mean: float) -> float:
    """Return a standard deviation, or 1 with a warning if it is 0."""
    if std == 0:
        text = "MODEL.TASK_ARGS.std: number %d of the targets is %g in every sample; its std is taken as 1"
        logger.warning(text, number, mean)
    return std or 1.0


def _require_variation(info: DatasetInfo) -> None:
    for number, (mean, std) in enumerate(zip(info.value_mean, info.value_std, strict=False)):
        if 0 < std < _FINE * abs(mean):
            raise ConfigError(
                f"DATASETS.TRAIN: number {number} of the targets varies by {std:g} around {mean:.9g}, for which"
                " float32 has too few digits; subtract a constant from it in the data set"
            )
