"""Mistakes in user-defined tasks: one sentence that says what was expected, and exit code 2."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from warmstart.config import ConfigError
from warmstart.data import Batch, DatasetInfo, register_dataset
from warmstart.data.datasets import registry as data_sets
from warmstart.engine import run_tool
from warmstart.modeling import catalog, register_model
from warmstart.tasks import Evaluator, Forward, Score, Task, register_task
from warmstart.tasks import registry as tasks
from warmstart.tools import plain_train_net, train_net

WORDS = [
    "DATASETS.TRAIN=[sums]",
    "DATASETS.TEST=[sums]",
    "MODEL.TASK=sum",
    "MODEL.NAME=flat",
    "MODEL.DEVICE=cpu",
    "DATALOADER.NUM_WORKERS=0",
    "SOLVER.MAX_ITER=3",
    "SOLVER.IMS_PER_BATCH=4",
    "SOLVER.STEPS=[2]",
    "SOLVER.WARMUP_ITERS=0",
    "SOLVER.BASE_LR=0.0001",
    "OUTPUT_DIR=out",
]


class Sums(torch.utils.data.Dataset[tuple[Tensor, float]]):
    """Images of 4x4 pixels with their mean."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[Tensor, float]:
        return torch.full((1, 4, 4), index, dtype=torch.uint8), index / 255


class Flat(nn.Module):
    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(in_channels * 16, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.fc(images.flatten(1))
        return output


class Errors:
    """The mean absolute error."""

    def __init__(self) -> None:
        self.errors: list[float] = []

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        self.errors += (predictions - targets).abs().tolist()

    def state(self) -> list[float] | None:
        return self.errors or None

    def merge(self, states: Any) -> None:
        self.errors = [error for state in states for error in state]

    def compute(self) -> Mapping[str, Any]:
        return {"mae": sum(self.errors) / len(self.errors)}


class Sum(Task):
    """A correct task without an __init__, which the tests spoil in one place."""

    scores: Any = (Score("mae", higher_is_better=False),)
    num_outputs = 1

    def sample(self, image: Tensor, target: Any) -> Any:
        return {"image": image, "sum": target}

    def losses(self, forward: Forward, batch: Batch) -> Any:
        return {"loss_mse": (forward(batch.images)[:, 0] - batch.targets).square().mean()}

    def predict(self, forward: Forward, images: Any) -> Any:
        return forward(images)[:, 0]

    def evaluator(self) -> Evaluator:
        return Errors()


@pytest.fixture(autouse=True)
def own_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    registries: list[dict[str, Any]] = [catalog._REGISTRY, data_sets._REGISTRY, tasks._REGISTRY]
    before = [dict(names) for names in registries]
    info = DatasetInfo(size=8, num_classes=0, channels=1, image_size=(4, 4))
    register_dataset("sums", lambda root, download: Sums(), info)
    register_model("flat", Flat)
    yield
    for names, known in zip(registries, before, strict=True):
        names.clear()
        names.update(known)


def spoilt(**parts: Any) -> type[Sum]:
    """Return the task with other methods or attributes."""
    return type("Spoilt", (Sum,), parts)


def error_of(
    capsys: pytest.CaptureFixture[str], *words: str, tool: Callable[[list[str]], int] = train_net.main
) -> str:
    """Run a tool, which must exit with 2, and return its one sentence."""
    with pytest.raises(SystemExit) as caught:
        run_tool(functools.partial(tool, [*WORDS, *words]))
    said = capsys.readouterr().err
    assert caught.value.code == 2, said
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    return said.removeprefix("error: ").rstrip("\n")


def test_the_unspoilt_task_trains(capsys: pytest.CaptureFixture[str]) -> None:
    register_task("sum", Sum)
    assert train_net.main(WORDS) == 0
    assert "sums after 3 iterations: mae " in capsys.readouterr().out


EXPECTED_SAMPLE = (
    'return a dict with the tensor (C, H, W) under "image" and the targets under names of your choice'
)


@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.parametrize(
    ("made", "found"),
    [
        (lambda image: (image, 1.0), "a tuple"),
        (lambda image: None, "a NoneType"),
        (lambda image: {}, "a dict of nothing"),
        (lambda image: {"img": image, "sum": 1.0}, "a dict of img, sum"),
        (lambda image: {"image": image[0], "sum": 1.0}, "an image of shape (4, 4)"),
        (lambda image: {"image": image[None], "sum": 1.0}, "an image of shape (1, 1, 4, 4)"),
        (lambda image: {"image": image.numpy(), "sum": 1.0}, "an image that is a ndarray"),
    ],
)
def test_a_wrong_result_of_sample_is_refused(
    made: Callable[[Tensor], Any], found: str, workers: str, capsys: pytest.CaptureFixture[str]
) -> None:
    register_task("sum", spoilt(sample=lambda self, image, target: made(image)))
    assert re.fullmatch(
        rf"sums: sample \d: Spoilt\.sample\(\) returned {re.escape(found)}; {re.escape(EXPECTED_SAMPLE)}",
        error_of(capsys, f"DATALOADER.NUM_WORKERS={workers}"),
    )


def test_a_sample_that_check_refuses_ends_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    def check(self: Task, sample: Any, where: str) -> None:
        if sample["sum"] == 5 / 255:
            raise ConfigError(f"{where} has the sum {sample['sum']:.3f}; sums run from 0 to 0.01")

    register_task("sum", spoilt(check=check))
    assert error_of(capsys) == "sums: sample 5 has the sum 0.020; sums run from 0 to 0.01"


EXPECTED_BATCH = (
    "return a warmstart.data.Batch(images, targets) whose images are a tensor (N, C, H, W) or a list of N tensors"
    " (C, H, W)"
)


@pytest.mark.parametrize(
    ("made", "found"),
    [
        (lambda images: (images, torch.zeros(4)), "a tuple"),
        (lambda images: {"images": images}, "a dict"),
        (lambda images: None, "a NoneType"),
        (lambda images: Batch({"left": images}, torch.zeros(4)), "a Batch whose images are a dict"),  # type: ignore[arg-type]
        (lambda images: Batch(images[:1], torch.zeros(1)), "a Batch of 1 images for 4 samples"),
    ],
)
def test_a_wrong_result_of_collate_is_refused(
    made: Callable[[Tensor], Any], found: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def collate(self: Task, samples: Any, training: bool) -> Any:
        return made(torch.stack([sample["image"] for sample in samples]))

    register_task("sum", spoilt(collate=collate))
    assert error_of(capsys) == f"Spoilt.collate() returned {found}; {EXPECTED_BATCH}"


EXPECTED_LOSSES = (
    'return a dict of 0-dim tensors, such as {"loss_l1": loss}, with at least one loss; what is only to be'
    " recorded has a name that begins with train/"
)


@pytest.mark.parametrize("tool", [train_net.main, plain_train_net.main], ids=["train_net", "plain_train_net"])
@pytest.mark.parametrize(
    ("made", "found"),
    [
        (lambda errors: errors.mean(), "returned a Tensor"),
        (lambda errors: None, "returned a NoneType"),
        (lambda errors: {"loss": errors}, "returned 'loss', of shape (4,), among its losses"),
        (lambda errors: {"loss": errors[:1]}, "returned 'loss', of shape (1,), among its losses"),
        (
            lambda errors: {"loss": errors.mean(), "train/error": errors},
            "returned 'train/error', of shape (4,), among its losses",
        ),
        (
            lambda errors: {"loss": errors.mean(), "train/error": 0.5},
            "returned 'train/error', a float, among its losses",
        ),
        (lambda errors: {"loss": errors.mean().item()}, "returned 'loss', a float, among its losses"),
        (lambda errors: {"train/error": errors.mean()}, "returned no loss, but train/error"),
        (lambda errors: {}, "returned no loss, but an empty dict"),
    ],
)
def test_a_wrong_result_of_losses_is_refused(
    made: Callable[[Tensor], Any], found: str, tool: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def losses(self: Task, forward: Forward, batch: Batch) -> Any:
        return made((forward(batch.images)[:, 0] - batch.targets).abs())

    register_task("sum", spoilt(losses=losses))
    said, _, samples = error_of(capsys, tool=tool).partition("; samples of its batch: ")
    assert said == f"losses() of Spoilt {found}; {EXPECTED_LOSSES}"
    assert len(samples.split(", ")) == 4


def test_losses_without_a_gradient_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    def losses(self: Task, forward: Forward, batch: Batch) -> Any:
        return {"loss": (forward(batch.images)[:, 0] - batch.targets).abs().mean().detach()}

    register_task("sum", spoilt(losses=losses))
    assert error_of(capsys) == (
        "losses() of Spoilt returned losses without a gradient; compute them from what the model returns, without"
        " detach(), item() or argmax()"
    )


def test_losses_that_change_later_are_refused_with_the_samples_of_the_batch(
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen: list[Batch] = []

    def losses(self: Task, forward: Forward, batch: Batch) -> Any:
        seen.append(batch)
        return Sum.losses(self, forward, batch) if len(seen) < 2 else {}  # type: ignore[arg-type]

    register_task("sum", spoilt(losses=losses))
    error = error_of(capsys)
    assert seen[1].indices is not None
    listed = ", ".join(map(str, seen[1].indices.tolist()))
    assert error == (
        f"losses() of Spoilt returned no loss, but an empty dict; {EXPECTED_LOSSES}; samples of its batch:"
        f" {listed}"
    )


def test_wrong_losses_of_a_model_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    class Own(Flat):
        def forward(self, images: Tensor) -> Any:
            return {"loss_own": super().forward(images)}

    register_model("own", Own)
    register_task("sum", Sum)
    assert error_of(capsys, "MODEL.NAME=own") == (
        f"MODEL.NAME: Own returned 'loss_own', of shape (4, 1), among its losses; {EXPECTED_LOSSES}"
    )


@pytest.mark.parametrize(
    ("computed", "found"),
    [
        ({"rmse": 1.0}, "returned rmse; return a number for each of the task's scores: mae"),
        ({"mae": 1.0, "rmse": 1.0}, "returned mae, rmse; return a number for each of the task's scores: mae"),
        ({}, "returned nothing; return a number for each of the task's scores: mae"),
        (1.0, "returned a float; return a number for each of the task's scores: mae"),
        (None, "returned a NoneType; return a number for each of the task's scores: mae"),
        ({"mae": None}, "returned None for mae; return a number"),
        ({"mae": [1.0]}, "returned [1.0] for mae; return a number"),
        ({"mae": torch.ones(2)}, "returned tensor([1., 1.]) for mae; return a number"),
    ],
)
def test_a_wrong_result_of_compute_is_refused(
    computed: Any, found: str, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluator = type("Evaluator", (Errors,), {"compute": lambda self: computed})
    register_task("sum", spoilt(evaluator=lambda self: evaluator()))
    assert error_of(capsys) == f"Spoilt.evaluator().compute() {found}"


def test_an_evaluator_without_its_methods_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    class Half:
        def update(self, predictions: Any, targets: Any) -> None: ...
        def compute(self) -> dict[str, float]:
            return {"mae": 0.0}

    register_task("sum", spoilt(evaluator=lambda self: Half()))
    assert error_of(capsys) == (
        "Spoilt.evaluator() returned a Half without state, merge; return an object with the methods of"
        " warmstart.tasks.Evaluator"
    )


def test_a_predict_that_returns_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    register_task("sum", spoilt(predict=lambda self, forward, images: None))
    assert error_of(capsys) == "Spoilt.predict() returned None; return the predictions for the images"


def test_an_exception_in_update_keeps_its_traceback() -> None:
    def update(self: Errors, predictions: Tensor, targets: Tensor) -> None:
        raise IndexError("in user-defined code")

    evaluator = type("Evaluator", (Errors,), {"update": update})
    register_task("sum", spoilt(evaluator=lambda self: evaluator()))
    with pytest.raises(IndexError, match="in user-defined code"):
        run_tool(functools.partial(train_net.main, WORDS))
    assert "IndexError: in user-defined code" in Path("out/log.txt").read_text()


@pytest.mark.parametrize(
    ("scores", "found"),
    [
        (["mae"], "is ['mae']; give a list of warmstart.tasks.Score, as [Score(\"accuracy\")]"),
        ("mae", "is 'mae'; give a list of warmstart.tasks.Score, as [Score(\"accuracy\")]"),
        (
            [Score("mae"), Score("mae", percent=True)],
            "has several scores of the same name: mae, mae; give each its own name",
        ),
    ],
)
def test_wrong_scores_of_a_task_are_refused(scores: Any, found: str, capsys: pytest.CaptureFixture[str]) -> None:
    register_task("sum", spoilt(scores=scores))
    assert error_of(capsys) == f"MODEL.TASK (command line): Spoilt.scores {found}"
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["TEST.BEST.METRIC=sums/mse"],
            "TEST.BEST.METRIC (command line): no evaluation gives the score 'sums/mse'; did you mean sums/mae?"
            " Known: sums/mae",
        ),
        (
            ["TEST.BEST.METRIC=sums/accuracy", "SOLVER.EMA.ENABLED=true"],
            "TEST.BEST.METRIC (command line): no evaluation gives the score 'sums/accuracy'. Known: sums/mae,"
            " sums/ema/mae",
        ),
        (
            ["SOLVER.LR_SCHEDULER_NAME=ReduceLROnPlateau", "SOLVER.LR_METRIC=sums/mse", "TEST.EVAL_PERIOD=1"],
            "SOLVER.LR_METRIC (command line): no evaluation gives the score 'sums/mse'; did you mean sums/mae?"
            " Known: sums/mae",
        ),
        (
            ["MODEL.TASK_ARGS.weight=1"],
            "MODEL.TASK_ARGS.weight (command line): sum takes no argument 'weight'. It takes: none",
        ),
        (
            ["MODEL.TASK_ARGS.info=1"],
            "MODEL.TASK_ARGS.info (command line): sum takes no argument 'info'. It takes: none",
        ),
    ],
)
def test_keys_that_the_task_does_not_read_are_refused(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    register_task("sum", Sum)
    assert error_of(capsys, *words) == message
    assert not Path("out").exists()


def abstract(**parts: Any) -> type[Task]:
    return type("Half", (Task,), {"sample": Sum.sample, "losses": Sum.losses, **parts})


def takes_anything(self: Task, info: DatasetInfo, **options: float) -> None: ...
def takes_no_info(self: Task, weight: float = 1.0) -> None: ...
def takes_nothing(self: Task) -> None: ...


NEEDS_INFO = (
    "task 'wrong': the first argument of Spoilt.__init__ must be info, the DatasetInfo of the training set; those"
    " after it are MODEL.TASK_ARGS"
)


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (int, "task 'wrong': int is not a subclass of warmstart.tasks.Task"),
        (lambda info: None, "task 'wrong': <lambda> is not a subclass of warmstart.tasks.Task"),
        (abstract(), "task 'wrong': Half does not implement evaluator, predict"),
        (abstract(predict=Sum.predict), "task 'wrong': Half does not implement evaluator"),
        (
            spoilt(__init__=takes_anything),
            "task 'wrong': Spoilt.__init__ takes **kwargs, so a misspelt MODEL.TASK_ARGS would have no"
            " effect; name its arguments",
        ),
        (spoilt(__init__=takes_no_info), NEEDS_INFO),
        (spoilt(__init__=takes_nothing), NEEDS_INFO),
    ],
)
def test_register_task_refuses_unsuitable_classes(cls: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        register_task("wrong", cls)
    assert "wrong" not in tasks.task_names()


def test_register_task_refuses_an_instance() -> None:
    instance = Sum(DatasetInfo(size=8, num_classes=0, channels=1, image_size=(4, 4)))
    with pytest.raises(ConfigError, match=r"^task 'wrong': .*Sum.* is not a subclass of warmstart\.tasks\.Task$"):
        register_task("wrong", instance)  # type: ignore[arg-type]


def test_register_task_refuses_a_name_that_is_taken() -> None:
    register_task("sum", Sum)
    with pytest.raises(ConfigError, match=r"^a task called 'sum' is registered already; choose another name$"):
        register_task("sum", Sum)
