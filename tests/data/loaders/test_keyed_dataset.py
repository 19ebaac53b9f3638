"""Keyed random numbers: every random choice depends on (SEED, iteration, slot) alone."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from warmstart.config import CfgNode, ConfigError
from warmstart.data import DatasetInfo, TrainLoader, register_dataset, register_transform
from warmstart.data.datasets.arrays import ArrayDataset
from warmstart.data.loaders.worker import KeyedSamples, WorkerLoader, WorkerTrainLoader
from warmstart.data.seeds import random_numbers_kept, sample_key, seed_random_numbers
from warmstart.data.transforms.image import ImageTransform, build_transform
from warmstart.data.transforms.registry import NEED_TARGETS, library

from ...built import build_train_loader, classification

Configured = Callable[..., CfgNode]
Bytes = list[tuple[bytes, list[int]]]

AUGMENTED = (
    *("INPUT.TRANSFORMS_TRAIN", "[{RandomCrop: {size: 8, padding: 2}}, RandomHorizontalFlip, RandomErasing]"),
    *("SOLVER.IMS_PER_BATCH", 12),
)


def take(loader: TrainLoader, start: int, count: int) -> Bytes:
    """Return `count` batches as bytes and labels, and end the workers."""
    batches = [*itertools.islice(loader.batches(start), count)]
    loader.close()
    return [(images.numpy().tobytes(), labels.tolist()) for images, labels in batches]


class Draw:
    """A user-defined transform: its image is a 24-bit number from each of the three generators."""

    def __call__(self, image: Tensor) -> Tensor:
        drawn = int(torch.randint(2**24, ())), random.getrandbits(24), int(np.random.randint(2**24))
        return torch.tensor([[drawn]], dtype=torch.float32)


class Smear:
    """Another one, that changes the image by what it draws from all three."""

    def __call__(self, image: Tensor) -> Tensor:
        smeared = image + torch.randint(256, (), dtype=torch.uint8) + int(np.random.randint(100))
        return smeared.roll(random.randrange(8), 1)


OWN = ("INPUT.TRANSFORMS_TRAIN", "[Draw]", "INPUT.MEAN", 0, "INPUT.STD", 1)
KILLS = (0, 1, 2, 5, 6, 13)  # an epoch is 6 iterations: three kills in the first, and one at its end


@pytest.fixture
def noise(noise_npz: Path) -> tuple[Any, ...]:
    register_transform("Draw", Draw)
    register_transform("Smear", Smear)
    return "DATASETS.TRAIN", f"npz:{noise_npz}", "DATALOADER.BACKEND", "worker", "SOLVER.IMS_PER_BATCH", 8


@pytest.mark.need("C1", "C5", "C6")
@pytest.mark.parametrize(
    ("workers", "persistent", "prefetch"),
    [(0, False, None), (1, False, 2), (1, True, 1), (2, False, 1), (2, True, 2), (2, True, 5)],
)
def test_rows_c1_c5_c6_workers_prefetching_and_kills_change_no_byte(
    configured: Configured,
    monkeypatch: pytest.MonkeyPatch,
    noise: tuple[Any, ...],
    workers: int,
    persistent: bool,
    prefetch: int | None,
) -> None:
    augment = "[{RandomCrop: {size: 8, padding: 2}}, Smear, RandomErasing]"
    words = (*noise, "INPUT.TRANSFORMS_TRAIN", augment)
    straight = take(build_train_loader(configured(*words)), 0, 13)
    made = partial(DataLoader, persistent_workers=persistent, prefetch_factor=prefetch)
    monkeypatch.setattr("warmstart.data.loaders.worker.DataLoader", made)
    cfg = configured(*words, "DATALOADER.NUM_WORKERS", workers)
    pieces = [take(build_train_loader(cfg), start, stop - start) for start, stop in itertools.pairwise(KILLS)]
    assert [*itertools.chain(*pieces)] == straight


@pytest.mark.need("C1", "C6")
@pytest.mark.parametrize("backend", ["worker", "resident"])
def test_rows_c1_c6_a_run_killed_at_any_iteration_sees_each_sample_once_an_epoch(
    configured: Configured, noise: tuple[Any, ...], backend: str
) -> None:
    loader = build_train_loader(configured(*noise, "DATALOADER.BACKEND", backend))
    straight = take(loader, 0, 24)
    for epoch in range(4):
        indices = [index for t in range(6) for index in loader.sample_indices(6 * epoch + t)]
        assert sorted(indices) == [*range(48)]
    for kill in range(1, 18):
        assert take(loader, kill, 6) == straight[kill : kill + 6]


@pytest.mark.need("C3")
@pytest.mark.parametrize("workers", [0, 2])
def test_row_c3_a_resume_at_a_million_reads_no_skipped_sample(
    configured: Configured, tmp_path: Path, workers: int
) -> None:
    noted = tmp_path / "noted"

    class Noting(ArrayDataset):
        def __getitem__(self, index: int) -> tuple[Any, int]:
            with noted.open("a") as file:  # several processes append to it
                file.write(f"{index}\n")
            return super().__getitem__(index)

    size = 10_000
    register_dataset(
        "noting",
        lambda *_: Noting(np.zeros((size, 2, 2), np.uint8), np.zeros(size, np.int64)),
        DatasetInfo(size, num_classes=1, channels=1, image_size=(2, 2)),
    )
    cfg = configured("DATASETS.TRAIN", "noting", "DATALOADER.NUM_WORKERS", workers, "DATALOADER.BACKEND", "worker")
    loader = build_train_loader(cfg)
    take(loader, 1_000_000, 2)
    read = [int(line) for line in noted.read_text().split()]
    ahead = 2 + 2 * workers  # batches that workers may have begun
    allowed = [index for t in range(ahead) for index in loader.sample_indices(1_000_000 + t)]
    assert set(allowed[:32]) <= set(read) <= set(allowed)
    assert len(read) == len(set(read))


@pytest.mark.need("C11")
@pytest.mark.parametrize("workers", [0, 2])
def test_row_c11_no_number_of_any_generator_comes_twice_in_two_passes(
    configured: Configured, noise: tuple[Any, ...], workers: int
) -> None:
    cfg = configured(*noise, *OWN, "DATALOADER.NUM_WORKERS", workers)
    loader = build_train_loader(cfg)
    drawn = torch.cat([images for images, _ in itertools.islice(loader, 12)]).view(96, 3)
    loader.close()
    assert len(drawn.unique()) == 288
    assert (drawn.mean(0) / 2**24).tolist() == pytest.approx([0.5] * 3, abs=0.15)  # 5 standard deviations


@pytest.mark.need("C11")
@pytest.mark.parametrize("backend", ["worker", "resident"])
def test_row_c11_no_image_looks_alike_in_two_passes(
    configured: Configured, noise: tuple[Any, ...], backend: str
) -> None:
    augment = "[{RandomCrop: {size: 8, padding: 4}}, RandomHorizontalFlip, {RandomErasing: {p: 1}}]"
    cfg = configured(*noise, "INPUT.TRANSFORMS_TRAIN", augment, "DATALOADER.BACKEND", backend)
    loader = build_train_loader(cfg)
    views: dict[int, set[bytes]] = {index: set() for index in range(48)}
    for iteration, (images, _) in enumerate(itertools.islice(loader, 12)):
        for image, index in zip(images, loader.sample_indices(iteration), strict=True):
            views[index].add(image.numpy().tobytes())
    assert {len(seen) for seen in views.values()} == {2}


# Arguments of those that need some, or draw only with some.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": [5, 95]},
    "ColorJitter": {"brightness": 0.5, "hue": 0.2},
    "RandomAdjustSharpness": {"sharpness_factor": 2},
    "RandomPosterize": {"bits": 2},
    "RandomSolarize": {"threshold": 100},
    "CenterCrop": {"size": 8},
    "ElasticTransform": {"sigma": 1},
    "FixedSizeCrop": {"size": 20},
    "Pad": {"padding": 1},
    "RandomAffine": {"degrees": 30, "translate": [0.2, 0.2]},
    "RandomCrop": {"size": 8},
    "RandomResize": {"min_size": 8, "max_size": 30},
    "RandomResizedCrop": {"size": 8},
    "RandomRotation": {"degrees": 30},
    "RandomShortestSize": {"min_size": [8, 10, 12, 14]},
    "Resize": {"size": 8},
    "ScaleJitter": {"target_size": [12, 12]},
    "GaussianBlur": {"kernel_size": 3},
}
DRAW_NOTHING = {"CenterCrop", "Grayscale", "Identity", "Pad", "RGB", "Resize", "ToImage"}
NAMES = sorted({*library()} - NEED_TARGETS)
QUIET = pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities")  # torchvision's own JPEG


@QUIET
@pytest.mark.parametrize("name", NAMES)
def test_torchvision_transforms_draw_from_torchs_generator_alone(name: str) -> None:
    """So keying that one is enough: the same key gives the same image, whatever the others hold."""
    transform = build_transform([(name, ARGUMENTS.get(name, {}))], [0.0], [1.0], "X")
    image = np.random.default_rng(0).integers(0, 200, (24, 28, 3), np.uint8)

    def result(position: int) -> bytes:
        seed_random_numbers(sample_key(0, position), everything=False)
        made = transform(image)
        return repr(made.shape).encode() + made.numpy().tobytes()

    with random_numbers_kept(everything=True):
        before = random.getstate(), np.random.get_state()[1].tobytes()  # type: ignore[index]
        seen = [result(position) for position in range(30)]
        assert random.getstate() == before[0]
        assert np.random.get_state()[1].tobytes() == before[1]  # type: ignore[index]
        seed_random_numbers(5, everything=True)
        assert [result(position) for position in range(30)] == seen
    assert (len(set(seen)) == 1) == (name in DRAW_NOTHING)


@QUIET
def test_every_torchvision_transform_gives_the_same_bytes_in_two_workers() -> None:
    """Image number i goes through transform number i, over and over."""
    steps = [build_transform([(name, ARGUMENTS.get(name, {}))], [0.0], [1.0], "X").steps[0][1] for name in NAMES]
    images = np.random.default_rng(0).integers(0, 200, (len(steps), 24, 28, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(len(steps))

    def walk(image: Tensor) -> Tensor:
        made = v2.functional.resize(steps[int(image[0, 0, 0])](image), [16, 16])
        return made.expand(3, 16, 16).clone()  # one of them leaves one channel

    dataset, transform = (
        ArrayDataset(images, np.arange(len(steps))),
        ImageTransform([("Walk", walk)], [0.0], [1.0]),
    )
    samples = KeyedSamples(dataset, classification(len(steps)), transform, seed=0, name="images")
    here, there = (
        take(
            WorkerTrainLoader(
                WorkerLoader(samples, num_workers=workers, pin_memory=False), seed=0, batch_size=len(steps)
            ),
            *(3, 6),
        )
        for workers in (0, 2)
    )
    assert here == there
    assert len(here) == 6


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize(
    "loading",
    [
        ("DATALOADER.BACKEND", "worker"),
        ("DATALOADER.BACKEND", "worker", "DATALOADER.NUM_WORKERS", 1),
        ("DATALOADER.BACKEND", "resident"),
    ],
    ids=["here", "worker", "resident"],
)
def test_the_parts_of_all_ranks_form_the_batch_of_one_process(
    configured: Configured, loading: tuple[Any, ...], world_size: int
) -> None:
    cfg = configured(*AUGMENTED, *loading)
    whole = take(build_train_loader(cfg), 117, 5)  # an epoch is 119.75 batches, a block of random numbers 64
    parts = [take(build_train_loader(cfg, rank, world_size), 117, 5) for rank in range(world_size)]
    for (images, labels), *shares in zip(whole, *parts, strict=True):
        assert b"".join(part[0] for part in shares) == images
        assert [*itertools.chain(*(part[1] for part in shares))] == labels
        assert {len(part[1]) for part in shares} == {12 // world_size}


@pytest.mark.parametrize("backend", ["worker", "resident"])
def test_a_rank_describes_its_own_samples(configured: Configured, backend: str) -> None:
    cfg = configured(*AUGMENTED, "DATALOADER.BACKEND", backend)
    whole = build_train_loader(cfg).sample_indices(119)
    parts = [build_train_loader(cfg, rank, 3).sample_indices(119) for rank in range(3)]
    assert parts == [whole[:4], whole[4:8], whole[8:]]


def test_a_rank_loads_no_sample_of_another(configured: Configured, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = build_train_loader(configured(*AUGMENTED, "DATALOADER.BACKEND", "worker"), rank=1, world_size=3)
    touched: list[int] = []
    read = type(loader.dataset).__getitem__

    def noting(dataset: Any, index: int) -> Any:
        touched.append(index)
        return read(dataset, index)

    monkeypatch.setattr(type(loader.dataset), "__getitem__", noting)
    take(loader, 0, 2)
    assert touched == [*loader.sample_indices(0), *loader.sample_indices(1)]
    assert len(touched) == 8


def test_a_batch_that_ranks_cannot_share_is_refused(configured: Configured) -> None:
    cfg = configured("SOLVER.IMS_PER_BATCH", 10)
    with pytest.raises(
        ConfigError,
        match=r"^SOLVER.IMS_PER_BATCH .*: 10 images cannot be shared evenly by 4 processes; give a multiple of 4$",
    ):
        build_train_loader(cfg, rank=0, world_size=4)
