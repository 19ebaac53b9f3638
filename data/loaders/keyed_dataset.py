"""Samples whose random numbers depend on their position in the stream alone, and batches of them."""

from __future__ import annotations

import functools
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate, get_worker_info

from warmstart.config import ConfigError

from ..batch import Batch, Sample, SampleTask
from ..datasets.decode import to_tensor
from ..datasets.registry import MapDataset
from ..datasets.unreadable import UnreadableSample, first_readable, read_sample
from ..seeds import sample_key, seed_random_numbers
from ..transforms.image import ImageTransform

Place = tuple[int, int]  # (position, index): the key of the random numbers, and the sample in the data set
Unreadable = Literal["raise", "replace", "leave out"]
Loaded = tuple[Batch | None, list[tuple[int, str]]]  # a batch, and (index, why) of unreadable samples


class KeyedSamples(Dataset[Sample]):
    """A data set with its transform, whose random numbers depend on (seed, position) alone.

    Args:
        dataset: samples by index.
        task: makes a sample of what the data set returns, checks it, and makes batches of samples.
        transform: applied to each sample.
        seed: SEED.
        name: the data set's name, for messages.
        seed_everything: whether to seed Python's and numpy's generators as well, for user-defined code;
            torchvision draws from torch's.
        on_cuda: whether the data set returns images on the current CUDA device, whose generator is then seeded as
            well, because transforms may draw from it.
        unreadable: how to treat a sample that cannot be read. raise: end the run. replace: use the next readable
            one, with the random numbers of this position. leave out: make the batch smaller.
    """

    def __init__(
        self,
        dataset: MapDataset,
        task: SampleTask,
        transform: ImageTransform,
        *,
        seed: int,
        name: str,
        seed_everything: bool = False,
        on_cuda: bool = False,
        unreadable: Unreadable = "raise",
    ) -> None:
        self.dataset, self.task, self.transform = dataset, task, transform
        self.seed, self.name = seed, name
        self.seed_everything = seed_everything
        self.on_cuda, self.unreadable = on_cuda, unreadable

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.dataset)

    def __getitem__(self, place: Place) -> Sample:
        """Return the transformed sample for (position, index); leaves the global generators changed.

        Raises:
            UnreadableSample: its file is missing or damaged.
        """
        return self._sample(*place)

    def _sample(self, position: int, index: int) -> Sample:
        key = sample_key(self.seed, position)
        seed_random_numbers(key, self.seed_everything)
        if self.on_cuda:
            torch.cuda.manual_seed(key)
        sample = make_sample(self.task, *read_sample(self.dataset, index), f"{self.name}: sample {index}")
        sample = self.task.finish(self.transform.augmented(sample))
        sample["index"] = index
        return sample

    def __getitems__(self, places: list[Place]) -> tuple[list[Sample], list[UnreadableSample]]:
        """Return the samples at these places, and the errors of those that cannot be read.

        Raises:
            ConfigError: a sample cannot be read, and `unreadable` is raise; or a hundred in a row cannot be read.
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


def make_sample(task: SampleTask, image: Any, target: Any, where: str) -> Sample:
    """Return the checked sample that a task makes of what a data set returned.

    Args:
        task: the task.
        image: the image that the data set returned.
        target: the target that the data set returned.
        where: the sample, for messages: "digits_train: sample 7".

    Raises:
        ConfigError: the target is wrong, or the task's sample() does not return a sample.
    """
    sample = task.sample(to_tensor(image), target)
    made = sample.get("image") if isinstance(sample, dict) else None
    if not isinstance(made, Tensor) or made.ndim != 3:
        raise ConfigError(
            f"{where}: {type(task).__name__}.sample() returned {_described(sample)}; return a dict with the tensor"
            ' (C, H, W) under "image" and the targets under names of your choice'
        )
    task.check(sample, where)
    return sample


def _described(sample: Any) -> str:
    """Return a description of a value that is not a sample, for messages."""
    if not isinstance(sample, dict):
        return f"a {type(sample).__name__}"
    if "image" not in sample:
        return f"a dict of {', '.join(map(str, sample)) or 'nothing'}"
    image = sample["image"]
    shape = f"of shape {tuple(image.shape)}" if isinstance(image, Tensor) else f"that is a {type(image).__name__}"
    return f"an image {shape}"


class Collate:
    """Makes a batch of transformed samples, its images float in [0, 1] and normalised if the task asks for it.

    A worker normalises in memory that it reuses, and copies the result into shared memory: with new memory for
    each batch, images of 224 pixels a side take twice as long. Memory of a batch loaded in this process is never
    reused, because someone may still hold the batch.

    Args:
        task: collates samples.
        transform: normalises images.
        training: whether batches are for training.
    """

    def __init__(self, task: SampleTask, transform: ImageTransform, training: bool) -> None:
        self._task, self._transform, self._training = task, transform, training
        self._kept = torch.empty(0)

    def __call__(self, loaded: Any) -> Loaded:
        """Return the batch, None if it has no sample, and (index, why) of the unreadable samples.

        Args:
            loaded: the result of `KeyedSamples.__getitems__`.
        """
        samples, unread = loaded
        notes = [(error.index, str(error)) for error in unread]
        if not samples:
            return None, notes
        differ = len({sample["image"].dtype for sample in samples}) > 1
        if differ:
            samples = [{**sample, "image": self._transform.normalised(sample["image"])} for sample in samples]
        indices = torch.tensor([sample["index"] for sample in samples])
        batch = self._task.collate(samples, self._training)
        self._check(batch, len(samples))
        images = batch.images if differ else self._normalised(batch.images)
        return Batch(images, batch.targets, indices), notes

    def _check(self, batch: Any, count: int) -> None:
        """Raise ConfigError if the result of the task's collate() is not a batch of `count` samples."""
        found = ""
        if not isinstance(batch, Batch):
            found = f"a {type(batch).__name__}"
        elif not isinstance(batch.images, (Tensor, list)):
            found = f"a Batch whose images are a {type(batch.images).__name__}"
        elif len(batch) != count:
            found = f"a Batch of {len(batch)} images for {count} samples"
        if found:
            raise ConfigError(
                f"{type(self._task).__name__}.collate() returned {found}; return a warmstart.data.Batch(images,"
                " targets) whose images are a tensor (N, C, H, W) or a list of N tensors (C, H, W)"
            )

    def _normalised(self, images: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
        if isinstance(images, list):
            return [self._transform.normalised(image) for image in images]
        if get_worker_info() is None or images.dtype != torch.uint8:
            return self._transform.normalised(images)
        if self._kept.shape != images.shape:
            self._kept = torch.empty(images.shape)
        shared: Tensor = default_collate(list(self._transform.normalised(images, self._kept)))
        return shared
