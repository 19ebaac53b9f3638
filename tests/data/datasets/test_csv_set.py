"""Data sets listed in csv files: separators, labels, and one sentence for each mistake."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from warmstart.config import CfgNode, ConfigError
from warmstart.data import build_dataset, dataset_info
from warmstart.data.datasets import registry as datasets

from ...built import build_test_loader, build_train_loader, check_data

Configured = Callable[..., CfgNode]


@pytest.fixture(autouse=True)
def fresh() -> None:
    datasets._info_by_looking.cache_clear()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder with a.png, b.png and sub/c.png, whose pixels are 10, 20 and 30."""
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    for name, grey in (("a.png", 10), ("b.png", 20), ("sub/c.png", 30)):
        Image.new("RGB", (6, 4), (grey,) * 3).save(tmp_path / "photos" / name)
    return tmp_path / "photos"


Build = Callable[..., Any]


@pytest.fixture
def built(photos: Path) -> Build:
    """Return a function that builds the set of a csv file with this content."""

    def build(content: str | bytes, **options: Any) -> Any:
        path = photos.parent / "labels.csv"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        given = {"path": str(path), "images": str(photos), "file": "name", "label": "class"} | options
        return build_dataset({"csv": {key: each for key, each in given.items() if each is not None}}, "")

    return build


@pytest.mark.parametrize(
    "content",
    [
        "name,class\na.png,dog\nb.png,cat\nsub/c.png,dog\n",
        "name;class\na.png;dog\nb.png;cat\nsub/c.png;dog\n",
        "name\tclass\r\na.png\tdog\r\n\r\nb.png\tcat\r\nsub/c.png\tdog",
        b"\xef\xbb\xbfid, class ,name\n1,dog,a.png\n2, cat ,b.png\n,dog,sub/c.png\n",
        'name;class;"by, whom"\na.png;dog;"me; you"\nb.png;cat;\nsub/c.png;dog;\n',
        '"name","class"\n"a.png","dog"\n"b.png","cat"\n"sub/c.png","dog"\n',
    ],
)
def test_csv_gives_files_and_labels_of_every_form(built: Build, content: str | bytes, photos: Path) -> None:
    dataset = built(content)
    assert dataset.classes == ("cat", "dog")
    assert dataset.targets.tolist() == [1, 0, 1]
    assert dataset.names == ["a.png", "b.png", "sub/c.png"]
    assert dataset.samples[2] == (f"{photos}/sub/c.png", 1)
    image, label = dataset[1]
    assert (image.shape, image.unique().tolist(), label) == (torch.Size([3, 4, 6]), [20], 0)


@pytest.mark.parametrize(
    ("labels", "targets", "classes", "num_classes", "num_values"),
    [
        (["2", "0", "2"], [2, 0, 2], (), 3, 0),  # indices: class 1 has no image
        (["b", "a", "10"], [2, 1, 0], ("10", "a", "b"), 3, 0),  # one that is not a number makes all of them names
        (["1.5", "-2", "1e3"], [1.5, -2.0, 1000.0], (), 0, 1),
        (["-1", "0", "1"], [-1.0, 0.0, 1.0], (), 0, 1),
        (["2500000", "1", "2"], [2500000.0, 1.0, 2.0], (), 0, 1),
        (["True", "False", "True"], [1, 0, 1], ("False", "True"), 2, 0),
    ],
)
def test_csv_decides_by_the_column_what_labels_are(
    built: Build,
    labels: list[str],
    targets: list[float],
    classes: tuple[str, ...],
    num_classes: int,
    num_values: int,
) -> None:
    rows = zip(("a.png", "b.png", "sub/c.png"), labels, strict=True)
    dataset = built("name,class\n" + "\n".join(map(",".join, rows)))
    assert dataset.targets.tolist() == targets
    assert (dataset.classes, dataset.num_classes) == (classes, num_classes)
    path = str(Path(dataset.root).parent / "labels.csv")
    info = dataset_info({"csv": {"path": path, "images": dataset.root, "file": "name", "label": "class"}}, "")
    assert (info.num_classes, info.num_values, info.classes) == (num_classes, num_values, classes)


def test_csv_takes_the_names_of_classes_in_a_given_order(built: Build) -> None:
    content = "name,class\na.png,7\nb.png,3\n"
    dataset = built(content, classes=[7, 3, 5])
    assert (dataset.targets.tolist(), dataset.classes, dataset.num_classes) == ([0, 1], ("7", "3", "5"), 3)
    with pytest.raises(ConfigError, match=r"line 3 has the label '3', which is none of classes: 7, 5$"):
        built(content, classes=[7, 5])
    with pytest.raises(
        ConfigError, match=r"classes: 'cat' is not a list of different names, such as \[cat, dog\]"
    ):
        built(content, classes="cat")


def test_several_label_columns_are_numbers_with_names(built: Build) -> None:
    dataset = built("name,wet,dark\na.png,1,0\nb.png,True,false\nsub/c.png,0,1\n", label=["dark", "wet"])
    assert dataset.targets.tolist() == [[0, 1], [0, 1], [1, 0]]
    assert dataset.targets.dtype == np.int64
    assert (dataset.classes, dataset.num_classes) == (("dark", "wet"), 0)
    assert dataset[2][1].tolist() == [1, 0]
    assert built("name,x,y\na.png,1,0.5\n", label=["x", "y"]).targets.tolist() == [[1.0, 0.5]]


def test_csv_names_are_relative_to_its_own_folder_by_default(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "labels.csv").write_text("name,class\na.png,1\nsub/c.png,0\n")
    monkeypatch.chdir(photos.parent)
    dataset: Any = build_dataset({"csv": {"path": "photos/labels.csv", "file": "name", "label": "class"}}, "")
    assert dataset.names == ["a.png", "sub/c.png"]
    monkeypatch.setenv("HOME", str(photos.parent))
    dataset = build_dataset({"csv": {"path": "~/photos/labels.csv", "file": "name", "label": "class"}}, "")
    assert dataset.root == str(photos)


def test_csv_adds_an_ending_to_names(built: Build) -> None:
    content = "name,class\na,1\nb,0\n"
    assert built(content, ending=".png").names == ["a.png", "b.png"]
    with pytest.raises(
        ConfigError, match=r"2 of 2 files are not in .*photos: a, b; a.png is there: add ending: .png$"
    ):
        built(content)


ROWS = "name,class\na.png,dog\nb.png,cat\n"


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (ROWS, {"file": None}, "give file: COLUMN; the columns are name, class"),
        (ROWS, {"label": None}, "give label: COLUMN; the columns are name, class"),
        (ROWS, {"label": []}, "give label: COLUMN; the columns are name, class"),
        (ROWS, {"label": 3}, "label is 3; give label: COLUMN; the columns are name, class"),
        (
            ROWS,
            {"label": "clas"},
            "label: the file has no column 'clas'; did you mean 'class'? its columns are name, class",
        ),
        (ROWS, {"file": "path"}, "file: the file has no column 'path'; its columns are name, class"),
        ("name,class,class\na.png,1,2\n", {}, "label: the file has more than one column 'class'; its columns are"),
        ("name class\na.png dog\n", {}, "file: the file has no column 'name'; its columns are name class"),
        ("a.png,dog\nb.png,cat\n", {}, "file: the file has no column 'name'; its columns are a.png, dog"),
        (
            "name,class;x\na.png,dog;1\n",
            {},
            "its header has commas and semicolons, so that its columns are not clear",
        ),
        (
            "name,class\na.png,dog\nb.png,\nsub/c.png,\n",
            {},
            "2 of 3 rows have no label in the column 'class', first line 3",
        ),
        (
            "name,class\na.png,dog\nb.png, \n",
            {},
            "a row has no label in the column 'class', first line 3; fill in or",
        ),
        ("name,class\n,dog\nb.png,cat\n", {}, "a row has no file in the column 'name', first line 2"),
        ("name,class\na.png,dog,x\n", {}, "line 2 has 3 cells, the header has 2"),
        (
            "name,class\na.png,dog\n./a.png,dog\n",
            {},
            "line 3 lists ./a.png again, after line 2, with the same label",
        ),
        ("name,class\na.png,dog\na.png,cat\n", {}, "line 3 lists a.png again, after line 2, with another label"),
        ("name,class\na.png,dog\nz.png,cat\n", {}, "1 of 2 files are not in ROOT: z.png; set images: FOLDER"),
        (
            "name,class\nc.png,dog\n",
            {},
            "1 of 1 files are not in ROOT: c.png; the first is in sub/: set images: ROOT/sub",
        ),
        ("name,class\nA.PNG,dog\n", {}, "A.PNG; a.png is there: upper and lower case count"),
        ("name,class\nsub\\c.png,dog\n", {}, "write / instead of \\ in file names"),
        ('name,class\n"z\n.png",dog\n', {}, r"1 of 1 files are not in ROOT: 'z\n.png'; set images: FOLDER"),
        (ROWS, {"images": "/no/such"}, "images: there is no folder /no/such"),
        (ROWS, {"images": 3}, "csv.images: csv expects text; got 3"),
        ("name,class\n", {}, "it has no rows below a header"),
        ("", {}, "it has no rows below a header"),
        (ROWS.encode("utf-16"), {}, "it is UTF-16, not a UTF-8 csv file; save it as CSV UTF-8"),
        (
            "name,class\na.png,caf\xe9\n".encode("latin-1"),
            {},
            "line 2 is not UTF-8 text; save the file as CSV UTF-8",
        ),
        (b"PK\x03\x04" + bytes(20), {}, "it is a spreadsheet, not a UTF-8 csv file"),
        ('name,class\na.png,"dog\n', {}, "line 2: unexpected end of data"),
        (
            "name,a,b\na.png,1,x\n",
            {"label": ["a", "b"]},
            "line 2 has 'x' in the column 'b'; several columns of labels",
        ),
        (
            "name,class\na.png,3\nb.png,NaN\n",
            {},
            "line 3 has 'NaN' in the column 'class', whose other labels are numbers",
        ),
        (
            "name,class\na.png,x\nb.png,0.5\n",
            {},
            "line 2 has 'x' in the column 'class', whose other labels are numbers",
        ),
        (ROWS, {"label": ["class"], "classes": ["x"]}, "classes: several columns of labels have their own names"),
        (ROWS, {"labels": "class", "label": None}, "csv takes no argument 'labels'; did you mean 'label'?"),
    ],
)
def test_csv_answers_a_mistake_in_one_sentence(
    built: Build, photos: Path, content: str | bytes, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message.replace("ROOT", str(photos)))) as raised:
        built(content, **options)
    assert "\n" not in str(raised.value)


def test_csv_that_is_missing_or_a_folder_is_refused(photos: Path) -> None:
    (photos / "x.csv").write_text(ROWS)
    with pytest.raises(ConfigError, match=r"csv:.*y.csv was not found in .*; correct the path"):
        build_dataset(f"csv:{photos}/y.csv", "")
    with pytest.raises(ConfigError, match=rf"it is a folder; name the csv file, such as {photos}/x.csv"):
        build_dataset(f"csv:{photos}", "")


def test_images_beside_the_csv_file_are_suggested(photos: Path) -> None:
    (photos.parent / "x.csv").write_text(ROWS)
    entry = {"csv": {"path": f"{photos.parent}/x.csv", "images": "photos", "file": "name", "label": "class"}}
    with pytest.raises(ConfigError, match=rf"images: there is no folder photos; did you mean images: {photos}\?"):
        build_dataset(entry, "")


@pytest.mark.parametrize("backend", ["worker", "resident"])
def test_csv_sets_train_and_test(photos: Path, tmp_path: Path, configured: Configured, backend: str) -> None:
    (tmp_path / "train.csv").write_text("f,c\na.png,dog\nb.png,cat\nsub/c.png,eel\n")
    (tmp_path / "val.csv").write_text("f,c\nsub/c.png,eel\na.png,dog\n")
    entry = "[{{csv: {{path: {}/{}.csv, images: {}, file: f, label: c}}}}]"
    sets = [entry.format(tmp_path, part, photos) for part in ("train", "val")]
    cfg = configured("DATASETS.TRAIN", sets[0], "DATASETS.TEST", sets[1], "DATALOADER.BACKEND", backend)
    cfg.merge_from_list(["DATASETS.CACHE", str(tmp_path / "cache"), "SOLVER.IMS_PER_BATCH", 3])
    check_data(cfg)
    batch = next(build_train_loader(cfg).batches())
    greys = (batch.images[:, 0, 0, 0] * 255).round().int().tolist()
    assert sorted(zip(greys, batch.targets.tolist(), strict=True)) == [(10, 1), (20, 0), (30, 2)]
    (tested,) = build_test_loader(cfg, "val.csv")
    assert tested.targets.tolist() == [2, 1]


@pytest.mark.parametrize(
    ("task", "label", "targets"),
    [
        ("regression", "age", [[40.0], [7.0], [33.0]]),
        ("regression", "[age, size]", [[40.0, 1.5], [7.0, 2.5], [33.0, 0.0]]),
        ("multilabel_classification", "[wet, dark]", [[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]),
    ],
)
def test_csv_columns_are_the_targets_of_other_tasks(
    photos: Path, tmp_path: Path, configured: Configured, task: str, label: str, targets: Any
) -> None:
    rows = "a.png,40,1.5,1,0", "b.png,7,2.5,0,0", "sub/c.png,33,0,1,1"
    (tmp_path / "x.csv").write_text("f,age,size,wet,dark\n" + "\n".join(rows))
    entry = f"[{{csv: {{path: {tmp_path}/x.csv, images: {photos}, file: f, label: {label}}}}}]"
    cfg = configured("DATASETS.TRAIN", entry, "DATASETS.TEST", entry, "MODEL.TASK", task)
    check_data(cfg)
    (batch,) = build_test_loader(cfg, "x.csv")
    assert batch.targets.tolist() == targets
