"""check-data on objects in images: counts, sizes for the model, what does not fit, and pictures."""

from __future__ import annotations

import functools
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from warmstart.data.datasets import registry
from warmstart.engine import run_tool
from warmstart.tools.check_data import main

RUN = """MODEL.TASK=detection MODEL.NAME=small_rcnn SOLVER.IMS_PER_BATCH=2 OUTPUT_DIR=out DATASETS.CACHE=cache
DATASETS.TRAIN='{coco: {path: train.json, images: photos}}'
DATASETS.TEST='{coco: {path: val.json, images: photos}}'"""


def annotation(number: int, image: int, category: int, box: list[float], **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": category, "bbox": box, **more}


def write(name: str, images: list[dict[str, Any]], annotations: list[dict[str, Any]], **category: Any) -> None:
    categories = [{"id": 3, "name": "cat", **category}, {"id": 7, "name": "dog", **category}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    Path(name).write_text(json.dumps(content))


def image(number: int, height: int = 48, width: int = 64) -> dict[str, Any]:
    return {"id": number, "file_name": f"{number}.png", "height": height, "width": width}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four photos: three to train on, with four cats and a dog, and one to test on, with a cat."""
    monkeypatch.chdir(tmp_path)
    registry._info_by_looking.cache_clear()
    Path("photos").mkdir()
    for number in range(1, 5):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"photos/{number}.png")
    boxes = [annotation(n, 1 + n // 3, 3, [4.0 + n, 4, 16, 9]) for n in range(1, 5)]
    write("train.json", [image(1), image(2), image(3)], [*boxes, annotation(5, 3, 7, [0, 0, 32, 32])])
    write("val.json", [image(4)], [annotation(1, 4, 3, [1, 1, 8, 8])])
    return tmp_path


def check(command: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        run_tool(functools.partial(main, shlex.split(f"{RUN} {command}")))
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    assert isinstance(caught.value.code, int)
    return caught.value.code, printed.out, printed.err


def test_check_data_counts_objects_and_measures_them_in_the_resized_image(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, err = check("", capsys)
    assert (code, err) == (0, "")
    lines = out[out.index("TRAIN") :].splitlines()  # after the log
    # small_rcnn resizes 48x64 to 96x128: the 16x9 boxes have sides of 24, the 32x32 one of 64.
    assert lines[:8] == [
        "TRAIN coco:train.json: 3 images",
        "  classes     cat 4 in 2 images, dog 1 in 1 image",
        "  objects     5",
        "  one image   1 class with a single image: dog",
        "  sizes       48x64 (height x width)",
        "  channels    3; files are RGB 3",
        lines[6],
        "  boxes       sides of 24 to 64 pixels, median 24, as the model resizes images; its anchors 12 to 48",
    ]
    assert lines[8] == "              20 % are larger than its largest anchors, 48 pixels"
    assert "empty       1 class without objects: dog" in out
    assert "Keys to set" not in out  # the model normalises images itself


def test_check_data_lists_objects_that_do_not_fit_and_exits_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    square = [[4, 4, 12, 4, 12, 12, 4, 12]]
    found = [
        annotation(1, 1, 3, [4, 4, 8, 8], segmentation=square, keypoints=[5, 5, 2]),
        annotation(2, 1, 3, [60, 40, 8, 4], segmentation=[[60, 40, 68, 40, 68, 44]], keypoints=[70, 41, 2]),
        annotation(3, 2, 3, [9, 9, 0, 8], segmentation=[[9, 9, 9, 17, 9, 10]], keypoints=[0, 0, 0]),
        annotation(4, 2, 7, [20, 20, 8, 8], segmentation=square, keypoints=[0, 0, 0]),
        annotation(5, 3, 7, [1, 2, 8, 8], segmentation=[[1, 2, 9, 2, 9, 10]], keypoints=[0, 0, 0]),
        annotation(6, 3, 7, [1, 2, 8, 8], segmentation=[[1, 2, 9, 2, 9, 10]], keypoints=[0, 0, 0]),
        annotation(7, 3, 7, [0, 0, 8, 8], segmentation=square, keypoints=[0, 0, 0], iscrowd=1),
    ]
    write("train.json", [image(1), image(2), image(3)], found, keypoints=["top"])
    code, out, _ = check("--json", capsys)
    objects = json.loads(out)["sets"][0]["objects"]
    assert code == 0
    assert objects["classes"] == {"cat": 3, "dog": 3}
    assert (objects["crowd_regions"], objects["images_without_objects"]) == (1, 0)
    assert {kind: [text.split(" has ")[0] for text in texts] for kind, texts in objects["problems"].items()} == {
        "no area": ["annotation 3 of image 2 (2.png)"],
        "outside": ["annotation 2 of image 1 (1.png)"],
        "mask": ["annotation 4 of image 2 (2.png)", "annotation 7 of image 3 (3.png)"],
        "keypoints": ["annotation 2 of image 1 (1.png)"],
        "copy": ["annotation 6 of image 3 (3.png)"],
    }
    code, out, _ = check("", capsys)
    assert code == 0
    assert "  objects     6, 1 crowd region\n" in out
    assert (
        "  no area     1 object without area, left out of training:\n              annotation 3 of image 2" in out
    )


def test_check_data_counts_missing_photos_and_photos_of_another_size(capsys: pytest.CaptureFixture[str]) -> None:
    write("val.json", [image(4, 64, 48)], [annotation(1, 4, 3, [1, 1, 8, 8])])
    code, out, err = check("--json", capsys)
    (trouble,) = json.loads(out)["sets"][1]["unreadable"]
    assert code == 2
    assert (
        "no image of val.json (coco:val.json) can be read: photos/4.png (it is 48x64 (height x width), but" in err
    )
    assert trouble["reason"].endswith(
        "as its EXIF orientation turns it; correct the size, or scale its annotations"
    )
    Path("photos/2.png").unlink()
    code, _, err = check("", capsys)
    assert code == 2
    assert (
        "DATASETS.TRAIN (command line): coco:train.json cannot be read: 1 of 3 files are not in photos: 2.png"
        in err
    )


def test_check_data_names_photos_that_are_in_both_sets(capsys: pytest.CaptureFixture[str]) -> None:
    Path("photos/4.png").write_bytes(Path("photos/1.png").read_bytes())
    code, out, _ = check("", capsys)
    assert code == 0
    assert "leak        1 of 1 image is in coco:train.json, too" in out


def test_check_data_suggests_to_repeat_images_of_rare_classes(capsys: pytest.CaptureFixture[str]) -> None:
    images = [{**image(n), "file_name": f"{1 + n % 3}.png"} for n in range(12)]
    cats = [annotation(1 + n, n, 3, [n, 2, 8, 8]) for n in range(12)]
    write("train.json", images, [*cats, annotation(99, 0, 7, [5, 5, 9, 9])])
    code, out, _ = check("--json", capsys)
    assert code == 0
    (suggestion,) = json.loads(out)["suggestions"]
    assert suggestion["keys"].startswith(
        "DATALOADER.SAMPLER_TRAIN RepeatFactorTrainingSampler DATALOADER.REPEAT_TH"
    )


def test_check_data_draws_samples_with_their_targets(capsys: pytest.CaptureFixture[str]) -> None:
    assert check("--pictures drawn", capsys)[0] == 0
    assert "command line: --pictures val.json: File exists" in check("--pictures val.json", capsys)[2]
    names = sorted(path.name for path in Path("drawn").iterdir())
    assert names[1:] == [f"train_coco_train_json_{index:06}.png" for index in range(3)]
    picture = np.asarray(Image.open("drawn/train_coco_train_json_000002.png"))
    assert picture.shape == (6 * 48, 6 * 64, 3)  # enlarged, so that names can be read
    assert picture[191, 100].tolist() == [48, 105, 242]  # the lower edge of the dog's box, in its colour
