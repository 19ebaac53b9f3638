"""The resident loader: batches from a data set held in device memory, transformed by batched tensor operations.

Samples come in the same order as with every loader. The random numbers of (iteration, slot) depend on SEED and
these two alone: numbers for a block of iterations are drawn at once, from a generator that is reseeded for each
block.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence

import torch
from torch import Tensor

from ..batch import Batch
from ..datasets.registry import MapDataset
from ..device import pins_memory
from ..sampling.stream import SampleOrder
from ..seeds import block_numbers
from ..transforms.batched import BatchedTransform, batched_form
from ..transforms.registry import Transform
from .base import TrainLoader
from .crop_store import Store, stages

_BLOCK = 64  # iterations whose random numbers are drawn at once


class ResidentSamples:
    """Images on a device, and batches of them, transformed and normalised.

    Leading transforms that treat all images alike are applied once. A crop and a flip that follow them cost no
    more than the copy of the batch: each image is stored padded, beside its mirror image, and crops are copied
    from it.

    Args:
        images: (N, C, H, W) uint8; or several of these, joined end to end.
        targets: (N, ...), one entry per image.
        steps: (name, transform) in order.
        mean: one value, or one per channel, for pixels in [0, 1].
        std: one value, or one per channel.
        device: the device that holds the images.
        memory_format: of the batches: torch.contiguous_format or torch.channels_last. The values are the same.

    Raises:
        NoBatchedForm: a transform works image by image only.
        MemoryError: the images do not fit on the device.
        ValueError: the images differ in size.
    """

    def __init__(
        self,
        images: Tensor | Sequence[Tensor],
        targets: Tensor,
        steps: Sequence[tuple[str, Transform]],
        mean: Tensor,
        std: Tensor,
        device: torch.device | str = "cpu",
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        parts = [images] if isinstance(images, Tensor) else images
        self._format = memory_format
        self._store = Store(parts, steps, device, channels_last=memory_format == torch.channels_last)
        self._rest: list[BatchedTransform] = [batched_form(name, step) for name, step in stages(steps).rest]
        self.draws = self._store.draws + sum(each.draws for each in self._rest)
        self._targets = targets.to(device)
        # (x / 255 - mean) / std, for pixels x from 0 to 255.
        self._mean, self._scale = (255 * mean).to(device), (1 / (255 * std)).to(device)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._targets)

    def batches(self, indices: Tensor, numbers: Tensor) -> Iterator[Batch]:
        """Yield a batch, images (B, C, H, W) float32 and targets (B, ...), for each row.

        Args:
            indices: (batches, B) int64, indices of samples.
            numbers: (batches, B, draws) float32, from [0, 1).
        """
        rows = indices
        indices, numbers = (_to(self._targets.device, each) for each in (indices, numbers))
        starts = self._store.starts(indices, numbers[..., : self._store.draws])
        for row, begin, targets, drawn in zip(rows, starts, self._targets[indices], numbers, strict=True):
            images, used = self._store.cut(begin), self._store.draws
            for step in self._rest:
                images = step.apply(images, drawn[:, used : used + step.draws])
                used += step.draws
            yield Batch(self._normalised(images), targets, row)

    def _normalised(self, images: Tensor) -> Tensor:
        floats = images.to(torch.float32, memory_format=self._format)
        pixels, mean, scale = floats, self._mean, self._scale
        if self._format == torch.channels_last and mean.numel() > 1:
            # Values for an entire row of pixels: loops over three channels would take many times as long.
            count, channels, height, width = images.shape
            pixels = floats.permute(0, 2, 3, 1).view(count, height, width * channels)
            mean, scale = (each.expand(channels, 1, 1).flatten().repeat(width) for each in (mean, scale))
        pixels.sub_(mean).mul_(scale)
        return floats


class ResidentTrainLoader(TrainLoader):
    """The endless stream of training batches on the device that holds the samples.

    Args:
        dataset: the individual samples, for messages.
        samples: the resident samples.
        seed: SEED, which determines the order and the random numbers.
        batch_size: IMS_PER_BATCH, over all ranks together; may exceed the size of the data set.
        slots: the positions in each batch that are loaded here, in order, from 0; None: all.
        stream: the order of samples; None: all samples, reshuffled for each pass.
    """

    def __init__(
        self,
        dataset: MapDataset,
        samples: ResidentSamples,
        *,
        seed: int,
        batch_size: int,
        slots: Sequence[int] | None = None,
        stream: SampleOrder | None = None,
    ) -> None:
        super().__init__(dataset, seed=seed, batch_size=batch_size, slots=slots, stream=stream)
        self._samples = samples

    def batches(self, start: int = 0) -> Generator[Batch, None, None]:
        """Yield the batches of iterations `start`, `start` + 1, ... without end."""
        size = self.batch_size
        while True:
            block, done = divmod(start, _BLOCK)
            numbers = block_numbers(self.seed, block, _BLOCK, size, self._samples.draws)[done:]
            order = torch.from_numpy(self.stream.order(start * size, len(numbers) * size)).view(-1, size)
            yield from self._samples.batches(order[:, self.slots], numbers[:, self.slots])
            start += len(numbers)

    def close(self) -> None:
        """Do nothing: there are no workers."""


class ResidentEvalLoader:
    """Every sample once, in the data set's order; the last batch may be smaller.

    Args:
        dataset: the individual samples, before all transforms.
        samples: the samples to evaluate.
        seed: SEED, for transforms that draw.
        batch_size: TEST.IMS_PER_BATCH.
        rank: the rank of this process, which gets batches rank, rank + world_size, ...
        world_size: how many processes share the batches.
    """

    def __init__(
        self,
        dataset: MapDataset,
        samples: ResidentSamples,
        *,
        seed: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.batch_size, self.size, self.dataset = batch_size, len(samples), dataset
        self._samples, self._seed = samples, seed
        self._numbers = range(rank, -(-self.size // batch_size), world_size)

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._numbers)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches."""
        for number in self._numbers:
            first = number * self.batch_size
            indices = torch.arange(first, min(first + self.batch_size, self.size))[None]
            numbers = block_numbers(self._seed, number, 1, indices.shape[1], self._samples.draws)
            yield from self._samples.batches(indices, numbers)

    def close(self) -> None:
        """Do nothing: there are no workers."""


def _to(device: torch.device, tensor: Tensor) -> Tensor:
    """Return the tensor on a device; the copy from pinned memory is asynchronous."""
    return tensor.pin_memory().to(device, non_blocking=True) if pins_memory(device) else tensor.to(device)
