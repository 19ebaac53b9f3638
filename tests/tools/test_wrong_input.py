"""Mistakes of users: one sentence that says what to type, exit code 2, and no files."""

from __future__ import annotations

import functools
import itertools
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from warmstart.config import get_cfg
from warmstart.engine import resolve_config, run_tool
from warmstart.tasks import Classification, registry
from warmstart.tools.train_net import main

ROOT = Path(__file__).parent.parent.parent
RUN = ["SOLVER.MAX_ITER=20", "SOLVER.STEPS=15", "OUTPUT_DIR=out"]

FILES = {
    "broken.yaml": "SOLVER: {BASE_LR: 1",
    "unsafe.yaml": "SEED: 1\nOUTPUT_DIR: !!python/object/apply:os.mkdir [ran]\n",
    "based-on-unsafe.yaml": "_BASE_: unsafe.yaml\n",
    "twice.yaml": "SEED: 1\nSOLVER:\n  GAMMA: 1\nSEED: 2\n",
    "list.yaml": "- SEED: 1\n",
    "a.yaml": "_BASE_: b.yaml\n",
    "b.yaml": "_BASE_: a.yaml\n",
    "orphan.yaml": "SEED: 1\n_BASE_: gone.yaml\n",
    "unknown.yaml": "MODEL:\n  WETGHTS: a.pth\nSOLVER:\n  BASE_RL: 0.1\n",
    "types.yaml": "SOLVER:\n  IMS_PER_BATCH: '16'\n  STEPS: [1, two]\nOUTPUT_DIR: 2024\nMODEL.WEIGHTS:\n",
    "flat.yaml": "SOLVER:\n  BASE_LR 0.1\n",
    "args.yaml": "MODEL:\n  ARGS:\n    norn: group\n",
    "moved.yaml": "MODEL:\n  LABEL_SMOOTHING: 0.1\nTEST:\n  FLIP: true\n",
    "task.yaml": "MODEL:\n  TASK_ARGS: {label_smoothng: 0.1, flip: yes}\n",
    "dashless.yaml": "INPUT:\n  TRANSFORMS_TRAIN:\n    RandomCrop: {size: 8}\n",
    "junk.pth": "not a checkpoint",
    "junk.safetensors": "no tensors",
    "a_file": "",
    "of-fifo.yaml": "_BASE_: fifo\n",
    "laughs.yaml": "A: &a [1, 1]\n"
    + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in itertools.pairwise("abcdefghijklmnop")),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder, with all the wrong files in it."""
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        Path(name).write_text(text)
    np.savez("wide.npz", images=np.zeros((20, 8, 8), np.uint8), labels=np.arange(20))
    np.savez("float.npz", images=np.zeros((20, 8, 8)), labels=np.arange(20))
    np.savez("label.npz", images=np.zeros((1, 8, 8), np.uint8), labels=np.array([2 * 10**9]))
    np.savez("dot.npz", images=np.zeros((20, 1, 1), np.uint8), labels=np.arange(20) % 10)
    with zipfile.ZipFile("trillion.npz", "w") as archive, archive.open("images.npy", "w") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": (10**12, 8, 8)}
        )
    with zipfile.ZipFile("trillion.npz", "a") as archive:
        archive.writestr("labels.npy", b"")
    with zipfile.ZipFile("bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data/0", bytes(10**6))
    os.mkfifo("fifo")
    return tmp_path


def error_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run the tool and return what it says on stderr; it must exit with 2 and change nothing on disk."""
    before = sorted(Path.cwd().rglob("*"))
    with pytest.raises(SystemExit) as caught:
        run_tool(functools.partial(main, [*RUN, *words]))
    printed = capsys.readouterr()
    assert caught.value.code == 2, printed.out
    assert "error" not in printed.out.lower()
    assert sorted(Path.cwd().rglob("*")) == before
    assert printed.err.startswith("error: ")
    assert "Traceback" not in printed.err
    return printed.err.removeprefix("error: ").rstrip("\n")


# A command line, and what answers it: how the message begins, then parts of it, in order, after " ... ".
CASES = """
# keys
SOLVER.BASE_RL 0.1 -> command line: unknown key SOLVER.BASE_RL; did you mean SOLVER.BASE_LR?
BASE_LR=0.1 -> command line: unknown key BASE_LR; did you mean SOLVER.BASE_LR?
solver.gamma 0.1 -> command line: unknown key solver.gamma; did you mean SOLVER.GAMMA?
IMS_PER_BATCH 8 -> command line: unknown key ... did you mean SOLVER.IMS_PER_BATCH or TEST.IMS_PER_BATCH?
SOLVER.MAX_EPOCHS 3 -> command line: unknown key ... a length in epochs is written SOLVER.MAX_ITER 90ep
MODEL.LABEL_SMOOTHING 0.1 -> command line: unknown key ... it is called MODEL.TASK_ARGS.label_smoothing now
TEST.FLIP=true -> command line: unknown key TEST.FLIP; it is called MODEL.TASK_ARGS.flip now
SOLVER.STEPS.0 3 -> command line: unknown key SOLVER.STEPS.0; SOLVER.STEPS expects a list, each entry
-lr 0.1 -> command line: unknown flag -lr; write SOLVER.BASE_LR 0.1
-zz 0.1 -> command line: unknown key -zz; config/defaults.py lists all keys
SOLVER 3 -> SOLVER (command line): expected keys with values, as SOLVER.OPTIMIZER; got 3

# odd lists and flags
SEED -> command line: SEED has no value; write SEED VALUE or SEED=VALUE
SEED SOLVER.GAMMA 0.5 -> command line: SEED has no value; write SEED VALUE or SEED=VALUE
SOLVER.STEPS 5 10 -> command line: expected a key such as SOLVER.BASE_LR; got '10' ... a list as 1,2
SEED = 3 -> command line: expected a key such as SOLVER.BASE_LR; got '3' (write KEY VALUE or KEY=VALUE
=3 -> command line: expected a key such as SOLVER.BASE_LR; got '=3'
SEED 1 --eval_only -> command line: unknown flag --eval_only; did you mean --eval-only?
OUTPUT_DIR out --resum -> command line: unknown flag --resum; did you mean --resume?
SEED 1 --lr=3 -> command line: unknown flag --lr; write SOLVER.BASE_LR 3
SEED 1 --zz=3 -> command line: unknown flag --zz; known: --config-file, --import, --print-config, --resume
--eval-only=yes -> command line: --eval-only takes no value; got 'yes'
--trust-checkpoint=junk.pth -> command line: --trust-checkpoint takes no value; got 'junk.pth'
--config-file -> command line: --config-file needs a value
--config-file= -> command line: --config-file needs a value
--import gone_module -> command line: --import gone_module: no such module

# files
--config-file gone.yaml -> gone.yaml: cannot read the config file: no such file or directory
--config-file recipe:digit.yaml -> recipe:digit.yaml: no such recipe; the package carries cifar10.yaml, ... dig
--config-file broken.yaml -> broken.yaml:1: not valid YAML: while parsing a flow mapping, expected ',' or '}'
--config-file list.yaml -> list.yaml:1: not valid YAML: expected `KEY: value` lines
--config-file flat.yaml -> SOLVER (flat.yaml:1): expected keys with values ... got 'BASE_LR 0.1'
--config-file twice.yaml -> twice.yaml:4: not valid YAML: SEED is written twice, first in line 1; keep one
--config-file unsafe.yaml -> unsafe.yaml:2: not valid YAML: a config is plain data and takes no tags; got !!python
--config-file based-on-unsafe.yaml -> unsafe.yaml:2: not valid YAML: ... takes no tags; got !!python
--config-file a.yaml -> b.yaml:1: _BASE_ has a cycle: a.yaml -> b.yaml -> a.yaml
--config-file orphan.yaml -> orphan.yaml:2: _BASE_ gone.yaml: there is no file gone.yaml
--config-file dashless.yaml -> dashless.yaml:3: unknown key ... INPUT.TRANSFORMS_TRAIN expects a list of names
--config-file args.yaml -> MODEL.ARGS.norn (args.yaml:3): small_cnn takes no argument 'norn'; did you mean 'norm'?

# types
SOLVER.BASE_LR fast -> SOLVER.BASE_LR (command line): expected a number above 0; got 'fast' (for example:
SOLVER.BASE_LR -1e-4 -> SOLVER.BASE_LR (command line): expected a number above 0; got '-1e-4'
SOLVER.BASE_LR= -> SOLVER.BASE_LR (command line): expected a number above 0; got ''
SOLVER.IMS_PER_BATCH 1.5 -> SOLVER.IMS_PER_BATCH (command line): expected a whole number of at least 1; got '1.5'
SOLVER.WARMUP_FACTOR 2 -> SOLVER.WARMUP_FACTOR (command line): expected a number of at least 0 and at most 1; got
SOLVER.CHECKPOINT_KEEP -1 -> SOLVER.CHECKPOINT_KEEP (command line): expected a whole number of at least 0; got '-1'
CUDNN_BENCHMARK yes -> CUDNN_BENCHMARK (command line): expected null or true or false; got 'yes'
SEED null -> SEED (command line): expected a whole number of at least 0 ... got 'null' (for example: SEED 1)
SOLVER.STEPS [[1]] -> SOLVER.STEPS (command line): expected a list, each entry a number of iterations, 1 or more
SOLVER.OPTIMIZER_ARGS.dampening [0.9 -> SOLVER.OPTIMIZER_ARGS.dampening (command line): invalid list or mapping
INPUT.TRANSFORMS_TEST 3 -> INPUT.TRANSFORMS_TEST (command line): expected a list of names, each with or
SOLVER.MAX_ITER 90epochs -> SOLVER.MAX_ITER (command line): expected a number of iterations ... such as "90ep"; got
SOLVER.MAX_ITER 5% -> SOLVER.MAX_ITER (command line): expected a number of iterations, 1 or more, or a string with
SOLVER.GAMMA 1ep -> SOLVER.GAMMA (command line): expected a number above 0; got '1ep'
LOG_PERIOD 0ep -> LOG_PERIOD (command line): expected a number of iterations, 1 or more, or a string with a unit

# names and their arguments
SOLVER.LR_SCHEDULER_NAME WarmupMultistepLR -> SOLVER.LR_SCHEDULER_NAME ... did you mean 'WarmupMultiStepLR'? Known:
SOLVER.LR_SCHEDULER_NAME steplr -> SOLVER.LR_SCHEDULER_NAME (command line): ... 'steplr'; did you mean 'StepLR'?
SOLVER.LR_SCHEDULER_NAME zzz -> SOLVER.LR_SCHEDULER_NAME (command line): no ... is called 'zzz'. Known: ... StepLR
SOLVER.OPTIMIZER Adamm -> SOLVER.OPTIMIZER (command line): no optimizer is called 'Adamm'; did you mean 'Adam'?
SOLVER.WARMUP_METHOD linaer -> SOLVER.WARMUP_METHOD (command line): ... linear ... 'linaer' (did you mean linear?)
SOLVER.WARMUP_BLEND mul -> SOLVER.WARMUP_BLEND (command line): expected one of product, interpolate; got 'mul'
DATASETS.TRAIN digit_train -> DATASETS.TRAIN (command line): ... did you mean 'digits_train'? Known: ... npz:PATH
DATASETS.TEST digits_test,digits_tset -> DATASETS.TEST (command line): ... 'digits_tset'; did you mean
DATASETS.TEST imagefoldr:photos -> DATASETS.TEST (command line): ... did you mean 'imagefolder:photos'? Known:
DATASETS.TEST npz -> DATASETS.TEST (command line): npz needs a path; write npz:PATH or {npz: {path: PATH}}
DATASETS.TEST wide.npz -> DATASETS.TEST (command line): ... a path needs its kind: write npz:wide.npz. Known:
DATASETS.TEST a/b=npz:wide.npz -> DATASETS.TEST (command line): 'a/b' cannot be a data set's name because it holds
DATASETS.TEST npz:train -> DATASETS.TEST (command line): the scores of npz:train cannot be called 'train'
DATASETS.TEST digits_test,digits_test -> DATASETS.TEST (command line): digits_test is listed twice; list it once
DATASETS.TEST npz:wide.npz TEST.BEST.METRIC npz:wide.npz/loss DATASETS.TRAIN npz:wide.npz -> TEST.BEST.METRIC (comm
DATASETS.TRAIN npz:gone.npz -> DATASETS.TRAIN (command line): npz:gone.npz was not found
DATASETS.TRAIN npz:float.npz -> DATASETS.TRAIN (command line): npz:float.npz ... images must be uint8
DATASETS.TRAIN [] -> DATASETS.TRAIN (command line): names no data set; give at least one
DATASETS.TEST npz:wide.npz -> DATASETS.TEST (command line): wide.npz (npz:wide.npz) has 20 classes, the model
MODEL.NAME resnet19 -> MODEL.NAME (command line): no model is called 'resnet19'; did you mean 'resnet18'?
MODEL.TASK clasification -> MODEL.TASK (command line): ... did you mean 'classification'? Known: classification
MODEL.TASK zzz -> MODEL.TASK (command line): no task is called 'zzz'. Known: classification
MODEL.TASK= -> MODEL.TASK (command line): no task is called ''. Known: classification
MODEL.TASK_ARGS.label_smoothin 0 -> MODEL.TASK_ARGS.label_smoothin ... did you mean 'label_smoothing'?
MODEL.TASK_ARGS.info 1 -> MODEL.TASK_ARGS.info (command line): classification takes no argument 'info'. It takes:
MODEL.TASK_ARGS.label_smoothing much -> MODEL.TASK_ARGS.label_smoothing (command line): ... a number; got 'much'
MODEL.TASK_ARGS.flip yes -> MODEL.TASK_ARGS.flip (command line): classification expects true or false; got 'yes'
MODEL.TASK_ARGS 3 -> MODEL.TASK_ARGS (command line): expected keys with values, as MODEL.TASK_ARGS.NAME; got 3
MODEL.ARGS.norn group -> MODEL.ARGS.norn (command line): small_cnn takes no argument 'norn'; did you mean 'norm'?
MODEL.ARGS.width wide -> MODEL.ARGS.width (command line): small_cnn expects a whole number; got 'wide'
MODEL.ARGS.norm bacth -> MODEL.ARGS.norm ... batch, group, none ... 'bacth'
MODEL.FREEZE ^head -> MODEL.FREEZE (command line): entry 1, MATCH '^head': matches no trainable parameter; the
MODEL.FREEZE . -> MODEL.FREEZE (command line): freezes every parameter ... leave out the last layer, fc: '^(?!fc
MODEL.FREEZE fc( -> MODEL.FREEZE (command line): entry 1, MATCH 'fc(': is not a regular expression: missing )
MODEL.FREEZE [^(?!fc)] -> MODEL.FREEZE (command line): expected ... put text with special characters in quotes
MODEL.FREEZE={MATCH:^block,UNTILL:5} -> MODEL.FREEZE (command line): expected ... got '{MATCH:^block,UNTILL:5}'
MODEL.TASK_ARGS.loss crossentropy -> MODEL.TASK_ARGS.loss: no loss is called 'crossentropy'; did you mean 'cross_
MODEL.TASK_ARGS.class_weights balancd -> MODEL.TASK_ARGS.class_weights: expected balanced, or a list of 10 numbers
MODEL.TASK_ARGS.class_weights [1,2] -> MODEL.TASK_ARGS.class_weights: expected balanced ... got [1, 2]
MODEL.TASK_ARGS.alpha 0.5 -> MODEL.TASK_ARGS.alpha: only the focal loss has it, but loss is cross_entropy
INPUT.TRANSFORMS_TRAIN=[{MixUp:{p:2}}] -> INPUT.TRANSFORMS_TRAIN (command line): MixUp
MODEL.NAME resnet18 MODEL.ARGS.weights DEFAULT -> MODEL.ARGS.weights (command line): ... MODEL.WEIGHTS
INPUT.TRANSFORMS_TRAIN RandomCorp -> INPUT.TRANSFORMS_TRAIN (command line): ... did you mean 'RandomCrop'? Known:
SOLVER.OPTIMIZER_ARGS.dampning 0.1 -> SOLVER.OPTIMIZER_ARGS.dampning ... did you mean 'dampening'? It takes:
SOLVER.OPTIMIZER_ARGS.lr 0.1 -> SOLVER.OPTIMIZER_ARGS.lr (command line): ... set SOLVER.BASE_LR
SOLVER.OPTIMIZER_ARGS.fused maybe -> SOLVER.OPTIMIZER_ARGS.fused ... expects null or true or false; got 'maybe'
SOLVER.LR_SCHEDULER_NAME StepLR -> SOLVER.LR_SCHEDULER_ARGS.step_size: StepLR needs it
SOLVER.LR_SCHEDULER_NAME=StepLR SOLVER.LR_SCHEDULER_ARGS.step_size 3epochs -> SOLVER.LR_SCHEDULER_ARGS.step_size

# numbers and files beyond all bounds
MODEL.NUM_CLASSES 1000000000 -> MODEL.NAME ... small_cnn with 1,000,000,000 outputs needs ... GB of memory
MODEL.NUM_CLASSES 1000000000000000000 -> MODEL.ARGS: small_cnn refuses it: Storage size calculation overflowed
MODEL.ARGS.width 1000000000000 -> MODEL.ARGS: small_cnn refuses it:
MODEL.NUM_CLASSES 1e308 -> MODEL.NUM_CLASSES (command line): expected ... (whole numbers go up to 9,223,372,036,854
SOLVER.IMS_PER_BATCH 1000000000 -> SOLVER.IMS_PER_BATCH (command line): 1,000,000,000 images of 1x8x8 need
SOLVER.IMS_PER_BATCH 1000000000000000000 -> SOLVER.IMS_PER_BATCH (command line): 1,000,000,000,000,000,000 images
SOLVER.GRAD_ACCUM_STEPS 1000000000 -> SOLVER.GRAD_ACCUM_STEPS (command line): 64 images an update cannot be cut
SOLVER.REFERENCE_WORLD_SIZE 1000000000 -> SOLVER.REFERENCE_WORLD_SIZE (command line): expected a whole number
SOLVER.CLIP_GRADIENTS.CLIP_VALUE 1e308 -> SOLVER.CLIP_GRADIENTS.CLIP_VALUE (command line): expected a number
DISTRIBUTED.TIMEOUT 1000000000000000000 -> DISTRIBUTED.TIMEOUT (command line): expected a whole number
DATALOADER.NUM_WORKERS 1000000000 -> DATALOADER.NUM_WORKERS (command line): expected null or a whole number of at
DATASETS.TRAIN npz:trillion.npz -> DATASETS.TRAIN (command line): npz:trillion.npz cannot be read: the array images
DATASETS.TRAIN npz:label.npz -> DATASETS.TRAIN (command line): npz:label.npz ... sample 0 has label 2000000000
DATASETS.TRAIN npz:fifo -> DATASETS.TRAIN (command line): npz:fifo cannot be read: ... not a regular file
DATASETS.TRAIN npz:/dev/zero -> DATASETS.TRAIN (command line): npz:/dev/zero cannot be read: ... not a regular file
DATASETS.TRAIN webdataset:{0..999999999}.tar -> DATASETS.TRAIN (command line): ... means 1,000,000,000 shards
DATASETS.TRAIN npz:dot.npz DATASETS.TEST [] INPUT.TRANSFORMS_TRAIN [] -> MODEL.NAME ... small_cnn fails on 2 images
MODEL.NAME vit_b_16 MODEL.STEM standard -> MODEL.NAME ... vit_b_16 fails on 2 images of 1x8x8: Wrong
MODEL.WEIGHTS fifo -> MODEL.WEIGHTS (command line): no such file: fifo
MODEL.WEIGHTS bomb.pth -> MODEL.WEIGHTS (command line): bomb.pth is refused: its ... unpack to 1,000,000
--resume bomb.pth -> checkpoint: bomb.pth is refused: its ... bytes unpack to 1,000,000
--resume=fifo -> checkpoint: no such file: fifo
--config-file fifo -> fifo: cannot read the config file: not a regular file
--config-file /dev/zero -> /dev/zero: cannot read the config file: not a regular file
--config-file of-fifo.yaml -> fifo: cannot read the config file: not a regular file
--config-file laughs.yaml -> laughs.yaml:6: not valid YAML: more than 50,000 values
OUTPUT_DIR fifo -> OUTPUT_DIR (command line): fifo is a file; name a folder
OUTPUT_DIR /dev/zero -> OUTPUT_DIR (command line): /dev/zero is a file; name a folder
DATASETS.ROOT fifo DATASETS.TRAIN mnist_train -> DATASETS.TRAIN (command line): mnist_train was not found in

# plans that cannot run
SOLVER.STEPS 10,5 -> SOLVER.STEPS (command line): ... 10, 5
SOLVER.WARMUP_ITERS 20 -> SOLVER.WARMUP_ITERS (command line): warm-up of 20 iterations never ends ... 20
SOLVER.WARMUP_ITERS 99ep -> SOLVER.WARMUP_ITERS (command line): warm-up of 2,223 iterations never ends
MODEL.NUM_CLASSES 3 -> MODEL.NUM_CLASSES (command line): 3 outputs are too few for the 10 classes ... give 0
MODEL.IN_CHANNELS 3 -> MODEL.IN_CHANNELS (command line): the training images have 1 channels, not 3; use 0
MODEL.DEVICE gpu -> MODEL.DEVICE (command line): expected auto, cpu, cuda or cuda:N, mps, xpu or xpu:N; got
MODEL.TASK_ARGS.label_smoothing 1 -> MODEL.TASK_ARGS.label_smoothing: expected ... at least 0 and below 1; got 1
MODEL.TASK_ARGS.label_smoothing -0.1 -> MODEL.TASK_ARGS.label_smoothing: expected a number of at least 0 and
MODEL.NAME speed_net MODEL.ARGS.widths 64 -> MODEL.ARGS.widths: expected three integers above 0; got 64
MODEL.NAME speed_net -> MODEL.NAME: speed_net needs images of at least 9x9 pixels, but these have 8x8; enlarge them
TEST.BEST.METRIC digits_test/acuracy -> TEST.BEST.METRIC ... did you mean digits_test/accuracy? Known:
TEST.BEST.METRIC accuracy -> TEST.BEST.METRIC ... Known: digits_test/accuracy, digits_test/top5, digits_test/loss
TEST.BEST.MODE lowest -> TEST.BEST.MODE (command line): expected one of auto, max, min; got 'lowest'
MODEL.NAME fasterrcnn_resnet50_fpn -> MODEL.NAME (command line): fasterrcnn_resnet50_fpn is a detector; set MODEL
MODEL.NAME timm:resnett18 -> MODEL.NAME (command line): timm has no model called 'resnett18'; did you mean 'timm:re
MODEL.NAME timm:resnet18 MODEL.ARGS.pretrained true -> MODEL.ARGS.pretrained (command line): set MODEL.WEIGHTS
MODEL.HEAD.dropout 2 -> MODEL.HEAD.dropout (command line): expected null or a number of at least 0 and below 1; got
MODEL.HEAD.drop 0.2 -> command line: unknown key MODEL.HEAD.drop; did you mean MODEL.HEAD.dropout?
MODEL.WEIGHTS IMAGENET1K_V1 -> MODEL.WEIGHTS (command line): small_cnn has no published weights called IMAGENET1K_V
MODEL.NAME resnet18 MODEL.WEIGHTS IMAGENET1K_V2 -> MODEL.WEIGHTS (command line): ... did you mean IMAGENET1K_V1?
MODEL.NAME resnet18 MODEL.WEIGHTS imagenet -> MODEL.WEIGHTS ... no such file: imagenet; resnet18 has the published
MODEL.WEIGHTS hf:owner/repo -> MODEL.WEIGHTS (command line): expected hf:OWNER/REPO/FILE, such as hf:timm/resnet18.
MODEL.WEIGHTS http://example.org/w.pth -> MODEL.WEIGHTS (command line): weights are downloaded from https:// addre
MODEL.WEIGHTS file:///etc/passwd -> MODEL.WEIGHTS (command line): weights are downloaded from https:// addresses on
MODEL.WEIGHTS gone.pth -> MODEL.WEIGHTS (command line): no such file: gone.pth
MODEL.WEIGHTS junk.pth -> MODEL.WEIGHTS (command line): junk.pth is
MODEL.WEIGHTS junk.safetensors -> MODEL.WEIGHTS (command line): junk.safetensors is damaged or not a file that safe
OUTPUT_DIR a_file -> OUTPUT_DIR (command line): a_file is a file; name a folder
OUTPUT_DIR a_file/out -> OUTPUT_DIR (command line): cannot write to a_file/out
--eval-only -> command line: --eval-only ... MODEL.WEIGHTS FILE or --resume
--eval-only --resume -> command line: --eval-only found no checkpoint in out
--resume --overwrite -> command line: --resume and --overwrite contradict each other; give one of them
--resume=gone.pth -> ... gone.pth
--resume junk.pth -> ... junk.pth is
"""
TABLE = [tuple(line.split(" -> ", 1)) for line in CASES.splitlines() if line and not line.startswith("#")]


@pytest.mark.need("F1", "F2", "F3", "F6", "F7")
@pytest.mark.parametrize(("command", "answer"), TABLE, ids=[command for command, _ in TABLE])
def test_wrong_input(command: str, answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = [] if "--config-file" in command else ["--config-file", "recipe:digits.yaml"]
    error = error_of([*recipe, *command.split()], capsys)
    pattern = ".*".join(re.escape(part.strip()) for part in answer.split("..."))
    assert re.match(pattern, error), error


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        (
            "[{RandomCrop: {sise: 8}}]",
            "RandomCrop.sise: RandomCrop takes no argument 'sise'; did you mean 'size'?",
        ),
        ("[RandomCrop]", "RandomCrop.size: RandomCrop needs it"),
        ("[{RandomHorizontalFlip: {p: often}}]", "RandomHorizontalFlip.p: .* expects a number; got 'often'"),
        ("[{RandomCrop: {size: 80}}]", "RandomCrop fails on a 1x8x8 image"),
        (
            "[{RandomCrop: 8}]",
            r"expected a list of names, each with or without arguments; got '\[{RandomCrop: 8}\]'",
        ),
        ("[{RandomCrop: {size: 8, size: 9}}]", r"\(size is written twice, first in line 1; keep one\)"),
    ],
)
def test_wrong_transforms(value: str, answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    error = error_of(["--config-file", "recipe:digits.yaml", "INPUT.TRANSFORMS_TRAIN", value], capsys)
    assert re.search(rf"INPUT\.TRANSFORMS_TRAIN \(command line\): .*{answer}", error), error


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        ("[{imagefolder: photos}]", r"\(entry 1: write imagefolder:photos or {imagefolder: {path: photos}}\)"),
        ("imagefolder: photos", r"\(entry 1: write imagefolder:photos or {imagefolder: {path: photos}}\)"),
        ("[{npz: {path: a}, csv: {path: b}}]", r"write an entry for each: \[{npz: {path: a}}, {csv: {path: b}}\]"),
        ("[{npz: {path: wide.npz, nam: val}}]", "npz.nam: npz takes no argument 'nam'; did you mean 'name'?"),
        ("[{npz: {path: wide.npz, size: 3}}]", "npz.size: npz takes no argument 'size'. It takes: path, name"),
        ("[{npz: {name: val}}]", "npz needs a path; write npz:PATH or {npz: {path: PATH}}"),
        ("[{npz: {path: wide.npz, name: a/b}}]", "'a/b' cannot be a data set's name because it holds '/'"),
        ("[{imagefoldr: {path: photos}}]", "'imagefoldr:photos'; did you mean 'imagefolder:photos'?"),
        ("[{npz: {path: gone.npz, name: val}}]", r"val \(npz:gone.npz\) was not found in .*/gone.npz .*; correct"),
    ],
)
def test_wrong_data_sets(value: str, answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    error = error_of(["--config-file", "recipe:digits.yaml", "DATASETS.TEST", value], capsys)
    assert re.search(rf"^DATASETS\.TEST \(command line\): .*{answer}", error), error


@pytest.mark.need("F2", "F3")
def test_everything_wrong_in_a_file_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert error_of(["--config-file", "unknown.yaml", "SOLVER.GAMA", "1", "SEED=x"], capsys).splitlines() == [
        "4 problems:",
        "  unknown.yaml:2: unknown key MODEL.WETGHTS; did you mean MODEL.WEIGHTS?",
        "  unknown.yaml:4: unknown key SOLVER.BASE_RL; did you mean SOLVER.BASE_LR?",
        "  command line: unknown key SOLVER.GAMA; did you mean SOLVER.GAMMA?",
        "  SEED (command line): expected a whole number of at least 0 and at most 9223372036854775807; got 'x' "
        "(for example: SEED 1)",
    ]
    assert error_of(["--config-file", "types.yaml"], capsys).splitlines() == [
        "4 problems:",
        "  SOLVER.IMS_PER_BATCH (types.yaml:2): expected a whole number of at least 1; got '16' (for example: "
        "SOLVER.IMS_PER_BATCH 16)",
        "  SOLVER.STEPS (types.yaml:3): expected a list, each entry a number of iterations, 1 or more, or a "
        'string with a unit such as "90ep" or "5%"; got [1, \'two\'] (for example: SOLVER.STEPS [30000])',
        '  OUTPUT_DIR (types.yaml:4): expected text; got 2024 (write it in quotes: "2024")',
        '  MODEL.WEIGHTS (types.yaml:5): expected text; got null (write "" for none)',
    ]


def test_problems_found_only_in_combination_are_reported_together(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["SOLVER.OPTIMIZER", "Adamm", "SOLVER.LR_SCHEDULER_NAME", "StepLRR", "MODEL.ARGS.norn", "group"]
    error = error_of(["--config-file", "recipe:digits.yaml", *words], capsys)
    assert error.startswith("3 problems:\n")
    for hint in ("did you mean 'Adam'?", "did you mean 'StepLR'?", "did you mean 'norm'?"):
        assert hint in error


@pytest.mark.need("F2", "F3")
def test_old_keys_in_a_file_are_answered_with_their_new_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert error_of(["--config-file", "moved.yaml"], capsys).splitlines() == [
        "2 problems:",
        "  moved.yaml:2: unknown key MODEL.LABEL_SMOOTHING; it is called MODEL.TASK_ARGS.label_smoothing now",
        "  moved.yaml:4: unknown key TEST.FLIP; it is called MODEL.TASK_ARGS.flip now",
    ]


def test_arguments_of_a_task_are_checked_in_a_file_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert error_of(["--config-file", "task.yaml"], capsys).splitlines() == [
        "2 problems:",
        "  MODEL.TASK_ARGS.label_smoothng (task.yaml:2): classification takes no argument 'label_smoothng'; did"
        " you mean 'label_smoothing'? It takes: loss, gamma, alpha, label_smoothing, class_weights, flip",
        "  MODEL.TASK_ARGS.flip (task.yaml:2): classification expects true or false; got 'yes'",
    ]


KNOWN = "Known: digits_test/accuracy, digits_test/top5, digits_test/loss"


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (
            "TEST.BEST.METRIC digits_test/accuracy TEST.BEST.MODE min",
            "TEST.BEST.MODE (command line): min would keep the checkpoint of the lowest digits_test/accuracy;"
            " set it to auto",
        ),
        (
            "TEST.BEST.METRIC digits_test/loss TEST.BEST.MODE max",
            "TEST.BEST.MODE (command line): max would keep the checkpoint of the highest digits_test/loss;"
            " set it to auto",
        ),
        (
            "SOLVER.LR_SCHEDULER_NAME ReduceLROnPlateau SOLVER.LR_METRIC digits_test/accuracy",
            "SOLVER.LR_METRIC (command line): digits_test/accuracy is better when higher, and with mode min the"
            " schedule waits for the opposite; set SOLVER.LR_SCHEDULER_ARGS.mode max",
        ),
        (
            "SOLVER.LR_SCHEDULER_NAME ReduceLROnPlateau SOLVER.LR_METRIC digits_test/loss"
            " SOLVER.LR_SCHEDULER_ARGS.mode max",
            "SOLVER.LR_METRIC (command line): digits_test/loss is better when lower, and with mode max the"
            " schedule waits for the opposite; set SOLVER.LR_SCHEDULER_ARGS.mode min",
        ),
        (
            "SOLVER.LR_SCHEDULER_NAME ReduceLROnPlateau SOLVER.LR_METRIC digits_test/accuracy"
            " SOLVER.LR_SCHEDULER_ARGS.mode highest",
            "SOLVER.LR_SCHEDULER_ARGS: ReduceLROnPlateau refuses it: mode must be min or max; got 'highest'",
        ),
        (
            "SOLVER.LR_SCHEDULER_NAME ReduceLROnPlateau SOLVER.LR_METRIC digits_test/los",
            "SOLVER.LR_METRIC (command line): no evaluation gives the score 'digits_test/los'; did you mean"
            f" digits_test/loss? {KNOWN}",
        ),
        (
            "SOLVER.WARMUP_UNTIL.METRIC digits_test/acuracy SOLVER.WARMUP_UNTIL.ABOVE 0.5",
            "SOLVER.WARMUP_UNTIL.METRIC (command line): no evaluation gives the score 'digits_test/acuracy'; did"
            f" you mean digits_test/accuracy? {KNOWN}",
        ),
        (
            "TEST.BEST.METRIC digits_test/ema/loss",
            "TEST.BEST.METRIC (command line): no evaluation gives the score 'digits_test/ema/loss'; did you mean"
            f" digits_test/loss? {KNOWN}",
        ),
    ],
)
def test_a_score_that_the_task_does_not_have_or_that_is_followed_the_wrong_way(
    words: str, answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert error_of(["--config-file", "recipe:digits.yaml", *words.split()], capsys) == answer


class Plain(Classification):
    """Reads neither stem nor normalisation."""

    normalise = False
    reads = ()


@pytest.mark.parametrize(
    ("key", "value"), [("MODEL.STEM", "small"), ("INPUT.MEAN", "0.5"), ("INPUT.STD", "0.5")], ids=lambda word: word
)
def test_a_key_that_the_task_does_not_read_is_refused(
    key: str, value: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_REGISTRY", {**registry._REGISTRY, "plain": Plain})
    error = error_of(["MODEL.TASK", "plain", key, value], capsys)
    assert error == f"{key} (command line): MODEL.TASK plain does not read it; leave it out"


def test_keys_that_the_task_does_not_read_are_told_together_and_may_be_at_their_defaults(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_REGISTRY", {**registry._REGISTRY, "plain": Plain})
    words = ["MODEL.TASK", "plain", "MODEL.STEM", "standard", "INPUT.MEAN=0.5", "INPUT.STD=0.5"]
    assert [line.split()[0] for line in error_of(words, capsys).splitlines()[1:]] == [
        *("MODEL.STEM", "INPUT.MEAN", "INPUT.STD")
    ]
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.TASK", "plain", "MODEL.STEM", "auto", "INPUT.MEAN", None])
    assert resolve_config(cfg).MODEL.STEM == "auto"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_is_refused_without_a_device(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    error = error_of(["MODEL.DEVICE", device], capsys)
    assert error == (
        f"MODEL.DEVICE (command line): '{device}' asked for, but torch finds no CUDA device; use auto or cpu"
    )


@pytest.mark.need("F1", "F2")
def test_the_script_itself_prints_one_message_and_exits_with_2(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "train_net.py"), *RUN, "--resume", "SOLVER.BASE_RL", "-1e-4"],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "error,ignore::ResourceWarning"},
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: command line: unknown key SOLVER.BASE_RL; did you mean SOLVER.BASE_LR?\n"
    assert sorted(folder.rglob("*")) == before
