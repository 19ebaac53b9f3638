"""warmstart check-data: what is in the data sets, what would end a run, and which keys help."""

from __future__ import annotations

import functools
import io
import json
import shlex
import shutil
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from warmstart.data.datasets import registry
from warmstart.engine import run_tool
from warmstart.tools.check_data import main

RUN = "DATASETS.TRAIN=imagefolder:train DATASETS.TEST=imagefolder:val SOLVER.IMS_PER_BATCH=4 OUTPUT_DIR=out"
SQUARE = "INPUT.TRANSFORMS_TRAIN='[{Resize: {size: [8, 8]}}]' INPUT.TRANSFORMS_TEST='[{Resize: {size: [8, 8]}}]'"


def write(path: str, grey: int, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> None:
    """Write an image of one shade of grey, (height, width), that no other shade equals."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size[::-1], grey).convert(mode).save(path)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four cats, two dogs; one of each to test on."""
    monkeypatch.chdir(tmp_path)
    registry._info_by_looking.cache_clear()  # it knows the paths of the test before
    for number, grey in enumerate((0, 51, 102, 153)):
        write(f"train/cat/{number}.png", grey)
    for number, grey in enumerate((204, 255)):
        write(f"train/dog/{number}.png", grey)
    write("val/cat/0.png", 25)
    write("val/dog/0.png", 230)
    return tmp_path


def check(command: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Run the tool and return its exit code, what it printed, and its error."""
    before = sorted(Path.cwd().rglob("*"))
    with pytest.raises(SystemExit) as caught:
        run_tool(functools.partial(main, shlex.split(f"{RUN} {command}")))
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    assert sorted(Path.cwd().rglob("*")) == before
    assert isinstance(caught.value.code, int)
    return caught.value.code, printed.out, printed.err


def found(command: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, Any]:
    code, out, _ = check(f"{command} --json", capsys)
    return code, json.loads(out)


def test_check_data_prints_one_screen_and_exits_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = check("", capsys)
    assert (code, err) == (0, "")
    # The mean of 0, 1/5, ... 1 is 1/2; its standard deviation sqrt(35/3) / 10.
    assert out.splitlines() == [
        "TRAIN imagefolder:train: 6 images",
        "  classes     cat 4, dog 2",
        "  sizes       8x8 (height x width)",
        "  channels    3; files are RGB 6",
        "  pixels      mean 0.500, 0.500, 0.500; std 0.342, 0.342, 0.342",
        "",
        "TEST val (imagefolder:val): 2 images",
        "  classes     cat 1, dog 1",
        "  one image   2 classes with a single image: cat, dog",
        "  sizes       8x8 (height x width)",
        "  channels    3; files are RGB 2",
        "  pixels      mean 0.500, 0.500, 0.500; std 0.402, 0.402, 0.402",
        "",
        "Keys to set:",
        "  DATALOADER.SAMPLER_TRAIN WeightedTrainingSampler  (draws all classes equally often: the largest has 2"
        " times the images of the smallest)",
        "  INPUT.MEAN 0.5,0.5,0.5 INPUT.STD 0.342,0.342,0.342  (computed over the training images)",
    ]


def test_check_data_names_every_unreadable_file_and_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    Path("train/cat/4.png").write_bytes(Path("train/cat/0.png").read_bytes()[:45])
    Path("train/dog/2.png").write_bytes(b"not an image")
    Path("train/dog/3.png").symlink_to("gone.png")
    Path("val/dog/1.png").write_bytes(b"")
    code, report = found("", capsys)
    assert code == 2
    files = [[each["file"] for each in part["unreadable"]] for part in report["sets"]]
    assert files == [["train/cat/4.png", "train/dog/2.png", "train/dog/3.png"], ["val/dog/1.png"]]
    assert report["sets"][0]["unreadable"][2]["reason"] == "No such file or directory"
    assert report["sets"][0]["classes"] == {"cat": 5, "dog": 4}
    assert {"keys": "DATALOADER.UNREADABLE skip", "reason": "passes over 4 unreadable files"} in report[
        "suggestions"
    ]
    code, out, err = check("", capsys)
    assert (code, err.splitlines()[0]) == (2, "error: 2 problems:")
    assert (
        "DATASETS.TRAIN (command line): 3 of 9 images of imagefolder:train cannot be read: train/cat/4.png ("
        in err
    )
    assert "; repair or delete them, or set DATALOADER.UNREADABLE skip\n" in err
    assert "  unreadable  3 images missing or damaged:\n              cat/4.png (" in out
    assert check("DATALOADER.UNREADABLE skip", capsys)[0] == 0


def test_check_data_applies_the_transforms_that_the_model_has_by_default(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("timm")
    write("train/cat/4.png", 12, (9, 12))
    code, report = found("MODEL.NAME timm:test_resnet", capsys)
    assert code == 0
    assert report["sets"][0]["shapes_after_transforms"] == [[[3, 160, 160], 7]]
    assert [each["keys"] for each in report["suggestions"]] == ["DATALOADER.SAMPLER_TRAIN WeightedTrainingSampler"]


def test_check_data_finds_duplicates_conflicts_and_leaks_by_content(capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy("train/cat/0.png", "train/cat/copy.png")
    write("train/dog/cat.bmp", 51)  # the pixels of cat/1.png in another format
    shutil.copy("train/dog/1.png", "val/dog/1.png")
    code, report = found("", capsys)
    assert code == 0
    assert report["sets"][0]["duplicates"] == [
        ["train/cat/0.png", "train/cat/copy.png"],
        ["train/cat/1.png", "train/dog/cat.bmp"],
    ]
    assert report["sets"][0]["conflicting_classes"] == [["train/cat/1.png", "train/dog/cat.bmp"]]
    assert report["leaks"] == [
        {
            "test": "val (imagefolder:val)",
            "train": "imagefolder:train",
            "files": ["val/dog/1.png", "train/dog/1.png"],
        }
    ]
    out = check("", capsys)[1]
    assert "  duplicates  2 copies of other images:\n              cat/0.png = cat/copy.png\n" in out
    assert "  conflicts   1 image in several classes:\n              cat/1.png = dog/cat.bmp\n" in out
    assert (
        "  leak        1 of 3 images is in imagefolder:train, too:\n              dog/1.png = dog/1.png\n" in out
    )


def test_check_data_reports_sizes_and_images_that_the_transforms_enlarge(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write("train/cat/4.png", 10, (6, 12))
    write("train/dog/2.png", 20, (20, 30), mode="L")
    code, report = found(SQUARE, capsys)
    assert code == 0
    train = report["sets"][0]
    assert train["sizes"] == {"least": [8, 8], "median": [8, 8], "greatest": [20, 30]}
    assert train["smaller_than_after_transforms"] == ["train/cat/4.png"]
    assert train["shapes_after_transforms"] == [[[3, 8, 8], 8]]
    assert (train["channels"], train["stored_as"]) == ({"3": 8}, {"RGB": 7, "L": 1})
    out = check(SQUARE, capsys)[1]
    assert (
        "  sizes       8x8 to 20x30, median 8x8 (height x width)\n  channels    3; files are RGB 7, L 1\n" in out
    )
    assert (
        "  small       1 image lower or narrower than 8x8, enlarged or padded to it:\n              cat/4.png\n"
        in out
    )


def test_check_data_exits_with_2_for_images_that_are_too_small_for_the_crop(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write("train/cat/4.png", 10, (4, 12))
    crop = "INPUT.TRANSFORMS_TRAIN='[{RandomCrop: {size: 6}}]'"
    code, report = found(crop, capsys)
    assert code == 2
    assert [each["file"] for each in report["sets"][0]["failing_transforms"]] == ["train/cat/4.png"]
    assert len(report["problems"]) == 1
    assert "RandomCrop fails on a 3x4x12 image" in report["problems"][0]


def test_check_data_inspects_the_sets_of_a_config_that_cannot_run(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = check("MODEL.NAME resnet19 SOLVER.OPTIMIZER Adamm", capsys)
    assert code == 2
    assert "no model is called 'resnet19'" in err
    assert "no optimizer is called 'Adamm'" in err
    assert out.startswith("TRAIN imagefolder:train: 6 images\n")
    code, report = found("DATASETS.TRAIN imagefolder:trian", capsys)
    assert (code, [part["key"] for part in report["sets"]]) == (2, [])
    assert len(report["problems"]) == 1
    assert "did you mean train?" in report["problems"][0]


def test_check_data_names_wrong_targets(capsys: pytest.CaptureFixture[str]) -> None:
    pixels = np.arange(4, dtype=np.uint8).reshape(4, 1, 1).repeat(8, 1).repeat(8, 2)
    np.savez("train.npz", images=pixels, labels=np.array([0, 1, 0, 1]))
    np.savez("test.npz", images=pixels + 9, labels=np.array([0, 1, 2, 1]))
    code, report = found("DATASETS.TRAIN npz:train.npz DATASETS.TEST npz:test.npz MODEL.NUM_CLASSES 3", capsys)
    assert code == 0
    code, report = found("DATASETS.TRAIN npz:train.npz DATASETS.TEST npz:test.npz", capsys)
    assert code == 2
    assert report["sets"][1]["wrong_targets"] == [
        {"file": "sample 2", "reason": "it has label 2; with 2 classes labels run from 0 to 1"}
    ]


def test_check_data_reads_a_registered_set_and_its_known_mean(capsys: pytest.CaptureFixture[str]) -> None:
    code, report = found("DATASETS.TRAIN digits_train DATASETS.TEST digits_test", capsys)
    assert (code, report["suggestions"], report["leaks"]) == (0, [], [])
    train, test = report["sets"]
    assert (train["size"], test["size"], train["classes"]["5"]) == (1437, 360, 153)
    assert train["mean"] == pytest.approx([0.3054], abs=5e-5)  # as it is registered
    assert train["std"] == pytest.approx([0.3757], abs=5e-5)


def test_check_data_describes_numbers_as_targets(capsys: pytest.CaptureFixture[str]) -> None:
    sets = "DATASETS.TRAIN digits_numbers_train DATASETS.TEST digits_numbers_test MODEL.TASK regression"
    code, out, _ = check(sets, capsys)
    assert code == 0
    assert "  target      digit: 0 to 9, mean 4.47\n" in out
    assert "classes" not in out
    sets = "DATASETS.TRAIN digits_attributes_train DATASETS.TEST [] MODEL.TASK multilabel_classification"
    code, report = found(sets, capsys)
    assert code == 0
    assert [(each["least"], each["greatest"]) for each in report["sets"][0]["numbers"]] == [(0.0, 1.0)] * 4


def test_check_data_reads_shards(capsys: pytest.CaptureFixture[str]) -> None:
    with tarfile.open("shard.tar", "w") as tar:
        for number, file in enumerate(sorted(Path("train").rglob("*.png"))):
            content = file.read_bytes()[: 45 if number == 5 else None]
            for name, text in ((f"{number}.png", content), (f"{number}.cls", str(number % 2).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(text)
                tar.addfile(member, io.BytesIO(text))
    words = f"{RUN} DATASETS.TRAIN webdataset:shard.tar DATASETS.TEST [] DATASETS.CACHE cache --json"
    with pytest.raises(SystemExit):
        run_tool(functools.partial(main, shlex.split(words)))
    (train,) = json.loads(capsys.readouterr().out)["sets"]
    assert (train["size"], train["classes"]) == (6, {"0": 3, "1": 3})
    assert [each["file"] for each in train["unreadable"]] == ["shard.tar/5.png"]


def test_check_data_reads_labels_from_a_csv_file(capsys: pytest.CaptureFixture[str]) -> None:
    files = [file.relative_to("train").as_posix() for file in sorted(Path("train").rglob("*.png"))]
    Path("labels.csv").write_text("file,kind\n" + "".join(f"{file},{file[:3]}\n" for file in files))
    train = "DATASETS.TRAIN='{csv: {path: labels.csv, images: train, file: file, label: kind}}'"
    code, report = found(train, capsys)
    assert code == 0
    assert report["sets"][0]["classes"] == {"cat": 4, "dog": 2}
    assert report["sets"][0]["stored_as"] == {"RGB": 6}


def test_check_data_shows_a_progress_bar_only_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check("", capsys)[2] == ""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert main(shlex.split(RUN)) == 0
    assert "0/8" in terminal.getvalue()


def test_check_data_leaves_random_numbers_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    check("INPUT.TRANSFORMS_TRAIN='[RandomHorizontalFlip, {RandomCrop: {size: 8, padding: 2}}]'", capsys)
    assert torch.equal(torch.get_rng_state(), before)
