"""Mistakes of a person with photos: one sentence that says what to type, exit code 2, and no files."""

from __future__ import annotations

import functools
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import resnet18

from warmstart.engine import run_tool
from warmstart.tools.train_net import main

RUN = """
DATASETS.TRAIN=imagefolder:photos/train DATASETS.TEST=imagefolder:photos/val DATALOADER.NUM_WORKERS=0
INPUT.TRANSFORMS_TRAIN='[{RandomResizedCrop: {size: 32}}]' INPUT.TRANSFORMS_TEST='[{Resize: {size: [32, 32]}}]'
SOLVER.IMS_PER_BATCH=4 SOLVER.MAX_ITER=1ep OUTPUT_DIR=out MODEL.DEVICE=cpu
"""
# Abbreviations in the table.
SHORT = {
    "OF_64": "SHAPE='[{RandomResizedCrop: {size: 64}}]' INPUT.TRANSFORMS_TEST='[{Resize: {size: [64, 64]}}]'",
    "LABELS": "path: labels.csv, images: photos/train",
    "TRAIN=": "DATASETS.TRAIN=",
    "TEST=": "DATASETS.TEST=",
    "SHAPE=": "INPUT.TRANSFORMS_TRAIN=",
}
FILES = {
    "tabs.yaml": "SOLVER:\n\tBASE_LR: 0.1\n",
    "spaceless.yaml": "SOLVER:\n  BASE_LR:0.1\n",
    "comma.yaml": "SOLVER: {BASE_LR: '0,1'}\n",
    "epochs.yaml": "SOLVER: {EPOCHS: 10}\n",
    "tilde.yaml": "DATASETS:\n  TRAIN: ~\n",
    "labels.csv": "file,class\ncat/0.jpg,cat\ndog/0.jpg,dog\n",
    "semicolon.csv": "file;class\ncat/0.jpg;cat\ndog/0.jpg;dog\n",
    "gaps.csv": "file,class\ncat/0.jpg,cat\ndog/0.jpg,\n",
    "gone.csv": "file,class\ncat/0.jpg,cat\ndog/99.jpg,dog\n",
}


def photo(path: str, height: int = 40, width: int = 48) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(hash_of(path)).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def hash_of(path: str) -> int:
    return int.from_bytes(path.encode(), "big") % 2**32


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's folder, with photos in all the wrong places."""
    folder = tmp_path_factory.mktemp("photos")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("cat", "dog"):
            for number in range(5):
                photo(f"photos/train/{name}/{number}.jpg", 40 + number)
                photo(f"small/{name}/{number}.jpg", 20, 20)
                photo(f"broken/{name}/{number}.jpg")
                Path(f"broken/{name}/{number}.jpg").write_bytes(b"not an image")
            for number in range(2):
                photo(f"photos/val/{name}/{number}.jpg", 40 + number)
                photo(f"hollow/{name}/{number}.jpg")
                photo(f"outer/inner/{name}/{number}.jpg")
        for number in range(2):
            photo(f"flat/{number}.jpg")
            photo(f"one/cat/{number}.jpg")
            photo(f"other/cat/{number}.jpg")
            photo(f"other/bird/{number}.jpg")
            photo(f"phone/cat/{number}.jpg")
        for name in ("nothing", "hollow/fox", "phone/dog"):
            Path(name).mkdir(parents=True)
        Path("phone/dog/IMG_1.heic").write_bytes(b"heic")
        Path("photos.zip").write_bytes(b"PK")
        for name, text in FILES.items():
            Path(name).write_text(text)
        torch.save({"head.weight": torch.zeros(3, 3)}, "head.pth")
        torch.save(resnet18(num_classes=1000).state_dict(), "resnet18.pth")
    return folder


# A command line, and what answers it: how the message begins, then parts of it, in order, after " ... ".
CASES = """
# words of other programs
--lr 0.1 -> command line: unknown flag --lr; write SOLVER.BASE_LR 0.1
--learning-rate=0.1 -> command line: unknown flag --learning-rate; write SOLVER.BASE_LR 0.1
--epochs 10 -> command line: unknown flag --epochs; write SOLVER.MAX_ITER 10ep
--epochs -> command line: unknown flag --epochs; write SOLVER.MAX_ITER 90ep
--batch-size 32 -> command line: unknown flag --batch-size; write SOLVER.IMS_PER_BATCH 32
-b 32 -> command line: unknown flag -b; write SOLVER.IMS_PER_BATCH 32
--data photos -> command line: unknown flag --data; write DATASETS.TRAIN imagefolder:photos
--data-path photos/train -> command line: unknown flag --data-path; write DATASETS.TRAIN imagefolder:photos/train
--val-dir photos/val -> command line: unknown flag --val-dir; write DATASETS.TEST imagefolder:photos/val
--model resnet18 -> command line: unknown flag --model; write MODEL.NAME resnet18
--pretrained -> command line: unknown flag --pretrained; write MODEL.WEIGHTS
--weights w.pth -> command line: unknown flag --weights; write MODEL.WEIGHTS w.pth
--workers 4 -> command line: unknown flag --workers; write DATALOADER.NUM_WORKERS 4
--img-size 224 -> command line: unknown flag --img-size; write INPUT.TRANSFORMS_TRAIN '[{RandomResizedCrop:
--opt adamw -> command line: unknown flag --opt; write SOLVER.OPTIMIZER adamw
--weight-decay 1e-4 -> command line: unknown flag --weight-decay; write SOLVER.WEIGHT_DECAY 1e-4
--device cuda -> command line: unknown flag --device; write MODEL.DEVICE cuda
--gpu 0 -> command line: unknown flag --gpu; write MODEL.DEVICE cuda:0
--gpus 2 -> command line: unknown flag --gpus; write --num-gpus 2
--output out -> command line: --output takes the scores of --eval-only; the folder of a run is OUTPUT_DIR out
--output-dir out -> command line: unknown flag --output-dir; write OUTPUT_DIR out
--freeze-backbone -> command line: unknown flag --freeze-backbone; write MODEL.FREEZE '^(?!fc)'
--dropout 0.3 -> command line: unknown flag --dropout; write MODEL.HEAD.dropout 0.3
--amp -> command line: unknown flag --amp; write SOLVER.AMP.ENABLED true
--config x.yaml -> command line: unknown flag --config; did you mean --config-file?
-c x.yaml -> command line: unknown flag -c; write --config-file x.yaml
--evaluate -> command line: unknown flag --evaluate; write --eval-only
--lr 0.1 --epochs 10 --batch-size 8 -> 3 problems: ... SOLVER.BASE_LR 0.1 ... SOLVER.MAX_ITER 10ep ... BATCH 8
lr=0.1 -> command line: unknown key lr; write SOLVER.BASE_LR
SOLVER.LR 0.1 -> command line: unknown key SOLVER.LR; write SOLVER.BASE_LR
SOLVER.EPOCHS 10 -> command line: unknown key SOLVER.EPOCHS; a length in epochs is written SOLVER.MAX_ITER 90ep
SOLVER.BATCH_SIZE 8 -> command line: unknown key SOLVER.BATCH_SIZE; write SOLVER.IMS_PER_BATCH 32
MODEL.PRETRAINED true -> command line: unknown key MODEL.PRETRAINED; write MODEL.WEIGHTS
DATASETS.VAL imagefolder:photos/val -> command line: unknown key DATASETS.VAL; write DATASETS.TEST
INPUT.SIZE 224 -> command line: unknown key INPUT.SIZE; write INPUT.TRANSFORMS_TRAIN
photos -> command line: expected a key ... write DATASETS.TRAIN imagefolder:photos)
imagefolder:photos -> command line: expected a key ... is given as DATASETS.TRAIN imagefolder:photos)
photos.yaml -> command line: expected a key ... --config-file photos.yaml)
SOLVER.MAX_ITER 10 epochs -> command line: expected a key ... got 'epochs' (a length in epochs is one word: 90ep)
SOLVER.MAX_ITER 10epochs -> SOLVER.MAX_ITER (command line): expected ... got '10epochs' (write 10ep)
TEST.EVAL_PERIOD '1 epoch' -> TEST.EVAL_PERIOD (command line): expected ... got '1 epoch' (write 1ep)
SOLVER.BASE_LR 0,1 -> SOLVER.BASE_LR (command line): expected ... got '0,1' (write it with a point: 0.1)

# files
--config-file photo.yaml -> photo.yaml: cannot read the config file: no such file or directory
--config-file tabs.yaml -> tabs.yaml:2: not valid YAML: ... cannot start any token
--config-file spaceless.yaml -> SOLVER (spaceless.yaml:1): expected keys with values ... got 'BASE_LR:0.1'
--config-file comma.yaml -> SOLVER.BASE_LR (comma.yaml:1): expected a number above 0; got '0,1' (write it with
--config-file epochs.yaml -> epochs.yaml:1: unknown key SOLVER.EPOCHS; a length in epochs is written

# folders
TRAIN=photos/train -> DATASETS.TRAIN (command line): ... a path needs its kind: write imagefolder:photos/train
TRAIN=labels.csv -> DATASETS.TRAIN (command line): ... a path needs its kind: write csv:labels.csv
TRAIN=ImageFolder:photos/train -> DATASETS.TRAIN (command line): ... did you mean 'imagefolder:photos/train'?
TRAIN=folder:photos/train -> DATASETS.TRAIN (command line): ... did you mean 'imagefolder:photos/train'?
'TRAIN=imagefolder: photos/train' -> DATASETS.TRAIN (command line): ... write imagefolder:photos/train or
TRAIN=imagefolder:flat -> DATASETS.TRAIN ... it holds 2 images, but no folder for each class; sort the images
TRAIN=imagefolder:photos/train/cat -> DATASETS.TRAIN ... it holds 5 images, but no folder for each class
TRAIN=imagefolder:nothing -> DATASETS.TRAIN ... it holds no class folders; sort the images into nothing/CLASS/
TRAIN=imagefolder:hollow -> DATASETS.TRAIN ... the class folder has no images: fox; add some, or delete
TRAIN=imagefolder:photos -> DATASETS.TRAIN ... DATASETS.TRAIN imagefolder:photos/train DATASETS.TEST imagef
TRAIN=imagefolder:outer -> DATASETS.TRAIN ... the classes may be these: write imagefolder:outer/inner
TRAIN=imagefolder:photos/trian -> DATASETS.TRAIN ... was not found ... (no such folder); did you mean photos/tr
TRAIN=imagefolder:gone/photos -> DATASETS.TRAIN ... was not found ... (no such folder); correct the path
TRAIN=imagefolder:photos/train/cat/0.jpg -> DATASETS.TRAIN ... it is a file; name the folder that holds the
TRAIN=imagefolder:photos.zip -> DATASETS.TRAIN ... it is an archive; unpack it
TRAIN=imagefolder:labels.csv -> DATASETS.TRAIN ... write {csv: {path: labels.csv, images: FOLDER
TRAIN=imagefolder:phone -> DATASETS.TRAIN ... IMG_1.heic: photos in this format ... convert the .heic files
TRAIN=imagefolder:broken -> DATASETS.TRAIN ... none of the 10 samples from 0 on can be read
TRAIN=imagefolder:one TEST=[] -> DATASETS.TRAIN ... has one class only, cat; a classifier needs
TEST=imagefolder:other -> DATASETS.TEST ... has a class that the training set does not have: bird; the trainin
TEST=imagefolder:photos/train -> DATASETS.TEST ... cannot be called 'train' ... photos_train=imagefolder:photos
'TRAIN={imagefolder: {path: photos/train, split: 0.2}}' -> DATASETS.TRAIN ... takes no argument 'split'
'TRAIN={imagefolder: {path: photos/train, holdout: 20, part: train}}' -> DATASETS.TRAIN ... such as 0.2; got 20
'TRAIN={imagefolder: {root: photos/train}}' -> DATASETS.TRAIN (command line): imagefolder needs a path
OUTPUT_DIR photos/train -> OUTPUT_DIR (command line): photos/train is in the folder of imagefolder:photos/train,
OUTPUT_DIR photos/val/run -> OUTPUT_DIR (command line): photos/val/run is in the folder of val
OUTPUT_DIR '~/runs' -> OUTPUT_DIR (command line): ~ is not replaced here; write /
OUTPUT_DIR head.pth -> OUTPUT_DIR (command line): head.pth is a file; name a folder

# labels in a csv file
TRAIN=csv:labels.csv -> DATASETS.TRAIN ... give file: COLUMN; the columns are file, class
'TRAIN={csv: {LABELS, file: name, label: class}}' -> DATASETS.TRAIN ... no column 'name'; its columns are
'TRAIN={csv: {path: labels.csv, images: photos, file: file, label: class}}' -> DATASETS.TRAIN ... not in photos
'TRAIN={csv: {path: gone.csv, images: photos/train, file: file, label: class}}' -> DATASETS.TRAIN ... dog/99.jpg
'TRAIN={csv: {path: gaps.csv, images: photos/train, file: file, label: class}}' -> DATASETS.TRAIN ... has no label
'TRAIN={csv: {LABELS, file: file, lable: class}}' -> DATASETS.TRAIN ... did you mean 'label'?

# transforms
SHAPE=[RandomFlip] -> INPUT.TRANSFORMS_TRAIN ... 'RandomFlip'; did you mean 'RandomHorizontalFlip'?
SHAPE=[HorizontalFlip] -> INPUT.TRANSFORMS_TRAIN ... did you mean 'RandomHorizontalFlip'?
SHAPE='[random_crop]' -> INPUT.TRANSFORMS_TRAIN ... did you mean 'RandomCrop'?
SHAPE='[{Resize: 128}]' -> INPUT.TRANSFORMS_TRAIN ... arguments have names: write {Resize: {size: 128}}
SHAPE='[Resize(128)]' -> INPUT.TRANSFORMS_TRAIN ... arguments have names: write {Resize: {size: 128}}
SHAPE=[Resize] -> INPUT.TRANSFORMS_TRAIN ... give it a value: {Resize: {size: VALUE}}
SHAPE='[{Resize: {sise: 32}}]' -> 2 problems: ... did you mean 'size'?
SHAPE=[ToTensor] -> INPUT.TRANSFORMS_TRAIN ... ToTensor is built in: ... leave it out
SHAPE='[{Normalize: {mean: 0, std: 1}}]' -> INPUT.TRANSFORMS_TRAIN ... set INPUT.MEAN and INPUT.STD
SHAPE='[{Mixup: {alpha: 0.2}}]' -> INPUT.TRANSFORMS_TRAIN ... did you mean 'MixUp'?
SHAPE=[] -> DATASETS.TRAIN (command line): images of ... differ in size ... end INPUT.TRANSFORMS_TRAIN
INPUT.TRANSFORMS_TEST '[{Resize: {size: 32}}]' -> DATASETS.TEST (command line): images of val ... differ in size
SHAPE='[{RandomCrop: {size: 64}}]' -> INPUT.TRANSFORMS_TRAIN ... larger than ... put a Resize before it
TRAIN=imagefolder:small SHAPE='[{RandomCrop: {size: 32}}]' -> INPUT.TRANSFORMS_TRAIN ... 3x20x20
SHAPE='[{RandomResizedCrop: {size: 32}}, Grayscale]' -> INPUT.TRANSFORMS_TEST ... the same Grayscale
INPUT.TRANSFORM_TRAIN [] -> command line: unknown key INPUT.TRANSFORM_TRAIN; did you mean INPUT.TRANSFORMS_TRAIN?
INPUT.MEAN 124,116,104 -> INPUT.MEAN (command line): it is of images in [0, 1] ... by 255: INPUT.MEAN
INPUT.MEAN 0.5,0.5 -> INPUT.MEAN has 2 values, but the images have 3 channel(s)
INPUT.STD 0 -> INPUT.STD (command line): expected null or a list, each entry a number above 0; got '0'

# models, their sizes and weights
MODEL.NAME resnet -> MODEL.NAME (command line): no model is called 'resnet'; did you mean
MODEL.NAME ResNet50 -> MODEL.NAME (command line): no model is called 'ResNet50'; did you mean 'resnet50'?
MODEL.NAME vit_b_16 OF_64 -> MODEL.NAME ... vit_b_16 fails on 2 images of 3x64x64: Wrong image height! Expected
MODEL.NAME inception_v3 OF_64 -> MODEL.NAME ... inception_v3 fails on 2 images of 3x64x64: ... change their size
MODEL.NAME alexnet MODEL.STEM standard -> MODEL.NAME ... alexnet fails on 2 images of 3x32x32 ... change their
MODEL.NAME vit_b_16 -> MODEL.STEM: vit_b_16 has no form for images of up to 32x32 pixels; set MODEL.STEM
MODEL.TASK detection -> DATASETS.TRAIN: MODEL.TASK detection needs objects with boxes as targets, but the training
MODEL.TASK segmentation -> MODEL.TASK (command line): segmentation is not available yet; there are classification
MODEL.TASK multilabel -> MODEL.TASK (command line): ... did you mean 'multilabel_classification'?
MODEL.TASK multilabel_classification -> DATASETS.TRAIN: ... set MODEL.TASK to classification
MODEL.WEIGHTS gone.pth -> MODEL.WEIGHTS (command line): ... gone.pth
MODEL.WEIGHTS photos -> MODEL.WEIGHTS (command line): photos is a folder without checkpoints; name a file
MODEL.WEIGHTS photos/train/cat/0.jpg -> MODEL.WEIGHTS (command line): photos/train/cat/0.jpg is
MODEL.WEIGHTS head.pth -> MODEL.WEIGHTS (command line): no parameter of head.pth fits the model
MODEL.WEIGHTS resnet18.pth -> MODEL.WEIGHTS (command line): no parameter of resnet18.pth fits the model
MODEL.NAME resnet50 MODEL.WEIGHTS resnet18.pth -> MODEL.WEIGHTS (command line): only 6,274,688 of the model's
MODEL.NUM_CLASSES 1 -> MODEL.NUM_CLASSES (command line): 1 outputs are too few for the 2 classes ... give 0
MODEL.NUM_CLASSES dog -> MODEL.NUM_CLASSES (command line): expected a whole number of at least 0; got 'dog'
MODEL.IN_CHANNELS 1 -> MODEL.IN_CHANNELS (command line): the training images have 3 channels, not 1; use 0 to
MODEL.DEVICE gpu -> MODEL.DEVICE (command line): expected auto, cpu
SOLVER.OPTIMIZER adam -> SOLVER.OPTIMIZER (command line): no optimizer is called 'adam'; did you mean 'Adam'?
SOLVER.LR_SCHEDULER_NAME cosine -> SOLVER.LR_SCHEDULER_NAME ... did you mean 'WarmupCosineLR'?
SOLVER.AMP true -> SOLVER.AMP (command line): expected keys with values, as SOLVER.AMP.ENABLED; got true
TEST.BEST.METRIC accuracy -> TEST.BEST.METRIC ... did you mean val/accuracy?
TEST.EARLY_STOPPING.PATIENCE 3 -> TEST.EARLY_STOPPING.PATIENCE ... set TEST.BEST.METRIC, such as val/accuracy
DATALOADER.CLASS_WEIGHTS 1,2 -> DATALOADER.CLASS_WEIGHTS ... only WeightedTrainingSampler reads it
DATALOADER.UNREADABLE ignore -> DATALOADER.UNREADABLE (command line): expected one of raise, skip; got 'ignore'
"""
TABLE = [tuple(line.split(" -> ", 1)) for line in CASES.splitlines() if line and not line.startswith("#")]


def written(command: str) -> str:
    """Return a command of the table without abbreviations."""
    for short, full in SHORT.items():
        command = re.sub(rf"(?<![._A-Z]){short}", full, command)
    return command


@pytest.mark.need("F1", "F2", "F3")
@pytest.mark.parametrize(("command", "answer"), TABLE, ids=[command for command, _ in TABLE])
def test_train_answers_a_mistake_with_photos(
    command: str, answer: str, photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    before = sorted(photos.rglob("*"))
    with pytest.raises(SystemExit) as caught:
        run_tool(functools.partial(main, [*shlex.split(RUN), *shlex.split(written(command))]))
    printed = capsys.readouterr()
    assert caught.value.code == 2, printed
    assert sorted(photos.rglob("*")) == before
    assert "Traceback" not in printed.err
    pattern = ".*".join(re.escape(part.strip()) for part in f"error: {answer}".split("..."))
    assert re.match(pattern, printed.err, re.DOTALL), printed.err


def test_train_names_the_default_of_the_test_sets_that_a_person_has_not_set(
    photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    with pytest.raises(SystemExit):
        run_tool(functools.partial(main, shlex.split(re.sub("DATASETS.TEST=[^ ]+", "", RUN))))
    message = capsys.readouterr().err
    assert message.startswith("error: DATASETS.TEST: images of digits_test have 1 channel(s)")
    assert "DATASETS.TEST is not set, so this is its default: name your test set" in message


def test_the_table_has_at_least_forty_mistakes() -> None:
    assert len({command for command, _ in TABLE}) == len(TABLE) >= 40
