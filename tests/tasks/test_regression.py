"""Regression: losses, predictions in units, scores, statistics of the training set, and refused data."""

from __future__ import annotations

import logging
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from warmstart.config import CfgNode, ConfigError, get_cfg
from warmstart.data import Batch, DatasetInfo
from warmstart.engine import resolve_config
from warmstart.tasks import Regression, build_task


def task_of(mean: tuple[float, ...] = (5.0,), std: tuple[float, ...] = (2.0,), **arguments: Any) -> Regression:
    info = DatasetInfo(9, 0, 1, (8, 8), num_values=len(mean), value_mean=mean, value_std=std)
    return Regression(info, **arguments)


def losses_of(task: Regression, outputs: Tensor, targets: list[list[float]]) -> dict[str, float]:
    batch = Batch(torch.zeros(len(targets), 1, 8, 8), torch.tensor(targets))
    return {name: value.item() for name, value in task.losses(lambda images: outputs, batch).items()}


def scores_of(task: Regression, *batches: tuple[Tensor, Tensor]) -> dict[str, float]:
    evaluator = task.evaluator()
    for predictions, targets in batches:
        evaluator.update(predictions, targets)
    evaluator.merge([evaluator.state()])
    return evaluator.compute()


def configured(*words: Any) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.TASK", "regression", "DATASETS.TRAIN", "digits_numbers_train"])
    cfg.merge_from_list(["DATASETS.TEST", "digits_numbers_test", *words])
    return cfg


@pytest.mark.parametrize(
    ("arguments", "loss"),
    [
        ({}, {"loss_l1": 1.25}),  # standardised targets 1 and 0.5, errors 0.5 and 2
        ({"loss": "l2"}, {"loss_l2": 2.125}),
        ({"loss": "huber"}, {"loss_huber": 0.8125}),  # 0.125 and 1.5
        ({"loss": "huber", "delta": 0.5}, {"loss_huber": 0.5}),  # 0.125 and 0.875
    ],
)
def test_regression_losses_use_standardised_targets(arguments: dict[str, Any], loss: dict[str, float]) -> None:
    losses = losses_of(task_of(**arguments), torch.tensor([[1.5], [2.5]]), [[7.0], [6.0]])
    assert losses == loss | {"train/mae": 2.5}


def test_regression_predictions_are_in_the_units_of_the_targets() -> None:
    task = task_of((5.0, 100.0), (2.0, 10.0))
    assert task.predict(lambda images: torch.tensor([[1.0, -1.0]]), torch.zeros(1, 1, 8, 8)).tolist() == [
        [7.0, 90.0]
    ]


def test_given_mean_and_std_replace_those_of_the_training_set() -> None:
    task = task_of(mean=(5.0,), std=(2.0,))
    assert task.resolved_args == {"mean": [5.0], "std": [2.0]}
    info = DatasetInfo(9, 0, 1, (8, 8), num_values=1, value_mean=(5.0,), value_std=(2.0,))
    assert Regression(info, mean=[0]).resolved_args == {"mean": [0.0], "std": [2.0]}
    assert Regression(info, mean=[0.5], std=[4]).resolved_args == {"mean": [0.5], "std": [4.0]}


def test_regression_scores_match_values_computed_by_hand() -> None:
    # Errors 1 and 3 of targets 0 and 4; errors 0 and 0.
    predictions, targets = torch.tensor([[1.0, 5.0], [7.0, 6.0]]), torch.tensor([[0.0, 5.0], [4.0, 6.0]])
    scores = scores_of(task_of((5.0, 5.0), (1.0, 1.0)), (predictions, targets))
    assert scores["mae"] == 1.0
    assert scores["rmse"] == pytest.approx(math.sqrt(5) / 2, abs=1e-12)
    assert scores["r2"] == pytest.approx(((1 - 10 / 8) + 1) / 2, abs=1e-12)


def random_batches(sizes: list[int]) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    scale, offset = torch.tensor([1.0, 100.0, 0.01]), torch.tensor([0.0, 1e6, 1.0])
    drawn = [
        (torch.randn(size, 3, generator=generator), torch.randn(size, 3, generator=generator)) for size in sizes
    ]
    return [((noise + truth) * scale + offset, truth * scale + offset) for noise, truth in drawn]


def test_regression_scores_agree_with_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    batches = random_batches([40, 40, 17])
    predictions, targets = (torch.cat(each).double().numpy() for each in zip(*batches, strict=True))
    scores = scores_of(task_of((0.0, 1e6, 1.0), (1.0, 100.0, 0.01)), *batches)
    assert scores["mae"] == pytest.approx(metrics.mean_absolute_error(targets, predictions), rel=1e-12)
    assert scores["rmse"] == pytest.approx(metrics.root_mean_squared_error(targets, predictions), rel=1e-12)
    assert scores["r2"] == pytest.approx(metrics.r2_score(targets, predictions), rel=1e-9)


def test_regression_scores_do_not_depend_on_the_rank_that_has_a_batch() -> None:
    first, second, third = random_batches([32, 32, 5])
    task = task_of((0.0, 1e6, 1.0), (1.0, 100.0, 0.01))
    alone = scores_of(task, first, second, third)
    evaluators = [task.evaluator() for _ in range(3)]
    evaluators[0].update(*first)
    evaluators[0].update(*third)
    evaluators[1].update(*second)
    states = [evaluator.state() for evaluator in evaluators]
    assert states[2] is None
    evaluators[1].merge(states[1::-1])
    assert evaluators[1].compute() == alone


def test_r2_of_equal_targets_is_1_if_all_predictions_are_right_else_0() -> None:
    targets = torch.full((7, 2), 0.1)
    predictions = targets.clone()
    predictions[3, 1] = 0.2
    r2 = scores_of(task_of((0.3, 0.3), (1.0, 1.0)), (predictions[:4], targets[:4]), (predictions[4:], targets[4:]))
    assert r2["r2"] == 0.5


def test_a_number_that_never_varies_has_std_1_and_is_named_once(logged: list[logging.LogRecord]) -> None:
    assert task_of((3.0, 2.0), (0.0, 4.0)).resolved_args == {"mean": [3.0, 2.0], "std": [1.0, 4.0]}
    message = "MODEL.TASK_ARGS.std: number 0 of the targets is 3 in every sample; its std is taken as 1"
    assert [record.getMessage() for record in logged] == [message]
    task_of((3.0, 2.0), (0.0, 4.0), **{"loss": "l2"})
    info = DatasetInfo(9, 0, 1, (8, 8), num_values=1, value_mean=(3.0,), value_std=(0.0,))
    Regression(info, std=[1.0])  # as in the config of a run
    assert len(logged) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": "l3"}, "MODEL.TASK_ARGS.loss: no loss is called 'l3'. Known: huber, l1, l2"),
        (
            {"delta": 2.0},
            "MODEL.TASK_ARGS.delta: only the Huber loss has it, but loss is l1; leave it out, or set",
        ),
        ({"loss": "huber", "delta": 0.0}, "MODEL.TASK_ARGS.delta: expected a number above 0; got 0"),
        (
            {"mean": [1.0, 2.0]},
            "MODEL.TASK_ARGS.mean: expected a list of 1 number, or null to use the training set's",
        ),
        ({"mean": 1.0}, "MODEL.TASK_ARGS.mean: expected a list of 1 number, or null"),
        ({"mean": ["a"]}, "MODEL.TASK_ARGS.mean: expected a list of 1 number"),
        ({"mean": [math.nan]}, "MODEL.TASK_ARGS.mean: expected a list of 1 number"),
        ({"std": [0.0]}, "MODEL.TASK_ARGS.std: expected a list of 1 number above 0, or null"),
    ],
)
def test_regression_refuses_arguments_out_of_range_or_without_effect(
    arguments: dict[str, Any], message: str
) -> None:
    info = DatasetInfo(9, 0, 1, (8, 8), num_values=1, value_mean=(5.0,), value_std=(2.0,))
    with pytest.raises(ConfigError, match=re.escape(message)):
        Regression(info, **arguments)


def test_regression_refuses_targets_that_float32_cannot_distinguish() -> None:
    message = "number 0 of the targets varies by 100 around 1.6e\\+09, for which float32 has too few digits"
    with pytest.raises(ConfigError, match=message):
        task_of((1.6e9,), (100.0,))


def test_regression_needs_mean_and_std_if_targets_are_unknown() -> None:
    unknown = DatasetInfo(9, 0, 1, (8, 8))
    with pytest.raises(
        ConfigError, match="needs numbers as targets, .* but the training set does not say how many"
    ):
        Regression(unknown)
    with pytest.raises(
        ConfigError, match=r"MODEL.TASK_ARGS.std: the training set does not provide it; give a list of 2"
    ):
        Regression(unknown, mean=[0.0, 1.0])
    assert Regression(unknown, mean=[0.0, 1.0], std=[1.0, 1.0]).num_outputs == 2
    classes = DatasetInfo(9, 10, 1, (8, 8))
    with pytest.raises(
        ConfigError, match=r"MODEL.TASK_ARGS.mean: the training set does not provide .*such as \[0.0\]"
    ):
        Regression(classes)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("cat", "mine: sample 7 has target 'cat'; expected a finite number"),
        ("1.5", "mine: sample 7 has target '1.5'; expected a finite number"),
        ([1.0, 2.0], r"mine: sample 7 has target \[1.0, 2.0\]; expected a finite number"),
        (math.nan, "mine: sample 7 has target nan; expected a finite number"),
        (1e39, r"mine: sample 7 has target 1e\+39; expected a finite number"),  # infinite as float32
    ],
)
def test_regression_check_names_the_sample_of_a_target_of_another_form(target: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        task_of().check({"image": torch.zeros(1), "values": target}, "mine: sample 7")


@pytest.mark.parametrize(
    "target", [3, 3.0, np.float32(3), [3], np.array([3]), torch.tensor(3.0), torch.tensor([3])]
)
def test_regression_takes_a_number_in_any_form(target: Any) -> None:
    sample = {"image": torch.zeros(1), "values": target}
    task_of().check(sample, "")
    assert (sample["values"].tolist(), sample["values"].dtype) == ([3.0], torch.float32)


def test_regression_refuses_standardisation_for_a_model_with_its_own_losses() -> None:
    losses = {"loss": torch.tensor(1.0)}
    assert task_of((0.0,), (1.0,)).own_losses(losses) is losses
    with pytest.raises(ConfigError, match=r"set mean to \[0.0\] and std to \[1.0\]"):
        task_of().own_losses(losses)
    with pytest.raises(ConfigError, match="MODEL.TASK_ARGS.loss: is l2, but the model computes its own losses"):
        task_of((0.0,), (1.0,), loss="l2").own_losses(losses)


def test_regression_refuses_outputs_without_a_second_dimension() -> None:
    with pytest.raises(
        ConfigError, match=r"a tensor of shape \(2,\); return one of shape \(N, 1\), with 1 output"
    ):
        losses_of(task_of(), torch.zeros(2), [[0.0], [1.0]])


def test_the_resolved_config_holds_the_statistics_of_the_training_set() -> None:
    resolved = resolve_config(configured("MODEL.TASK_ARGS.mean", "null"))
    assert resolved.MODEL.NUM_CLASSES == 2
    assert resolved.MODEL.TASK_ARGS.to_dict() == {
        "loss": "l1",
        "delta": 1.0,
        "mean": [4.470424495476688, 30.544349611800186],
        "std": [2.870190060248092, 3.389295609000553],
    }
    assert resolve_config(resolved).to_dict() == resolved.to_dict()
    again = get_cfg()
    again.merge_from_list(["MODEL.TASK_ARGS.mean", str(resolved.MODEL.TASK_ARGS.mean)])
    assert again.MODEL.TASK_ARGS.mean == resolved.MODEL.TASK_ARGS.mean


def test_regression_takes_class_indices_as_numbers() -> None:
    words = ["DATASETS.TRAIN", "digits_train", "DATASETS.TEST", "digits_test"]
    resolved = resolve_config(configured(*words))
    assert (resolved.MODEL.NUM_CLASSES, resolved.MODEL.TASK_ARGS.mean) == (1, [4.470424495476688])
    assert build_task(resolved).num_outputs == 1
    assert build_task(resolved).resident_targets(torch.tensor([3, 4]), "").tolist() == [[3.0], [4.0]]  # type: ignore


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["MODEL.NUM_CLASSES", 3],
            r"MODEL.NUM_CLASSES \(override\): is 3, but for these targets .* needs 2 outputs",
        ),
        (
            ["DATASETS.TEST", "digits_test"],
            "targets of digits_test are class indices, but targets of the training set are 2 n",
        ),
        (
            ["DATASETS.TEST", "digits_attributes_test"],
            "targets of digits_attributes_test are 4 numbers each, but",
        ),
        (
            ["INPUT.TRANSFORMS_TRAIN", "[CutMix]"],
            "CutMix mixes class indices, which MODEL.TASK regression does not",
        ),
        (
            ["DATALOADER.SAMPLER_TRAIN", "WeightedTrainingSampler"],
            r"^DATALOADER.SAMPLER_TRAIN \(override\): WeightedTrainingSampler needs the class of each sample",
        ),
        (
            ["MODEL.TASK", "classification"],
            "needs class indices as targets, .* has 2 numbers for each; set MODEL.TASK",
        ),
    ],
)
def test_regression_configs_that_cannot_work_are_refused_before_the_run(words: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_config(configured(*words))


def test_classification_refuses_a_data_set_of_floats(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros((4, 8, 8), np.uint8), labels=np.arange(4) / 2)
    cfg = configured("MODEL.TASK", "classification", "DATASETS.TRAIN", f"npz:{tmp_path / 'x.npz'}")
    with pytest.raises(
        ConfigError, match="the training set has a number that is not a class index for each; set MODEL"
    ):
        build_task(cfg)
