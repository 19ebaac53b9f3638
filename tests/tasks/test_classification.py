"""Classification: losses of logits, auxiliary logits and the model itself; scores computed by hand."""

import math
from collections import namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import GoogLeNet, Inception3
from torchvision.models.googlenet import GoogLeNetOutputs
from torchvision.models.inception import InceptionOutputs

from warmstart.config import ConfigError
from warmstart.data import Batch, DatasetInfo
from warmstart.engine import evaluate, losses_of
from warmstart.engine.loop.forward import ModelForward
from warmstart.tasks import Classification

# Cross-entropy of these logits and targets: (ln(1 + e^-2) + ln(1 + e^2)) / 2.
LOGITS = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
TARGETS = torch.tensor([0, 1])
LOSS = 1.1269280110429725


class Fixed(nn.Module):
    """Gives the same output whatever the images."""

    def __init__(self, output: object) -> None:
        super().__init__()
        self.output = output

    def forward(self, images: Tensor) -> object:
        return self.output if self.training else LOGITS


def task(classes: int = 3, **arguments: Any) -> Classification:
    return Classification(DatasetInfo(2, classes, 1, (2, 2)), **arguments)


class Trained:
    """A model under the task: losses of images and targets, as training computes them."""

    def __init__(self, model: nn.Module, **arguments: Any) -> None:
        self.model = model
        self.losses = losses_of(model, task(**arguments))

    def __call__(self, images: Tensor, targets: Tensor) -> Any:
        return self.losses(Batch(images, targets))


def test_losses_are_the_mean_cross_entropy() -> None:
    losses = Trained(Fixed(LOGITS))(torch.zeros(2, 1, 2, 2), TARGETS)
    assert list(losses) == ["loss_cls", "train/error"]
    assert losses["loss_cls"].shape == ()
    assert losses["loss_cls"].item() == pytest.approx(LOSS)


def test_losses_take_mixed_targets_as_class_shares() -> None:
    shares = torch.tensor([[0.25, 0.75], [0.6, 0.4]])
    losses = Trained(Fixed(LOGITS))(torch.zeros(2, 1, 2, 2), shares)
    # The first image costs 0.25 ln(1 + e^-2) + 0.75 ln(1 + e^2), the second 0.6 and 0.4 of the same.
    assert losses["loss_cls"].item() == pytest.approx(1.2769280110430725)
    assert losses["train/error"].item() == 0.5  # for the first one the other class has the larger share


@pytest.mark.parametrize(
    ("targets", "loss"),
    [
        # 0.9 of the plain loss, and 0.1 of ln(1 + e^-2) / 2 + ln(1 + e^2) / 2, which both images share.
        (TARGETS, 1.1269280110429725),
        (torch.tensor([0, 0]), 0.22692801104297252),  # the plain one is 0.1269280110429725
        (torch.tensor([[0.25, 0.75], [0.6, 0.4]]), 1.2619280110429725),  # 0.9 * 1.27692801 + 0.1 * 1.12692801
    ],
)
def test_label_smoothing_gives_a_share_to_all_classes(targets: Tensor, loss: float) -> None:
    """Also those that MixUp has mixed."""
    model = Trained(Fixed(LOGITS), label_smoothing=0.1)
    assert model(torch.zeros(2, 1, 2, 2), targets)["loss_cls"].item() == pytest.approx(loss)


def test_label_smoothing_applies_to_auxiliary_losses() -> None:
    model = Trained(Fixed(GoogLeNetOutputs(LOGITS, LOGITS, LOGITS)), label_smoothing=0.1)
    losses = model(torch.zeros(2, 1, 2, 2), torch.tensor([0, 0]))
    assert losses["loss_aux1"].item() == pytest.approx(0.3 * 0.22692801104297252)


def test_the_auxiliary_losses_of_googlenet_have_weight_0_3() -> None:
    model = Trained(Fixed(GoogLeNetOutputs(LOGITS, 2 * LOGITS, LOGITS)))
    losses = model(torch.zeros(2, 1, 2, 2), TARGETS)
    assert {name: loss.item() for name, loss in losses.items()} == {
        "loss_cls": pytest.approx(1.12692801),
        "loss_aux1": pytest.approx(0.33807840),
        "loss_aux2": pytest.approx(0.60544498),  # 0.3 (ln(1 + e^-4) + ln(1 + e^4)) / 2
        "train/error": 0.5,
    }


def test_the_auxiliary_loss_of_inception_has_weight_0_4() -> None:
    losses = Trained(Fixed(InceptionOutputs(LOGITS, LOGITS)))(torch.zeros(2, 1, 2, 2), TARGETS)
    assert {name: loss.item() for name, loss in losses.items()} == {
        "loss_cls": pytest.approx(1.12692801),
        "loss_aux": pytest.approx(0.45077120),
        "train/error": 0.5,
    }


def test_the_training_error_is_the_share_of_wrong_highest_logits_and_has_no_gradient() -> None:
    """Wrong, right, wrong; on a tie the first class counts, as in evaluation."""
    logits = torch.tensor([[0.0, 3.0, 1.0], [0.0, 1.0, 2.0], [1.0, 1.0, 0.0]], requires_grad=True)
    error = Trained(Fixed(logits))(torch.zeros(3, 1, 2, 2), torch.tensor([0, 2, 1]))["train/error"]
    assert error.item() == pytest.approx(2 / 3)
    assert error.shape == ()
    assert not error.requires_grad


@pytest.mark.parametrize(
    ("model", "size", "names"),
    [
        (lambda: GoogLeNet(3, init_weights=False), 32, ["loss_cls", "loss_aux1", "loss_aux2"]),
        (lambda: GoogLeNet(3, aux_logits=False, init_weights=False), 32, ["loss_cls"]),
        (lambda: Inception3(3, init_weights=False), 299, ["loss_cls", "loss_aux"]),
    ],
)
def test_models_that_have_auxiliary_outputs_train_them(model, size: int, names: list[str]) -> None:
    network = model()
    losses = Trained(network)(torch.randn(2, 3, size, size), torch.tensor([0, 2]))
    assert list(losses) == [*names, "train/error"]
    sum(losses[name] for name in names).backward()
    assert all(p.grad is not None for p in network.parameters())
    assert task().predict(ModelForward(network.eval()), torch.randn(1, 3, size, size)).shape == (1, 3)


def test_the_loss_of_half_precision_logits_is_float32() -> None:
    loss = Trained(Fixed(LOGITS.bfloat16()))(torch.zeros(2, 1, 2, 2), TARGETS)["loss_cls"]
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(LOSS)


class Focal(nn.Module):
    """A user-defined model that returns losses in training and logits otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.calls: list[Tensor | None] = []

    def forward(self, images: Tensor, targets: Tensor | None = None) -> Tensor | dict[str, Tensor]:
        self.calls.append(targets)
        logits = self.fc(images.flatten(1))
        if targets is None:
            return logits
        hard = targets.argmax(1) if targets.ndim == 2 else targets
        chosen = logits.log_softmax(1).gather(1, hard[:, None])
        return {"loss_focal": -(chosen * (1 - chosen.exp())).mean(), "loss_l2": logits.square().mean()}


IMAGES, CLASSES = torch.ones(2, 1, 2, 2), torch.tensor([0, 2])


def test_losses_are_those_that_the_model_returns() -> None:
    model = Focal()
    expected = model(IMAGES, CLASSES)
    losses = Trained(model)(IMAGES, CLASSES)
    assert list(losses) == ["loss_focal", "loss_l2"]
    assert all(torch.equal(losses[name], expected[name]) for name in expected)
    logits = task().predict(ModelForward(model.eval(), takes_targets=True), IMAGES)
    assert torch.equal(logits, model(IMAGES))
    assert model.calls[2] is None


def test_losses_are_the_cross_entropy_of_logits_that_depend_on_the_targets() -> None:
    class Margin(Focal):
        def forward(self, images: Tensor, *, targets: Tensor | None) -> Tensor:
            return LOGITS if targets is None else LOGITS + 1

    margin = Margin()
    model = Trained(margin, label_smoothing=0.1)
    assert model(IMAGES, torch.tensor([0, 0]))["loss_cls"].item() == pytest.approx(0.22692801104297252)
    assert torch.equal(task().predict(ModelForward(margin.eval(), takes_targets=True), IMAGES), LOGITS)


def test_own_losses_in_half_precision_come_back_in_float32() -> None:
    model = Trained(Fixed({"loss_a": torch.tensor(0.5).bfloat16(), "train/n": torch.tensor(3)}))
    losses = model(IMAGES, CLASSES)
    assert [(name, value.dtype) for name, value in losses.items()] == [
        ("loss_a", torch.float32),
        ("train/n", torch.int64),
    ]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ((LOGITS, LOGITS), "the model returns a tuple in training; return logits, a tensor"),
        (namedtuple("Out", "logits loss_extra")(LOGITS, LOSS), "returns a Out of logits, loss_extra in training"),
        (None, "returns a NoneType in training"),
        ({"logits": LOGITS}, "the model returns a dict in training; return logits"),
        (
            {"loss_a": LOGITS},
            r"Fixed returned 'loss_a', of shape \(2, 2\), among its losses; return a dict of 0-dim",
        ),
        ({"loss": 0.5}, "Fixed returned 'loss', a float, among its losses"),
        ({"train/x": torch.tensor(1.0)}, "Fixed returned no loss, but train/x; return a dict of 0-dim"),
        ({}, "Fixed returned no loss, but an empty dict; return a dict of 0-dim"),
    ],
)
def test_losses_refuse_an_output_that_is_neither_logits_nor_losses(output: object, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^MODEL.NAME: .*{message}"):
        Trained(Fixed(output))(IMAGES, CLASSES)


def test_predict_refuses_losses() -> None:
    class Same(nn.Module):
        def forward(self, images: Tensor) -> dict[str, Tensor]:
            return {"loss": images.mean()}

    with pytest.raises(ConfigError, match="the model returns a dict in evaluation mode; return logits there"):
        task().predict(ModelForward(Same()), IMAGES)


def test_label_smoothing_of_a_model_with_its_own_losses_is_refused() -> None:
    with pytest.raises(
        ConfigError,
        match="TASK_ARGS.label_smoothing: is 0.1, but the model computes its own losses, .*; set it to 0",
    ):
        Trained(Focal(), label_smoothing=0.1)(IMAGES, CLASSES)


def score(model: nn.Module, batches: list[Any], classes: int, **arguments: Any) -> dict[str, float]:
    return evaluate(model, task(classes, **arguments), batches)


def test_scores_count_each_sample_once_over_uneven_batches() -> None:
    """7 classes, 5 samples in batches of 3 and 2; the label's rank is 1, 2, 5, 6 and 1."""
    ranks = [1, 2, 5, 6, 1]
    labels = torch.tensor([0, 3, 6, 2, 5])
    logits = torch.zeros(5, 7)
    for row, (rank, label) in enumerate(zip(ranks, labels.tolist(), strict=True)):
        others = [c for c in range(7) if c != label]
        order = others[: rank - 1] + [label] + others[rank - 1 :]
        for place, c in enumerate(order):
            logits[row, c] = -float(place)
    scores = score(nn.Identity(), [(logits[:3], labels[:3]), (logits[3:], labels[3:])], 7)
    assert list(scores) == ["accuracy", "top5", "loss"]
    assert scores["accuracy"] == pytest.approx(2 / 5)
    assert scores["top5"] == pytest.approx(4 / 5)
    assert scores["loss"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-6)


def test_a_nan_loss_makes_the_loss_score_nan() -> None:
    nan = torch.full((2, 5), float("nan"))
    scores = score(nn.Identity(), [(torch.eye(5), torch.arange(5)), (nan, torch.tensor([0, 1]))], 5)
    assert math.isnan(scores["loss"])


def test_scores_have_no_top5_with_five_classes() -> None:
    assert list(score(nn.Identity(), [(torch.eye(5), torch.arange(5))], 5)) == ["accuracy", "loss"]
    assert [each.name for each in task(6).scores] == ["accuracy", "top5", "loss"]
    assert [(each.higher_is_better, each.percent) for each in task(5).scores] == [(True, True), (False, False)]


def test_flip_averages_the_logits_of_an_image_and_its_mirror_image() -> None:
    """Each image is one row of two pixels, and its logits are its pixels, the left one times 3.

    (1, 2) gives (3, 2) and, flipped, (6, 1): on average (4.5, 1.5). (0, 1) gives (0, 1) and (3, 0): (1.5, 0.5).
    """

    class LeftTimesThree(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1) * torch.tensor([3.0, 1.0])

    batch = torch.tensor([[1.0, 2.0], [0.0, 1.0]]).view(2, 1, 1, 2), torch.tensor([0, 0])
    assert score(LeftTimesThree(), [batch], 2)["accuracy"] == 0.5
    scores = score(LeftTimesThree(), [batch], 2, flip=True)
    assert scores["accuracy"] == 1
    # (ln(1 + e^-3) + ln(1 + e^-1)) / 2
    assert scores["loss"] == pytest.approx(0.18092451, rel=1e-6)


def test_classification_refuses_label_smoothing_of_one() -> None:
    with pytest.raises(
        ConfigError, match=r"TASK_ARGS.label_smoothing: expected a number of at least 0 and below 1"
    ):
        task(label_smoothing=1.0)


def test_classification_refuses_a_training_set_without_classes() -> None:
    with pytest.raises(
        ConfigError, match="the training set does not say how many classes it has; set MODEL.NUM_C"
    ):
        task(classes=0)


def test_collate_stacks_images_and_labels() -> None:
    samples = [{"image": torch.full((1, 2, 2), n, dtype=torch.uint8), "label": n, "index": 7} for n in (2, 0)]
    images, labels = task().collate(samples, training=True)
    assert images.shape == (2, 1, 2, 2)
    assert (labels.tolist(), labels.dtype) == ([2, 0], torch.int64)


@pytest.mark.parametrize(
    ("label", "problem"),
    [
        (3, "has label 3; with 3 classes labels run from 0 to 2"),
        (-1, "has label -1"),
        (1.5, "has label 1.5; labels are whole"),
    ],
)
def test_check_refuses_a_label_out_of_range(label: float, problem: str) -> None:
    with pytest.raises(ConfigError, match=f"^mine: sample 7 {problem}"):
        task().check({"image": torch.zeros(1, 2, 2), "label": label}, "mine: sample 7")


def test_resident_targets_name_the_first_wrong_sample() -> None:
    labels = torch.tensor([0, 2, 3, 4])
    assert task(5).resident_targets(labels, "mine") is labels
    with pytest.raises(ConfigError, match="mine: sample 2 has label 3"):
        task(3).resident_targets(labels, "mine")


@pytest.mark.parametrize("channels", [1, 3])
def test_draw_writes_the_prediction_on_a_copy_of_the_image(channels: int) -> None:
    image = torch.full((channels, 24, 60), 100, dtype=torch.uint8)
    drawn = task().draw(image, "cat")
    assert (drawn.shape, drawn.dtype) == ((3, 24, 60), torch.uint8)
    assert drawn.max() > 240  # the text is white and anti-aliased, with a black edge
    assert drawn.min() == 0
    assert (drawn[:, 20:] == 100).all()
    assert (image == 100).all()
