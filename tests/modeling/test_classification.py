"""The classifier's contract: losses in training, logits in evaluation, names and class of the model itself."""

import copy
import pickle
from collections import namedtuple

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import GoogLeNet, Inception3, ResNet, resnet18
from torchvision.models.googlenet import GoogLeNetOutputs
from torchvision.models.inception import InceptionOutputs

from warmstart.config import ConfigError
from warmstart.modeling import Classifier, as_classifier

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


def linear() -> nn.Module:
    return as_classifier(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)))


def test_training_gives_the_mean_cross_entropy() -> None:
    losses = as_classifier(Fixed(LOGITS))(torch.zeros(2, 1, 2, 2), TARGETS)
    assert list(losses) == ["loss_cls", "train/error"]
    assert losses["loss_cls"].shape == ()
    assert losses["loss_cls"].item() == pytest.approx(LOSS)


def test_mixed_targets_are_shares_of_the_classes() -> None:
    shares = torch.tensor([[0.25, 0.75], [0.6, 0.4]])
    losses = as_classifier(Fixed(LOGITS))(torch.zeros(2, 1, 2, 2), shares)
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
def test_smoothed_targets_give_a_share_to_all_classes(targets: Tensor, loss: float) -> None:
    """Also those that MixUp has mixed; and a copy of the model smooths as it does."""
    model = as_classifier(Fixed(LOGITS), label_smoothing=0.1)
    for classifier in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert classifier(torch.zeros(2, 1, 2, 2), targets)["loss_cls"].item() == pytest.approx(loss)


def test_auxiliary_losses_are_smoothed_too() -> None:
    model = as_classifier(Fixed(GoogLeNetOutputs(LOGITS, LOGITS, LOGITS)), label_smoothing=0.1)
    losses = model(torch.zeros(2, 1, 2, 2), torch.tensor([0, 0]))
    assert losses["loss_aux1"].item() == pytest.approx(0.3 * 0.22692801104297252)


def test_evaluation_gives_logits_with_targets_or_without() -> None:
    model = as_classifier(Fixed(LOGITS)).eval()
    assert torch.equal(model(torch.zeros(2, 1, 2, 2)), LOGITS)
    assert torch.equal(model(torch.zeros(2, 1, 2, 2), TARGETS), LOGITS)


def test_the_auxiliary_losses_of_googlenet_count_three_tenths() -> None:
    model = as_classifier(Fixed(GoogLeNetOutputs(LOGITS, 2 * LOGITS, LOGITS)))
    losses = model(torch.zeros(2, 1, 2, 2), TARGETS)
    assert {name: loss.item() for name, loss in losses.items()} == {
        "loss_cls": pytest.approx(1.12692801),
        "loss_aux1": pytest.approx(0.33807840),
        "loss_aux2": pytest.approx(0.60544498),  # 0.3 (ln(1 + e^-4) + ln(1 + e^4)) / 2
        "train/error": 0.5,
    }


def test_the_auxiliary_loss_of_inception_counts_four_tenths() -> None:
    losses = as_classifier(Fixed(InceptionOutputs(LOGITS, LOGITS)))(torch.zeros(2, 1, 2, 2), TARGETS)
    assert {name: loss.item() for name, loss in losses.items()} == {
        "loss_cls": pytest.approx(1.12692801),
        "loss_aux": pytest.approx(0.45077120),
        "train/error": 0.5,
    }


def test_the_training_error_is_the_share_of_wrong_highest_logits_and_has_no_gradient() -> None:
    """Wrong, right, wrong; on a tie the first class counts, as in evaluation."""
    logits = torch.tensor([[0.0, 3.0, 1.0], [0.0, 1.0, 2.0], [1.0, 1.0, 0.0]], requires_grad=True)
    error = as_classifier(Fixed(logits))(torch.zeros(3, 1, 2, 2), torch.tensor([0, 2, 1]))["train/error"]
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
    classifier = as_classifier(model())
    losses = classifier(torch.randn(2, 3, size, size), torch.tensor([0, 2]))
    assert list(losses) == [*names, "train/error"]
    sum(losses[name] for name in names).backward()
    assert all(p.grad is not None for p in classifier.parameters())
    assert classifier.eval()(torch.randn(1, 3, size, size)).shape == (1, 3)


def test_training_without_targets_is_refused() -> None:
    with pytest.raises(TypeError, match=r"training mode a classifier needs the targets: model\(images, targets\)"):
        linear()(torch.zeros(2, 1, 2, 2))


def test_the_loss_of_half_precision_logits_is_float32() -> None:
    loss = as_classifier(Fixed(LOGITS.bfloat16()))(torch.zeros(2, 1, 2, 2), TARGETS)["loss_cls"]
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(LOSS)


def test_object_class_and_names_stay_the_models_own() -> None:
    model = resnet18()
    names = list(model.state_dict())
    classifier = as_classifier(model)
    assert classifier is model
    assert isinstance(classifier, ResNet)
    assert isinstance(classifier, Classifier)
    assert type(classifier).__name__ == "ResNet"
    assert list(classifier.state_dict()) == names
    assert type(as_classifier(resnet18())) is type(classifier)


@pytest.mark.parametrize("twin", [copy.deepcopy, copy.copy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_and_pickles(twin) -> None:
    model = linear()
    other = twin(model)
    images, targets = torch.randn(2, 1, 2, 2), torch.tensor([0, 2])
    assert type(other) is type(model)
    assert torch.equal(other(images, targets)["loss_cls"], model(images, targets)["loss_cls"])


def test_a_deep_copy_shares_nothing() -> None:
    model = linear()
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[1].weight.zero_()
    assert not torch.equal(model[1].weight, other[1].weight)


class Focal(nn.Module):
    """A user's own model: its losses in training, logits else."""

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


def test_as_classifier_trains_on_the_losses_that_the_model_returns() -> None:
    model = as_classifier(Focal())
    plain = Focal()
    plain.load_state_dict(model.state_dict())
    expected = plain(IMAGES, CLASSES)
    losses = model(IMAGES, CLASSES)
    assert list(losses) == ["loss_focal", "loss_l2"]
    assert all(torch.equal(losses[name], expected[name]) for name in expected)
    assert torch.equal(model.eval()(IMAGES, CLASSES), plain(IMAGES))
    assert model.calls[1] is None


def test_as_classifier_computes_the_cross_entropy_of_logits_that_depend_on_the_targets() -> None:
    class Margin(Focal):
        def forward(self, images: Tensor, *, targets: Tensor | None) -> Tensor:
            return LOGITS if targets is None else LOGITS + 1

    model = as_classifier(Margin(), label_smoothing=0.1)
    assert model(IMAGES, torch.tensor([0, 0]))["loss_cls"].item() == pytest.approx(0.22692801104297252)
    assert torch.equal(model.eval()(IMAGES), LOGITS)


def test_as_classifier_returns_own_losses_of_half_precision_as_float32() -> None:
    model = as_classifier(Fixed({"loss_a": torch.tensor(0.5).bfloat16(), "train/n": torch.tensor(3)}))
    losses = model(IMAGES, CLASSES)
    assert [(name, value.dtype) for name, value in losses.items()] == [
        ("loss_a", torch.float32),
        ("train/n", torch.int64),
    ]


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_of_a_classifier_keep_its_own_losses(twin) -> None:
    assert "loss_focal" in twin(as_classifier(Focal()))(IMAGES, CLASSES)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ((LOGITS, LOGITS), "Fixed returns a tuple in training; return logits, a tensor"),
        (namedtuple("Out", "logits loss_extra")(LOGITS, LOSS), "returns a Out of logits, loss_extra in training"),
        (None, "returns a NoneType in training"),
        (
            {"logits": LOGITS},
            r"Fixed returns 'logits', of shape \(2, 2\), among its losses; each is a tensor of one",
        ),
        ({"loss": 0.5}, "returns 'loss', float, among its losses"),
        ({"train/x": torch.tensor(1.0)}, "Fixed returns no loss in training, but train/x$"),
        ({}, "returns no loss in training, but an empty dict$"),
    ],
)
def test_as_classifier_refuses_what_is_neither_logits_nor_losses(output: object, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^MODEL.NAME: .*{message}"):
        as_classifier(Fixed(output))(IMAGES, CLASSES)


def test_as_classifier_refuses_losses_in_evaluation_mode() -> None:
    class Same(nn.Module):
        def forward(self, images: Tensor) -> dict[str, Tensor]:
            return {"loss": images.mean()}

    with pytest.raises(ConfigError, match="Same returns a dict in evaluation mode; return logits there"):
        as_classifier(Same()).eval()(IMAGES)


def test_label_smoothing_of_a_model_with_its_own_losses_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="LABEL_SMOOTHING: is 0.1, and Focal computes its own losses, .*; set it to 0"
    ):
        as_classifier(Focal(), label_smoothing=0.1)(IMAGES, CLASSES)


def test_as_classifier_refuses_parameters_that_nothing_is_passed_to() -> None:
    class Labels(nn.Module):
        def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
            return images

    class Needs(nn.Module):
        def forward(self, images: Tensor, boxes: Tensor) -> Tensor:
            return images

    class Set(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.forward = lambda images: images

    for model, message in (
        (Labels(), "forward of Labels has a parameter 'labels', .*; rename it to `targets`"),
        (Needs(), "forward of Needs has a parameter 'boxes', .* else give it a default"),
        (Set(), "Set sets `forward` on the instance"),
    ):
        with pytest.raises(ConfigError, match=message):
            as_classifier(model)


@pytest.mark.filterwarnings("ignore:Guards may run slower:RuntimeWarning")  # Python 3.13.0 alone
def test_a_classifier_with_its_own_losses_compiles_without_graph_breaks() -> None:
    class Own(nn.Sequential):
        def forward(self, images: Tensor, targets: Tensor | None = None) -> Tensor | dict[str, Tensor]:
            logits = super().forward(images)
            return logits if targets is None else {"loss_own": logits.square().mean()}

    model = as_classifier(Own(nn.Flatten(), nn.Linear(4, 3)))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.equal(compiled(IMAGES, CLASSES)["loss_own"], model(IMAGES, CLASSES)["loss_own"])


@pytest.mark.filterwarnings("ignore:Guards may run slower:RuntimeWarning")  # Python 3.13.0 alone
def test_compiles_without_graph_breaks() -> None:
    model = linear()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    images, targets = torch.randn(2, 1, 2, 2), torch.tensor([0, 2])
    assert torch.equal(compiled(images, targets)["loss_cls"], model(images, targets)["loss_cls"])
    model.eval()
    assert torch.equal(compiled(images), model(images))
