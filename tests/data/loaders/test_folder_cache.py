"""Folders of images, converted once: the worker loader's images or one clear error, and never half a file."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from logging import LogRecord
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from warmstart.config import CfgNode, ConfigError
from warmstart.data.datasets.cache_dir import cache_folder
from warmstart.data.loaders import crop_store as store
from warmstart.data.loaders import folder_cache as cached
from warmstart.data.loaders.folder_cache import FolderImages

from ...built import build_test_loader, build_train_loader, check_data, choose_backend, describe_loader

Configured = Callable[..., CfgNode]


def fill(root: Path, sizes: list[tuple[int, int]]) -> Path:
    """Write noise, (height, width), as PNG, JPEG and grey PNG files of two classes in turn."""
    rng = np.random.default_rng(0)
    for number, (height, width) in enumerate(sizes):
        folder = root / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        image = image.convert("L") if number % 3 == 2 else image
        image.save(folder / f"{number:02}.{('png', 'jpg', 'png')[number % 3]}")
    return root


@pytest.fixture
def equal(tmp_path: Path) -> Path:
    return fill(tmp_path / "equal", 12 * [(9, 7)])


@pytest.fixture
def unequal(tmp_path: Path) -> Path:
    return fill(tmp_path / "unequal", [(9 + number, 30 - number) for number in range(12)])


@pytest.fixture
def folder_config(configured: Configured, tmp_path: Path) -> Configured:
    """Return a function that makes a config of a folder, resident unless it says otherwise."""

    def configure(root: Path, *overrides: Any) -> CfgNode:
        name = f"imagefolder:{root}"
        return configured(
            *("DATASETS.TRAIN", name, "DATASETS.TEST", name, "DATASETS.CACHE", str(tmp_path / "cache")),
            *("DATALOADER.BACKEND", "resident", "SOLVER.IMS_PER_BATCH", 5, *overrides),
        )

    return configure


def files_in(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


RESIZED = "[{Resize: {size: [8, 6]}}, {Grayscale: {num_output_channels: 3}}, {RandomHorizontalFlip: {p: 1.0}}]"


@pytest.mark.parametrize(
    ("folder", "transforms"),
    [("equal", "[]"), ("equal", RESIZED), ("unequal", RESIZED), ("unequal", "[{Resize: 12}, {CenterCrop: 8}]")],
)
def test_converted_folders_give_the_worker_loaders_batches_also_from_the_cache(
    folder: str, transforms: str, request: pytest.FixtureRequest, folder_config: Configured
) -> None:
    transforms = transforms.replace("Resize: 12", "Resize: {size: 12}").replace("Crop: 8", "Crop: {size: 8}")
    keys = ("INPUT.TRANSFORMS_TRAIN", transforms, "INPUT.TRANSFORMS_TEST", transforms)
    cfgs = [
        folder_config(request.getfixturevalue(folder), *keys, "DATALOADER.BACKEND", backend)
        for backend in ("worker", "resident", "resident")
    ]
    check_data(cfgs[1])
    workers, fresh, again = ([*itertools.islice(build_train_loader(cfg), 4)] for cfg in cfgs)
    for (images, labels), *others in zip(workers, fresh, again, strict=True):
        for other_images, other_labels in others:
            assert torch.equal((images * 255).round(), (other_images * 255).round())
            assert torch.equal(labels, other_labels)
    tests = [[*build_test_loader(cfg, cfg.DATASETS.TEST[0])] for cfg in cfgs]
    assert torch.equal((tests[0][0].images * 255).round(), (tests[1][0].images * 255).round())
    assert tests[1][0].targets.tolist() == 6 * [0] + 6 * [1]


def test_a_folder_joined_with_an_array_is_one_set(equal: Path, tmp_path: Path, folder_config: Configured) -> None:
    arrays = tmp_path / "more.npz"
    np.savez(arrays, images=np.full((4, 9, 7, 3), 200, np.uint8), labels=np.array([0, 1, 1, 1]))
    cfg = folder_config(equal, "DATASETS.TRAIN", [f"imagefolder:{equal}", f"npz:{arrays}"], "DATASETS.TEST", [])
    cfg.merge_from_list(["SOLVER.IMS_PER_BATCH", 16, "INPUT.TRANSFORMS_TRAIN", "[{Resize: {size: [4, 4]}}]"])
    check_data(cfg)
    images, labels = next(build_train_loader(cfg).batches())
    order = torch.tensor(build_train_loader(cfg).sample_indices(0))
    assert labels[order.argsort()].tolist() == [*(6 * [0]), *(6 * [1]), 0, 1, 1, 1]
    assert ((images[order >= 12] * 255).round() == 200).all()
    worker = cfg.clone()
    worker.merge_from_list(["DATALOADER.BACKEND", "worker"])
    assert torch.equal((next(build_train_loader(worker).batches()).images * 255).round(), (images * 255).round())


def test_a_folder_is_converted_once_and_then_memory_mapped(equal: Path, tmp_path: Path) -> None:
    folder, read = ImageFolder(equal), []

    class Counted(ImageFolder):
        def __getitem__(self, index: int) -> Any:
            read.append(index)
            return super().__getitem__(index)

    def load() -> torch.Tensor:
        return FolderImages(Counted(equal), [], str(tmp_path / "cache")).load()[0]

    first = load()
    assert set(read) == set(range(12))
    read.clear()
    second = load()
    assert set(read) == {0}  # whose size tells how long the file should be
    for index, (image, _) in enumerate(folder):
        expected = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        assert torch.equal(first[index], expected)
        assert torch.equal(second[index], expected)
    second[:] = 0  # is not written back
    assert torch.equal(load(), first)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: b"",
        lambda content: content[:100] + bytes([content[100] ^ 1]) + content[101:],
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: bytes(len(content) - 1) + b"\1",
        lambda content: content + b"more",
    ],
    ids=["cut", "empty", "one bit", "checksum", "foreign", "longer"],
)
def test_a_damaged_converted_file_is_replaced(
    damage: Callable[[bytes], bytes], equal: Path, tmp_path: Path
) -> None:
    whole = FolderImages(ImageFolder(equal), [], str(tmp_path)).load()[0].clone()
    folder = FolderImages(ImageFolder(equal), [], str(tmp_path))
    content = folder.path.read_bytes()
    folder.path.write_bytes(damage(content))
    assert torch.equal(folder.load()[0], whole)
    assert folder.path.read_bytes() == content


def test_another_folder_or_other_transforms_get_another_converted_file(equal: Path, tmp_path: Path) -> None:
    def path(*steps: Any, root: Path | str = equal) -> Path:
        named = [(type(step).__name__, step) for step in steps]
        return FolderImages(ImageFolder(root), named, str(tmp_path / "cache")).path

    before = path()
    assert path(root=os.path.relpath(equal)) == before
    steps = [(v2.Resize([8, 6]),), (v2.Resize([6, 8]),), (v2.Resize([8, 6]), v2.Grayscale())]
    seen = [before, *(path(*each) for each in steps)]
    file = equal / "a" / "00.png"
    os.utime(file, ns=(1, 1))
    seen.append(path())
    shutil.copy(file, equal / "b" / "new.png")
    seen.append(path())
    os.rename(equal, tmp_path / "moved")
    seen.append(path(root=tmp_path / "moved"))
    assert len(set(seen)) == len(seen) == 7


def test_two_concurrent_conversions_both_get_all_images(
    equal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each waits for the other in the middle of its conversion."""
    import threading

    meet, write = threading.Barrier(2, timeout=20), FolderImages._write

    def write_together(self: FolderImages, file: Any) -> None:
        meet.wait()
        write(self, file)
        meet.wait()

    monkeypatch.setattr(FolderImages, "_write", write_together)

    def load(_: int) -> torch.Tensor:
        return FolderImages(ImageFolder(equal), [], str(tmp_path / "cache")).load()[0]

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(load, range(2))
    assert torch.equal(one, other)
    assert len(files_in(tmp_path / "cache")) == 1


def test_a_full_disk_is_reported_in_one_sentence_and_leaves_no_file(
    equal: Path, tmp_path: Path, folder_config: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = folder_config(equal)
    message = (
        r"^DATASETS.CACHE .*: .*\.u8 cannot be written: No space left on device; name a folder with room for it$"
    )

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(ConfigError, match=message):
        patch.setattr(cached.os, "fsync", fail)
        build_train_loader(cfg)
    with monkeypatch.context() as patch, pytest.raises(ConfigError, match=message):
        patch.setattr(cached.shutil, "disk_usage", lambda folder: SimpleNamespace(free=12 * 9 * 7 * 3 - 1))
        build_train_loader(cfg)
    assert files_in(tmp_path / "cache") == []


def test_a_cache_that_is_a_file_is_refused_in_one_sentence(
    equal: Path, tmp_path: Path, folder_config: Configured
) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(ConfigError, match="^DATASETS.CACHE .* cannot be written: .*; name a folder with room"):
        build_train_loader(folder_config(equal))


def test_temporary_files_of_a_killed_conversion_are_deleted_after_a_day(equal: Path, tmp_path: Path) -> None:
    folder = FolderImages(ImageFolder(equal), [], str(tmp_path / "cache"))
    folder.path.parent.mkdir()
    names = (f"{folder.path.name}.11", f"{folder.path.name}.22", "x", f"{folder.path.name}.notes")
    old, young, *foreign = (folder.path.parent / f".{name}.warmstart.tmp" for name in names)
    for file in (old, young, *foreign):
        file.write_bytes(b"half")
    for file in (old, *foreign):
        os.utime(file, (time.time() - 90_000,) * 2)
    folder.load()
    assert files_in(folder.path.parent) == sorted([folder.path, young, *foreign])


def test_a_long_conversion_is_announced_in_one_line(
    equal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: list[LogRecord]
) -> None:
    monkeypatch.setattr(cached, "_PIECE", 5)
    FolderImages(ImageFolder(equal), [], str(tmp_path / "one")).load()
    assert not logged
    monkeypatch.setattr(cached, "_LONG", 0)
    folder = FolderImages(ImageFolder(equal), [], str(tmp_path / "two"))
    folder.load()
    (line,) = [record.getMessage() for record in logged]
    assert line.startswith(f"Converting 12 images of {equal}, once: about ")
    assert line.endswith(f" s; cached in {folder.path}")


def test_the_default_cache_is_in_the_systems_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("") == tmp_path / "warmstart"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder("") == Path.home() / ".cache" / "warmstart"


def test_a_store_is_filled_piece_by_piece(
    equal: Path, tmp_path: Path, folder_config: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more than a piece of the mapped file is in memory beside the store."""
    monkeypatch.setattr(store, "_PIECE", 5)
    taken, prepared = [], store.Layout.prepared

    def spy(self: store.Layout, images: torch.Tensor) -> torch.Tensor:
        taken.append((len(images), images.untyped_storage().nbytes()))
        return prepared(self, images)

    monkeypatch.setattr(store.Layout, "prepared", spy)
    build_train_loader(folder_config(equal))
    assert taken == [(1, 189), (5, 12 * 189), (5, 12 * 189), (2, 12 * 189)]  # a try, then views of one map


def test_images_of_unequal_sizes_are_reported_with_the_first_file_and_both_sizes(
    equal: Path, folder_config: Configured
) -> None:
    Image.new("RGB", (7, 8)).save(equal / "b" / "03.png")
    Image.new("RGB", (1, 1)).save(equal / "b" / "07.png")
    with pytest.raises(ConfigError) as error:
        check_data(folder_config(equal, "SOLVER.IMS_PER_BATCH", 1, "TEST.IMS_PER_BATCH", 1))
    assert str(error.value).endswith(
        f": resident is not possible: {equal}/b/03.png is 8x7, but {equal}/a/00.png is 9x7, and no transform to"
        " one size, such as {Resize: {size: [64, 64]}}, comes first; use worker"
    )
    check_data(folder_config(equal, "INPUT.TRANSFORMS_TRAIN", RESIZED, "INPUT.TRANSFORMS_TEST", RESIZED))


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n cut"])
def test_a_file_that_is_not_an_image_is_named(content: bytes, equal: Path, folder_config: Configured) -> None:
    (equal / "b" / "03.png").write_bytes(content)
    with pytest.raises(
        ConfigError, match=f"resident is not possible: {equal}/b/03.png cannot be read: .*; use worker"
    ):
        check_data(folder_config(equal))
    with pytest.raises(
        ConfigError, match=f"resident is not possible: {equal}/b/03.png cannot be read: .*; use worker"
    ):
        build_train_loader(folder_config(equal))


def test_a_truncated_image_is_reported_when_it_is_read(equal: Path, folder_config: Configured) -> None:
    file = equal / "b" / "03.png"
    file.write_bytes(file.read_bytes()[:-60])
    cfg = folder_config(equal)
    check_data(cfg)
    with pytest.raises(ConfigError, match=f"resident is not possible: {file} cannot be read: .*; use worker"):
        build_train_loader(cfg)


def test_auto_chooses_resident_for_a_folder_that_can_be_converted(
    equal: Path, tmp_path: Path, folder_config: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = folder_config(equal, "DATALOADER.BACKEND", "auto", "MODEL.DEVICE", "cpu")
    assert choose_backend(cfg) == "resident"
    assert describe_loader(cfg) == "resident, 0.0 MB on cpu"
    assert files_in(tmp_path / "cache") == []  # it is converted when it is loaded


@pytest.mark.parametrize("what", ["space", "permission"])
def test_auto_chooses_worker_if_the_cache_has_no_room(
    what: str, equal: Path, tmp_path: Path, folder_config: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    if what == "space":
        monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=12 * 189 - 1))
    else:
        monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)
    cache = tmp_path / "cache" / what
    cfg = folder_config(equal, "DATALOADER.BACKEND", "auto", "DATASETS.CACHE", str(cache))
    assert choose_backend(cfg) == "worker"
    assert describe_loader(cfg).endswith(f" (resident: DATASETS.CACHE, {cache}, cannot be written or is full)")


def test_auto_chooses_worker_for_a_folder_with_unreadable_skip(equal: Path, folder_config: Configured) -> None:
    cfg = folder_config(equal, "DATALOADER.BACKEND", "auto", "DATALOADER.UNREADABLE", "skip")
    assert choose_backend(cfg) == "worker"
    with pytest.raises(
        ConfigError, match="resident is not possible: DATALOADER.UNREADABLE skip passes over files"
    ):
        check_data(folder_config(equal, "DATALOADER.UNREADABLE", "skip"))


def test_sets_of_unequal_sizes_are_refused_unless_a_transform_makes_them_equal(
    configured: Configured, tmp_path: Path
) -> None:
    sets = []
    for size in (6, 8):
        np.savez(tmp_path / f"{size}.npz", images=np.zeros((4, size, size), np.uint8), labels=np.arange(4))
        sets.append(f"npz:{tmp_path}/{size}.npz")
    keys = ("DATASETS.TRAIN", sets, "DATASETS.TEST", [], "DATALOADER.BACKEND", "resident", "MODEL.NUM_CLASSES", 4)
    with pytest.raises(
        ConfigError, match=r"images of the data sets differ in size: 1x6x6 and 1x8x8 \(C x H x W\)"
    ):
        build_train_loader(configured(*keys))
    resized = configured(*keys, "INPUT.TRANSFORMS_TRAIN", "[{Resize: {size: [5, 5]}}]")
    assert next(build_train_loader(resized).batches()).images.shape == (16, 1, 5, 5)
