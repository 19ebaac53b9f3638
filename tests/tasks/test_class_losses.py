"""Losses of a classifier, against torch, torchvision, timm and scikit-learn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from warmstart.config import CfgNode, ConfigError
from warmstart.data import Batch, DatasetInfo, dataset_info
from warmstart.engine import load_checkpoint, resolve_config, train
from warmstart.tasks import Classification
from warmstart.tasks.class_losses import ClassLoss, class_weights_of

Tiny = Callable[..., CfgNode]

WEIGHTS = [0.5, 2.0, 0.0, 1.5]
INFO = DatasetInfo(100, 4, 1, (8, 8), class_counts=(60, 20, 20, 0))


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(0)) * 3


LABELS = torch.tensor([0, 1, 2, 3, 3, 1])
MIXED = torch.tensor(
    [[0.7, 0.3, 0, 0], [0, 0, 0.5, 0.5], [1, 0, 0, 0], [0, 0.9, 0, 0.1], [0, 0, 1, 0], [0.2, 0, 0, 0.8]]
)
SHARES = {"labels": F.one_hot(LABELS, 4).float(), "mixed": MIXED}
TARGETS = {"labels": LABELS, "mixed": MIXED}
each_target = pytest.mark.parametrize("kind", ["labels", "mixed"])
each_smoothing = pytest.mark.parametrize("smoothing", [0.0, 0.1])


@each_target
@each_smoothing
def test_unweighted_cross_entropy_is_torchs_to_the_bit(logits: Tensor, kind: str, smoothing: float) -> None:
    found = ClassLoss(label_smoothing=smoothing)(logits, TARGETS[kind])
    assert torch.equal(found, F.cross_entropy(logits, TARGETS[kind], label_smoothing=smoothing))


@each_target
@each_smoothing
def test_weighted_cross_entropy_is_torchs_for_shares(logits: Tensor, kind: str, smoothing: float) -> None:
    found = ClassLoss(label_smoothing=smoothing, class_weights=WEIGHTS)(logits, TARGETS[kind])
    expected = F.cross_entropy(logits, SHARES[kind], torch.tensor(WEIGHTS), label_smoothing=smoothing)
    torch.testing.assert_close(found, expected)


def test_weighted_cross_entropy_of_labels_is_torchs_times_the_mean_weight(logits: Tensor) -> None:
    found = ClassLoss(class_weights=WEIGHTS)(logits, LABELS)
    weights = torch.tensor(WEIGHTS)
    torch.testing.assert_close(found, F.cross_entropy(logits, LABELS, weights) * weights[LABELS].mean())


@each_target
@each_smoothing
def test_bce_is_torchs_of_smoothed_shares(logits: Tensor, kind: str, smoothing: float) -> None:
    found = ClassLoss("bce", label_smoothing=smoothing)(logits, TARGETS[kind])
    smoothed = SHARES[kind] * (1 - smoothing) + smoothing / 4
    assert torch.equal(found, F.binary_cross_entropy_with_logits(logits, smoothed))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_bce_is_timms(logits: Tensor, smoothing: float) -> None:
    timm = pytest.importorskip("timm.loss", reason="timm is not installed")
    found = ClassLoss("bce", label_smoothing=smoothing)(logits, LABELS)
    torch.testing.assert_close(found, timm.BinaryCrossEntropy(smoothing=smoothing)(logits, LABELS))


@each_target
@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (0.5, 0.9), (1.0, None)])
def test_focal_is_torchvisions(logits: Tensor, kind: str, gamma: float, alpha: float | None) -> None:
    found = ClassLoss("focal", gamma=gamma, alpha=alpha)(logits, TARGETS[kind])
    expected = sigmoid_focal_loss(logits, SHARES[kind], -1 if alpha is None else alpha, gamma, reduction="mean")
    assert torch.equal(found, expected)


@each_target
@pytest.mark.parametrize("loss", ["bce", "focal"])
def test_binary_losses_are_weighted_by_the_class_of_the_sample(logits: Tensor, kind: str, loss: str) -> None:
    found = ClassLoss(loss, class_weights=WEIGHTS, label_smoothing=0.1)(logits, TARGETS[kind])
    own = ClassLoss(loss, label_smoothing=0.1)
    weight = [sum(w * t for w, t in zip(WEIGHTS, shares, strict=True)) for shares in SHARES[kind].tolist()]
    alone = [own(logits[n : n + 1], TARGETS[kind][n : n + 1]).item() for n in range(6)]
    assert found.item() == pytest.approx(
        sum(w * each for w, each in zip(weight, alone, strict=True)) / 6, rel=1e-6
    )


@pytest.mark.parametrize("loss", ["cross_entropy", "bce", "focal"])
@each_target
def test_the_mean_of_equal_parts_is_the_loss_of_the_batch(logits: Tensor, kind: str, loss: str) -> None:
    own = ClassLoss(loss, class_weights=WEIGHTS, label_smoothing=0.1)
    parts = [own(logits[n : n + 2], TARGETS[kind][n : n + 2]).item() for n in (0, 2, 4)]
    assert own(logits, TARGETS[kind]).item() == pytest.approx(sum(parts) / 3, rel=1e-6)


@pytest.mark.parametrize("loss", ["cross_entropy", "bce", "focal"])
def test_losses_of_half_precision_are_computed_in_float32(logits: Tensor, loss: str) -> None:
    own = ClassLoss(loss, class_weights=WEIGHTS)
    found = own(logits.bfloat16(), LABELS)
    assert found.dtype == torch.float32
    assert torch.equal(found, own(logits.bfloat16().float(), LABELS))


def test_balanced_weights_are_scikit_learns() -> None:
    weight = pytest.importorskip("sklearn.utils.class_weight", reason="scikit-learn is not installed")
    labels = np.repeat([0, 1, 2], [60, 25, 15])
    expected = weight.compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert class_weights_of("balanced", [60, 25, 15], 3) == pytest.approx(expected.tolist(), rel=1e-15)


def test_balanced_weights_of_classes_without_samples_are_zero() -> None:
    assert class_weights_of("balanced", [6, 0, 2], 4) == [8 / 12, 0.0, 2.0, 0.0]


@pytest.mark.parametrize("name", ["digits_train", "digits_test"])
def test_registered_class_counts_are_those_of_the_files(name: str) -> None:
    from warmstart.data import build_dataset

    labels = np.asarray(build_dataset(name, "nowhere").labels)  # type: ignore[attr-defined]
    assert dataset_info(name, "nowhere").class_counts == tuple(np.bincount(labels).tolist())


def test_class_counts_of_mnist_and_cifar_add_up() -> None:
    for name in ("mnist", "fashion_mnist", "cifar10", "cifar100"):
        for part in ("train", "test"):
            info = dataset_info(f"{name}_{part}", "nowhere")
            assert (sum(info.class_counts), len(info.class_counts)) == (info.size, info.num_classes)


def skewed(path: Path) -> str:
    """48 images: 36, 9 and 3 of three classes."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (48, 8, 8), dtype=np.uint8)
    np.savez(path, images=images, labels=np.repeat([0, 1, 2], [36, 9, 3]))
    return f"npz:{path}"


def test_balanced_weights_are_stored_in_the_runs_config_and_resumed(tiny: Tiny, tmp_path: Path) -> None:
    data = ["DATASETS.TRAIN", skewed(tmp_path / "a.npz"), "DATASETS.TEST", "", "MODEL.NUM_CLASSES", 3]
    cfg = tiny(*data, "MODEL.TASK_ARGS.class_weights", "balanced", "SOLVER.MAX_ITER", 10)
    weights = [48 / (3 * 36), 48 / (3 * 9), 48 / (3 * 3)]
    resolved = resolve_config(cfg)
    assert resolved.MODEL.TASK_ARGS.class_weights == weights
    assert resolve_config(resolved).MODEL.TASK_ARGS.class_weights == weights
    trainer = train(cfg)
    assert trainer is not None
    saved = load_checkpoint(tmp_path / "out" / "model_final.pth")
    assert saved["config"]["MODEL"]["TASK_ARGS"]["class_weights"] == weights
    more = [*data, "SOLVER.MAX_ITER", 12]
    assert train(tiny(*more, "MODEL.TASK_ARGS.class_weights", "balanced"), resume="") is not None
    with pytest.raises(ConfigError, match=r"MODEL.TASK_ARGS.class_weights: \[0.4444444444444444, .*\] -> None"):
        train(tiny(*data, "SOLVER.MAX_ITER", 14), resume="")


def test_class_counts_of_joined_sets_add_up(tiny: Tiny, tmp_path: Path) -> None:
    first, second = skewed(tmp_path / "a.npz"), skewed(tmp_path / "b.npz")
    words = [
        "DATASETS.TRAIN",
        [first, second],
        "MODEL.NUM_CLASSES",
        3,
        "MODEL.TASK_ARGS.class_weights",
        "balanced",
    ]
    assert resolve_config(tiny(*words)).MODEL.TASK_ARGS.class_weights == [96 / 216, 96 / 54, 96 / 18]


@pytest.mark.parametrize("loss", ["bce", "focal"])
def test_the_score_loss_stays_the_unweighted_cross_entropy(logits: Tensor, loss: str) -> None:
    task = Classification(INFO, loss=loss, label_smoothing=0.1, class_weights="balanced")
    evaluator = task.evaluator()
    evaluator.update(logits, LABELS)
    assert evaluator.compute()["loss"] == pytest.approx(F.cross_entropy(logits, LABELS).item(), rel=1e-6)


@pytest.mark.parametrize("loss", ["cross_entropy", "bce", "focal"])
def test_classification_trains_on_the_loss_and_mixed_targets(logits: Tensor, loss: str) -> None:
    task = Classification(INFO, loss=loss, class_weights=WEIGHTS)
    for targets in (LABELS, MIXED):
        found = task.losses(lambda images: logits, Batch(torch.zeros(6, 1, 8, 8), targets))
        assert torch.equal(found["loss_cls"], ClassLoss(loss, class_weights=WEIGHTS)(logits, targets))
        assert found["train/error"].item() == pytest.approx(
            (logits.argmax(1) != (targets if targets.ndim == 1 else targets.argmax(1))).float().mean().item()
        )


def test_auxiliary_classifiers_have_the_same_loss(logits: Tensor) -> None:
    from collections import namedtuple

    output = namedtuple("output", ["logits", "aux_logits"])(logits, logits.flip(0))
    found = Classification(INFO, loss="bce").losses(lambda _: output, Batch(torch.zeros(6, 1, 8, 8), LABELS))
    torch.testing.assert_close(found["loss_aux"], 0.4 * ClassLoss("bce")(logits.flip(0), LABELS))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": "bcee"}, "MODEL.TASK_ARGS.loss: no loss is called 'bcee'; did you mean 'bce'?"),
        (
            {"gamma": 3.0},
            "MODEL.TASK_ARGS.gamma: only the focal loss has it, but loss is cross_entropy; leave it out",
        ),
        ({"loss": "focal", "gamma": -1.0}, "MODEL.TASK_ARGS.gamma: expected a number of at least 0; got -1.0"),
        (
            {"loss": "focal", "alpha": 1.5},
            "MODEL.TASK_ARGS.alpha: expected a number from 0 to 1, or null; got 1.5",
        ),
        (
            {"class_weights": "blanced"},
            "MODEL.TASK_ARGS.class_weights: expected balanced, or a list of 4 numbers of at least 0 and not all 0,"
            " one for each class; got blanced",
        ),
        ({"class_weights": [1, 2, 3]}, "MODEL.TASK_ARGS.class_weights: expected balanced, or a list of 4 numbers"),
        ({"class_weights": [0, 0, 0, 0]}, "MODEL.TASK_ARGS.class_weights: expected balanced, or a list of 4"),
        ({"class_weights": [1, 1, 1, -1]}, "MODEL.TASK_ARGS.class_weights: expected balanced, or a list of 4"),
        ({"class_weights": [1, 1, 1, True]}, "MODEL.TASK_ARGS.class_weights: expected balanced, or a list of 4"),
    ],
)
def test_classification_refuses_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        Classification(INFO, **arguments)
    assert str(error.value).startswith(message)


def test_balanced_weights_need_class_counts() -> None:
    with pytest.raises(ConfigError) as error:
        Classification(DatasetInfo(100, 4, 1, (8, 8)), class_weights="balanced")
    assert str(error.value) == (
        "MODEL.TASK_ARGS.class_weights: balanced needs the number of samples of each class, which the training set"
        " does not provide; give a list of 4 numbers, give the data set an attribute targets, or register it with"
        " a DatasetInfo that has class_counts"
    )


@pytest.mark.parametrize(
    ("name", "value", "shown", "advice"),
    [
        ("loss", "bce", "bce", "leave it out"),
        ("label_smoothing", 0.1, "0.1", "set it to 0, and smooth the targets in the model"),
        ("class_weights", "balanced", "balanced", "leave it out, and weight the losses in the model"),
    ],
)
def test_a_model_with_its_own_losses_refuses_arguments_of_the_loss(
    name: str, value: Any, shown: str, advice: str
) -> None:
    losses = {"loss": torch.zeros(())}
    assert Classification(INFO).own_losses(losses) == losses
    with pytest.raises(ConfigError) as error:
        Classification(INFO, **{name: value}).own_losses(losses)
    assert str(error.value) == (
        f"MODEL.TASK_ARGS.{name}: is {shown}, but the model computes its own losses, which it does not affect;"
        f" {advice}"
    )
