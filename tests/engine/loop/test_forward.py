"""The forward pass as a task calls it, the losses that are trained on, and random numbers of a model."""

from __future__ import annotations

import weakref
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from warmstart.config import CfgNode, ConfigError
from warmstart.data import Batch, DatasetInfo, build_train_loader, forward_key
from warmstart.engine import ModelForward, Trainer, build_trainer, losses_of, resolve_config
from warmstart.engine.loop.forward import TaskLosses, refuse_losses
from warmstart.tasks import Classification, Task, build_task, register_task, registry

from ..dying import assert_same_bits

Tiny = Callable[..., CfgNode]
Outputs = namedtuple("Outputs", "logits boxes count")
INFO = DatasetInfo(size=8, num_classes=3, channels=1, image_size=(1, 1))


class Gives(nn.Module):
    """Returns what it is made with, and keeps what it was called with."""

    def __init__(self, output: Any = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.output, self.calls = output, []

    def forward(self, images: Any, *args: Any, **kwargs: Any) -> Any:
        self.calls.append((args, kwargs))
        return self.output


class Asks(Gives):
    """The same, with targets."""

    def forward(self, images: Any, targets: Any = "default") -> Any:  # type: ignore[override]
        self.calls.append(((), {"targets": targets}))
        return self.output


class Sums(Task):
    """Its one loss is the sum of what the model returns under any name."""

    seen: Any = None

    def sample(self, image: Tensor, target: Any) -> Any: ...

    def losses(self, forward: Any, batch: Batch) -> dict[str, Tensor]:
        self.seen = forward(batch.images)
        outputs = self.seen.values() if isinstance(self.seen, dict) else [self.seen]
        return {"loss_sum": torch.stack([output.sum() for output in outputs]).sum()}

    def predict(self, forward: Any, images: Any) -> Any: ...

    def evaluator(self) -> Any: ...


# The model's outputs.


def test_model_forward_without_autocast_returns_the_models_own_output() -> None:
    output = torch.ones(2, dtype=torch.float64)
    assert ModelForward(Gives(output))(torch.zeros(1)) is output


def test_model_forward_computes_under_autocast_and_returns_float32() -> None:
    """1.001 is 1 in bfloat16, whose next number is 1.0078125."""
    linear = nn.Linear(1, 1, bias=False)
    nn.init.ones_(linear.weight)
    images = torch.tensor([[1.001]])
    output = ModelForward(linear, autocast=torch.bfloat16)(images)
    assert output.dtype == torch.float32
    assert output.tolist() == [[1.0]]
    assert ModelForward(linear)(images).item() == pytest.approx(1.001)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_model_forward_returns_half_outputs_of_a_half_model_in_float32(half: torch.dtype) -> None:
    output = ModelForward(nn.Linear(2, 1).to(half))(torch.zeros(3, 2, dtype=half))
    assert output.dtype == torch.float32


def test_model_forward_returns_half_tensors_at_any_depth_in_float32_and_the_rest_as_it_is() -> None:
    half, exact = torch.ones(2, dtype=torch.float16), torch.ones(2, dtype=torch.float64)
    found = ModelForward(Gives(Outputs(half, [half, (exact, "text")], {"n": torch.tensor(3), "half": half})))(0)
    assert type(found) is Outputs
    assert found.logits.dtype == torch.float32
    assert type(found.boxes) is list
    assert found.boxes[0].dtype == torch.float32
    assert found.boxes[1] == (exact, "text")
    assert found.boxes[1][0] is exact
    assert {name: value.dtype for name, value in found.count.items()} == {"n": torch.int64, "half": torch.float32}


def test_model_forward_returns_an_ordered_dict_of_half_tensors_in_its_order_and_float32() -> None:
    found = ModelForward(Gives(OrderedDict(out=torch.ones(1).half(), aux=torch.ones(1).bfloat16())))(0)
    assert [(name, value.dtype) for name, value in found.items()] == [
        ("out", torch.float32),
        ("aux", torch.float32),
    ]


def test_model_forward_gives_a_model_that_takes_targets_none_unless_a_caller_passes_them() -> None:
    model = Asks()
    forward = ModelForward(model, takes_targets=True)
    forward(torch.zeros(1))
    forward(torch.zeros(1), targets=7)
    forward(torch.zeros(1), 8)
    assert [kwargs["targets"] for _, kwargs in model.calls] == [None, 7, 8]


def test_model_forward_gives_a_model_without_targets_nothing_but_images() -> None:
    model = Gives()
    ModelForward(model)(torch.zeros(1))
    assert model.calls == [((), {})]


# Losses of the task and of the model.


@pytest.mark.need("E3")
def test_task_losses_are_those_that_the_model_returns_whatever_the_tasks_would_be() -> None:
    own = {"loss_own": torch.tensor(3.0), "train/size": torch.tensor(5.0)}
    task = Sums(INFO)
    found = losses_of(Gives(own), task)(Batch(torch.zeros(2, 1), torch.zeros(2)))
    assert found == own
    assert task.seen is None  # its own computation has ended at the call of the model


def test_task_losses_ask_the_tasks_own_losses_what_to_train_on() -> None:
    class Doubles(Sums):
        def own_losses(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: 2 * loss for name, loss in losses.items()}

    found = losses_of(Gives({"loss_own": torch.tensor(3.0)}), Doubles(INFO))(Batch(torch.zeros(2, 1), None))
    assert found == {"loss_own": torch.tensor(6.0)}


def test_task_losses_refuse_label_smoothing_for_a_model_that_returns_losses() -> None:
    model, batch = Gives({"loss_own": torch.tensor(3.0)}), Batch(torch.zeros(2, 1), torch.zeros(2))
    assert losses_of(model, Classification(INFO))(batch) == {"loss_own": torch.tensor(3.0)}
    with pytest.raises(
        ConfigError,
        match=r"^MODEL\.TASK_ARGS\.label_smoothing: is 0\.1, but the model computes its own losses, which it does"
        " not affect; set it to 0, and smooth the targets in the model$",
    ):
        losses_of(model, Classification(INFO, label_smoothing=0.1))(batch)


def test_task_losses_take_a_dict_of_output_maps_for_outputs() -> None:
    maps = {"out": torch.ones(2, 3, 4, 4), "aux": torch.ones(2, 3, 4, 4)}
    task = Sums(INFO)
    assert losses_of(Gives(maps), task)(Batch(torch.zeros(2, 1), None)) == {"loss_sum": torch.tensor(192.0)}
    assert [*task.seen] == ["out", "aux"]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (
            {"loss_map": torch.ones(2, 4)},
            r"^MODEL\.NAME: Gives returned 'loss_map', of shape \(2, 4\), among its losses; return a dict",
        ),
        (
            {"cls": torch.tensor(1.0), "maps": torch.ones(2, 3)},
            r"^MODEL\.NAME: Gives returned 'maps', of shape \(2, 3\), among its losses; return a dict",
        ),
        (
            {"train/error": torch.tensor(1.0)},
            r"^MODEL\.NAME: Gives returned no loss, but train/error; return a dict of 0-dim tensors",
        ),
        ({}, r"^MODEL\.NAME: Gives returned no loss, but an empty dict; return a dict of 0-dim tensors"),
    ],
    ids=["a map called loss", "a number and a map", "metrics alone", "nothing"],
)
def test_task_losses_refuse_invalid_losses_of_a_model(output: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        losses_of(Gives(output), Sums(INFO))(Batch(torch.zeros(2, 1), None))


def test_task_losses_pass_targets_of_the_batch_to_a_model_unless_the_task_passes_others() -> None:
    class Passes(Sums):
        def losses(self, forward: Any, batch: Batch) -> dict[str, Tensor]:
            forward(batch.images)
            forward(batch.images, targets=3)
            forward(batch.images, 4)
            return {"loss": torch.tensor(1.0)}

    model, targets = Asks(torch.zeros(1)), torch.tensor([1, 0])
    losses_of(model, Passes(INFO))(Batch(torch.zeros(2, 1), targets))
    assert [kwargs["targets"] for _, kwargs in model.calls] == [targets, 3, 4]
    assert model.calls[0][1]["targets"] is targets


@pytest.mark.parametrize("fails", [False, True])
def test_task_losses_keep_no_targets_after_the_call(fails: bool) -> None:
    class Target:
        pass

    class Fails(Sums):
        def losses(self, forward: Any, batch: Batch) -> dict[str, Tensor]:
            if fails:
                raise RuntimeError("boom")
            return super().losses(forward, batch)

    losses = losses_of(Gives(torch.zeros(1)), Fails(INFO))
    target = Target()
    gone = weakref.ref(target)
    batch = Batch(torch.zeros(1, 1), [target])
    try:
        losses(batch)
        assert not fails
    except RuntimeError:
        assert fails
    del batch, target
    assert gone() is None


def test_losses_of_calls_the_form_of_the_model_that_it_is_given_and_decides_by_the_model() -> None:
    model, calls = Asks(), []

    def parallel(images: Any, **kwargs: Any) -> Tensor:
        calls.append(kwargs)
        return torch.zeros(1)

    found = losses_of(model, Sums(INFO), parallel)
    assert isinstance(found, TaskLosses)
    found(Batch(torch.zeros(2, 1), "targets"))
    assert calls == [{"targets": "targets"}]
    assert model.calls == []


def test_losses_of_without_a_task_are_what_the_model_returns_for_a_batch_of_any_fields() -> None:
    model = Gives({"loss": torch.tensor(2.0)})
    assert losses_of(model, None)((1, 2, 3)) is model.output
    assert model.calls == [((2, 3), {})]
    losses_of(model, None)(Batch(torch.zeros(1), "targets"))
    assert model.calls[1] == (("targets",), {})


def test_losses_of_without_a_task_compute_under_autocast() -> None:
    class Squares(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"loss": F.linear(x, torch.ones(1, 1)).sum()}

    batch = (torch.tensor([[1.001]]),)
    found = losses_of(Squares(), None, autocast=torch.bfloat16)(batch)["loss"]
    assert (found.dtype, found.item()) == (torch.float32, 1.0)
    assert losses_of(Squares(), None)(batch)["loss"].item() == pytest.approx(1.001)


# Invalid losses.

EXPECTED = (
    'return a dict of 0-dim tensors, such as {"loss_l1": loss}, with at least one loss; what is only to be'
    " recorded has a name that begins with train/"
)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (torch.tensor(1.0), "a Tensor"),
        (None, "a NoneType"),
        ([torch.tensor(1.0)], "a list"),
        ({"loss": torch.ones(4)}, "'loss', of shape (4,), among its losses"),
        ({"loss": torch.ones(1)}, "'loss', of shape (1,), among its losses"),
        ({"loss": torch.tensor(1.0), "train/a": torch.ones(2)}, "'train/a', of shape (2,), among its losses"),
        ({"loss": 1.5}, "'loss', a float, among its losses"),
        ({"loss": torch.tensor(1j)}, "'loss', of shape (), among its losses"),
        ({3: torch.tensor(1.0)}, "3, of shape (), among its losses"),
        ({"train/a": torch.tensor(1.0), "train/b": torch.tensor(1.0)}, "no loss, but train/a, train/b"),
        ({}, "no loss, but an empty dict"),
    ],
)
def test_refuse_losses_says_what_was_found_and_what_is_expected(values: Any, found: str) -> None:
    with pytest.raises(ConfigError) as caught:
        refuse_losses(values, "losses() of Depth", "; samples of its batch: 4, 7")
    assert str(caught.value) == f"losses() of Depth returned {found}; {EXPECTED}; samples of its batch: 4, 7"


def test_refuse_losses_accepts_losses_and_metrics() -> None:
    refuse_losses({"loss": torch.tensor(1.0), "train/error": torch.tensor(0.5), "cls": torch.tensor(2)}, "any")


class Returns(Sums):
    """Its losses are the given ones."""

    def __init__(self, info: DatasetInfo, found: Callable[[Tensor], Any]) -> None:
        self.found = found

    def losses(self, forward: Any, batch: Batch) -> Any:
        return self.found(forward(batch.images))


class Line(nn.Module):
    """Its three outputs are the first pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :3] * self.weight


def trainer_of(model: nn.Module, task: Task | None, loader: Any, **options: Any) -> Trainer:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    return Trainer(model, optimizer, scheduler, loader, (), task, **{"max_iter": 2, **options})


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize(
    ("found", "told"),
    [
        (lambda out: out.sum(), "a Tensor"),
        (lambda out: {"loss": out.sum(1)}, "'loss', of shape ({},), among its losses"),
        (lambda out: {"loss": out.sum().view(1)}, "'loss', of shape (1,), among its losses"),
        (lambda out: {"loss": out.sum(), "train/a": out[0]}, "'train/a', of shape (3,), among its losses"),
        (lambda out: {"loss": out.sum(), "train/a": 0.5}, "'train/a', a float, among its losses"),
        (lambda out: {"train/a": out.sum()}, "no loss, but train/a"),
    ],
    ids=["tensor", "a loss a sample", "a loss of one number", "a metric of several", "a float", "no loss"],
)
def test_trainer_refuses_invalid_losses_at_the_first_update(found: Any, told: str, parts: int, tiny: Tiny) -> None:
    cfg = tiny()
    loader = build_train_loader(cfg, build_task(cfg))
    with pytest.raises(ConfigError) as caught:
        trainer_of(Line(), Returns(INFO, found), loader, accum_steps=parts).train()
    listed = ", ".join(str(index) for index in loader.sample_indices(0)[: 8 // parts])
    told = told.format(8 // parts)
    assert str(caught.value) == f"losses() of Returns returned {told}; {EXPECTED}; samples of its batch: {listed}"


def test_trainer_without_a_task_refuses_what_a_model_returns_for_losses() -> None:
    class Wrong(Line):
        def forward(self, images: Tensor) -> Any:  # type: ignore[override]
            return {"loss": super().forward(images).sum(1)}

    with pytest.raises(
        ConfigError, match=r"^the model returned 'loss', of shape \(4,\), among its losses; return"
    ):
        trainer_of(Wrong(), None, [(torch.ones(4, 3),)]).train()


def test_trainer_refuses_losses_without_a_gradient() -> None:
    task = Returns(INFO, lambda out: {"loss": out.detach().sum()})
    with pytest.raises(ConfigError, match=r"^losses\(\) of Returns returned losses without a gradient"):
        trainer_of(Line(), task, [Batch(torch.ones(4, 3), None)]).train()


# Random numbers of the model.


class Drawing(Classification):
    """Classification whose models draw by key."""

    draws_in_forward = True


class Draws(Line):
    """Keeps a number that it draws in each forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[float] = []

    def forward(self, images: Tensor) -> Tensor:
        self.drawn.append(torch.rand(()).item())
        return super().forward(images)


def keyed(seed: int, position: int) -> float:
    return torch.rand((), generator=torch.Generator().manual_seed(forward_key(seed, position))).item()


def drawn(cfg: CfgNode, parts: int, rank: int = 0, ranks: int = 1, start: int = 0) -> list[float]:
    """Return what a model draws in two updates of 8 samples."""
    task, model = Drawing(INFO), Draws()
    trainer = trainer_of(model, task, build_train_loader(cfg, task, rank, ranks), accum_steps=parts)
    trainer.iteration, trainer.max_iter = start, start + 2
    trainer.train()
    return model.drawn


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    register_task("drawing", Drawing)


@pytest.mark.need("D5")
def test_draws_in_forward_follow_from_seed_iteration_and_the_first_slot_of_the_micro_batch(tiny: Tiny) -> None:
    cfg = tiny("SEED", 5)
    assert drawn(cfg, 1) == [keyed(5, 0), keyed(5, 8)]
    assert drawn(cfg, 2) == [keyed(5, 0), keyed(5, 4), keyed(5, 8), keyed(5, 12)]
    assert drawn(cfg, 2, start=6) == [keyed(5, position) for position in (48, 52, 56, 60)]
    assert drawn(tiny("SEED", 6), 1) == [keyed(6, 0), keyed(6, 8)]
    assert len({keyed(seed, position) for seed in (5, 6) for position in (0, 4, 8, 12)}) == 8


@pytest.mark.need("D5")
def test_draws_in_forward_of_several_ranks_equal_those_of_as_many_micro_batches(tiny: Tiny) -> None:
    cfg = tiny()
    one = drawn(cfg, 4)
    first, second = drawn(cfg, 2, 0, 2), drawn(cfg, 2, 1, 2)
    assert [*first[:2], *second[:2], *first[2:], *second[2:]] == one
    assert len({*one}) == 8


def test_draws_in_forward_do_not_depend_on_what_is_drawn_elsewhere(tiny: Tiny) -> None:
    torch.manual_seed(1)
    before = drawn(tiny(), 1)
    torch.manual_seed(2)
    torch.rand(100)
    assert drawn(tiny(), 1) == before


def test_draws_in_forward_are_not_keyed_for_tasks_that_do_not_ask(tiny: Tiny) -> None:
    cfg, model = tiny(), Draws()
    trainer = trainer_of(model, build_task(cfg), build_train_loader(cfg, build_task(cfg)))
    torch.manual_seed(11)
    trainer.train()
    torch.manual_seed(11)
    assert model.drawn == [torch.rand(()).item(), torch.rand(()).item()]


@pytest.mark.need("D5")
@pytest.mark.parametrize("parts", [1, 2])
def test_draws_in_forward_make_a_resume_exact_without_the_states_of_generators(tiny: Tiny, parts: int) -> None:
    """The model has dropout. Without keys, a resumed run of other random numbers has other weights."""

    def trainer(task: str) -> Trainer:
        made = build_trainer(resolve_config(tiny("MODEL.TASK", task, "SOLVER.GRAD_ACCUM_STEPS", parts)))
        made.hooks.clear()
        return made

    def resumed(task: str, seed: int) -> dict[str, Tensor]:
        first, second = trainer(task), trainer(task)
        first.max_iter = 6
        torch.manual_seed(3)
        first.train()
        second.load_state_dict(first.state_dict())
        torch.manual_seed(seed)
        second.train()
        assert second.iteration == 14
        return dict(second.model.state_dict())

    unbroken = trainer("drawing")
    unbroken.train()
    assert_same_bits(resumed("drawing", 4), dict(unbroken.model.state_dict()))
    one, other = resumed("classification", 4), resumed("classification", 5)
    assert not torch.equal(one["fc.weight"], other["fc.weight"])


@pytest.mark.parametrize("name", ["list", "Own"])
def test_draws_in_forward_refuse_a_loader_that_has_no_keys(name: str) -> None:
    class Own:
        def batches(self, start: int) -> Any:
            yield Batch(torch.ones(4, 3), torch.zeros(4, dtype=torch.int64))

    loader = Own() if name == "Own" else [Batch(torch.ones(4, 3), torch.zeros(4, dtype=torch.int64))]
    trainer_of(Line(), Classification(INFO), loader, max_iter=1).train()
    with pytest.raises(
        ValueError,
        match=rf"^Drawing\.draws_in_forward needs a loader of warmstart\.data, which has keys; got {name}$",
    ):
        trainer_of(Line(), Drawing(INFO), loader).train()


def test_draws_in_forward_are_keyed_by_a_ranks_own_first_slot_if_images_are_mixed(tiny: Tiny) -> None:
    """A rank also loads the image that its first one is mixed with; the slot that counts is its own first one."""
    cfg = tiny("INPUT.TRANSFORMS_TRAIN", [{"MixUp": {"alpha": 0.4}}])
    assert drawn(cfg, 2) == [keyed(cfg.SEED, position) for position in (0, 4, 8, 12)]
    assert drawn(cfg, 1, 1, 2) == [keyed(cfg.SEED, position) for position in (4, 12)]
