"""Mistakes of a person with objects in photos: one sentence that says what to type, exit code 2, and no files."""

from __future__ import annotations

import copy
import functools
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from warmstart.engine import run_tool
from warmstart.tools.train_net import main

RUN = """
MODEL.TASK=detection MODEL.NAME=small_rcnn DATASETS.TRAIN='{coco: {path: train.json, images: photos}}'
DATASETS.TEST='{coco: {path: val.json, images: photos}}' DATASETS.CACHE=cache DATALOADER.NUM_WORKERS=0
SOLVER.IMS_PER_BATCH=2 SOLVER.MAX_ITER=1ep OUTPUT_DIR=out MODEL.DEVICE=cpu
"""
# Abbreviations in the table: TRAIN=bad:NAME is an annotation file of WRONG.
SHORT = {
    r"TRAIN=bad:(\w+)": r"DATASETS.TRAIN='{coco: {path: \1.json, images: photos}}'",
    r"TEST=bad:(\w+)": r"DATASETS.TEST='{coco: {path: \1.json, images: photos}}'",
    r"YOLO=(\w+)": r"DATASETS.TRAIN='{yolo: {path: \1/data.yaml, part: train}}'",
    r"VOC=(\w+)": r"DATASETS.TRAIN='{voc: {path: \1}}'",
    "CATS": "path: train.json, images: photos",
    "SEEN": "path: points.json, images: photos",
    "SORTED": "MODEL.TASK=classification TRAIN=imagefolder:classes TEST=val=imagefolder:classes",
    "RESNET": "MODEL.NAME=fasterrcnn_resnet50_fpn",
    "MINE": "--import=mine_for_detection",
    "TRAIN=": "DATASETS.TRAIN=",
    "TEST=": "DATASETS.TEST=",
    "SHAPE=": "INPUT.TRANSFORMS_TRAIN=",
    "MASKS": "MODEL.TASK=instance_segmentation",
    "POINTS": "MODEL.TASK=keypoint_detection",
}


def valid() -> dict[str, Any]:
    """Return annotations of four photos with six objects: cats and dogs, category ids 3 and 7."""
    return {
        "images": [{"id": n, "file_name": f"{n}.jpg", "height": 48, "width": 64} for n in (11, 12, 13, 14)],
        "annotations": [
            {"id": 100 + n, "image_id": 11 + n % 4, "category_id": (3, 7)[n % 2], "bbox": [4 + n, 4, 16, 12]}
            for n in range(6)
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
    }


def with_all(key: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    """Return what gives the last annotation a value, and all others a valid one."""
    right = {"segmentation": [[4, 4, 20, 4, 20, 16, 4, 16]], "keypoints": [9, 9, 2, 12, 12, 2]}

    def change(content: dict[str, Any]) -> None:
        for each in content["annotations"]:
            each[key] = right.get(key)
        content["annotations"][-1][key] = value
        if key == "keypoints":
            for category in content["categories"]:
                category["keypoints"] = ["head", "tail"]

    return change


def last(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["annotations"][-1].update(values)


def part(of: str, /, **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content[of][-1].update(values)


WRONG: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no_categories": lambda content: content.pop("categories"),
    "results": lambda content: None,  # a list of detections; see `folder`
    "empty_categories": lambda content: content["categories"].clear(),
    "no_objects": lambda content: content["annotations"].clear(),
    "no_images": lambda content: (content["images"].clear(), content["annotations"].clear()),
    "twice_annotation": last(id=100),
    "twice_image": part("images", id=11),
    "twice_name": part("categories", name="cat"),
    "no_id": lambda content: content["annotations"][-1].pop("id"),
    "text_id": last(id="105"),
    "unknown_image": last(image_id=99),
    "unknown_category": last(category_id=1),
    "class_zero": last(category_id=0),
    "no_box": lambda content: content["annotations"][-1].pop("bbox"),
    "three_numbers": last(bbox=[4, 4, 16]),
    "nan_box": last(bbox=[4, 4, float("nan"), 9]),
    "corners": last(bbox=[40, 30, -20, 10]),
    "crowd_two": last(iscrowd=2),
    "no_file": part("images", file_name=None),
    "gone": part("images", file_name="99.jpg"),
    "upper": part("images", file_name="14.JPG"),
    "size_text": part("images", height="48"),
    "other_size": lambda content: [each.update(height=64, width=48) for each in content["images"]],
    "polygon_short": with_all("segmentation", [[4, 4, 8, 8]]),
    "polygon_text": with_all("segmentation", [["4", "4"]]),
    "rle_size": with_all("segmentation", {"size": [64, 48], "counts": [3072]}),
    "rle_sum": with_all("segmentation", {"size": [48, 64], "counts": [100]}),
    "some_masks": with_all("segmentation", []),
    "points_few": with_all("keypoints", [9, 9, 2]),
    "points_visible": with_all("keypoints", [9, 9, 3, 1, 1, 2]),
    "points": with_all("keypoints", [9, 9, 2, 1, 1, 2]),
    "other_points": lambda content: (
        with_all("keypoints", [9, 9, 2, 1, 1, 2])(content),
        [each.update(keypoints=["ear", "paw"]) for each in content["categories"]],
    ),
    "more_classes": lambda content: content["categories"].append({"id": 9, "name": "fox"}),
}
MINE = """
import numpy as np
from torchvision import tv_tensors
from torchvision.transforms import v2

from warmstart.data import register_dataset, register_transform


class Halved:
    def __call__(self, image):
        return image[:, ::2, ::2]


class Cut(v2.Transform):
    def transform(self, value, params):
        return value[:, ::2] if isinstance(value, tv_tensors.Image) else value


class Photos:
    annotations, classes = ("boxes",), ["cat", "dog"]

    def __init__(self, target):
        self.target = target

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return np.zeros((48, 64, 3), np.uint8), self.target


def register(name, **target):
    register_dataset(name, lambda root, download: Photos({"boxes": [[4, 4, 20, 16]], "labels": [1], **target}))


register_transform("halved", Halved)
register_transform("cut", Cut)
register("from_one", labels=[2])
register("corners", boxes=[[20, 16, 4, 4]])
register("counts", labels=[1, 1])
register("named", labels=["cat"])
register("keyed", bbox=[])
"""
LABEL_FILES = {
    "yolo_class": "2 0.5 0.5 0.2 0.2",
    "yolo_pixels": "0 32 24 10 10",
    "yolo_five": "0 0.5 0.5 0.2",
    "yolo_text": "cat 0.5 0.5 0.2 0.2",
}
XML = "<annotation><size><width>64</width><height>48</height></size>{}</annotation>"
BOX = "<bndbox><xmin>{}</xmin><ymin>5</ymin><xmax>20</xmax><ymax>20</ymax></bndbox>"
XML_FILES = {
    "voc_torn": "<annotation>",
    "voc_doctype": "<!DOCTYPE x>" + XML.format(""),
    "voc_unnamed": XML.format(f"<object>{BOX.format(5)}</object>"),
    "voc_zero": XML.format(f"<object><name>cat</name>{BOX.format(0)}</object>"),
    "voc_ends": XML.format(f"<object><name>cat</name>{BOX.format(30)}</object>"),
    "voc_unboxed": XML.format("<object><name>cat</name></object>"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's folder: valid sets, and one for each mistake."""
    folder = tmp_path_factory.mktemp("objects")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("photos").mkdir()
        for number in (11, 12, 13, 14):
            pixels = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(f"photos/{number}.jpg")
            for name in ("cat", "dog"):
                Path("classes", name).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(f"classes/{name}/{number}.jpg")
        for name in ("train", "val"):
            Path(f"{name}.json").write_text(json.dumps(valid()))
        for name, change in WRONG.items():
            content = copy.deepcopy(valid())
            change(content)
            Path(f"{name}.json").write_text(json.dumps(content if name != "results" else content["annotations"]))
        Path("mine_for_detection.py").write_text(MINE)
        Path("torn.json").write_text(json.dumps(valid())[:90])
        for name, text in {**LABEL_FILES, "yolo": "0 0.5 0.5 0.2 0.2", "yolo_bare": None, "yolo_nc": ""}.items():
            (Path(name) / "images").mkdir(parents=True)
            (Path(name) / "labels").mkdir()
            count = "nc: 3\n" if name == "yolo_nc" else ""
            (Path(name) / "data.yaml").write_text(f"train: images\n{count}names: [cat, dog]\n")
            (Path(name) / "images" / "a.jpg").write_bytes(Path("photos/11.jpg").read_bytes())
            if text is not None:
                (Path(name) / "labels" / "a.txt").write_text(text + "\n")
        for name, text in XML_FILES.items():
            Path(name).mkdir()
            (Path(name) / "a.jpg").write_bytes(Path("photos/11.jpg").read_bytes())
            (Path(name) / "a.xml").write_text(text)
    return folder


# A command line, and what answers it: how the message begins, then parts of it, in order, after " ... ".
CASES = """
# folders and options
TRAIN=coco:photos -> DATASETS.TRAIN ... it is a folder; name the annotation file
TRAIN=train.json -> DATASETS.TRAIN ... no data set is called 'train.json'; a path needs its kind: write
TRAIN=coco:trian.json -> DATASETS.TRAIN ... coco:trian.json was not found ... did you mean train.json?
TRAIN=coco:train.json -> DATASETS.TRAIN ... 4 of 4 files are not in .: 11.jpg ... set images: ./photos
'TRAIN={coco: {path: train.json, image: photos}}' -> DATASETS.TRAIN ... did you mean 'images'?
'TRAIN={coco: {CATS, classes: [cat, cow]}}' -> DATASETS.TRAIN ... classes: there is no category 'cow'; there are
'TRAIN={coco: {CATS, sigmas: [0.1]}}' -> DATASETS.TRAIN ... its categories have no keypoints, so that
'TRAIN={coco: {SEEN, sigmas: [0.1]}}' -> DATASETS.TRAIN ... sigmas: [0.1] are not 2 numbers above 0, one a
'TRAIN={coco: {SEEN, flip_pairs: [[head, ear]]}}' -> DATASETS.TRAIN ... flip_pairs: there is no keypoint 'ear'

# COCO files
TRAIN=bad:torn -> DATASETS.TRAIN ... it is not JSON: Unterminated string starting at: line 1 column 86 (char 85)
TRAIN=bad:results -> DATASETS.TRAIN ... it holds a list, such as a file of results; an annotation file is a
TRAIN=bad:no_categories -> DATASETS.TRAIN ... it has no list of categories; an annotation file is a mapping with
TRAIN=bad:empty_categories -> DATASETS.TRAIN ... it has no categories; add one for each class
TRAIN=bad:no_objects -> DATASETS.TRAIN: MODEL.TASK detection needs objects, but no image of the training set has
TRAIN=bad:no_images -> DATASETS.TRAIN (command line): coco:no_images.json holds no samples
TRAIN=bad:twice_annotation -> DATASETS.TRAIN ... 1 of 5 ids of annotations occur more than once, the first is 100
TRAIN=bad:twice_image -> DATASETS.TRAIN ... 1 of 3 ids of images occur more than once, the first is 11; make
TRAIN=bad:twice_name -> DATASETS.TRAIN ... two categories are called cat; give them different names
TRAIN=bad:no_id -> DATASETS.TRAIN ... annotations[5] has no id; an id is a whole number
TRAIN=bad:text_id -> DATASETS.TRAIN ... annotations[5] has the id '105'; an id is a whole number
TRAIN=bad:unknown_image -> DATASETS.TRAIN ... annotation 105: image_id 99 is not the id of an image
TRAIN=bad:unknown_category -> DATASETS.TRAIN ... annotation 105 of image 12 (12.jpg): category_id 1 is not the
TRAIN=bad:class_zero -> DATASETS.TRAIN ... annotation 105 of image 12 (12.jpg): category_id 0 is not the id of a
TRAIN=bad:no_box -> DATASETS.TRAIN ... annotation 105 of image 12 (12.jpg): bbox is None; it is 4 finite
TRAIN=bad:nan_box -> DATASETS.TRAIN ... annotation 105 of image 12 (12.jpg): bbox is [4, 4, nan, 9]; it is 4
TRAIN=bad:corners -> DATASETS.TRAIN ... annotation 105 of image 12 (12.jpg): bbox is [40, 30, -20, 10]; COCO's
TRAIN=bad:crowd_two -> DATASETS.TRAIN ... annotation 105 of image 12 (12.jpg): iscrowd is 2; it is 0 or 1
TRAIN=bad:gone -> DATASETS.TRAIN ... 1 of 4 files are not in photos: 99.jpg; set images: FOLDER to the folder
TRAIN=bad:upper -> DATASETS.TRAIN ... 1 of 4 files are not in photos: 14.JPG; 14.jpg is there: upper and lower
TRAIN=bad:size_text -> DATASETS.TRAIN ... image 14 (14.jpg) has height '48' and width 64; give pixels
TRAIN=bad:other_size -> DATASETS.TRAIN ... (sample 3 (photos/14.jpg) cannot be read: it is 48x64 (height x
TRAIN=bad:polygon_short -> DATASETS.TRAIN ... annotation 105 of image 12 (12.jpg): it has a polygon of 4
TRAIN=bad:rle_size -> DATASETS.TRAIN ... annotation 105 of image 12 (12.jpg): its RLE has the size [64, 48]; the
TRAIN=bad:rle_sum -> DATASETS.TRAIN ... annotation 105 of image 12 (12.jpg): its RLE covers 100 pixels; the
TRAIN=bad:points_few -> DATASETS.TRAIN ... annotation 105 of image 12 (12.jpg): keypoints are 3 values; 2

# tasks and test sets
MASKS -> DATASETS.TRAIN: MODEL.TASK instance_segmentation needs masks, but objects of the training set have
TRAIN=bad:some_masks MASKS -> DATASETS.TRAIN: MODEL.TASK instance_segmentation needs masks, but objects of the
POINTS -> DATASETS.TRAIN: MODEL.TASK keypoint_detection needs keypoints, but objects of the training set have
TRAIN=bad:points TEST=bad:other_points POINTS -> DATASETS.TEST ... keypoints of other_points.json
TEST=bad:more_classes -> DATASETS.TEST ... has a class that the training set does not have: fox; the training

# YOLO and Pascal VOC
YOLO=yolo_class -> DATASETS.TRAIN ... yolo_class/labels/a.txt: line 1: its class is 2; with 2 names classes run
YOLO=yolo_pixels -> DATASETS.TRAIN ... yolo_pixels/labels/a.txt: line 1: 32 is not from 0 to 1; coordinates are
YOLO=yolo_five -> DATASETS.TRAIN ... yolo_five/labels/a.txt: line 1: it has 4 numbers; a class and a box are 5,
YOLO=yolo_text -> DATASETS.TRAIN ... yolo_text/labels/a.txt: line 1: 'cat' is not a number; a line is the index
YOLO=yolo_bare -> DATASETS.TRAIN ... none of 1 images has a file of objects; ... yolo_bare/labels/a.txt is missing
YOLO=yolo_nc -> DATASETS.TRAIN ... nc is 3, but names has 2 classes; correct one of them
TRAIN=yolo:yolo -> DATASETS.TRAIN ... it is a folder; name the file in it that ends with .yaml: yolo/data.yaml
'TRAIN={yolo: {path: yolo/data.yaml, part: val}}' -> DATASETS.TRAIN ... it has no val; set part to one of: train
VOC=voc_torn -> DATASETS.TRAIN ... voc_torn/a.xml: it is not XML: no element found: line 1, column 12
VOC=voc_unnamed -> DATASETS.TRAIN ... voc_unnamed/a.xml: object 1 has no name; add <name>CLASS</name>
VOC=voc_zero -> DATASETS.TRAIN ... voc_zero/a.xml: object 1 (cat) begins at pixel 0, and pixels count from 1;
VOC=voc_ends -> DATASETS.TRAIN ... voc_ends/a.xml: object 1 (cat) has the bndbox 30, 5, 20, 20, which ends
VOC=voc_unboxed -> DATASETS.TRAIN ... voc_unboxed/a.xml: object 1 (cat) has no bndbox; give it one with xmin,
TRAIN=voc:train.json -> DATASETS.TRAIN ... it is a file; name the folder that holds Annotations/ and JPEGImages/

# tasks and models
TRAIN=imagefolder:classes -> DATASETS.TRAIN: MODEL.TASK detection needs objects with boxes as targets, but the
MODEL.TASK=classification MODEL.NAME=resnet18 -> DATASETS.TRAIN: ... set MODEL.TASK to detection
MODEL.NAME=resnet18 -> MODEL.NAME ... resnet18 is a classification model; set MODEL.TASK to classification, or
SORTED MODEL.NAME=fasterrcnn_resnet50_fpn -> MODEL.NAME ... is a detector; set MODEL.TASK to detection
MODEL.NAME=maskrcnn_resnet50_fpn -> MODEL.NAME ... set MODEL.TASK to instance_segmentation, or choose a
RESNET MODEL.ARGS.box_score_treshold=0.1 -> MODEL.ARGS ... did you mean 'box_score_thresh'?
RESNET MODEL.ARGS.min_size=[] -> MODEL.ARGS.min_size ... expected a whole number of pixels above 0, or a list
RESNET MODEL.ARGS.trainable_backbone_layers=3 -> MODEL.ARGS ... set MODEL.BACKBONE.FREEZE_AT, which
MODEL.NUM_CLASSES=1 -> MODEL.NUM_CLASSES: is 1, but the training set has 2 classes; set it to 0 to use their

# transforms, scores, weights
SHAPE='[MixUp]' -> INPUT.TRANSFORMS_TRAIN ... MixUp mixes class indices, which MODEL.TASK detection does not
SHAPE='[RandomFlip]' -> INPUT.TRANSFORMS_TRAIN ... no transform is called 'RandomFlip'; did you mean
SHAPE='[SanitizeBoundingBoxes]' -> INPUT.TRANSFORMS_TRAIN ... SanitizeBoundingBoxes removes objects from some of
SHAPE='[{FixedSizeCrop: {sise: 96}}]' -> 2 problems: ... FixedSizeCrop takes no argument 'sise'; did you mean
MODEL.TASK_ARGS.score_treshold=0.5 -> MODEL.TASK_ARGS ... did you mean 'score_threshold'?
MODEL.TASK_ARGS.score_threshold=50 -> MODEL.TASK_ARGS.score_threshold: expected a number from 0 to 1; got 50
MODEL.TASK_ARGS.metric=map -> MODEL.TASK_ARGS.metric: expected one of coco, voc, voc2007; got map
MODEL.HEAD.dropout=0.5 -> MODEL.HEAD.dropout ... small_rcnn is a detector, whose heads have no dropout; leave it
MODEL.WEIGHTS=COCO_V1 -> MODEL.WEIGHTS ... small_rcnn has no published weights called COCO_V1; name a file
RESNET MODEL.WEIGHTS=COCO_V2 -> MODEL.WEIGHTS ... weights called COCO_V2; did you mean COCO_V1?
TEST.BEST.METRIC=val/mAP -> TEST.BEST.METRIC ... no evaluation gives the score 'val/mAP'; did you mean val.j
TEST.BEST.METRIC=val/segm/AP -> TEST.BEST.METRIC ... no evaluation gives the score 'val/segm/AP'; did you mean
DATALOADER.BACKEND=resident -> DATALOADER.BACKEND ... detection loads sample by sample; use worker
DATALOADER.SAMPLER_TRAIN=WeightedTrainingSampler -> DATALOADER.SAMPLER_TRAIN ... use RepeatFactorTraini
MODEL.ARGS.masks=true -> MODEL.ARGS.masks ... it follows from MODEL.TASK and the training set; leave it out
MODEL.NAME=faster_rcnn_R_50_FPN -> MODEL.NAME ... did you mean 'fasterrcnn_resnet50_fpn'?
RESNET MODEL.BACKBONE.NORM=GN -> MODEL.BACKBONE.NORM ... expected null or one of FrozenBN, BN; got 'GN'
RESNET MODEL.BACKBONE.FREEZE_AT=9 -> MODEL.BACKBONE.FREEZE_AT ... the backbone has 5 stages, the

# code of their own
MINE SHAPE=[halved] -> INPUT.TRANSFORMS_TRAIN ... halved takes images alone, but the samples of this task also
MINE SHAPE=[cut] -> INPUT.TRANSFORMS_TRAIN ... after cut an image is 24x64 (height x width), but its boxes are
MINE TRAIN=from_one -> from_one: sample 0: object 0 has label 2; with 2 classes labels run from
MINE TRAIN=corners -> corners: sample 0: boxes[0] is [20, 16, 4, 4]; a box is x0, y0, x1, y1 with x0
MINE TRAIN=counts -> counts: sample 0: boxes are int64 of shape (1, 4); return finite numbers of shape (2, 4)
MINE TRAIN=named -> named: sample 0: labels are ['cat']; return whole numbers of shape (n)
MINE TRAIN=keyed -> keyed: sample 0: its target has an unknown key 'bbox'; did you mean 'boxes'?
'MODEL.ARGS={anchor_sizes: [8]}' -> MODEL.ARGS.anchor_sizes: expected three numbers; got [8]
INPUT.MEAN=0.5,0.5,0.5 -> INPUT.MEAN (command line): MODEL.TASK detection does not read it; leave it out
"""
TABLE = [tuple(line.split(" -> ", 1)) for line in CASES.splitlines() if line and not line.startswith("#")]


def written(command: str) -> str:
    """Return a command of the table without abbreviations."""
    for short, full in SHORT.items():
        command = re.sub(rf"(?<![._A-Z]){short}", full, command)
    return command


@pytest.mark.parametrize(("command", "answer"), TABLE, ids=[command for command, _ in TABLE])
def test_train_answers_a_mistake_with_objects(
    command: str, answer: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    with pytest.raises(SystemExit) as caught:
        run_tool(functools.partial(main, [*shlex.split(RUN), *shlex.split(written(command))]))
    printed = capsys.readouterr()
    assert caught.value.code == 2, printed
    assert not (folder / "out").exists()
    assert "Traceback" not in printed.err
    pattern = ".*".join(re.escape(part.strip()) for part in f"error: {answer}".split("..."))
    assert re.match(pattern, printed.err, re.DOTALL), printed.err


def test_the_table_of_detection_has_at_least_forty_mistakes() -> None:
    assert len({command for command, _ in TABLE}) == len(TABLE) >= 40
