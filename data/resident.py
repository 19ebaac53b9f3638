"""Batches cut out of a data set that lies in memory whole, by tensor code that works on a batch at once.

The order of samples is that of every loader. The random numbers of (iteration, slot) follow from SEED and these
two alone: those of a block of iterations are drawn at once, from a generator that is started anew for each block.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .batched import BatchedTransform, batched_form, is_same_for_all, pad_for_crop, whole_numbers
from .datasets import MapDataset
from .loader import Batch, TrainLoader
from .sampling import block_numbers
from .transforms import Transform

_BLOCK = 64  # iterations whose random numbers are drawn at once
_PIECE = 1024  # images that are transformed at once while the store is filled


class ResidentSamples:
    """Images on a device, and batches of them, transformed and normalised.

    What is the same for all images is done once. A crop and a flip in front of all else cost nothing but the copy
    of the batch: each image lies there padded, beside its mirror image, and is cut out where a crop begins.

    Args:
        images: (N, C, H, W) uint8.
        labels: (N,) int64.
        steps: (name, transform) in order.
        mean: one value, or one a channel, of pixels from 0 to 1.
        std: one value, or one a channel.
        device: where they are to lie.

    Raises:
        NoBatchedForm: a transform works image by image only.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        steps: Sequence[tuple[str, Transform]],
        mean: Tensor,
        std: Tensor,
        device: torch.device | str = "cpu",
    ) -> None:
        steps = list(steps)
        first: list[Transform] = []
        while steps and is_same_for_all(steps[0][0]):
            first.append(steps.pop(0)[1])
        cuts: dict[str, Any] = {}
        while steps and steps[0][0] in ("RandomCrop", "RandomHorizontalFlip") and steps[0][0] not in cuts:
            cuts[steps[0][0]] = steps[0][1]
            steps.pop(0)
        self._store = _Store(images, first, cuts.get("RandomCrop"), cuts.get("RandomHorizontalFlip"), device)
        self._rest: list[BatchedTransform] = [batched_form(name, step) for name, step in steps]
        self.draws = self._store.draws + sum(each.draws for each in self._rest)
        self._labels = labels.to(device)
        # (x / 255 - mean) / std, for pixels x from 0 to 255.
        self._mean, self._scale = (255 * mean).to(device), (1 / (255 * std)).to(device)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._labels)

    def batches(self, indices: Tensor, numbers: Tensor) -> Iterator[Batch]:
        """Yield (images (B, C, H, W) float32, labels (B,)) for each row.

        Args:
            indices: (batches, B) int64, of samples.
            numbers: (batches, B, draws) float32, from [0, 1).
        """
        indices, numbers = indices.to(self._labels.device), numbers.to(self._labels.device)
        starts = self._store.starts(indices, numbers[..., : self._store.draws])
        labels = self._labels[indices]
        for row in range(len(indices)):
            images, used = self._store.cut(starts[row]), self._store.draws
            for step in self._rest:
                images = step.apply(images, numbers[row, :, used : used + step.draws])
                used += step.draws
            yield images.to(torch.float32).sub_(self._mean).mul_(self._scale), labels[row]


class ResidentTrainLoader(TrainLoader):
    """The endless stream of training batches, cut out of memory; they lie on the device of the samples.

    Args:
        dataset: the samples one by one, for messages.
        samples: the same, resident.
        **options: seed, batch_size and so on of the `TrainLoader`; random numbers follow from seed too.
    """

    def __init__(self, dataset: MapDataset, samples: ResidentSamples, **options: Any) -> None:
        super().__init__(dataset, **options)
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
        """Nothing has to be ended."""


class ResidentEvalLoader:
    """Every sample once, in the data set's order; the last batch may be smaller.

    Args:
        samples: what is evaluated.
        seed: SEED, for transforms that draw.
        batch_size: TEST.IMS_PER_BATCH.
    """

    def __init__(self, samples: ResidentSamples, *, seed: int, batch_size: int) -> None:
        self.batch_size, self.size = batch_size, len(samples)
        self._samples, self._seed = samples, seed

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-self.size // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Yield (images (N, C, H, W) float32, labels (N,) int64)."""
        for number, first in enumerate(range(0, self.size, self.batch_size)):
            indices = torch.arange(first, min(first + self.batch_size, self.size))[None]
            numbers = block_numbers(self._seed, number, 1, indices.shape[1], self._samples.draws)
            yield from self._samples.batches(indices, numbers)

    def close(self) -> None:
        """Nothing has to be ended."""


def require_memory(needed: int, device: torch.device | str) -> None:
    """Raise MemoryError where a device has no `needed` bytes left; a system that does not tell has."""
    if torch.device(device).type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        try:
            text = Path("/proc/meminfo").read_text(encoding="ascii")
        except OSError:
            return
        free = 1024 * int(text.partition("MemAvailable:")[2].split()[0])
    if free < needed:
        raise MemoryError(f"resident images need {needed:,} bytes of memory on {device}, and {free:,} are free")


class _Store:
    """Padded images beside their mirror images, one after the other in flat memory.

    A crop of h rows is one block of it, h padded rows long, from the crop's first pixel on; what is too much of
    each row is cut off behind. torch can look at flat memory as all such blocks, overlapping, and copy some.
    """

    def __init__(
        self, images: Tensor, first: Sequence[Transform], crop: Any, flip: Any, device: torch.device | str
    ) -> None:
        def prepared(piece: Tensor) -> Tensor:
            for step in first:
                piece = step(piece)
            return piece if crop is None else pad_for_crop(crop, piece)[0]

        pieces = torch.split(images, _PIECE)
        sample = pieces[0]
        for step in first:
            sample = step(sample)
        height, width = sample.shape[-2:] if crop is None else pad_for_crop(crop, sample)[1]
        self._width = int(width)
        channels, padded_height, self._row = prepared(pieces[0][:1]).shape[1:]
        self._p = 0.0 if flip is None else flip.p
        self._mirrored = 2 if self._p > 0 else 1
        self._rows, self._columns = padded_height - height + 1, self._row - width + 1
        plane = padded_height * self._row
        # Uncropped, an image is one block; else each of its channels is.
        self._crops = self._rows * self._columns > 1
        self._blocks = channels if self._crops else 1
        self._shape = (channels, height, self._row)
        self._plane = plane * channels // self._blocks
        block = height * self._row * channels // self._blocks
        size = len(images) * self._mirrored * channels * plane
        require_memory(size, device)
        # The last block ends behind its image.
        flat = torch.zeros(size + self._row, dtype=torch.uint8, device=device)
        places = flat[:size].view(-1, self._mirrored, channels, padded_height, self._row)
        for number, piece in enumerate(pieces):
            place = places[number * _PIECE :][: len(piece)]
            place[:, 0] = prepared(piece).to(device)
            if self._mirrored == 2:
                place[:, 1] = place[:, 0].flip(-1)
        self._all = flat.as_strided((flat.numel() - block + 1, block), (1, 1))
        self._offsets = torch.arange(self._blocks, device=device) * self._plane
        self.draws = 2 * self._crops + (self._p > 0)

    def starts(self, indices: Tensor, numbers: Tensor) -> Tensor:
        """Return where the blocks of each sample begin: (..., blocks)."""
        image = indices * self._mirrored
        if self._p > 0:
            image = image + (numbers[..., -1] < self._p)
        starts = image * (self._plane * self._blocks)
        if self._crops:
            top, left = whole_numbers(numbers[..., 0], self._rows), whole_numbers(numbers[..., 1], self._columns)
            starts = starts + top * self._row + left
        return starts[..., None] + self._offsets

    def cut(self, starts: Tensor) -> Tensor:
        """Return images (B, C, H, W) uint8 for the rows of `starts`."""
        blocks = self._all.index_select(0, starts.view(-1))
        return blocks.view(len(starts), *self._shape)[..., : self._width]
