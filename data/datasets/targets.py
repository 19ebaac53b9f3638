"""Numeric targets, of a data set and of a single sample."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset

from warmstart.config import ConfigError

_LARGEST = float(np.finfo(np.float32).max)


def checked_targets(targets: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return targets (N,) or (N, K) as int64 if they are integers or booleans, else as float64.

    Raises:
        ValueError: they are not numbers, have another shape, or one is not finite as float32.

    >>> checked_targets(np.array([[True, False]])), checked_targets(np.array([0.5], np.float32))
    (array([[1, 0]]), array([0.5]))
    >>> checked_targets(np.array([1.0, np.nan]))
    Traceback (most recent call last):
    ValueError: sample 1 has target nan; targets are finite numbers that float32 can hold
    """
    if targets.dtype.kind not in "biuf" or targets.ndim not in (1, 2) or 0 in targets.shape[1:]:
        raise ValueError(
            "labels must be N whole numbers, class indices, or numbers of shape (N,) or (N, K); got"
            f" {targets.dtype} {targets.shape}"
        )
    if targets.dtype.kind != "f":
        return targets.astype(np.int64)
    floats = targets.astype(np.float64)
    for index in np.argwhere(~(np.abs(floats) <= _LARGEST))[:1]:
        raise ValueError(
            f"sample {index[0]} has target {floats[tuple(index)]:g}; targets are finite numbers that float32 can"
            " hold"
        )
    return floats


def target_statistics(targets: npt.NDArray[Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and the population standard deviation of each number over all targets.

    Sums are correctly rounded, so that every machine computes the same bits.

    Args:
        targets: (N,) or (N, K), N at least 1.

    >>> target_statistics(np.array([[1, 0.5], [3, 0.5]]))
    ((2.0, 0.5), (1.0, 0.0))
    """
    means, stds = [], []
    for column in targets.reshape(len(targets), -1).T.astype(np.float64):
        means.append(math.fsum(column.tolist()) / len(column))
        # Otherwise the rounded mean of equal values could leave a tiny deviation.
        constant = (column == column[0]).all()
        variance = math.fsum(np.square(column - means[-1]).tolist()) / len(column)
        stds.append(0.0 if constant else math.sqrt(variance))
    return tuple(means), tuple(stds)


def read_targets(dataset: Any) -> npt.NDArray[Any] | None:
    """Return all samples' targets, from an attribute `targets`, as torchvision's data sets have, or `labels`.

    None if there is no such attribute, or if it does not hold one number or K numbers per sample.

    Raises:
        ValueError: one is not finite.

    >>> from types import SimpleNamespace
    >>> read_targets(SimpleNamespace(targets=["cat", "dog"], __len__=lambda self: 2)) is None
    True
    """
    try:
        targets = of_each_sample(dataset, _numbers)
    except (LookupError, TypeError, ValueError):
        return None
    return checked_targets(targets)


def targets_attribute(dataset: Any) -> str:
    """Return which of the attributes `targets` and `labels` a data set has, the first one first; "" if neither.

    >>> from types import SimpleNamespace
    >>> targets_attribute(SimpleNamespace(labels=[0])), targets_attribute([])
    ('labels', '')
    """
    return next((name for name in ("targets", "labels") if hasattr(dataset, name)), "")


def _numbers(dataset: Any) -> npt.NDArray[Any]:
    name = targets_attribute(dataset)
    numbers = np.asarray(getattr(dataset, name)) if name else np.empty(0, object)
    has_form = numbers.ndim in (1, 2) and len(numbers) == len(dataset) and numbers.size > 0
    if numbers.dtype.kind not in "biuf" or not has_form:
        raise LookupError("no numbers")
    return numbers


def of_each_sample(dataset: Any, read: Callable[[Any], npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Return what `read` returns for a data set, one entry per sample, looking into ConcatDataset and Subset."""
    if isinstance(dataset, ConcatDataset):
        return np.concatenate([of_each_sample(part, read) for part in dataset.datasets])
    if isinstance(dataset, Subset):
        return of_each_sample(dataset.dataset, read)[np.asarray(dataset.indices, np.int64)]
    return read(dataset)


def checked_numbers(target: Any, count: int, where: str, binary: bool = False) -> Tensor:
    """Return a sample's target as a tensor (count,), float32.

    Args:
        target: `count` numbers in any form; for a count of 1 also a plain number.
        count: how many there must be.
        where: the sample, for messages: "mine: sample 7".
        binary: whether each must be 0 or 1.

    Raises:
        ConfigError: it is something else, or a number is not finite.

    >>> checked_numbers([1, 0, True], 3, "mine: sample 7", binary=True)
    tensor([1., 0., 1.])
    >>> checked_numbers("cat", 1, "mine: sample 7")
    Traceback (most recent call last):
    warmstart.config.errors.ConfigError: mine: sample 7 has target 'cat'; expected a finite number
    """
    try:
        array = np.asarray(target)
    except (TypeError, ValueError, RuntimeError):  # lists of unequal lengths; tensors on other devices
        array = np.empty(0, object)
    if array.dtype.kind in "biuf" and array.shape in [(count,), *([()] if count == 1 else [])]:
        numbers = torch.tensor(array.reshape(count), dtype=torch.float32)
        if not _wrong(numbers, binary).any():
            return numbers
    each = "0 or 1 a class" if binary else "finite"
    expected = f"{count} numbers, {each}" if count > 1 else "a number, 0 or 1" if binary else "a finite number"
    raise ConfigError(f"{where} has target {_shown(target)}; expected {expected}")


def checked_number_array(targets: Tensor, count: int, name: str, binary: bool = False) -> Tensor:
    """Return targets (N,) or (N, count) as a tensor (N, count), float32, checked as `checked_numbers` does.

    Args:
        targets: of all samples.
        count: how many numbers a target has.
        name: the data set's name, for messages.
        binary: whether each number must be 0 or 1.

    Raises:
        ConfigError: the shape differs, or a number is wrong; the message names the first such sample.

    >>> checked_number_array(torch.tensor([[0, 1], [0, 2]]), 2, "mine", binary=True)
    Traceback (most recent call last):
    warmstart.config.errors.ConfigError: mine: sample 1 has target [0, 2]; expected 2 numbers, 0 or 1 a class
    """
    if targets.shape[1:] not in [(count,), *([()] if count == 1 else [])]:
        checked_numbers(targets[0].numpy(), count, f"{name}: sample 0", binary)
    numbers = targets.to(torch.float32).view(len(targets), count)
    for index in _wrong(numbers, binary).any(1).nonzero()[:1].flatten().tolist():
        checked_numbers(targets[index].numpy(), count, f"{name}: sample {index}", binary)
    return numbers


def _wrong(numbers: Tensor, binary: bool) -> Tensor:
    return (numbers != 0) & (numbers != 1) if binary else ~numbers.isfinite()


def _shown(target: Any) -> str:
    text = repr(target.tolist() if hasattr(target, "tolist") else target)
    return text if len(text) <= 60 else f"{text[:57]}..."
