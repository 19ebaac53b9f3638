"""The resident loader: batches as torchvision would make them, the same from any iteration."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from warmstart.config import CfgNode, ConfigError, get_cfg
from warmstart.data import ResidentSamples, ResidentTrainLoader
from warmstart.data.datasets.arrays import ArrayDataset, as_tensors
from warmstart.data.memory import require_memory
from warmstart.data.transforms.batched import NoBatchedForm, batched_form
from warmstart.engine import load_checkpoint
from warmstart.tools import train_net

from ...built import build_test_loader, build_train_loader, check_data

VALUES = ((0.1, 0.2, 0.3), (0.5, 0.25, 2.0))
NONE, ONE = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)


def images(count: int = 5, channels: int = 3, height: int = 7, width: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator)


def resident(pixels: Tensor, *steps: Any) -> ResidentSamples:
    named = [(type(step).__name__, step) for step in steps]
    return ResidentSamples(pixels, torch.arange(len(pixels)), named, NONE, ONE)


def cut(samples: ResidentSamples, indices: list[int], numbers: list[list[float]]) -> tuple[Tensor, Tensor]:
    """Return one batch, as pixels from 0 to 255 again."""
    given = torch.tensor(numbers).view(1, len(indices), samples.draws)
    ((batch, labels),) = samples.batches(torch.tensor([indices]), given)
    return (batch * 255).round().to(torch.uint8), labels


@pytest.mark.parametrize("order", ["crop flip", "flip crop"])
@pytest.mark.parametrize(
    "crop",
    [
        v2.RandomCrop(5, padding=2),
        v2.RandomCrop((7, 6), padding=[1, 2, 3, 4], fill=9),
        v2.RandomCrop((9, 10), pad_if_needed=True, padding_mode="reflect"),
        v2.RandomCrop(4),
    ],
    ids=["padded", "uneven", "reflected", "inside"],
)
def test_each_crop_position_is_copied_flipped_or_not(crop: v2.RandomCrop, order: str) -> None:
    pixels = images()
    samples = resident(
        pixels, *((crop, v2.RandomHorizontalFlip()) if order == "crop flip" else (v2.RandomHorizontalFlip(), crop))
    )
    params = crop.make_params([pixels])
    left, top, right, bottom = params["padding"]
    rows = 7 + top + bottom - params["height"] + 1
    columns = 6 + left + right - params["width"] + 1
    for y, x, flipped in itertools.product(range(rows), range(columns), (False, True)):
        numbers = [(y + 0.5) / rows, (x + 0.5) / columns, 0.4 if flipped else 0.6]
        batch, labels = cut(samples, [3, 0], 2 * [numbers])
        given = pixels[[3, 0]]
        padded = F.pad(given, params["padding"], crop.fill, crop.padding_mode)
        padded = F.horizontal_flip(padded) if flipped else padded
        assert torch.equal(batch, F.crop(padded, y, x, params["height"], params["width"]))
        assert labels.tolist() == [3, 0]


def test_transforms_that_treat_all_images_alike_work_at_any_position() -> None:
    pixels = images(height=8, width=8)
    resize, pad, flip = v2.Resize([4, 6]), v2.Pad(1, fill=7), v2.RandomHorizontalFlip()
    batch, _ = cut(resident(pixels, resize, flip, pad), [0, 1], [[0.1], [0.9]])
    expected = pad(resize(pixels[:2]))
    assert torch.equal(batch[0], pad(F.horizontal_flip(resize(pixels[:1])))[0])
    assert torch.equal(batch[1], expected[1])


def test_a_crop_after_other_transforms_is_the_same_crop() -> None:
    pixels = images()
    crop = v2.RandomCrop(5, padding=1)
    in_front, _ = cut(resident(pixels, crop), [2, 4], [[0.3, 0.8], [0.9, 0.1]])
    behind, _ = cut(resident(pixels, v2.RandomVerticalFlip(0.0), crop), [2, 4], [[0.5, 0.3, 0.8], [0.5, 0.9, 0.1]])
    assert torch.equal(in_front, behind)


def test_pixels_are_normalised_by_channel() -> None:
    pixels = images()
    mean, std = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), torch.tensor([0.5, 0.25, 2.0]).view(3, 1, 1)
    samples = ResidentSamples(pixels, torch.arange(5), [], mean, std)
    ((batch, _),) = samples.batches(torch.tensor([[1, 3]]), torch.empty(1, 2, 0))
    torch.testing.assert_close(batch, (pixels[[1, 3]] / 255 - mean) / std)
    assert batch.is_contiguous()


PIPELINES = [
    [],
    [v2.Resize([6, 8]), v2.Pad(1)],
    [v2.RandomCrop(5, padding=2), v2.RandomHorizontalFlip()],
    [v2.RandomHorizontalFlip(), v2.RandomErasing(value=[1, 2, 3]), v2.RandomCrop((9, 4), padding=2, fill=7)],
    [v2.RandomCrop((6, 6)), v2.ColorJitter(0.3, 0.3, 0.3), v2.RandomVerticalFlip(), v2.RandomAutocontrast()],
]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("steps", PIPELINES, ids=lambda steps: "-".join(type(step).__name__ for step in steps))
@pytest.mark.parametrize("single", [True, False], ids=["one mean", "a mean a channel"])
def test_channels_last_holds_the_same_values(steps: list[Any], channels: int, single: bool) -> None:
    if channels == 1:
        steps = [step for step in steps if not isinstance(step, v2.RandomErasing)]
    mean, std = (torch.tensor([a, b, c][: 1 if single else channels]).view(-1, 1, 1) for a, b, c in VALUES)
    formats = torch.contiguous_format, torch.channels_last
    named = [(type(step).__name__, step) for step in steps]
    samples = [
        ResidentSamples(images(9, channels), torch.arange(9), named, mean, std, memory_format=each)
        for each in formats
    ]
    indices, numbers = torch.tensor([[1, 3, 8], [0, 8, 2]]), torch.rand(2, 3, samples[0].draws)
    for batches in zip(*(each.batches(indices, numbers) for each in samples), strict=True):
        (plain, labels), (last, last_labels) = batches
        assert torch.equal(plain, last)
        assert torch.equal(labels, last_labels)
        assert plain.is_contiguous()
        assert last.is_contiguous(memory_format=torch.channels_last)


def test_boxes_are_erased_as_torchvision_erases_them() -> None:
    """The share of images hit, the area of boxes, their deviation from squares, and their positions."""
    torch.manual_seed(0)
    pixels = torch.full((4000, 1, 16, 12), 200, dtype=torch.uint8)
    step = v2.RandomErasing(p=0.6, scale=(0.05, 0.6), ratio=(0.2, 5), value=7)
    form = batched_form("RandomErasing", step)
    ours = form.apply(pixels, torch.rand(4000, form.draws)) == 7
    theirs = torch.stack([step(image) for image in pixels]) == 7
    for measure in (
        lambda mask: mask.flatten(1).any(1).float(),
        lambda mask: mask.flatten(1).float().mean(1),
        lambda mask: mask.any(3).sum((1, 2)).float() / 16,
        lambda mask: mask.any(2).sum((1, 2)).float() / 12,
        lambda mask: mask[:, 0, 0, 0].float(),
        lambda mask: mask[:, 0, -1, -1].float(),
        lambda mask: mask[:, 0, 8, 6].float(),
    ):
        a, b = measure(ours), measure(theirs)
        error = ((a.var() + b.var()) / 4000).sqrt()
        assert abs(a.mean() - b.mean()) < 4 * error
    boxes = ours.any(3).sum((1, 2)) * ours.any(2).sum((1, 2))
    assert torch.equal(boxes, ours.sum((1, 2, 3)))  # one whole box each


def test_crops_and_flips_are_uniform_over_all_positions() -> None:
    transforms = "[{RandomCrop: {size: 8, padding: 1}}, RandomHorizontalFlip]"
    loader = build_train_loader(configured("INPUT.TRANSFORMS_TRAIN", transforms))
    pixels = as_tensors(loader.dataset)[0]
    counts: dict[tuple[int, int, bool], int] = {}
    for iteration, (batch, _) in enumerate(itertools.islice(loader, 120)):
        for image, index in zip(raw(batch), loader.sample_indices(iteration), strict=True):
            padded = F.pad(pixels[index], [1])
            for y, x, flipped in itertools.product(range(3), range(3), (False, True)):
                whole = padded.flip(-1) if flipped else padded
                if torch.equal(whole[:, y : y + 8, x : x + 8], image):
                    counts[y, x, flipped] = counts.get((y, x, flipped), 0) + 1
    expected = 120 * 16 / 18
    assert len(counts) == 18
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 45  # chi square, 17 degrees


def configured(*overrides: Any) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list(["DATALOADER.BACKEND", "resident", *overrides])
    return cfg


def raw(batch: Tensor) -> Tensor:
    return ((batch * 0.3757 + 0.3054) * 255).round().to(torch.uint8)


AUGMENTED = (
    "INPUT.TRANSFORMS_TRAIN",
    "[{RandomCrop: {size: 8, padding: 1}}, RandomHorizontalFlip, RandomErasing]",
)


@pytest.mark.need("C1", "C3", "C5")
@pytest.mark.parametrize("start", [0, 1, 63, 64, 65, 89, 90, 1_000_000])
def test_the_resident_loader_gives_the_same_batches_from_any_iteration(start: int) -> None:
    """Within a block of random numbers, at its edge, at the edge of an epoch, and far behind."""
    loader = build_train_loader(configured(*AUGMENTED))
    early = max(0, start - 3)
    stream = loader.batches(early)
    whole = [next(stream) for _ in range(start - early + 70)][start - early :]
    again = build_train_loader(configured(*AUGMENTED)).batches(start)
    torch.rand(7)  # what else is drawn has no part in it
    for images_a, labels_a in whole:
        images_b, labels_b = next(again)
        assert torch.equal(images_a, images_b)
        assert torch.equal(labels_a, labels_b)


@pytest.mark.need("C1")
def test_the_resident_loader_agrees_with_the_worker_loader_except_for_random_transforms() -> None:
    cfgs = [configured("DATALOADER.BACKEND", backend) for backend in ("resident", "worker")]
    loaders = [build_train_loader(cfg) for cfg in cfgs]
    streams = [loader.batches(80) for loader in loaders]
    for _ in range(20):
        (images_a, labels_a), (images_b, labels_b) = map(next, streams)
        torch.testing.assert_close(images_a, images_b, rtol=1e-5, atol=1e-6)
        assert torch.equal(labels_a, labels_b)
        assert (images_a.dtype, labels_a.dtype) == (images_b.dtype, labels_b.dtype)
    assert loaders[0].describe_samples(3) == loaders[1].describe_samples(3)
    tests = [
        build_test_loader(configured("DATALOADER.BACKEND", backend), "digits_test")
        for backend in ("resident", "worker")
    ]
    assert len(tests[0]) == len(tests[1]) == 2
    for (images_a, labels_a), (images_b, labels_b) in zip(*tests, strict=True):
        torch.testing.assert_close(images_a, images_b, rtol=1e-5, atol=1e-6)
        assert torch.equal(labels_a, labels_b)


@pytest.mark.need("C11")
def test_two_passes_never_repeat_an_augmentation_and_other_seeds_give_others() -> None:
    def augmented(seed: int, start: int) -> Tensor:
        cfg = configured(*AUGMENTED, "SEED", seed, "SOLVER.IMS_PER_BATCH", 1437)
        return next(build_train_loader(cfg).batches(start)).images

    first, second, other = augmented(0, 0), augmented(0, 1), augmented(1, 0)
    order = [build_train_loader(configured("SOLVER.IMS_PER_BATCH", 1437)).sample_indices(k) for k in (0, 1)]
    sorted_first, sorted_second = (
        batch[torch.tensor(o).argsort()] for batch, o in zip((first, second), order, strict=True)
    )
    assert (sorted_first == sorted_second).flatten(1).all(1).float().mean() < 0.1
    assert not torch.equal(first, other)


def test_the_resident_loader_leaves_the_global_generators_alone() -> None:
    state = torch.get_rng_state()
    stream = build_train_loader(configured(*AUGMENTED)).batches()
    next(stream)
    assert torch.equal(torch.get_rng_state(), state)


def test_joined_sets_are_resident_as_one() -> None:
    cfg = configured("DATASETS.TRAIN", ["digits_train", "digits_test"], "SOLVER.IMS_PER_BATCH", 1797)
    _, labels = next(build_train_loader(cfg).batches())
    assert len(labels) == 1797


@pytest.mark.parametrize("shape", [(4, 8, 6), (4, 8, 6, 3)])
def test_read_only_images_of_a_file_are_accepted(shape: tuple[int, ...]) -> None:
    """They are read-only, of which torch warns."""
    pixels = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    pixels.flags.writeable = False
    taken, labels = as_tensors(ArrayDataset(pixels, np.arange(4)))
    expected = pixels if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
    assert np.array_equal(taken.numpy().squeeze(), expected)
    assert labels.tolist() == [0, 1, 2, 3]


def test_all_transforms_without_a_batched_form_are_refused_at_once() -> None:
    cfg = configured("INPUT.TRANSFORMS_TRAIN", "[{RandomRotation: {degrees: 5}}, RandAugment]")
    with pytest.raises(ConfigError) as error:
        check_data(cfg)
    label = cfg.label("DATALOADER.BACKEND")
    assert error.value.problems == [
        f"{label}: resident is not possible: {name} works image by image only; use worker"
        for name in ("RandomRotation", "RandAugment")
    ]


@pytest.mark.parametrize(
    ("name", "step", "problem"),
    [
        ("mine", lambda image: image, "mine is a user-defined transform"),
        ("RandomErasing", v2.RandomErasing(value="random"), "RandomErasing with value random draws too many"),
    ],
)
def test_batched_form_says_why_a_transform_has_none(name: str, step: Any, problem: str) -> None:
    with pytest.raises(NoBatchedForm, match=problem):
        batched_form(name, step)


def test_the_resident_loader_names_the_sample_of_a_label_out_of_range(tmp_path: Path) -> None:
    path = tmp_path / "odd.npz"
    np.savez(path, images=np.zeros((40, 8, 8), np.uint8), labels=np.r_[np.zeros(30), 12, np.zeros(9)].astype(int))
    cfg = configured("DATASETS.TEST", f"npz:{path}")
    with pytest.raises(ConfigError, match=r"^npz:.*odd.npz: sample 30 has label 12; with 10 classes"):
        build_test_loader(cfg, f"npz:{path}")


def test_resident_samples_check_free_memory_first(monkeypatch: pytest.MonkeyPatch) -> None:
    require_memory(10**6, "it")
    with pytest.raises(MemoryError, match="it needs 1,000,000,000,000,000 bytes of memory on cpu, and "):
        require_memory(10**15, "it")

    def refuse(needed: int, what: str, device: Any) -> None:
        raise MemoryError(f"no {needed:,} bytes")

    monkeypatch.setattr("warmstart.data.loaders.crop_store.require_memory", refuse)
    with pytest.raises(ConfigError, match="^DATALOADER.BACKEND .*: no 91,976 bytes; use worker"):
        build_train_loader(configured())


@pytest.mark.gpu
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("steps", PIPELINES, ids=lambda steps: "-".join(type(step).__name__ for step in steps))
def test_a_cuda_device_gives_the_same_batches_without_synchronisation(
    steps: list[Any], memory_format: torch.memory_format
) -> None:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in VALUES)
    named = [(type(step).__name__, step) for step in steps]
    streams = []
    for device in ("cpu", "cuda"):
        samples = ResidentSamples(images(40), torch.arange(40), named, mean, std, device, memory_format)
        streams.append(ResidentTrainLoader(range(40), samples, seed=0, batch_size=16).batches())  # type: ignore[arg-type]
    first = next(streams[1])
    try:
        torch.cuda.set_sync_debug_mode("error")
        batches = [first, *itertools.islice(streams[1], 69)]  # into the second block of random numbers
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for (pixels, labels), (expected, expected_labels) in zip(batches, streams[0], strict=False):
        assert torch.equal(labels.cpu(), expected_labels)
        off = (pixels.cpu() - expected).abs() * std > 1e-5  # arithmetic of colours may round to another level
        assert off.float().mean() < 0.001
        assert pixels.stride() == expected.stride()


@pytest.mark.need("C1", "D1")
def test_a_resumed_resident_run_ends_with_the_bits_of_the_uninterrupted_one(
    tiny_words: list[str], tmp_path: Path
) -> None:
    words = [*tiny_words, "DATALOADER.BACKEND=resident", "SOLVER.CHECKPOINT_PERIOD=5"]
    assert train_net.main(words) == 0
    again = [*words, f"OUTPUT_DIR={tmp_path}/again"]
    assert train_net.main([*again, f"--resume={tmp_path}/out/model_0000004.pth"]) == 0
    whole, resumed = (load_checkpoint(tmp_path / name / "model_final.pth") for name in ("out", "again"))
    assert all(torch.equal(whole["model"][name], resumed["model"][name]) for name in whole["model"])
    with pytest.raises(ConfigError, match="DATALOADER.BACKEND: 'resident' -> 'worker'"):
        train_net.main([*tiny_words, "DATALOADER.BACKEND=worker", "SOLVER.MAX_ITER=20", "--resume"])
