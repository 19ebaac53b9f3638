"""Samples whose random numbers follow from their place in the stream, and batches made of them."""

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

Place = tuple[int, int]  # (position, index): the key of the random numbers, the sample in the data set
Unreadable = Literal["raise", "replace", "leave out"]
Loaded = tuple[Batch | None, list[tuple[int, str]]]  # a batch, and (index, why) of what could not be read


class KeyedSamples(Dataset[Sample]):
    """A data set with its transform, whose random numbers depend on (seed, position) alone.

    Args:
        dataset: samples by index.
        task: makes a sample of what the data set returns, checks it, and makes batches of samples.
        transform: is applied to each sample.
        seed: SEED.
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


def make_sample(task: SampleTask, image: Any, target: Any, where: str) -> Sample:
    """Return the sample that a task makes of what a data set returned, checked.

    Args:
        task: the task.
        image: as the data set returns it.
        target: likewise.
        where: the sample, for messages: "digits_train: sample 7".

    Raises:
        ConfigError: the target is wrong, or the task's sample() returns something else than a sample.
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
    """Return what something is that is no sample."""
    if not isinstance(sample, dict):
        return f"a {type(sample).__name__}"
    if "image" not in sample:
        return f"a dict of {', '.join(map(str, sample)) or 'nothing'}"
    image = sample["image"]
    shape = f"of shape {tuple(image.shape)}" if isinstance(image, Tensor) else f"that is a {type(image).__name__}"
    return f"an image {shape}"


class Collate:
    """Makes a batch of transformed samples, its images float in [0, 1] and normalised if the task asks for it.

    A worker normalises in memory that it keeps, and copies the result into the memory it shares: with memory that
    is new for each batch, images of 224 pixels a side take twice as long. A batch that this process has loaded is
    never written again, since someone may still hold it.

    Args:
        task: collates.
        transform: normalises.
        training: whether batches are for training.
    """

    def __init__(self, task: SampleTask, transform: ImageTransform, training: bool) -> None:
        self._task, self._transform, self._training = task, transform, training
        self._kept = torch.empty(0)

    def __call__(self, loaded: Any) -> Loaded:
        """Return the batch, None if it has no sample, and what could not be read.

        Args:
            loaded: what `KeyedSamples.__getitems__` returns.
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
        """Raise ConfigError where what the task has made of `count` samples is no batch of them."""
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
