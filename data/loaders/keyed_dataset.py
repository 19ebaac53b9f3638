"""Samples whose random numbers follow from their place in the stream, and batches made of them."""

from __future__ import annotations

import functools
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate, get_worker_info

from warmstart.config import ConfigError

from ..datasets.registry import MapDataset, checked_label
from ..datasets.unreadable import UnreadableSample, first_readable, read_sample
from ..seeds import sample_key, seed_random_numbers
from ..transforms.image import ImageTransform

Place = tuple[int, int]  # (position, index): the key of the random numbers, the sample in the data set
Sample = tuple[Tensor, int]  # image, label
Unreadable = Literal["raise", "replace", "leave out"]
Loaded = tuple[Tensor, Tensor, list[tuple[int, str]]]  # a batch, and (index, why) of what could not be read


class KeyedSamples(Dataset[Sample]):
    """A data set with its transform, whose random numbers depend on (seed, position) alone.

    Args:
        dataset: samples by index.
        transform: makes an image the model's input.
        seed: SEED.
        num_classes: labels outside 0 to num_classes - 1 are refused.
        name: the data set's name, for messages.
        seed_everything: whether python's and numpy's generators are keyed beside torch's, for users'
            own code; torchvision draws from torch's.
        on_cuda: whether images come from the data set on the current CUDA device: its generator, which a transform
            may draw from there, is then keyed too.
        unreadable: what a sample that cannot be read does. raise: ends the run. replace: the next one that can be
            read takes its place, with the random numbers of that place. leave out: its batch is smaller.
    """

    def __init__(
        self,
        dataset: MapDataset,
        transform: ImageTransform,
        *,
        seed: int,
        num_classes: int,
        name: str,
        seed_everything: bool = False,
        on_cuda: bool = False,
        unreadable: Unreadable = "raise",
    ) -> None:
        self.dataset, self.transform = dataset, transform
        self.seed, self.num_classes, self.name = seed, num_classes, name
        self.seed_everything = seed_everything
        self.on_cuda, self.unreadable = on_cuda, unreadable

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.dataset)

    def __getitem__(self, place: Place) -> Sample:
        """Return (augmented image, label) for (position, index); leaves the global generators changed.

        Raises:
            UnreadableSample: its file is missing or damaged.
        """
        return self._sample(*place)

    def _sample(self, position: int, index: int) -> Sample:
        key = sample_key(self.seed, position)
        seed_random_numbers(key, self.seed_everything)
        if self.on_cuda:
            torch.cuda.manual_seed(key)
        image, label = read_sample(self.dataset, index)
        augmented = self.transform.augmented(image)
        return augmented, checked_label(label, self.num_classes, f"{self.name}: sample {index}")

    def __getitems__(self, places: list[Place]) -> tuple[list[Sample], list[UnreadableSample]]:
        """Return the samples at these places, and which were met that cannot be read.

        Raises:
            ConfigError: one cannot be read, and none is to stand in for it.
        """
        samples: list[Sample] = []
        unread: list[UnreadableSample] = []
        for position, index in places:
            read = functools.partial(self._sample, position)
            try:
                if self.unreadable == "replace":
                    sample, passed_over = first_readable(read, index, len(self), self.name)
                    unread += passed_over
                else:
                    sample = read(index)
                samples.append(sample)
            except UnreadableSample as error:
                if self.unreadable == "raise":
                    advice = "repair or delete the file, or set DATALOADER.UNREADABLE skip"
                    raise ConfigError(f"{self.name}: {error}; {advice}") from None
                unread.append(error)
        return samples, unread


class Collate:
    """Makes a normalised batch of augmented samples.

    A worker normalises in memory that it keeps, and copies the result into the memory it shares: with memory that
    is new for each batch, images of 224 pixels a side take twice as long. A batch that this process has loaded is
    never written again, since someone may still hold it.
    """

    def __init__(self, transform: ImageTransform) -> None:
        self._transform = transform
        self._kept = torch.empty(0)

    def __call__(self, loaded: Any) -> Loaded:
        """Return (images (N, C, H, W) float32, labels (N,) int64, what could not be read): N may be 0.

        Args:
            loaded: what `KeyedSamples.__getitems__` returns.
        """
        samples, unread = loaded
        notes = [(error.index, str(error)) for error in unread]
        if not samples:
            return torch.empty(0), torch.empty(0), notes
        images, labels = [image for image, _ in samples], torch.tensor([label for _, label in samples])
        if len({(image.shape, image.dtype) for image in images}) > 1:
            images = [self._transform.normalised(image) for image in images]
            sizes = {"x".join(map(str, image.shape)) for image in images}
            if len(sizes) > 1:
                raise ConfigError(
                    "images of one batch differ in size after the transforms: "
                    f"{', '.join(sorted(sizes))} (C x H x W); end INPUT.TRANSFORMS_TRAIN and "
                    "INPUT.TRANSFORMS_TEST with {Resize: {size: [224, 224]}} or a crop"
                )
            return torch.stack(images), labels, notes
        batch = torch.stack(images)
        if get_worker_info() is None:
            return self._transform.normalised(batch), labels, notes
        if self._kept.shape != batch.shape:
            self._kept = torch.empty(batch.shape)
        shared: Tensor = default_collate(list(self._transform.normalised(batch, self._kept)))
        return shared, labels, notes
