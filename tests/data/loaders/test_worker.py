"""The worker loader: the same batches for any number of workers, from any iteration, and nothing left behind."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2.functional import to_dtype

from warmstart.config import ConfigError
from warmstart.data.datasets.arrays import ArrayDataset
from warmstart.data.loaders import worker as loader_module
from warmstart.data.loaders.base import TrainLoader
from warmstart.data.loaders.keyed_dataset import KeyedSamples
from warmstart.data.loaders.worker import EvalLoader, WorkerLoader, WorkerTrainLoader
from warmstart.data.transforms.image import ImageTransform, build_transform

from ...built import classification

AUGMENT = [("RandomHorizontalFlip", {}), ("RandomCrop", {"size": 8, "padding": 2})]
IMAGES = np.random.RandomState(0).randint(0, 256, (10, 8, 8), np.uint8)


class Counting(ArrayDataset):
    """Remembers which samples were touched."""

    def __init__(self) -> None:
        super().__init__(IMAGES, np.arange(10))
        self.touched: list[int] = []

    def __getitem__(self, index: int) -> tuple[Any, int]:
        self.touched.append(index)
        return super().__getitem__(index)


def draw_from_all(image: Tensor) -> Tensor:
    """Return one random number of torch's, python's and numpy's generator as a 1 x 3 image."""
    return torch.tensor([[[torch.rand(1).item(), random.random(), np.random.rand()]]])


def samples(transform: ImageTransform | None = None, dataset: Any = None, **options: Any) -> KeyedSamples:
    return KeyedSamples(
        dataset or ArrayDataset(IMAGES, np.arange(10)),
        classification(options.pop("num_classes", 10)),
        transform or build_transform(AUGMENT, [0.5], [0.5], "X"),
        **{"seed": 0, "name": "ten", **options},
    )


@pytest.fixture
def train() -> Iterator[Callable[..., TrainLoader]]:
    """Return a function that makes a loader of batches of 4 from 10 samples, closed at the end."""
    made = []

    def make(
        workers: int = 0, seed: int = 0, batch_size: int = 4, planned: int | None = None, **options: Any
    ) -> TrainLoader:
        loader = WorkerLoader(samples(seed=seed, **options), num_workers=workers, pin_memory=False)
        made.append(WorkerTrainLoader(loader, seed=seed, batch_size=batch_size, planned=planned))
        return made[-1]

    yield make
    for loader in made:
        loader.close()


def take(loader: TrainLoader, start: int, count: int) -> list[tuple[bytes, list[int]]]:
    """Return `count` batches as bytes and labels."""
    batches = itertools.islice(loader.batches(start), count)
    return [(images.numpy().tobytes(), labels.tolist()) for images, labels in batches]


def children() -> set[int]:
    """Return the ids of the processes that this one has started and not yet collected."""
    return {process.pid for process in multiprocessing.active_children() if process.pid}


def test_a_batch_is_float_images_and_int64_labels(train: Callable[..., TrainLoader]) -> None:
    images, labels = next(iter(train()))
    assert (images.shape, images.dtype) == ((4, 1, 8, 8), torch.float32)
    assert (labels.shape, labels.dtype) == ((4,), torch.int64)


@pytest.mark.need("C5")
@pytest.mark.need("C7")
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_give_the_same_bytes_as_the_main_process(train: Callable[..., TrainLoader], workers: int) -> None:
    assert take(train(workers), 3, 12) == take(train(0), 3, 12)


# 10 samples in batches of 4: epochs end inside iteration 2 and exactly before iteration 5.
@pytest.mark.need("C1")
@pytest.mark.need("C4")
@pytest.mark.need("C5")
@pytest.mark.parametrize("start", range(12))
def test_the_worker_loader_gives_the_same_batches_from_any_iteration(
    train: Callable[..., TrainLoader], start: int
) -> None:
    straight = take(train(), 0, 16)
    assert take(train(), start, 4) == straight[start : start + 4]


@pytest.mark.need("C1")
@pytest.mark.need("C5")
@pytest.mark.parametrize("workers", [0, 2])
def test_three_kills_in_an_epoch_and_one_at_its_edge_change_nothing(
    train: Callable[..., TrainLoader], workers: int
) -> None:
    pieces = [take(train(workers), start, stop - start) for start, stop in itertools.pairwise([0, 1, 2, 5, 9])]
    assert list(itertools.chain(*pieces)) == take(train(), 0, 9)


@pytest.mark.parametrize("start", [0, 3, 4, 5])
def test_workers_load_no_batch_beyond_the_planned_ones_before_it_is_asked_for(
    train: Callable[..., TrainLoader], monkeypatch: pytest.MonkeyPatch, start: int
) -> None:
    loader, asked = train(2, planned=4), []
    order = loader.stream.order

    def ask(first: int, count: int) -> Any:
        asked.append(first // count)
        return order(first, count)

    monkeypatch.setattr(loader.stream, "order", ask)
    stream = loader.batches(start)
    taken = [next(stream) for _ in range(start, 4)]
    assert asked == [*range(start, 4)]
    taken += [next(stream) for _ in range(3)]
    assert asked == [*range(start, start + len(asked))]
    stream.close()
    labels = [batch.targets.tolist() for batch in taken]
    assert labels == [labels for _, labels in take(train(), start, len(labels))]


@pytest.mark.need("C3")
def test_a_resume_at_a_million_reads_no_skipped_sample(train: Callable[..., TrainLoader]) -> None:
    dataset = Counting()
    stream = train(dataset=dataset).batches(start=1_000_000)
    assert dataset.touched == []
    _, labels = next(stream)
    assert dataset.touched == labels.tolist()


def test_a_batch_larger_than_the_data_set_continues_into_the_next_epochs(
    train: Callable[..., TrainLoader],
) -> None:
    _, labels = next(train(batch_size=25).batches())
    assert torch.bincount(labels).tolist() == pytest.approx([2.5] * 10, abs=0.5)


def test_different_seeds_give_different_orders_and_augmentation(train: Callable[..., TrainLoader]) -> None:
    assert take(train(seed=0), 0, 5) != take(train(seed=1), 0, 5)
    same_order = [samples(seed=seed)[(0, 3)]["image"].numpy().tobytes() for seed in range(30)]
    assert len(set(same_order)) > 15  # of 50 different flips and crops


@pytest.mark.need("C11")
@pytest.mark.parametrize("workers", [0, 2])
def test_no_random_number_comes_twice_across_workers_and_passes(
    train: Callable[..., TrainLoader], workers: int
) -> None:
    transform = ImageTransform([("Draw", draw_from_all)], [0.0], [1.0])
    loader = train(workers, transform=transform, seed_everything=True)
    drawn = torch.cat([images for images, _ in itertools.islice(loader, 10)])  # four passes
    assert drawn.shape == (40, 1, 1, 3)
    assert len(drawn.unique()) == 120
    again = torch.cat([images for images, _ in itertools.islice(loader, 10)])
    assert torch.equal(drawn, again)


@pytest.mark.need("C11")
def test_a_sample_is_augmented_differently_in_each_pass(train: Callable[..., TrainLoader]) -> None:
    views: dict[int, set[bytes]] = {label: set() for label in range(10)}
    for images, labels in itertools.islice(train(batch_size=10), 20):
        for image, label in zip(images, labels.tolist(), strict=True):
            views[label].add(image.numpy().tobytes())
    assert min(len(seen) for seen in views.values()) > 10  # 20 draws from 50 flips and crops: 17 expected


@pytest.mark.need("C7")
@pytest.mark.parametrize("workers", [0, 2])
def test_loading_leaves_the_global_random_state_alone(train: Callable[..., TrainLoader], workers: int) -> None:
    transform = ImageTransform([("Draw", draw_from_all)], [0.0], [1.0])
    loader = train(workers, transform=transform, seed_everything=True)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    for stream in (loader.batches(), iter(EvalLoader(loader._loader, batch_size=3))):
        next(stream)
        next(stream)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]  # type: ignore[index]


def test_the_global_random_state_does_not_reach_the_samples(train: Callable[..., TrainLoader]) -> None:
    first = take(train(), 0, 3)
    torch.rand(7)
    assert take(train(), 0, 3) == first


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_gives_every_sample_once_in_order(workers: int) -> None:
    loader = EvalLoader(WorkerLoader(samples(), num_workers=workers, pin_memory=False), batch_size=4)
    for _ in range(2):
        assert [labels.tolist() for _, labels in loader] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert (len(loader), loader.size) == (3, 10)


@pytest.mark.need("E6")
@pytest.mark.parametrize("iteration", [0, 2, 7, 1_000_000])
def test_sample_indices_of_a_batch_are_known_without_reading_it(
    train: Callable[..., TrainLoader], iteration: int
) -> None:
    dataset = Counting()
    loader = train(dataset=dataset)
    indices = loader.sample_indices(iteration)
    assert dataset.touched == []
    assert indices == next(loader.batches(iteration)).targets.tolist()  # each sample's label is its index


@pytest.mark.need("E6")
def test_describe_samples_lists_16_samples_with_their_files(
    train: Callable[..., TrainLoader], tmp_path: Path
) -> None:
    from PIL import Image
    from torch.utils.data import ConcatDataset
    from torchvision.datasets import ImageFolder

    assert train(batch_size=3).describe_samples(0) == ", ".join(map(str, train(batch_size=3).sample_indices(0)))
    for name in ("cats/1.png", "cats/2.png", "dogs/7.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    folder = ImageFolder(tmp_path)
    loader = train(dataset=ConcatDataset([ArrayDataset(IMAGES, np.arange(10)), folder]), batch_size=26)
    shown = loader.describe_samples(0).split(", ")
    assert len(shown) == 17
    assert shown[-1] == "..."
    for index, text in zip(loader.sample_indices(0), shown[:-1], strict=False):
        assert text == (str(index) if index < 10 else f"{index} ({folder.samples[index - 10][0]})")
    assert any(text.startswith("12 (") and text.endswith("dogs/7.png)") for text in shown)


@pytest.mark.parametrize("end", ["close the loader", "close the stream", "drop the stream"])
def test_no_worker_outlives_its_stream(train: Callable[..., TrainLoader], end: str) -> None:
    before = children()
    loader = train(2)
    stream = loader.batches()
    next(stream)
    assert len(children() - before) == 2
    if end == "close the loader":
        loader.close()
    elif end == "close the stream":
        stream.close()
    else:
        del stream
    assert children() == before


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="workers obey SIGTERM where it has no sender")
def test_workers_ignore_signals_to_the_process_group(train: Callable[..., TrainLoader]) -> None:
    before = children()
    stream = train(2).batches()
    assert len([next(stream), next(stream)]) == 2  # one of each worker: both have started
    workers = children() - before
    for name in ("INT", "USR1", "TERM"):
        subprocess.run(["kill", "-s", name, *map(str, workers)], check=True)
    time.sleep(0.1)
    assert len([next(stream) for _ in range(20)]) == 20
    assert children() - before == workers


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="workers obey SIGTERM where it has no sender")
def test_workers_ignore_signals_from_their_first_instruction(
    train: Callable[..., TrainLoader], monkeypatch: pytest.MonkeyPatch
) -> None:
    obey = loader_module._obey_main_process_only

    def begin(worker_id: int) -> None:
        for signum in (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM):
            subprocess.run(["kill", "-s", str(int(signum)), str(os.getpid())], check=True)
        obey(worker_id)

    monkeypatch.setattr(loader_module, "_obey_main_process_only", begin)
    assert take(train(1), 0, 3) == take(train(), 0, 3)
    held = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert held.isdisjoint({signal.SIGINT, signal.SIGUSR1, signal.SIGTERM})


def test_more_workers_than_cores_cause_no_warning(train: Callable[..., TrainLoader]) -> None:
    next(train((os.cpu_count() or 1) + 1).batches())


def test_keyed_samples_survive_pickling_for_spawned_workers() -> None:
    sample = pickle.loads(pickle.dumps(samples()))[(5, 3)]
    assert torch.equal(sample["image"], samples()[(5, 3)]["image"])
    assert (sample["label"], sample["index"]) == (3, 3)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_spawned_workers_give_the_same_bytes(train: Callable[..., TrainLoader], method: str) -> None:
    usual = multiprocessing.get_start_method()
    multiprocessing.set_start_method(method, force=True)
    try:
        afresh = take(train(2), 3, 5)
    finally:
        multiprocessing.set_start_method(usual, force=True)
    assert afresh == take(train(), 3, 5)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_worker_loader_names_the_sample_of_a_label_out_of_range(
    train: Callable[..., TrainLoader], workers: int
) -> None:
    stream = train(workers, num_classes=9).batches()
    before = children()
    with pytest.raises(ConfigError, match="ten: sample 9 has label 9; with 9 classes labels run from 0 to 8"):
        list(itertools.islice(stream, 3))
    assert children() == before


class OfKind:
    """Returns uint8 images as they are, as floats in [0, 1], as int16, or each second one as floats."""

    def __init__(self, kind: str) -> None:
        self.kind, self.calls = kind, 0

    def __call__(self, image: Tensor) -> Tensor:
        self.calls += 1
        if self.kind == "int16":
            return image.to(torch.int16) * 128
        return image / 255 if self.kind == "floats" or (self.kind == "mixed" and self.calls % 2) else image


@pytest.mark.parametrize("kind", ["uint8", "floats", "int16", "mixed"])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_has_the_bits_of_images_normalised_one_by_one(
    train: Callable[..., TrainLoader], workers: int, kind: str
) -> None:
    dataset = ArrayDataset(np.random.RandomState(1).randint(0, 256, (10, 5, 7, 3), np.uint8), np.arange(10))
    mean, std = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]
    loader = train(workers, dataset=dataset, transform=ImageTransform([("OfKind", OfKind(kind))], mean, std))
    batches = list(itertools.islice(loader, 5))  # all of them held: none may be written again
    step, shift, scale = OfKind(kind), torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1)
    for number, (images, labels) in enumerate(batches):
        assert images.is_contiguous()
        for image, index in zip(images, loader.sample_indices(number), strict=True):
            augmented = step(torch.from_numpy(dataset.images[index]).permute(2, 0, 1))
            assert torch.equal(image, (to_dtype(augmented, torch.float32, scale=True) - shift) / scale)
        assert labels.tolist() == loader.sample_indices(number)


@pytest.mark.parametrize("workers", [0, 1])
def test_images_of_unequal_sizes_in_a_batch_are_refused_with_the_fix(
    train: Callable[..., TrainLoader], workers: int
) -> None:
    class Growing(ArrayDataset):
        def __getitem__(self, index: int) -> tuple[Any, int]:
            return np.zeros((4, index + 1), np.uint8), index

    stream = train(
        workers,
        dataset=Growing(IMAGES, np.arange(10)),
        transform=ImageTransform([], [0.0], [1.0]),
        batch_size=10,
    ).batches()
    with pytest.raises(
        ConfigError,
        match=r"^the images of a batch differ in size .*: 1x4x1, 1x4x10, .* end INPUT.TRANSFORMS_TRAIN .*Resize",
    ):
        next(stream)


@pytest.mark.gpu
def test_pinned_batches_hold_the_same_bytes(tmp_path: Path) -> None:
    for workers in (0, 2):
        loader = WorkerLoader(samples(), num_workers=workers, pin_memory=True)
        images, labels = next(WorkerTrainLoader(loader, seed=0, batch_size=4).batches())
        plain = WorkerLoader(samples(), num_workers=0, pin_memory=False)
        assert images.is_pinned()
        assert labels.is_pinned()
        assert torch.equal(images, next(WorkerTrainLoader(plain, seed=0, batch_size=4).batches()).images)
        loader.close()
