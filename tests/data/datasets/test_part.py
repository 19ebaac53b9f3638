"""Parts of data sets: which samples are held out, and what is reported."""

from __future__ import annotations

import hashlib
import io
import tarfile
import unicodedata
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from warmstart.config import CfgNode, ConfigError
from warmstart.data import build_dataset, dataset_info, register_dataset
from warmstart.data.datasets import registry as datasets
from warmstart.data.datasets.arrays import ArrayDataset
from warmstart.data.datasets.part import digest_of, hash_of, part_of, sample_names, with_classes

from ...built import build_test_loader, build_train_loader, check_data, choose_backend

Configured = Callable[..., CfgNode]


@pytest.fixture(autouse=True)
def fresh() -> None:
    datasets._info_by_looking.cache_clear()


def folder(root: Path, count: int = 40, classes: str = "ab") -> Path:
    for number in range(count):
        path = root / classes[number % len(classes)] / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (number, 0, 0)).save(path)
    return root


def entry(root: Path | str, part: str, holdout: float = 0.25, kind: str = "imagefolder") -> dict[str, Any]:
    return {kind: {"path": str(root), "holdout": holdout, "part": part}}


def names(root: Path | str, part: str, holdout: float = 0.25) -> list[str]:
    dataset: Any = build_dataset(entry(root, part, holdout), "")
    return list(dataset.names)


def test_hash_of_is_the_sha256_of_the_nfc_name() -> None:
    composed, decomposed = (unicodedata.normalize(form, "café/é.jpg") for form in ("NFC", "NFD"))
    number = int(hashlib.sha256(composed.encode()).hexdigest()[:16], 16)
    assert composed != decomposed
    assert hash_of(composed) == hash_of(decomposed) == number / 2**64
    assert [round(hash_of(name), 3) for name in ("cat/1.jpg", "cat/2.jpg", "0")] == [
        0.388,
        0.541,
        0.375,
    ]  # by sha256sum


def test_both_parts_hold_each_file_once_and_have_the_same_classes(tmp_path: Path) -> None:
    folder(tmp_path)
    train, test = names(tmp_path, "train"), names(tmp_path, "test")
    assert test == [name for name in (build_dataset(f"imagefolder:{tmp_path}", "").names) if hash_of(name) < 0.25]  # type: ignore[attr-defined]
    assert sorted(train + test) == sorted(f"{'ab'[number % 2]}/{number:03}.png" for number in range(40))
    assert 3 <= len(test) <= 17
    for part in ("train", "test"):
        dataset: Any = build_dataset(entry(tmp_path, part), "")
        assert (dataset.classes, dataset.num_classes) == (("a", "b"), 2)
        image, label = dataset[0]
        assert (int(image[0, 0, 0]), label) == (int(dataset.names[0][2:5]), "ab".index(dataset.names[0][0]))
        assert dataset.samples[0] == (f"{tmp_path}/{dataset.names[0]}", label)
        assert dataset.targets.tolist() == ["ab".index(name[0]) for name in dataset.names]


def test_a_part_is_the_same_elsewhere_and_after_files_are_added(tmp_path: Path) -> None:
    before = names(folder(tmp_path / "one"), "test")
    assert names(folder(tmp_path / "elsewhere" / "two"), "test") == before
    folder(tmp_path / "one", count=80)
    after = names(tmp_path / "one", "test")
    assert {*after} & {f"{'ab'[number % 2]}/{number:03}.png" for number in range(40)} == {*before}
    assert {*names(tmp_path / "one", "test", 0.5)} > {*after}


@pytest.mark.parametrize("backend", ["worker", "resident"])
def test_a_folder_is_split_for_training_and_evaluation(
    tmp_path: Path, configured: Configured, backend: str
) -> None:
    root = folder(tmp_path / "photos")
    sets = [f"[{{imagefolder: {{path: {root}, holdout: 0.25, part: {part}}}}}]" for part in ("train", "test")]
    cfg = configured("DATASETS.TRAIN", sets[0], "DATASETS.TEST", sets[1], "DATALOADER.BACKEND", backend)
    tested = {int(name[2:5]) for name in names(root, "test")}
    cfg.merge_from_list(["SOLVER.IMS_PER_BATCH", 40 - len(tested), "DATASETS.CACHE", str(tmp_path / "cache")])
    check_data(cfg)
    assert choose_backend(cfg) == backend
    (batch,) = build_test_loader(cfg, "photos")
    assert {*(batch.images[:, 0, 0, 0] * 255).round().int().tolist()} == tested
    batch = next(build_train_loader(cfg).batches())
    assert {*(batch.images[:, 0, 0, 0] * 255).round().int().tolist()} == {*range(40)} - tested


def test_a_class_that_is_only_in_one_part_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = folder(tmp_path / "photos")
    for name in ("c", "d"):
        (root / name).mkdir()
    tested = next(f"{number}.png" for number in range(99) if hash_of(f"c/{number}.png") < 0.25)
    trained = next(f"{number}.png" for number in range(99) if hash_of(f"d/{number}.png") >= 0.25)
    for path in (root / "c" / tested, root / "d" / trained):
        Image.new("RGB", (4, 4)).save(path)
    for part in ("train", "test"):
        assert dataset_info(entry(root, part), "", label="DATASETS").classes == ("a", "b", "c", "d")
    assert [record.getMessage() for record in caplog.records] == [
        f"DATASETS: imagefolder:{root}, train part: the train part has no image of c: all are in the test part, so"
        " that the class is not learned",
        f"DATASETS: imagefolder:{root}, test part: the test part has no image of d: all are in the train part, so"
        " that the class is not tested",
    ]


def test_csv_sets_are_split_by_the_names_in_the_file(tmp_path: Path) -> None:
    root = folder(tmp_path / "photos")
    rows = [f"a/{number:03}.png,{number}" for number in range(0, 40, 2)]
    (tmp_path / "x.csv").write_text("\n".join(["f,y", *rows]))
    options = {"path": f"{tmp_path}/x.csv", "images": str(root), "file": "f", "label": "y", "holdout": 0.25}
    dataset: Any = build_dataset({"csv": options | {"part": "test"}}, "")
    expected = [number for number in range(0, 40, 2) if hash_of(f"a/{number:03}.png") < 0.25]
    assert dataset.targets.tolist() == expected


def test_sets_without_names_are_split_by_index(tmp_path: Path) -> None:
    images = np.arange(20, dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2)
    np.savez(tmp_path / "x.npz", images=images, labels=np.arange(20) % 2)
    expected = [index for index in range(20) if hash_of(str(index)) < 0.25]
    dataset: Any = build_dataset(entry(tmp_path / "x.npz", "test", kind="npz"), "")
    assert isinstance(dataset, ArrayDataset)
    assert dataset.images[:, 0, 0].tolist() == expected
    info = dataset_info({"digits_train": {"holdout": 0.25, "part": "train"}}, "")
    full = dataset_info("digits_train", "")
    assert (info.mean, info.std, info.classes) == (full.mean, full.std, full.classes)
    assert info.size == sum(hash_of(str(index)) >= 0.25 for index in range(1437))


def test_shards_are_split_by_archive_and_member(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for number in range(12):
            png = io.BytesIO()
            Image.new("RGB", (4, 4)).save(png, "PNG")
            for name, content in ((f"{number}.png", png.getvalue()), (f"{number}.cls", str(number).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    wanted = {"webdataset": {"path": f"{tmp_path}/x.tar", "holdout": 0.4, "part": "test"}}
    dataset: Any = build_dataset(wanted, "", cache=str(tmp_path / "cache"))
    expected = [number for number in range(12) if hash_of(f"x.tar/{number}.png") < 0.4]
    assert dataset.targets.tolist() == expected
    assert [dataset[index][1] for index in range(len(dataset))] == expected
    assert dataset.size_of(0) == (4, 4)


def test_user_defined_sets_are_split_and_keep_their_attributes() -> None:
    class Own:
        classes = ("x", "y")
        labels = tuple(index % 2 for index in range(20))
        sizes = tuple((index, 9) for index in range(20))

        def __len__(self) -> int:
            return 20

        def __getitem__(self, index: int) -> tuple[Any, int]:
            return np.full((4, 4), index, np.uint8), self.labels[index]

    register_dataset("own:", lambda path, download: Own())
    dataset: Any = build_dataset(entry("x", "test", kind="own"), "")
    expected = [index for index in range(20) if hash_of(str(index)) < 0.25]
    assert [int(image[0, 0]) for image, _ in (dataset[place] for place in range(len(dataset)))] == expected
    assert dataset.labels.tolist() == [index % 2 for index in expected]
    assert dataset.sizes[:, 0].tolist() == expected
    assert not hasattr(dataset, "targets")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"holdout": 0.2},
            "imagefolder: holdout 0.2 needs part: train for the samples that are trained on, or part: test",
        ),
        ({"part": "test"}, "imagefolder: part needs the share that is held out: holdout: 0.2"),
        ({"holdout": 0.2, "part": "val"}, "or part: test for those that are held out; got 'val'"),
        ({"holdout": 20, "part": "test"}, "holdout is a share above 0 and below 1, such as 0.2; got 20"),
        ({"holdout": "20%", "part": "test"}, "holdout is a share above 0 and below 1, such as 0.2; got '20%'"),
        (
            {"holdout": 1e-9, "part": "test"},
            "holdout: 1e-09 of 40 samples leaves none for the test part; take another",
        ),
        ({"holdout": 0.2, "part": "test", "hold": 1}, "imagefolder takes no argument 'hold'"),
    ],
)
def test_holdout_refuses_a_mistake_in_one_sentence(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_dataset({"imagefolder": {"path": str(folder(tmp_path)), **options}}, "")


def test_part_is_an_option_of_a_builder_that_takes_it() -> None:
    given = []

    def build(path: str, download: bool, part: str = "") -> Any:
        given.append(part)
        return [(np.zeros((4, 4), np.uint8), 0)]

    register_dataset("own:", build)
    build_dataset({"own": {"path": "x", "part": "val"}}, "")
    assert given == ["val"]


def test_with_classes_leaves_other_sets_as_they_are() -> None:
    images = np.zeros((2, 4, 4), np.uint8)
    named, unnamed = ArrayDataset(images, np.array([0, 1]), ("cat", "dog")), ArrayDataset(images, np.array([0, 1]))
    numbers = ArrayDataset(images, np.array([[0.0, 1.0]] * 2), ("cat", "dog"))
    for dataset, classes in (
        (named, ["cat", "dog"]),
        (named, ["cat", "eel"]),
        (unnamed, ["a"]),
        (numbers, ["dog", "cat"]),
    ):
        assert with_classes(dataset, classes) is dataset


def test_digest_of_depends_on_names_labels_and_order_alone(tmp_path: Path) -> None:
    def digest(root: Path) -> str:
        return digest_of(build_dataset(f"imagefolder:{root}", ""))

    one = digest(folder(tmp_path / "one"))
    assert digest(folder(tmp_path / "sub" / "two")) == one
    (tmp_path / "one" / "a" / "000.png").rename(tmp_path / "one" / "a" / "000x.png")
    assert digest(tmp_path / "one") != one
    images = np.zeros((2, 4, 4), np.uint8)
    arrays = [digest_of(ArrayDataset(images, np.array(labels))) for labels in ([0, 1], [1, 0], [0.0, 1.0], [0, 1])]
    assert len({*arrays}) == 3
    assert arrays[0] == arrays[3]
    assert digest_of(ArrayDataset(images + 1, np.array([0, 1]))) != arrays[0]
    assert digest_of(SimpleNamespace(labels=[0, 1], __len__=lambda: 2)) == ""


def test_sample_names_of_torchvisions_folder_are_relative(tmp_path: Path) -> None:
    import torchvision

    theirs = torchvision.datasets.ImageFolder(folder(tmp_path, count=3))
    assert sample_names(theirs) == ["a/000.png", "a/002.png", "b/001.png"]
    assert sample_names([4, 5]) == ["0", "1"]
    assert len(part_of(theirs, 0.5, "train")) + len(part_of(theirs, 0.5, "test")) == 3


@pytest.mark.parametrize("held", [0.2, 0.5])
def test_check_data_refuses_a_test_part_that_holds_training_samples(
    tmp_path: Path, configured: Configured, held: float
) -> None:
    root = folder(tmp_path)
    part = f"[{{imagefolder: {{path: {root}, holdout: HELD, part: PART, name: photos}}}}]"
    train, test = part.replace("HELD", "0.4").replace("PART", "train"), part.replace("HELD", str(held))
    cfg = configured("DATASETS.TRAIN", train, "DATASETS.TEST", test.replace("PART", "test"))
    if held < 0.4:  # some of the samples that are held out
        check_data(cfg)
        return
    with pytest.raises(ConfigError, match="has holdout 0.5, and its training part 0.4, which .* the same holdout"):
        check_data(cfg)
