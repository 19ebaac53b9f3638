"""Image folders: what is listed, in which order, and what is refused."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from PIL import Image

from warmstart.config import CfgNode, ConfigError
from warmstart.data import build_dataset, dataset_info
from warmstart.data.datasets import registry as datasets
from warmstart.data.sampling.weights import aspect_groups

from ...built import build_test_loader, build_train_loader, check_data

Configured = Callable[..., CfgNode]
RESIZED = (
    "INPUT.TRANSFORMS_TRAIN",
    "[{Resize: {size: [4, 4]}}]",
    "INPUT.TRANSFORMS_TEST",
    "[{Resize: {size: [4, 4]}}]",
)


@pytest.fixture(autouse=True)
def fresh() -> None:
    datasets._info_by_looking.cache_clear()


def put(root: Path, *names: str) -> Path:
    """Write an image of 6x4, grey by its number, for each name."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        form = "JPEG" if path.suffix.lower() in (".jpg", ".jpeg") else "PNG"
        Image.new("RGB", (6, 4), (number * 10,) * 3).save(path, form)
    return root


def built(root: Path | str) -> Any:
    return build_dataset(f"imagefolder:{root}", "")


def test_image_folder_lists_files_in_torchvisions_order(tmp_path: Path) -> None:
    names = (
        "b/2.png",
        "b/10.png",
        "a b/z.JPG",
        "a b/x/1.png",
        "a b/x-y/1.png",
        "a b/x/y/1.png",
        "é/1.webp",
        "B/1.png",
    )
    put(tmp_path, *names)
    theirs, ours = torchvision.datasets.ImageFolder(tmp_path), built(tmp_path)
    assert [*ours.samples] == theirs.samples
    assert ours.classes == tuple(theirs.classes) == ("B", "a b", "b", "é")
    assert ours.targets.tolist() == theirs.targets
    assert ours.names[:3] == ["B/1.png", "a b/z.JPG", "a b/x/1.png"]
    assert torch.equal(ours[4][0][:, 0, 0], torch.tensor(3 * [50], dtype=torch.uint8))


def test_image_folder_ignores_hidden_and_other_files_and_says_so(tmp_path: Path) -> None:
    put(tmp_path, "cat/1.jpg", "cat/._1.jpg", "dog/2.GIF", ".git/x.png", "__MACOSX/cat/1.jpg")
    for name in ("cat/.DS_Store", "cat/notes.txt", "cat/clip.MOV", "cat/1.cr2", "cat/LICENSE"):
        (tmp_path / name).write_bytes(b"")
    dataset = built(tmp_path)
    assert dataset.names == ["cat/1.jpg", "dog/2.GIF"]
    assert dataset.classes == ("cat", "dog")
    assert len(dataset.notes) == 1
    assert dataset.notes[0].startswith("ignored 4 files that are not images by their ending (")
    assert {*dataset.notes[0].partition("(")[2].rstrip(")").split(", ")} == {".txt", ".mov", ".cr2", "no ending"}


def test_notes_about_files_are_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path, "cat/1.jpg", "dog/2.jpg")
    (tmp_path / "cat" / "a.txt").write_bytes(b"")
    with caplog.at_level("INFO", "warmstart"):
        for _ in range(2):
            dataset_info(f"imagefolder:{tmp_path}", "", label="DATASETS.TRAIN")
    text = f"DATASETS.TRAIN: imagefolder:{tmp_path}: ignored 1 file that is not an image by its ending (.txt)"
    assert [record.message for record in caplog.records] == [text]


def test_image_folder_follows_links(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere", "1.png", "2.png")
    put(tmp_path / "photos", "cat/9.png")
    (tmp_path / "photos" / "dog").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "cat" / "8.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    assert built(tmp_path / "photos").names == ["cat/8.png", "cat/9.png", "dog/1.png", "dog/2.png"]
    (tmp_path / "elsewhere" / "circle").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"dog/circle links to a folder that contains it; remove the link"):
        built(tmp_path / "photos")


def test_image_folder_expands_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    put(tmp_path / "My Photos", "cat/1.png", "dog/1.png")
    assert built("~/My Photos").root == f"{tmp_path}/My Photos"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("1.jpg", "2.jpg"),
            r"it holds 2 images, but no folder for each class; sort the images into ROOT/CLASS/, or",
        ),
        (("a.txt",), "it holds no class folders; sort the images into ROOT/CLASS/"),
        (
            ("cat/1.jpg", "dog/a.txt", "fox/b.txt"),
            "the class folders have no images: dog, fox; add some, or delete the empty folders",
        ),
        (("cat/1.jpg", "dog/a.txt"), "the class folder has no images: dog; "),
        (
            ("train/cat/1.jpg", "val/cat/2.jpg"),
            "it holds train/ and val/, which are parts of a data set and not classes; write DATASETS.TRAIN"
            " imagefolder:ROOT/train DATASETS.TEST imagefolder:ROOT/val$",
        ),
        (
            ("Train/cat/1.jpg", "test/cat/2.jpg", "extra/3.jpg"),
            "TRAIN imagefolder:ROOT/Train .*TEST imagefolder:ROOT/test$",
        ),
        (("train/1.jpg", "val/2.jpg"), "it holds train/ and val/"),
        (
            ("flowers/rose/1.jpg", "flowers/tulip/1.jpg"),
            "its only folder is flowers/, which holds folders itself; the classes may be these: write"
            " imagefolder:ROOT/flowers$",
        ),
        (
            ("cat/1.HEIC", "dog/1.jpg"),
            r"cat/1.HEIC: photos in this format are not decoded; convert the .heic files to",
        ),
    ],
)
def test_image_folder_refuses_other_folders_in_one_sentence(
    tmp_path: Path, names: tuple[str, ...], message: str
) -> None:
    root = tmp_path / "root"
    for name in names:
        if name.endswith(".jpg"):
            put(root, name)
        else:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(b"")
    with pytest.raises(ConfigError, match=message.replace("ROOT", str(root))) as raised:
        built(root)
    assert "\n" not in str(raised.value)


def test_image_folder_suggests_the_folder_above_a_class(tmp_path: Path) -> None:
    put(tmp_path, "cat/1.jpg", "dog/1.jpg")
    message = rf"it holds 1 images, but .*; if it is one of the classes, name .* above it: imagefolder:{tmp_path}$"
    with pytest.raises(ConfigError, match=message):
        built(tmp_path / "cat")


def test_classes_may_be_called_bus_and_train(tmp_path: Path) -> None:
    assert built(put(tmp_path, "bus/1.jpg", "train/1.jpg", "test drive/1.jpg")).classes == (
        "bus",
        "test drive",
        "train",
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x.csv", r"it is a file; write {csv: {path: .*x.csv, images: FOLDER, file: COLUMN, label: COLUMN}}"),
        ("x.zip", "it is an archive; unpack it"),
        ("x.jpg", "it is a file; name the folder that holds the class folders"),
        ("missing", r"was not found in .*missing \(no such folder\); correct the path"),
    ],
)
def test_image_folder_refuses_what_is_not_a_folder(tmp_path: Path, name: str, message: str) -> None:
    if name != "missing":
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ConfigError, match=message):
        built(tmp_path / name)


def test_a_training_set_of_one_class_is_refused(tmp_path: Path, configured: Configured) -> None:
    put(tmp_path, "cat/1.jpg", "cat/2.jpg")
    words = ("DATASETS.TRAIN", f"imagefolder:{tmp_path}", "DATASETS.TEST", "[]")
    with pytest.raises(
        ConfigError, match=r"^DATASETS.TRAIN .*: imagefolder:.* has one class only, cat; a classifier"
    ):
        check_data(configured(*words))


def test_format_l_gives_one_channel_and_rgb_three(tmp_path: Path, configured: Configured) -> None:
    Image.new("L", (6, 4), 7).save(put(tmp_path, "cat/1.jpg", "dog/1.jpg") / "cat" / "2.png")
    words = ("DATASETS.TRAIN", f"imagefolder:{tmp_path}", "DATASETS.TEST", "[]", "SOLVER.IMS_PER_BATCH", 3)
    for backend in ("worker", "resident"):
        for mode, channels in (("RGB", 3), ("L", 1)):
            cfg = configured(
                *words,
                "INPUT.FORMAT",
                mode,
                "DATALOADER.BACKEND",
                backend,
                "DATASETS.CACHE",
                str(tmp_path / ".cache"),
            )
            check_data(cfg)
            assert next(build_train_loader(cfg).batches()).images.shape == (3, channels, 4, 6)


def test_format_l_is_refused_for_colour_images_that_are_not_files(tmp_path: Path, configured: Configured) -> None:
    import numpy as np

    np.savez(tmp_path / "x.npz", images=np.zeros((4, 8, 8, 3), np.uint8), labels=np.arange(4) % 2)
    cfg = configured("DATASETS.TRAIN", f"npz:{tmp_path}/x.npz", "DATASETS.TEST", "[]", "INPUT.FORMAT", "L")
    message = r"^INPUT.FORMAT \(override\): L reads image files as grey, but npz:.* of DATASETS.TRAIN returns"
    with pytest.raises(ConfigError, match=message):
        check_data(cfg)
    check_data(configured("INPUT.FORMAT", "L"))  # digits are grey


def test_a_test_set_of_some_classes_is_labelled_as_the_training_set(
    tmp_path: Path, configured: Configured
) -> None:
    put(tmp_path / "train", "ape/1.png", "cat/1.png", "dog/1.png")
    put(tmp_path / "val", "dog/1.png", "cat/1.png", "cat/2.png")
    sets = ("DATASETS.TRAIN", f"imagefolder:{tmp_path}/train", "DATASETS.TEST", f"imagefolder:{tmp_path}/val")
    for backend in ("worker", "resident"):
        cfg = configured(*sets, "DATALOADER.BACKEND", backend, "DATASETS.CACHE", str(tmp_path / "cache"))
        check_data(cfg)
        (batch,) = build_test_loader(cfg, "val")
        assert batch.targets.tolist() == [1, 1, 2]
        assert (batch.images[:, 0, 0, 0] * 255).round().tolist() == [10, 20, 0]


def test_a_test_set_of_other_classes_is_refused_by_their_names(tmp_path: Path, configured: Configured) -> None:
    put(tmp_path / "train", "cat/1.png", "dog/1.png")
    put(tmp_path / "val", "cat/1.png", "Dog/1.png", "fox/1.png")
    cfg = configured(
        "DATASETS.TRAIN", f"imagefolder:{tmp_path}/train", "DATASETS.TEST", f"imagefolder:{tmp_path}/val"
    )
    message = (
        r"^DATASETS.TEST \(override\): val \(imagefolder:.*/val\) has classes that the training set does not have:"
        r" Dog, fox; the training set has cat, dog$"
    )
    with pytest.raises(ConfigError, match=message):
        check_data(cfg)


def test_the_default_test_set_is_explained_if_it_does_not_fit(tmp_path: Path, configured: Configured) -> None:
    put(tmp_path, "cat/1.png", "dog/1.png")
    message = (
        r"^DATASETS.TEST: images of digits_test have 1 channel\(s\), .*; DATASETS.TEST is not set, so this is its"
        r" default: name your test set, hold out a share of the training set \(docs/DATA.md\), or give \[\] for"
    )
    with pytest.raises(ConfigError, match=message):
        check_data(configured("DATASETS.TRAIN", f"imagefolder:{tmp_path}"))


def test_photos_of_every_kind_train_together(tmp_path: Path, configured: Configured) -> None:
    """Spaces, accents, upper case, links, transparency, palettes, 16 bits, CMYK, GIF and WebP in one folder."""
    import numpy as np

    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 12, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    folder = tmp_path / "My Photos" / "Katze é"
    folder.mkdir(parents=True)
    put(tmp_path / "My Photos", "dog/1.PNG")
    photo.save(folder / f"{unicodedata.normalize('NFD', 'é')} 1.JPG", exif=exif)
    photo.convert("RGBA").save(folder / "2.png")
    photo.convert("P").save(folder / "3.png", transparency=1)
    photo.convert("L").save(folder / "4.jpeg")
    photo.convert("CMYK").save(folder / "5.jpg")
    photo.convert("LA").save(folder / "6.webp")
    photo.save(folder / "7.gif")
    Image.fromarray(np.full((9, 12), 40000, np.uint16)).save(folder / "8.png")
    (folder / "9.jpg").symlink_to(folder / "5.jpg")
    name = f"imagefolder:{tmp_path}/My Photos"
    cfg = configured("DATASETS.TRAIN", f"[{name}]", "DATASETS.TEST", "[]", "SOLVER.IMS_PER_BATCH", 10, *RESIZED)
    check_data(cfg)
    batch = next(build_train_loader(cfg).batches())
    assert batch.images.shape == (10, 3, 4, 4)
    assert sorted(batch.targets.tolist()) == [0] * 9 + [1]
    assert dataset_info(name, "").sizes == ((4, 6), (9, 12), (12, 9))


def test_orientation_counts_for_the_aspect_ratio(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    put(tmp_path, "cat/1.jpg", "dog/1.jpg")  # 6 wide, 4 high
    Image.new("RGB", (6, 4)).save(tmp_path / "cat" / "2.jpg", exif=exif)
    wide, high = aspect_groups(built(tmp_path)) or ((), ())
    assert (list(wide), list(high)) == ([0, 2], [1])
