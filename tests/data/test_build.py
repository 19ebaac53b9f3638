"""Loaders built from a config, and the checks that need no training data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from warmstart.config import CfgNode, ConfigError
from warmstart.data import (
    DatasetInfo,
    EvalLoader,
    ResidentEvalLoader,
    ResidentTrainLoader,
    WorkerTrainLoader,
    data_spec,
    dataset_info,
    describe_workers,
    device_of,
    register_dataset,
    register_transform,
    train_info,
    usable_cores,
)
from warmstart.data.datasets.arrays import ArrayDataset
from warmstart.engine import resolve_config

from ..built import build_test_loader, build_train_loader, check_data, choose_backend, describe_loader

Configured = Callable[..., CfgNode]


def _registered(name: str, **changes: Any) -> None:
    facts: dict[str, Any] = {"size": 10, "num_classes": 3, "channels": 1, "image_size": (8, 8), **changes}
    register_dataset(name, lambda root, download: pytest.fail("was built"), DatasetInfo(**facts))


def test_the_default_config_trains_on_normalised_digits(configured: Configured) -> None:
    check_data(configured())
    images = torch.cat([images for images, _ in build_test_loader(configured(), "digits_test")])
    assert images.shape == (360, 1, 8, 8)
    assert images.mean().item() == pytest.approx(0, abs=0.02)
    assert images.std().item() == pytest.approx(1, abs=0.02)


def test_batches_have_the_configured_sizes(configured: Configured) -> None:
    cfg = configured("SOLVER.IMS_PER_BATCH", 7, "TEST.IMS_PER_BATCH", 350)
    assert next(iter(build_train_loader(cfg))).images.shape == (7, 1, 8, 8)
    assert [len(labels) for _, labels in build_test_loader(cfg, "digits_test")] == [350, 10]


@pytest.mark.need("G3")
@pytest.mark.parametrize("backend", ["worker", "resident"])
def test_ranks_take_the_batches_of_one_in_turn(configured: Configured, backend: str) -> None:
    """Also those with transforms that draw: 360 images are 4 batches of 100, on 5 ranks."""
    transforms = "[{RandomCrop: {size: 8, padding: 1}}]"
    words = ("DATALOADER.BACKEND", backend, "TEST.IMS_PER_BATCH", 100, "INPUT.TRANSFORMS_TEST", transforms)
    batches = [images for images, _ in build_test_loader(configured(*words), "digits_test")]
    for world_size, lengths in ((3, [2, 1, 1]), (5, [1, 1, 1, 1, 0])):
        for rank, length in enumerate(lengths):
            loader = build_test_loader(configured(*words), "digits_test", rank, world_size)
            own = [images for images, _ in loader]
            assert len(own) == len(loader) == length
            assert all(map(torch.equal, own, batches[rank::world_size]))


def test_cores_are_shared_by_the_processes_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(7)), raising=False)
    for ranks, cores in ((1, 7), (2, 3), (8, 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
        assert usable_cores() == cores


def test_each_process_of_a_machine_has_a_device_of_its_own(
    configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "3")
    names = ("cuda", "cuda:1", "cpu")
    assert [device_of(configured("MODEL.DEVICE", name)) for name in names] == ["cuda:3", "cuda:1", "cpu"]
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert device_of(configured("MODEL.DEVICE", "auto")) == "cuda:3"


def test_the_stream_follows_from_the_seed(configured: Configured) -> None:
    def labels(seed: int) -> list[int]:
        loader = build_train_loader(configured("SEED", seed, "SOLVER.IMS_PER_BATCH", 64))
        return list(next(iter(loader)).targets.tolist())

    assert labels(3) == labels(3)
    assert labels(3) != labels(4)


@pytest.mark.parametrize("workers", [0, 2])
def test_train_transforms_are_not_applied_to_test_images(configured: Configured, workers: int) -> None:
    cfg = configured(
        *("INPUT.TRANSFORMS_TRAIN", "[{CenterCrop: {size: 4}}]", "DATALOADER.NUM_WORKERS", workers),
        *("INPUT.TRANSFORMS_TEST", "[{CenterCrop: {size: 6}}]"),
    )
    train = build_train_loader(cfg)
    assert next(iter(train)).images.shape[2:] == (4, 4)
    assert {images.shape[2:] for images, _ in build_test_loader(cfg, "digits_test")} == {(6, 6)}
    train.close()


def test_auto_is_resident_if_nothing_prevents_it(configured: Configured) -> None:
    cfg = configured("DATALOADER.BACKEND", "auto")
    assert isinstance(build_train_loader(cfg), ResidentTrainLoader)
    assert isinstance(build_test_loader(cfg, "digits_test"), ResidentEvalLoader)
    # 8x8 pixels each of 1,437 and 360 images, and the end of the last row of either.
    assert describe_loader(configured("MODEL.DEVICE", "cpu")) == f"resident, {1797 * 64 / 1e6:.1f} MB on cpu"


@pytest.mark.parametrize("last", [False, True])
def test_resident_batches_have_the_memory_format_of_the_model(
    configured: Configured, tmp_path: Path, last: bool
) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros((20, 6, 5, 3), np.uint8), labels=np.zeros(20, np.int64))
    name = f"npz:{tmp_path}/x.npz"
    cfg = configured("DATASETS.TRAIN", name, "DATASETS.TEST", name, "MODEL.CHANNELS_LAST", last)
    for loader in (build_train_loader(cfg), build_test_loader(cfg, name)):
        images, _ = next(iter(loader))
        assert images[0].stride() == ((1, 15, 3) if last else (30, 5, 1))


@pytest.mark.parametrize("key", ["TRAIN", "TEST"])
def test_auto_is_worker_for_a_transform_of_single_images_and_says_so(configured: Configured, key: str) -> None:
    cfg = configured(f"INPUT.TRANSFORMS_{key}", "[RandAugment]", "DATALOADER.NUM_WORKERS", 3)
    assert isinstance(build_train_loader(cfg), WorkerTrainLoader)
    assert isinstance(build_test_loader(cfg, "digits_test"), EvalLoader)
    assert describe_loader(cfg) == "worker, 3 processes (resident: RandAugment works image by image only)"


def test_nvjpeg_decodes_in_the_training_process(configured: Configured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cfg = configured("INPUT.DECODER", "nvjpeg", "MODEL.DEVICE", "cuda", "DATALOADER.BACKEND", "worker")
    check_data(cfg)
    assert describe_workers(cfg, data_spec(cfg)).startswith("0 processes")
    loader = build_train_loader(cfg)._loader
    assert (loader.num_workers, loader.pin_memory, loader.samples.on_cuda) == (0, False, True)
    cfg.merge_from_list(["DATALOADER.NUM_WORKERS", 2])
    with pytest.raises(ConfigError, match=r"nvjpeg decodes in the training process; set DATALOADER.NUM_WORKERS 0"):
        check_data(cfg)


@pytest.mark.parametrize(
    ("cores", "data", "device", "expected"),
    [
        (2, "imagefolder:cats", "cpu", 2),
        (64, "imagefolder:cats", "cpu", 8),
        (2, "digits_test", "cpu", 0),
        (4, "digits_test", "cuda", 4),
    ],
)
def test_the_number_of_workers_follows_from_the_cores_and_is_said(
    configured: Configured, monkeypatch: pytest.MonkeyPatch, cores: int, data: str, device: str, expected: int
) -> None:
    monkeypatch.setattr("warmstart.data.loaders.build_workers.usable_cores", lambda: cores)
    cfg = configured("DATASETS.TRAIN", data, "DATASETS.TEST", data, "MODEL.DEVICE", device)
    assert describe_workers(cfg, data_spec(cfg)) == f"{expected} processes for {cores} cores"
    cfg.merge_from_list(["DATALOADER.NUM_WORKERS", 5])
    assert describe_workers(cfg, data_spec(cfg)) == "5 processes"


def test_the_default_number_of_workers_is_what_loads(
    configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warmstart.data.loaders.build_workers.usable_cores", lambda: 3)
    images = np.zeros((10, 8, 8), np.uint8)
    register_dataset("files", lambda root, download: ArrayDataset(images, images[:, 0, 0]))
    for data, expected in (("digits_train", 0), ("files", 3)):
        cfg = configured("DATASETS.TRAIN", data, "DATASETS.TEST", data, "MODEL.DEVICE", "cpu")
        cfg.merge_from_list(["DATALOADER.BACKEND", "worker"])
        assert build_train_loader(cfg)._loader.num_workers == expected


def test_auto_is_worker_for_more_than_a_quarter_of_memory(
    configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = (1437 + 360) * 64 + 2 * 8
    for memory, backend in ((4 * size, "resident"), (4 * size - 1, "worker")):
        monkeypatch.setattr(
            "warmstart.data.loaders.build_backend.total_memory", lambda device, memory=memory: memory
        )
        assert choose_backend(configured("MODEL.DEVICE", "cpu")) == backend
    assert describe_loader(configured()).endswith(
        "(resident: takes 0.1 MB on cpu, more than a quarter of its memory)"
    )


def test_describe_loader_names_a_data_set_without_an_array_once(configured: Configured) -> None:
    _registered("files", classes=("a", "b", "c"))
    register_dataset("photos:", lambda path, download: pytest.fail("was built"), DatasetInfo(10, 3, 1, (8, 8)))
    cfg = configured("DATASETS.TRAIN", "photos:x", "DATASETS.TEST", "photos:x,val=photos:x,files")
    cfg.merge_from_list(["DATALOADER.NUM_WORKERS", 1])
    assert describe_loader(cfg) == (
        "worker, 1 processes (resident: photos:x is not a data set of one array; "
        "files is not a data set of one array)"
    )


def test_the_resolved_config_contains_the_chosen_backend(configured: Configured) -> None:
    resolved = resolve_config(configured("INPUT.TRANSFORMS_TRAIN", "[RandAugment]"))
    assert resolved.DATALOADER.BACKEND == "worker"
    assert resolve_config(resolved).DATALOADER.BACKEND == "worker"
    assert resolve_config(configured()).DATALOADER.BACKEND == "resident"


@pytest.mark.parametrize(
    ("device", "available", "pinned"),
    [
        ("auto", True, True),
        ("cuda:1", True, True),
        ("cpu", True, False),
        ("auto", False, False),
        ("cuda", False, False),
    ],
)
def test_memory_is_pinned_for_cuda_only(
    configured: Configured, monkeypatch: pytest.MonkeyPatch, device: str, available: bool, pinned: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    cfg = configured("MODEL.DEVICE", device, "DATALOADER.BACKEND", "worker")
    assert build_train_loader(cfg)._loader.pin_memory is pinned


def test_own_mean_and_std_win_over_the_data_sets(configured: Configured) -> None:
    cfg = configured("INPUT.MEAN", "0", "INPUT.STD", "1")
    images, _ = next(iter(build_test_loader(cfg, "digits_test")))
    assert (images.min().item(), images.max().item()) == (0, 1)


@pytest.mark.need("C11")
def test_python_and_numpy_generators_are_seeded_for_user_defined_code_only(configured: Configured) -> None:
    worker = ("DATALOADER.BACKEND", "worker")
    assert not build_train_loader(configured(*worker))._loader.samples.seed_everything
    register_transform("Mine", lambda: torch.clone)
    cfg = configured(*worker, "INPUT.TRANSFORMS_TRAIN", "[Mine]")
    assert build_train_loader(cfg)._loader.samples.seed_everything
    assert not build_test_loader(cfg, "digits_test")._loader.samples.seed_everything

    class Mine:
        classes = ("a",)

        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> tuple[Any, int]:
            return np.zeros((2, 2), np.uint8), 0

    register_dataset("mine", lambda root, download: Mine())
    assert build_train_loader(configured(*worker, "DATASETS.TRAIN", "mine"))._loader.samples.seed_everything


def test_several_training_sets_are_joined(configured: Configured) -> None:
    cfg = configured("DATASETS.TRAIN", "digits_train,digits_test")
    assert train_info(cfg).size == 1797
    loader = build_train_loader(cfg)
    assert loader.size == 1797
    assert len(next(iter(loader))) == 16


def test_mean_and_std_of_joined_sets_are_over_all_images(configured: Configured) -> None:
    # Images of 0 and 1 (mean 0.5, std 0.5) three times as many as images of all 1.
    _registered("half", size=30, mean=(0.5,), std=(0.5,))
    _registered("white", size=10, mean=(1.0,), std=(0.0,))
    info = train_info(configured("DATASETS.TRAIN", "half,white"))
    assert info.size == 40
    assert info.mean == pytest.approx((0.625,))
    assert info.std == pytest.approx((0.484122918,))  # of 15 zeros and 25 ones


def test_mean_of_joined_sets_is_unknown_if_one_is_unknown(configured: Configured) -> None:
    _registered("known", mean=(0.5,), std=(0.5,))
    _registered("unknown", image_size=(9, 9), num_classes=5)
    info = train_info(configured("DATASETS.TRAIN", "known,unknown"))
    assert info == DatasetInfo(20, num_classes=5, channels=1, image_size=None, sizes=((8, 8), (9, 9)))


def test_input_shape_follows_the_training_transforms(configured: Configured) -> None:
    assert data_spec(configured()).input_shape == (1, 8, 8)
    cfg = configured("INPUT.TRANSFORMS_TRAIN", "[{Grayscale: {num_output_channels: 3}}, {Pad: {padding: 1}}]")
    assert data_spec(cfg).input_shape == (3, 10, 10)


def test_images_of_unknown_size_are_large(configured: Configured) -> None:
    _registered("photos", channels=3, image_size=None)
    cfg = configured("DATASETS.TRAIN", "photos", "DATASETS.TEST", "photos")
    assert data_spec(cfg).input_shape == (3, 1024, 1024)
    cfg.merge_from_list(["INPUT.TRANSFORMS_TRAIN", "[{RandomResizedCrop: {size: 224}}]"])
    assert data_spec(cfg).input_shape == (3, 224, 224)


def test_nothing_is_built_to_check_or_to_know_the_size(configured: Configured) -> None:
    _registered("mine")
    cfg = configured("DATASETS.TRAIN", "mine", "DATASETS.TEST", "mine")
    check_data(cfg)
    assert train_info(cfg) == dataset_info("mine", "")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["DATASETS.TRAIN", "digits_trian"], r"DATASETS.TRAIN \(override\): no data set .* mean 'digits_train'"),
        (
            ["DATASETS.TEST", "digit_test"],
            r"DATASETS.TEST \(override\): no data set .* did you mean 'digits_test'",
        ),
        (["DATASETS.TRAIN", "()"], r"DATASETS.TRAIN \(override\): names no data set; give at least one"),
        (
            ["DATASETS.TRAIN", "digits_train,cifar10_train"],
            "cifar10_train have 3 .* digits_train have 1",
        ),
        (["DATASETS.TEST", "cifar10_test"], "images of cifar10_test have 3 .* images of the training set have 1"),
        (
            ["DATASETS.TEST", "fashion_mnist_test"],
            "fashion_mnist_test has classes that the training set does not have: T-shirt/top, .*set has 0, 1, 2",
        ),
        (["DATASETS.TEST", "many"], "DATASETS.TEST .*: many has 11 classes, the model only 10"),
        (["MODEL.NUM_CLASSES", 7], "MODEL.NUM_CLASSES .*: 7 outputs are too few for the 10 classes"),
        (
            ["INPUT.TRANSFORMS_TRAIN", "[Flip]"],
            r"INPUT.TRANSFORMS_TRAIN \(override\): no transform is called 'Flip'",
        ),
        (["INPUT.TRANSFORMS_TEST", "[{Resize: {sice: 8}}]"], "INPUT.TRANSFORMS_TEST .* did you mean 'size'"),
        (
            ["INPUT.TRANSFORMS_TRAIN", "[{RandomCrop: {size: 9}}]"],
            "TRANSFORMS_TRAIN .*: RandomCrop fails on a 1x8x8",
        ),
        (
            ["INPUT.TRANSFORMS_TEST", "[{RandomCrop: {size: 9}}]"],
            "TRANSFORMS_TEST .*: RandomCrop fails on a 1x8x8",
        ),
        (
            ["INPUT.TRANSFORMS_TEST", "[RGB]"],
            r"images of digits_test end with 3 channel\(s\), the training set's with 1",
        ),
        (["INPUT.MEAN", "0.5,0.5,0.5"], r"INPUT.MEAN has 3 values, but the images have 1 channel\(s\)"),
        (["INPUT.STD", "1,1"], "INPUT.STD has 2 values"),
        (
            ["INPUT.DECODER", "nvjpeg", "MODEL.DEVICE", "cpu"],
            r"INPUT.DECODER \(override\): nvjpeg decodes on a CUDA device, and the run has none; use torchvision",
        ),
    ],
)
def test_check_data_refuses_invalid_configs(configured: Configured, overrides: list[Any], message: str) -> None:
    _registered("many", num_classes=11)
    with pytest.raises(ConfigError, match=message):
        check_data(configured(*overrides))


def test_more_outputs_than_classes_are_the_users_choice(configured: Configured) -> None:
    _registered("many", num_classes=11)
    check_data(configured("MODEL.NUM_CLASSES", 11, "DATASETS.TEST", "many"))


def test_missing_files_name_key_and_folder(configured: Configured, tmp_path: Path) -> None:
    cfg = configured("DATASETS.TRAIN", "cifar10_train", "DATASETS.ROOT", str(tmp_path))
    with pytest.raises(
        ConfigError, match=r"DATASETS.TRAIN \(override\): cifar10_train was not found in /.*DOWNLOAD"
    ):
        build_train_loader(cfg)


def test_a_users_arrays_train_and_test(configured: Configured, tmp_path: Path) -> None:
    generator = np.random.RandomState(0)
    for part, size in (("train", 40), ("test", 12)):
        images = generator.randint(0, 256, (size, 12, 10, 3), np.uint8)
        np.savez(tmp_path / f"{part}.npz", images=images, labels=np.arange(size) % 4)
    train, test = (f"npz:{tmp_path / part}.npz" for part in ("train", "test"))
    cfg = configured("DATASETS.TRAIN", train, "DATASETS.TEST", test)
    check_data(cfg)
    assert next(iter(build_train_loader(cfg))).images.shape == (16, 3, 12, 10)
    assert [labels.tolist() for _, labels in build_test_loader(cfg, test)] == [[0, 1, 2, 3] * 3]


def test_a_test_label_that_training_does_not_know_is_refused(configured: Configured, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros((3, 8, 8), np.uint8), labels=np.array([0, 1, 12]))
    name = f"npz:{tmp_path / 'x.npz'}"
    with pytest.raises(ConfigError, match=r"x.npz: sample 2 has label 12; with 10 classes labels run from 0 to 9"):
        list(build_test_loader(configured("DATASETS.TEST", name), name))
