"""The engine's independence of tasks: its files name no task, no score and no kind of target."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "engine").rglob("*.py"))
# What tasks, their scores and their targets are called, and what belongs to these. Left out is what training
# itself says: loss, score, target, class, error, precision, map, and `label`, which names a key of the config.
WORDS = frozenset(
    word
    for words in (
        "classification classifications classifier classifiers classify multilabel multiclass",
        "regression regressions regressor regressors regress",
        "detection detections detector detectors segmentation segmentations segmenter segmenters panoptic",
        "keypoint keypoints skeleton skeletons landmark landmarks joints",
        "accuracy accuracies recall ap map50 iou miou dice mae mse rmse auc auroc oks",
        "labels labelled box boxes bbox bboxes mask masks polygon polygons heatmap heatmaps onehot",
        "logit logits softmax sigmoid anchors nms flip flips flipped",
        "",
    )
    for word in words.split()
)
# The same as several words, whatever joins them: `top5`, `top_5` and `top-5` are top and 5.
PHRASES = tuple(
    tuple(phrase.split())
    for phrase in (
        *("multi label", "multi class", "key point", "key points", "one hot", "bounding boxes", "io u", "m io u"),
        *("top 1", "top 5", "cross entropy", "label smoothing", "class index", "class indices", "class weights"),
        *("average precision", "exact match", "f 1", "r 2", "train error", "loss cls", "loss box", "loss mask"),
    )
)
GENERAL = {"loss"}  # names of scores that say nothing of a task
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")  # of snake_case and CamelCase the parts
_JOINT = re.compile(r"[\s_/#-]*")


def named(source: str) -> list[tuple[int, str]]:
    """Return what in a source belongs to a task, and its line: in code, strings and comments alike."""
    tokens = [(match[0].lower(), match.start(), match.end()) for match in _WORD.finditer(source)]
    found = {(start, word) for word, start, _ in tokens if word in WORDS}
    for phrase in PHRASES:
        for number in range(len(tokens) - len(phrase) + 1):
            part = tokens[number : number + len(phrase)]
            joints = (source[a[2] : b[1]] for a, b in pairwise(part))
            if tuple(word for word, _, _ in part) == phrase and all(map(_JOINT.fullmatch, joints)):
                found.add((part[0][1], " ".join(phrase)))
    return [(source.count("\n", 0, start) + 1, words) for start, words in sorted(found)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_engine_file_names_no_task(path: Path) -> None:
    found = named(path.read_text(encoding="utf-8"))
    where = path.relative_to(ROOT)
    lines = [f"{where}:{line}: {words!r} belongs to a task" for line, words in found]
    assert not lines, "\n".join(lines)


def test_every_package_of_the_engine_is_checked() -> None:
    rooms = {path.relative_to(ROOT / "engine").parts[0] for path in FILES}
    assert rooms == {entry.name for entry in (ROOT / "engine").iterdir()} - {"py.typed", "__pycache__"}
    assert len(FILES) > 60


@pytest.mark.parametrize("path", FILES[::9], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_named_finds_a_name_anywhere_in_a_file(path: Path) -> None:
    source = path.read_text(encoding="utf-8").splitlines(keepends=True)
    for line in {1, len(source) // 2, len(source)}:
        changed = [*source[:line], "    # the accuracy\n", *source[line:]]
        assert (line + 1, "accuracy") in named("".join(changed))


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("# the accuracy of it", ["accuracy"]),
        ("#accuracy", ["accuracy"]),
        ('"""Shows accuracy."""', ["accuracy"]),
        ("'digits_test/accuracy'", ["accuracy"]),
        ('f"{name}/accuracy: {value}"', ["accuracy"]),
        ('b"accuracy"', ["accuracy"]),
        ("record.accuracy = 1", ["accuracy"]),
        ("def best_accuracy(): ...", ["accuracy"]),
        ("score(accuracy=1)", ["accuracy"]),
        ("ACCURACY = 1", ["accuracy"]),
        ("class MeanAccuracy: ...", ["accuracy"]),
        ("class _BestAccuracyHook: ...", ["accuracy"]),
        ("accuracy2 = 1", ["accuracy"]),
        ("from warmstart.tasks import Classification", ["classification"]),
        ("if cfg.MODEL.TASK == 'classification': ...", ["classification"]),
        ("'multilabel_classification'", ["multilabel", "classification"]),
        ("MultiLabelClassification", ["multi label", "classification"]),
        ("'instance_segmentation'", ["segmentation"]),
        ("'keypoint_detection'", ["keypoint", "detection"]),
        ("# detections, key points and key-points", ["detections", "key points", "key points"]),
        ("'semantic segmentation'", ["segmentation"]),
        ("class RegressionTask: ...", ["regression"]),
        ("targets['labels']", ["labels"]),
        ("batch.labels.to(device)", ["labels"]),
        ("images, labels = batch", ["labels"]),
        ("sample['boxes'], sample['masks'], box, mask", ["boxes", "masks", "box", "mask"]),
        ("gt_boxes", ["boxes"]),
        ("F.one_hot(y)", ["one hot"]),
        ("# one-hot\n# and one\n# hot", ["one hot", "one hot"]),
        ("names = ['top5']", ["top 5"]),
        ("top_5 = top1", ["top 5", "top 1"]),
        ("# mAP, AP50, mIoU, IoU", ["ap", "ap", "m io u", "io u", "io u"]),
        ("'box/AP75'", ["box", "ap"]),
        ("nn.CrossEntropyLoss()", ["cross entropy"]),
        ("F.cross_entropy(logits, y)", ["cross entropy", "logits"]),
        ("cfg.MODEL.LABEL_SMOOTHING", ["label smoothing"]),
        ("cfg.TEST.FLIP", ["flip"]),
        ("'train/error' and 'loss_cls'", ["train error", "loss cls"]),
    ],
)
def test_named_finds_words_of_a_task(source: str, found: list[str]) -> None:
    assert [words for _, words in named(source)] == found


def test_named_gives_the_line_at_which_a_finding_begins() -> None:
    assert named('"""First.\n\nThe key\npoints."""\nx = 1  # masks\n') == [(3, "key points"), (5, "masks")]


@pytest.mark.parametrize(
    "source",
    [
        "raise ConfigError(f\"{cfg.label('TEST.BEST.MODE')}: no\")",
        "axes.plot(rates, label='smoothed')",
        "label, text = cfg.label(key), 'one of the hottest'",
        "list(map(str, names))",
        "os.umask(0o22), signal.pthread_sigmask(how, signals)",
        "except OSError as error: classes = type(error).__mro__",
        "total_loss, score, targets, precision, is_better, train_loader",
        "top = 55 - 5",
        "key, point = pair",
        "one = 'hot'",
        "sandbox, mailboxes, capability, maps, detect, regular",
        "cfg.MODEL.NUM_CLASSES, task.losses, task.predict, Score('loss')",
    ],
)
def test_named_ignores_the_words_of_a_training_loop(source: str) -> None:
    assert named(source) == []


def names_in_tasks() -> Iterator[str]:
    """Yield the names of tasks, of their classes and of their scores in tasks/."""
    for path in sorted((ROOT / "tasks").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and any(getattr(base, "id", "") == "Task" for base in node.bases):
                yield node.name
            if not isinstance(node, ast.Call) or getattr(node.func, "id", "") not in ("Score", "register_task"):
                continue
            if node.args and isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value)


def test_named_finds_the_names_of_all_tasks_and_scores() -> None:
    names = {*names_in_tasks()}
    assert names >= {"classification", "Classification", "accuracy", "top5", "loss"}
    assert [name for name in sorted(names - GENERAL) if not named(name)] == []
