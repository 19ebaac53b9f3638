"""The facts about one sample: its size, content and target, and its image after the transforms."""

from __future__ import annotations

import hashlib
import operator
import warnings
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from warmstart.config import ConfigError

from ..batch import SampleTask
from ..datasets.decode import to_tensor
from ..datasets.registry import MapDataset
from ..datasets.unreadable import UnreadableSample, read_sample, sample_path
from ..loaders.keyed_dataset import make_sample
from ..seeds import sample_key, seed_random_numbers
from ..transforms.image import ImageTransform
from .objects import ObjectFacts, object_facts, sides_of

Shape = tuple[int, int, int]  # (C, H, W)
Values = tuple[float, ...]

_EXACT = 256  # squares of pixels whose sum float32 holds exactly: 256 * 255**2 < 2**24


class Facts(NamedTuple):
    """What is known of one sample.

    Attributes:
        sample: its index in the data set.
        unreadable: why it cannot be read; "" if it can, and the following are known.
        shape: of the image.
        stored: how its file stores it, in PIL's words: RGB, L, RGBA; "" if it has no file.
        digest: hash of the pixels: equal for equal images.
        mean: of each channel, for an image in [0, 1].
        square: mean of the squares of each channel.
        label: the class index; None if the target is not one.
        wrong: why the task refuses the target; "" if it does not.
        failed: why a transform fails on the image; "" if none does.
        result: shape of the image after the transforms; None if it is not known.
        objects: what is known of the objects in the image; None if the target is of another kind.
    """

    sample: int
    unreadable: str = ""
    shape: Shape = (0, 0, 0)
    stored: str = ""
    digest: bytes = b""
    mean: Values = ()
    square: Values = ()
    label: int | None = None
    wrong: str = ""
    failed: str = ""
    result: Shape | None = None
    objects: ObjectFacts | None = None


class InspectedSamples(Dataset[Facts]):
    """The facts about the samples of a data set.

    Args:
        dataset: samples by index.
        name: of the data set, for messages.
        task: checks targets; None: they are not checked.
        transform: tried once on each image, with random numbers that depend on the sample's index alone; None:
            nothing is tried.
        seed_everything: whether to seed Python's and numpy's generators as well, for user-defined transforms.
    """

    def __init__(
        self,
        dataset: MapDataset,
        name: str,
        task: SampleTask | None = None,
        transform: ImageTransform | None = None,
        seed_everything: bool = False,
    ) -> None:
        self.dataset, self.name = dataset, name
        self.task, self.transform = task, transform
        self.seed_everything = seed_everything

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> Facts:
        """Return the facts about a sample; leaves the global generators changed.

        >>> data = [(np.array([[0, 255], [255, 255]], np.uint8), 1)]
        >>> facts = InspectedSamples(data, "mine")[0]
        >>> facts.shape, facts.mean, facts.square, facts.label
        ((1, 2, 2), (0.75,), (0.75,), 1)
        """
        try:
            seed_random_numbers(sample_key(0, index), self.seed_everything)
            image, target = read_sample(self.dataset, index)
        except UnreadableSample as error:
            return Facts(index, unreadable=error.reason)
        except ConfigError as error:
            return Facts(index, unreadable=str(error))
        pixels = image if isinstance(image, Tensor) and image.ndim == 3 else to_tensor(image)
        facts = Facts(
            index,
            shape=_shape(pixels),
            stored=_stored(sample_path(self.dataset, index)),
            digest=_digest(pixels),
            label=_label(target),
        )
        with suppress(ConfigError):  # the task refuses it, too
            facts = facts._replace(objects=object_facts(target, facts.shape[1:], f"{self.name}: sample {index}"))
        if self.task is not None:
            facts, pixels = self._tried(facts, self.task, image, target, pixels)
        mean, square = _mean_and_square(pixels)
        return facts._replace(mean=mean, square=square)

    def __getitems__(self, indices: list[int]) -> list[Facts]:
        """Return the facts about several samples."""
        return [self[index] for index in indices]

    def _tried(
        self, facts: Facts, task: SampleTask, image: Any, target: Any, pixels: Tensor
    ) -> tuple[Facts, Tensor]:
        """Return the facts with target and transforms tried, and the image whose statistics INPUT.MEAN means.

        That is the image before the transforms; if these change its number of channels, the one after them.
        """
        try:
            sample = make_sample(task, image, target, "it")
        except ConfigError as error:
            return facts._replace(wrong=str(error)), pixels
        if self.transform is None:
            return facts, pixels
        try:
            finished = task.finish(self.transform.augmented(sample))
            made = finished["image"]
        except Exception as error:  # whatever a transform raises
            return facts._replace(failed=" ".join(str(error).split()) or type(error).__name__), pixels
        facts = facts._replace(result=_shape(made))
        if facts.objects is not None and "boxes" in finished:
            facts = facts._replace(objects=facts.objects._replace(sides=sides_of(finished)))
        return facts, pixels if len(made) == len(pixels) else made


def _shape(pixels: Tensor) -> Shape:
    channels, height, width = pixels.shape
    return channels, height, width


def _digest(pixels: Tensor) -> bytes:
    """Return a hash of data type, shape and values.

    >>> one, other = torch.zeros(1, 2, 3), torch.zeros(1, 3, 2)
    >>> _digest(one) == _digest(one.clone()), _digest(one) == _digest(other)
    (True, False)
    """
    digest = hashlib.blake2b(f"{pixels.dtype} {tuple(pixels.shape)}".encode(), digest_size=16)
    # Decoders and arrays have the channels last in memory, so that nothing is copied.
    digest.update(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()).data)
    return digest.digest()


def _mean_and_square(pixels: Tensor) -> tuple[Values, Values]:
    """Return the mean of each channel and the mean of its squares, for values in [0, 1].

    >>> _mean_and_square(torch.tensor([[[0, 51]], [[255, 255]]], dtype=torch.uint8))
    ((0.1, 1.0), (0.02, 1.0))
    """
    if pixels.dtype != torch.uint8:
        from torchvision.transforms.v2 import functional

        floats = functional.to_dtype(pixels, torch.float32, scale=True).double().flatten(1)
        return tuple(floats.mean(1).tolist()), tuple(floats.square().mean(1).tolist())
    flat = pixels.flatten(1)
    sums = torch.zeros(2, len(flat), dtype=torch.float64)
    for part in torch.split(flat, _EXACT * _EXACT, 1):  # small enough for a processor's cache
        values = torch.nn.functional.pad(part, (0, -part.shape[1] % _EXACT)).float().view(len(flat), -1, _EXACT)
        sums += torch.stack([values.sum(2), values.square().sum(2)]).double().sum(2)
    means, squares = (sums / flat.shape[1] / torch.tensor([[255.0], [255.0**2]])).tolist()
    return tuple(means), tuple(squares)


def _stored(file: str) -> str:
    """Return how a file stores its image, in PIL's words; "" if there is no such file."""
    from PIL import Image

    if not file:
        return ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(file) as picture:
                return str(picture.mode)
    except Exception:  # PIL cannot read all that a user-defined loader can, and damaged files raise anything
        return ""


def _label(target: Any) -> int | None:
    """Return a target as a class index; None if it is not an integer.

    >>> _label(np.int64(3)), _label(torch.tensor(3)), _label(0.5), _label([1, 0])
    (3, 3, None, None)
    """
    try:
        return operator.index(target)
    except (TypeError, ValueError, RuntimeError):
        return None
