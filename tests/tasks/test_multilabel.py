"""Multi-label classification: losses, scores, and refused data."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from warmstart.config import ConfigError, get_cfg
from warmstart.data import Batch, DatasetInfo
from warmstart.engine import resolve_config
from warmstart.tasks import MultilabelClassification, build_task


def task_of(count: int, **arguments: Any) -> MultilabelClassification:
    info = DatasetInfo(10, 0, channels=1, image_size=(8, 8), num_values=count)
    return MultilabelClassification(info, **arguments)


def losses_of(task: MultilabelClassification, logits: Any, targets: list[list[float]]) -> dict[str, float]:
    batch = Batch(torch.zeros(len(targets), 1, 8, 8), torch.tensor(targets))
    return {name: value.item() for name, value in task.losses(lambda images: logits, batch).items()}


def scores_of(task: MultilabelClassification, *batches: tuple[Tensor, Tensor]) -> dict[str, float]:
    evaluator = task.evaluator()
    for logits, targets in batches:
        evaluator.update(logits, targets)
    evaluator.merge([evaluator.state()])
    return evaluator.compute()


def test_bce_is_the_mean_over_images_and_classes() -> None:
    logits = torch.tensor([[0.0, 2.0], [-1.0, 0.0]])
    losses = losses_of(task_of(2), logits, [[1.0, 1.0], [1.0, 0.0]])
    # (0.693147 + 0.126928 + 1.313262 + 0.693147) / 4
    assert losses["loss_cls"] == pytest.approx(0.706621, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, 0.25 * 0.5**2 * 0.693147),
        ({"gamma": 0.0, "alpha": None}, 0.693147),
        ({"gamma": 1.0, "alpha": 0.75}, 0.75 * 0.5 * 0.693147),
    ],
)
def test_focal_loss_of_a_positive_at_probability_one_half(arguments: dict[str, Any], expected: float) -> None:
    losses = losses_of(task_of(1, loss="focal", **arguments), torch.tensor([[0.0]]), [[1.0]])
    assert losses["loss_cls"] == pytest.approx(expected, abs=1e-6)


def test_train_error_is_the_share_of_images_with_a_wrong_sign() -> None:
    logits = torch.tensor([[3.0, -1.0], [3.0, 1.0], [-1.0, -1.0], [0.0, 1.0]])
    losses = losses_of(task_of(2), logits, [[1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    assert losses["train/error"] == 0.5


class WithAux(NamedTuple):
    logits: Tensor
    aux_logits: Tensor


def test_an_auxiliary_classifier_has_a_loss_of_weight_0_4() -> None:
    outputs = WithAux(torch.tensor([[0.0]]), torch.tensor([[2.0]]))
    losses = losses_of(task_of(1), outputs, [[1.0]])
    assert losses["loss_cls"] == pytest.approx(0.693147, abs=1e-6)
    assert losses["loss_aux"] == pytest.approx(0.4 * 0.126928, abs=1e-6)


def test_multilabel_scores_match_values_computed_by_hand() -> None:
    # Class 0 in order of its logits: positive, negative, positive: (1 + 2/3) / 2.
    # Class 1: negative, positive, positive: (1/2 + 2/3) / 2.
    logits = torch.tensor([[3.0, 2.0], [2.0, 1.0], [-1.0, -1.0]])
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    scores = scores_of(task_of(2), (logits, targets))
    assert scores["mAP"] == pytest.approx((5 / 6 + 7 / 12) / 2, abs=1e-12)
    assert scores["f1"] == pytest.approx(0.5, abs=1e-12)  # each class: one hit of two predicted and two positives
    assert scores["exact_match"] == 0.0


def test_map_ignores_a_class_without_positives() -> None:
    logits = torch.tensor([[3.0, 2.0], [2.0, 1.0]])
    assert scores_of(task_of(2), (logits, torch.tensor([[0.0, 0.0], [1.0, 0.0]])))["mAP"] == 0.5


def test_map_is_nan_without_positives_and_f1_is_0_without_predictions() -> None:
    scores = scores_of(task_of(2), (torch.full((3, 2), -1.0), torch.zeros(3, 2)))
    assert math.isnan(scores["mAP"])
    assert (scores["f1"], scores["exact_match"]) == (0.0, 1.0)


def test_threshold_is_a_probability() -> None:
    logits, targets = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [1.0]])  # 0.731, 0.953
    assert scores_of(task_of(1), (logits, targets))["exact_match"] == 0.5
    assert scores_of(task_of(1, threshold=0.8), (logits, targets))["exact_match"] == 1.0


def random_batches(sizes: list[int]) -> list[tuple[Tensor, Tensor]]:
    """Logits in steps of 0.25, so that many are equal, some of them large, and targets."""
    generator = torch.Generator().manual_seed(0)
    return [
        (
            (torch.randn(size, 5, generator=generator) * 80).round() / 4,
            (torch.rand(size, 5, generator=generator) < torch.tensor([0.5, 0.1, 0.9, 0.3, 0.02])).float(),
        )
        for size in sizes
    ]


def test_multilabel_scores_agree_with_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    batches = random_batches([40, 40, 17])
    logits, targets = (torch.cat(each).numpy() for each in zip(*batches, strict=True))
    predicted = logits > 0
    surprise = np.logaddexp(0, np.where(targets, -logits, logits).astype(np.float64))
    scores = scores_of(task_of(5), *batches)
    assert scores["mAP"] == pytest.approx(metrics.average_precision_score(targets, logits), abs=1e-12)
    assert scores["f1"] == pytest.approx(metrics.f1_score(targets, predicted, average="macro"), abs=1e-12)
    assert scores["exact_match"] == pytest.approx(metrics.accuracy_score(targets, predicted), abs=1e-12)
    assert scores["loss"] == pytest.approx(surprise.mean(), rel=1e-9)


def test_multilabel_scores_do_not_depend_on_the_rank_that_has_a_batch() -> None:
    first, second, third = random_batches([32, 32, 5])
    alone = scores_of(task_of(5), first, second, third)
    evaluators = [task_of(5).evaluator() for _ in range(3)]
    evaluators[0].update(*first)
    evaluators[0].update(*third)
    evaluators[1].update(*second)
    states = [evaluator.state() for evaluator in evaluators]
    assert states[2] is None
    evaluators[1].merge(states[:2])
    assert evaluators[1].compute() == alone


def test_flip_averages_logits_of_the_image_and_its_mirror_image() -> None:
    images = torch.tensor([[1.0, 3.0]]).view(1, 1, 1, 2)
    predictions = task_of(1, flip=True).predict(lambda images: 2 * images[:, 0, 0, :1], images)
    assert predictions.tolist() == [[4.0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"loss": "focl"},
            "MODEL.TASK_ARGS.loss: no loss is called 'focl'; did you mean 'focal'? Known: bce, focal",
        ),
        ({"gamma": 1.0}, "MODEL.TASK_ARGS.gamma: only the focal loss has it, but loss is bce"),
        ({"alpha": None}, "MODEL.TASK_ARGS.alpha: only the focal loss has it, but loss is bce"),
        ({"loss": "focal", "gamma": -1.0}, "MODEL.TASK_ARGS.gamma: expected a number of at least 0; got -1"),
        (
            {"loss": "focal", "alpha": 1.5},
            "MODEL.TASK_ARGS.alpha: expected a number from 0 to 1, or null; got 1.5",
        ),
        ({"threshold": 1.0}, "MODEL.TASK_ARGS.threshold: expected a number above 0 and below 1; got 1.0"),
    ],
)
def test_multilabel_refuses_arguments_out_of_range_or_without_effect(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        task_of(2, **arguments)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (3, r"mine: sample 7 has target 3; expected 2 numbers, 0 or 1 a class"),
        ([0, 2], r"mine: sample 7 has target \[0, 2\]; expected 2 numbers, 0 or 1 a class"),
        ([0, 1, 0], r"mine: sample 7 has target \[0, 1, 0\]; expected 2 numbers"),
        ([0.5, math.nan], r"mine: sample 7 has target \[0.5, nan\]; expected 2 numbers"),
        (["0", "1"], r"mine: sample 7 has target \['0', '1'\]; expected 2 numbers"),
        (None, r"mine: sample 7 has target None; expected 2 numbers"),
    ],
)
def test_multilabel_check_names_the_sample_of_a_target_of_another_form(target: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        task_of(2).check({"image": torch.zeros(1), "labels": target}, "mine: sample 7")


def test_multilabel_resident_targets_names_the_sample_of_a_wrong_target() -> None:
    task = task_of(2)
    assert task.resident_targets(torch.tensor([[0, 1], [1, 1]]), "mine").tolist() == [[0.0, 1.0], [1.0, 1.0]]
    with pytest.raises(ConfigError, match=r"mine: sample 1 has target \[1.0, 0.5\]; expected 2 numbers, 0 or 1"):
        task.resident_targets(torch.tensor([[0, 1.0], [1, 0.5]]), "mine")
    with pytest.raises(ConfigError, match="mine: sample 0 has target 4; expected 2 numbers, 0 or 1"):
        task.resident_targets(torch.tensor([4, 0]), "mine")


def test_multilabel_refuses_outputs_of_another_shape() -> None:
    with pytest.raises(
        ConfigError, match=r"a tensor of shape \(2, 1\); return one of shape \(N, 2\), with 2 outputs"
    ):
        losses_of(task_of(2), torch.zeros(2, 1), [[0.0, 1.0], [1.0, 1.0]])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["DATASETS.TRAIN", "digits_train"],
            "the training set has a class index for each image; set MODEL.TASK to cl",
        ),
        (
            ["MODEL.NUM_CLASSES", 3],
            r"MODEL.NUM_CLASSES \(override\): is 3, but for these targets .* needs 4 outputs",
        ),
        (
            ["DATASETS.TEST", "digits_test"],
            "targets of digits_test are class indices, but targets of the training set are 4 n",
        ),
        (
            ["DATASETS.TEST", "digits_numbers_test"],
            "targets of digits_numbers_test are 2 numbers each, but targets of the",
        ),
        (
            ["INPUT.TRANSFORMS_TRAIN", "[{MixUp: {alpha: 0.4}}]"],
            "MixUp mixes class indices, which MODEL.TASK multil",
        ),
        (
            ["DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler", "DATALOADER.REPEAT_THRESHOLD", 0.1],
            r"^DATALOADER.SAMPLER_TRAIN \(override\): RepeatFactorTrainingSampler needs the class of each sample"
            r", but the training set has numbers as targets; use TrainingSampler, or WeightedTrainingSampler with"
            r" DATALOADER.SAMPLE_WEIGHTS$",
        ),
        (
            [
                "DATALOADER.SAMPLER_TRAIN",
                "WeightedTrainingSampler",
                "DATALOADER.CLASS_WEIGHTS",
                (1.0, 2.0, 1.0, 1.0),
            ],
            r"^DATALOADER.SAMPLER_TRAIN \(override\): WeightedTrainingSampler needs the class of each sample",
        ),
    ],
)
def test_multilabel_configs_that_cannot_work_are_refused_before_the_run(words: list[Any], message: str) -> None:
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.TASK", "multilabel_classification", "DATASETS.TRAIN", "digits_attributes_train"])
    cfg.merge_from_list(["DATASETS.TEST", "digits_attributes_test", *words])
    with pytest.raises(ConfigError, match=message):
        resolve_config(cfg)


def test_resolving_a_multilabel_config_twice_changes_nothing() -> None:
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.TASK", "multilabel_classification", "DATASETS.TRAIN", "digits_attributes_train"])
    cfg.merge_from_list(["DATASETS.TEST", "digits_attributes_test"])
    resolved = resolve_config(cfg)
    assert resolved.MODEL.NUM_CLASSES == 4
    assert resolve_config(resolved).to_dict() == resolved.to_dict()


def test_multilabel_number_of_classes_may_come_from_the_config(tmp_path: Path) -> None:
    info = DatasetInfo(10, 0, channels=1, image_size=(8, 8))
    with pytest.raises(ConfigError, match="does not say how many; set MODEL.NUM_CLASSES, register it"):
        MultilabelClassification(info)
    np.savez(tmp_path / "x.npz", images=np.zeros((4, 8, 8), np.uint8), labels=np.eye(4, 3, dtype=bool))
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.TASK", "multilabel_classification", "DATASETS.TRAIN", f"npz:{tmp_path / 'x.npz'}"])
    assert build_task(cfg).num_outputs == 3
