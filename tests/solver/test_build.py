"""Configs made into optimizers and schedulers, and what is refused before anything is built."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from warmstart.config import CfgNode, ConfigError, get_cfg, resolve_durations
from warmstart.solver import (
    build_lr_scheduler,
    build_optimizer,
    build_schedule,
    catalog,
    check_solver,
    register_lr_scheduler,
    register_optimizer,
)


@pytest.fixture(autouse=True)
def _registries() -> Iterator[None]:
    """Forget after each test what it registered."""
    before = dict(catalog.SCHEDULES), dict(catalog.OPTIMIZERS)
    yield
    for registry, names in zip((catalog.SCHEDULES, catalog.OPTIMIZERS), before, strict=True):
        registry.clear()
        registry.update(names)


def configured(*overrides: str) -> CfgNode:
    """A config from overrides below SOLVER, as a user types them: configured("MAX_ITER=100")."""
    cfg = get_cfg()
    cfg.merge_from_list([f"SOLVER.{override}" for override in overrides])
    return cfg


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3))


def train(model: nn.Module, optimizer: Optimizer, updates: int = 2) -> None:
    for _ in range(updates):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.ones(5, 4)), torch.tensor([0, 1, 2, 0, 1])).backward()
        optimizer.step()


# ------------------------------------------------------------------ optimizers
UNFIT = ("LBFGS", "Muon", "SparseAdam")
TORCH_OPTIMIZERS = sorted(
    name
    for name, cls in vars(torch.optim).items()
    if isinstance(cls, type) and issubclass(cls, Optimizer) and cls is not Optimizer
)


@pytest.mark.parametrize("name", [name for name in TORCH_OPTIMIZERS if name not in UNFIT])
def test_each_optimizer_of_torch_trains_with_the_rates_of_its_groups(name: str) -> None:
    model = mlp()
    optimizer = build_optimizer(configured(f"OPTIMIZER={name}", "BASE_LR=0.02", "BIAS_LR_FACTOR=2"), model)
    assert type(optimizer) is getattr(torch.optim, name)
    assert sorted({group["lr"] for group in optimizer.param_groups}) == [0.02, 0.04]
    before = [parameter.clone() for parameter in model.parameters()]
    train(model, optimizer)
    after = list(model.parameters())
    assert all(not torch.equal(a, b) and b.isfinite().all() for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("name", [name for name in UNFIT if name in TORCH_OPTIMIZERS])
def test_an_optimizer_that_cannot_train_the_model_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^SOLVER.OPTIMIZER \(override\): {name} [^\n]*$"):
        build_optimizer(configured(f"OPTIMIZER={name}"), mlp())


def test_one_update_of_sgd_is_the_one_that_keys_describe() -> None:
    weight = nn.Linear(1, 1, bias=False)
    cfg = configured("BASE_LR=0.5", "MOMENTUM=0.5", "WEIGHT_DECAY=0.25", "NESTEROV=true")
    nn.init.constant_(weight.weight, 2.0)
    optimizer = build_optimizer(cfg, weight)
    weight.weight.grad = torch.ones(1, 1)
    optimizer.step()
    # gradient 1 + 0.25 * 2 = 1.5; Nesterov's direction 1.5 + 0.5 * 1.5 = 2.25; 2 - 0.5 * 2.25
    assert weight.weight.item() == 0.875


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Adagrad"])
def test_the_fused_kind_is_taken_on_cpu_and_gives_the_plain_ones_weights(name: str) -> None:
    fused, plain = mlp(), mlp()
    optimizer = build_optimizer(configured(f"OPTIMIZER={name}"), fused)
    assert optimizer.param_groups[0]["fused"] is True
    train(fused, optimizer)
    other = build_optimizer(configured(f"OPTIMIZER={name}", "OPTIMIZER_ARGS.fused=false"), plain)
    assert all(group["fused"] is False for group in other.param_groups)
    train(plain, other)
    for a, b in zip(fused.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_foreach_by_the_user_is_not_overruled_by_fused() -> None:
    optimizer = build_optimizer(configured("OPTIMIZER_ARGS.foreach=true"), mlp())
    assert [(group["foreach"], group["fused"]) for group in optimizer.param_groups] == [(True, None)] * 2


def test_parameters_that_no_fused_kind_takes_get_the_plain_one() -> None:
    model = nn.ParameterList([nn.Parameter(torch.zeros(2, dtype=torch.complex64))])
    optimizer = build_optimizer(configured("OPTIMIZER=Adam", "BASE_LR=0.5"), model)
    assert not optimizer.param_groups[0]["fused"]
    model[0].grad = torch.ones(2, dtype=torch.complex64)
    optimizer.step()
    assert model[0].real.tolist() == pytest.approx([-0.5, -0.5], rel=1e-5)


def test_arguments_reach_the_optimizer_in_pythons_types() -> None:
    cfg = configured("OPTIMIZER=AdamW", "OPTIMIZER_ARGS.betas=0.8,0.95", "OPTIMIZER_ARGS.eps=1e-6")
    group = build_optimizer(cfg, mlp()).param_groups[0]
    assert (group["betas"], group["eps"]) == ((0.8, 0.95), 1e-6)


def test_groups_follow_the_keys_and_the_default_one_comes_first() -> None:
    cfg = configured("BASE_LR=0.1", "WEIGHT_DECAY=0.01", "WEIGHT_DECAY_BIAS=0.5", "BIAS_LR_FACTOR=2")
    groups = build_optimizer(cfg, mlp()).param_groups
    assert [(group["name"], group["lr"], group["weight_decay"], group["param_names"]) for group in groups] == [
        ("default", 0.1, 0.01, ["0.weight", "3.weight"]),
        ("norm", 0.1, 0.0, ["1.weight"]),
        ("bias", 0.2, 0.5, ["0.bias", "1.bias", "3.bias"]),
    ]


def test_a_model_with_nothing_to_train_is_refused() -> None:
    with pytest.raises(ConfigError, match="no parameter"):
        build_optimizer(configured(), mlp().requires_grad_(False))
    with pytest.raises(ConfigError, match="no parameter"):
        build_optimizer(configured(), nn.ReLU())


def test_a_registered_optimizer_gets_groups_keys_and_arguments() -> None:
    class Halving(SGD):
        def __init__(self, params: Sequence[dict[str, object]], lr: float, momentum: float, twice: bool = False):
            super().__init__(params, lr=lr / 2, momentum=momentum)
            self.twice = twice

    register_optimizer("Halving", Halving)
    cfg = configured("OPTIMIZER=Halving", "OPTIMIZER_ARGS.twice=true", "BASE_LR=0.5", "MOMENTUM=0.25")
    optimizer = build_optimizer(cfg, mlp())
    assert isinstance(optimizer, Halving)
    assert optimizer.twice
    assert (optimizer.defaults["lr"], optimizer.defaults["momentum"]) == (0.25, 0.25)
    with pytest.raises(ConfigError, match="an optimizer called 'SGD' is registered already; choose another name"):
        register_optimizer("SGD", Halving)


def test_frozen_unfrozen_resolved_and_unresolved_configs_build_the_same() -> None:
    cfg = configured("MAX_ITER=100", "STEPS=50%", "WARMUP_ITERS=10%")
    frozen = cfg.clone()
    frozen.freeze()
    curves = []
    for given in (cfg, frozen, resolve_durations(cfg), resolve_durations(frozen)):
        before = given.to_dict()
        check_solver(given)
        scheduler = build_lr_scheduler(given, build_optimizer(given, mlp()))
        curves.append([scheduler.lr_at(t) for t in range(120)])
        assert given.to_dict() == before
    assert curves[0] == curves[1] == curves[2] == curves[3]
    assert [curves[0][t][0] for t in (10, 49, 50)] == [0.001, 0.001, 0.0001]


# ------------------------------------------------------------------ schedules
def test_epochs_need_the_size_of_the_data_set() -> None:
    cfg = configured("MAX_ITER=10ep", "STEPS=5ep", "WARMUP_ITERS=1ep", "BASE_LR=1", "GAMMA=0.5")
    optimizer = build_optimizer(cfg, mlp())
    schedule = build_lr_scheduler(cfg, optimizer, iters_per_epoch=Fraction(25, 2)).schedule
    assert [schedule(t) for t in (12, 13, 62, 63, 124)] == pytest.approx([0.923153846, 1, 1, 0.5, 0.5])
    with pytest.raises(ConfigError, match=r"SOLVER.MAX_ITER \(override\): '10ep' needs the size of the data set"):
        build_lr_scheduler(cfg, optimizer)


@pytest.mark.parametrize(
    ("overrides", "points"),
    [
        (("LR_SCHEDULER_NAME=WarmupMultiStepLR", "STEPS=67,92"), {70: 1, 71: 0.1, 92: 0.1, 93: 0.01, 200: 0.01}),
        (("LR_SCHEDULER_NAME=WarmupCosineLR", "BASE_LR_END=0.0001"), {10: 1, 55: 0.55, 100: 0.1, 200: 0.1}),
        (
            ("LR_SCHEDULER_NAME=WarmupStepWithFixedGammaLR", "NUM_DECAYS=2"),
            {39: 1, 40: 0.1, 69: 0.1, 70: 0.01, 100: 0.01},
        ),
    ],
)
@pytest.mark.parametrize("blend", ["product", "interpolate"])
def test_rescaled_into_what_is_left_after_warm_up(
    overrides: tuple[str, ...], points: dict[int, float], blend: str
) -> None:
    cfg = configured(
        *overrides,
        "MAX_ITER=100",
        "WARMUP_ITERS=10",
        "WARMUP_FACTOR=0.5",
        "RESCALE_INTERVAL=true",
        f"WARMUP_BLEND={blend}",
    )
    schedule = build_schedule(cfg)
    assert {t: schedule(t) for t in points} == pytest.approx(points)
    assert [schedule(t) for t in (0, 5, 9)] == pytest.approx([0.5, 0.75, 0.95])


@pytest.mark.need("S6")
def test_a_milestone_falls_exactly_where_it_is_in_a_run_of_millions() -> None:
    overrides = ("MAX_ITER=5000000", "STEPS=2500000,4999999", "WARMUP_ITERS=1000", "BASE_LR=1", "GAMMA=0.5")
    cfg = configured(*overrides)
    scheduler = build_lr_scheduler(cfg, build_optimizer(cfg, mlp()))
    found = [scheduler.lr_at(t)[0] for t in (2_499_999, 2_500_000, 4_999_998, 4_999_999, 5_000_000)]
    assert found == [1.0, 0.5, 0.5, 0.25, 0.25]
    rescaled = build_schedule(configured(*overrides, "RESCALE_INTERVAL=true"))
    # 1,000 + 2,500,000 * 4,999,000 / 5,000,000
    assert [rescaled(t) for t in (2_500_499, 2_500_500)] == [1.0, 0.5]


@pytest.mark.need("B7")
@pytest.mark.parametrize(
    ("steps", "line"),
    [
        ("50,99", None),
        ("50,100", "100"),
        ("50,1e5", "100,000"),
        ("99,100,1e5", "100, 100,000"),
    ],
)
def test_steps_that_the_run_does_not_reach_are_dropped_with_one_line(
    steps: str, line: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = configured("MAX_ITER=100", f"STEPS={steps}", "WARMUP_ITERS=0", "BASE_LR=1", "GAMMA=0.5")
    with caplog.at_level(logging.INFO, logger="warmstart"):
        scheduler = build_lr_scheduler(cfg, build_optimizer(cfg, mlp()))
    assert [scheduler.lr_at(t)[0] for t in (49, 98)] == [1.0, 1.0 if steps.startswith("99") else 0.5]
    last = scheduler.lr_at(99)[0]
    assert [scheduler.lr_at(t)[0] for t in (100, 200_000)] == [last, last]
    expected = [f"SOLVER.STEPS (override): dropped {line}, which the run of 100 iterations does not reach"]
    assert [record.getMessage() for record in caplog.records] == (expected if line else [])


@pytest.mark.need("B7")
def test_steps_of_a_schedule_that_does_not_read_them_are_no_matter(caplog: pytest.LogCaptureFixture) -> None:
    cfg = configured("MAX_ITER=100", "STEPS=500,400", "LR_SCHEDULER_NAME=WarmupCosineLR")
    with caplog.at_level(logging.INFO, logger="warmstart"):
        build_lr_scheduler(cfg, build_optimizer(cfg, mlp()))
    assert caplog.records == []


def test_torchs_arguments_take_units_and_whole_numbers_in_any_form() -> None:
    for size in ("30", "3e1", "30%", "30.0"):
        cfg = configured("LR_SCHEDULER_NAME=StepLR", f"LR_SCHEDULER_ARGS.step_size={size}", "MAX_ITER=100")
        schedule = build_schedule(resolve_durations(cfg))
        assert [schedule(t) for t in (32, 33)] == pytest.approx([1, 0.1])  # warm-up takes 3


def test_a_registered_schedule_is_told_how_many_iterations_are_left() -> None:
    def descent(num_iters: int, end: float = 0.0) -> Callable[[int], float]:
        return lambda t: max(end, 1 - t / num_iters)

    register_lr_scheduler("Descent", descent)
    cfg = configured(
        "LR_SCHEDULER_NAME=Descent",
        "LR_SCHEDULER_ARGS.end=0.25",
        "MAX_ITER=18",
        "WARMUP_ITERS=2",
        "WARMUP_FACTOR=0.5",
    )
    check_solver(cfg)
    schedule = build_schedule(resolve_durations(cfg))
    assert [schedule(t) for t in (0, 1, 2, 10, 14, 18, 99)] == [0.5, 0.75, 1.0, 0.5, 0.25, 0.25, 0.25]
    with pytest.raises(
        ConfigError, match="LR_SCHEDULER_ARGS.ned.*: Descent takes no argument 'ned'; did you mean 'end'"
    ):
        check_solver(configured("LR_SCHEDULER_NAME=Descent", "LR_SCHEDULER_ARGS.ned=0.25"))
    with pytest.raises(
        ConfigError, match="a schedule called 'Descent' is registered already; choose another name"
    ):
        register_lr_scheduler("Descent", descent)
    with pytest.raises(ConfigError, match="a schedule called 'WarmupCosineLR' is registered already"):
        register_lr_scheduler("WarmupCosineLR", descent)


# ------------------------------------------------------------------ what is refused
STEP_LR = "LR_SCHEDULER_NAME=StepLR"
COSINE = "LR_SCHEDULER_NAME=WarmupCosineLR"
ARGS = "SOLVER.LR_SCHEDULER_ARGS"
REFUSED: list[tuple[tuple[str, ...], str]] = [
    (
        ("LR_SCHEDULER_NAME=WarmupMultistepLR",),
        "SOLVER.LR_SCHEDULER_NAME (override): no schedule is called 'WarmupMultistepLR'; did you mean "
        "'WarmupMultiStepLR'? Known: StepLR, WarmupCosineLR, WarmupMultiStepLR, WarmupStepWithFixedGammaLR",
    ),
    (
        ("OPTIMIZER=Adamw",),
        "SOLVER.OPTIMIZER (override): no optimizer is called 'Adamw'; did you mean 'AdamW'? Known: ASGD, ",
    ),
    (("OPTIMIZER=LBFGS",), "SOLVER.OPTIMIZER (override): LBFGS evaluates the loss several times an update"),
    (("OPTIMIZER=SparseAdam",), "SOLVER.OPTIMIZER (override): SparseAdam takes sparse gradients only"),
    (("OPTIMIZER=Optimizer",), "SOLVER.OPTIMIZER (override): no optimizer is called 'Optimizer'"),
    (
        ("MAX_ITER=100", "WARMUP_ITERS=100"),
        "SOLVER.WARMUP_ITERS (override): warm-up of 100 iterations never ends in a run of 100 (SOLVER.MAX_ITER); "
        "try SOLVER.WARMUP_ITERS 5, or 0 for no warm-up",
    ),
    (
        ("MAX_ITER=1000", "WARMUP_ITERS=5000"),
        "warm-up of 5,000 iterations never ends in a run of 1,000 (SOLVER.MAX_ITER); try SOLVER.WARMUP_ITERS 50,",
    ),
    (
        ("STEPS=80,60", "MAX_ITER=100"),
        "SOLVER.STEPS (override): each step must come after the one before; got [80, 60]",
    ),
    (("STEPS=60,60", "MAX_ITER=100"), "each step must come after the one before; got [60, 60]"),
    (("STEPS=150,50", "MAX_ITER=100"), "each step must come after the one before; got [150, 50]"),
    # Shares of a run that is too short for them.
    (("STEPS=67%,70%", "MAX_ITER=10"), "each step must come after the one before; got [7, 7]"),
    (
        (COSINE, "BASE_LR=0.1", "BASE_LR_END=0.2"),
        "SOLVER.BASE_LR_END (override): 0.2 is above SOLVER.BASE_LR, 0.1; a cosine goes down",
    ),
    (("LR_SCHEDULER_ARGS.gamma=0.5",), f"{ARGS}: WarmupMultiStepLR takes none; its settings are keys of SOLVER"),
    ((STEP_LR,), f"{ARGS}.step_size: StepLR needs it; set {ARGS}.step_size"),
    ((STEP_LR, "LR_SCHEDULER_ARGS.step_size=0"), "StepLR refuses it: step_size must be 1 or more; got 0"),
    (
        (STEP_LR, "LR_SCHEDULER_ARGS.step_size=often"),
        f"{ARGS}.step_size (override): expected a number of iterations",
    ),
    (
        (STEP_LR, "LR_SCHEDULER_ARGS.step_size=3", "LR_SCHEDULER_ARGS.gamma=small"),
        "StepLR expects a number; got 'small'",
    ),
    (
        (STEP_LR, "LR_SCHEDULER_ARGS.step_size=3", "LR_SCHEDULER_ARGS.last_epoch=3"),
        "StepLR takes no argument 'last_epoch'. It takes: step_size, gamma",
    ),
    (("OPTIMIZER_ARGS.dampning=0.1",), "SGD takes no argument 'dampning'; did you mean 'dampening'? It takes: "),
    (("OPTIMIZER=Adam", "OPTIMIZER_ARGS.amsgrad=1"), "Adam expects true or false; got 1"),
    (("OPTIMIZER_ARGS.lr=0.1",), "SOLVER.OPTIMIZER_ARGS.lr (override): set SOLVER.BASE_LR instead"),
    (("OPTIMIZER_ARGS.momentum=0.1",), "OPTIMIZER_ARGS.momentum (override): set SOLVER.MOMENTUM instead"),
    (("OPTIMIZER_ARGS.nesterov=true",), "OPTIMIZER_ARGS.nesterov (override): set SOLVER.NESTEROV instead"),
    (
        ("OPTIMIZER=Adam", "OPTIMIZER_ARGS.weight_decay=0.1"),
        "OPTIMIZER_ARGS.weight_decay (override): set SOLVER.WEIGHT_DECAY instead",
    ),
    (("OPTIMIZER_ARGS.params=3",), "SGD takes no argument 'params'"),
    (
        ("OPTIMIZER=AdamW", "MOMENTUM=0.9"),
        "SOLVER.MOMENTUM (override): AdamW has no momentum; leave it out or set it to 0; optimizers that ",
    ),
    (
        ("OPTIMIZER=Rprop", "WEIGHT_DECAY=0.1"),
        "SOLVER.WEIGHT_DECAY (override): Rprop has no weight decay; leave it out or set it to 0;",
    ),
    (
        ("NESTEROV=true", "MOMENTUM=0"),
        "SOLVER.NESTEROV (override): Nesterov momentum needs SOLVER.MOMENTUM above 0",
    ),
]
REFUSED_IDS = ["-".join(overrides) for overrides, _ in REFUSED]


@pytest.mark.need("B8")
@pytest.mark.parametrize(("overrides", "message"), REFUSED, ids=REFUSED_IDS)
def test_refused_without_a_model(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        check_solver(configured(*overrides))
    assert len(caught.value.problems) == 1
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("overrides", "message"), REFUSED, ids=REFUSED_IDS)
def test_refused_by_the_build_functions_too(overrides: tuple[str, ...], message: str) -> None:
    cfg = configured(*overrides)
    with pytest.raises(ConfigError, match=re.escape(message)):
        build_lr_scheduler(cfg, build_optimizer(cfg, mlp()))


def test_all_mistakes_are_told_at_once() -> None:
    overrides = ("OPTIMIZER=AdamW", "MOMENTUM=0.9", "OPTIMIZER_ARGS.eps_=1", "MAX_ITER=100", "WARMUP_ITERS=200")
    with pytest.raises(ConfigError, match="3 problems") as caught:
        check_solver(configured(*overrides))
    assert [problem.split(" ")[0].rstrip(":") for problem in caught.value.problems] == [
        "SOLVER.WARMUP_ITERS",
        "SOLVER.MOMENTUM",
        "SOLVER.OPTIMIZER_ARGS.eps_",
    ]


@pytest.mark.parametrize(
    "overrides",
    [
        ("OPTIMIZER=AdamW", "MOMENTUM=0", "NESTEROV=false"),
        ("NESTEROV=true",),
        ("OPTIMIZER=RMSprop", "MOMENTUM=0.5", "OPTIMIZER_ARGS.centered=true"),
        ("OPTIMIZER=Rprop", "WEIGHT_DECAY=0"),
        ("BASE_LR=0.1", "BASE_LR_END=0.2"),  # only a cosine reads the second
        ("MAX_ITER=2", "WARMUP_ITERS=1", "STEPS=1"),
        ("MAX_ITER=1", "WARMUP_ITERS=0"),
        ("LR_SCHEDULER_NAME=StepLR", "LR_SCHEDULER_ARGS.step_size=7", "STEPS=9,3"),
    ],
)
def test_not_refused(overrides: tuple[str, ...]) -> None:
    cfg = configured(*overrides)
    check_solver(resolve_durations(cfg))
    scheduler = build_lr_scheduler(cfg, build_optimizer(cfg, mlp()))
    assert all(isinstance(rate, float) for rate in scheduler.lr_at(0))


def test_rates_may_be_tensors() -> None:
    cfg = configured("MAX_ITER=100", "WARMUP_ITERS=0", "STEPS=50")
    optimizer = torch.optim.Adam(mlp().parameters(), lr=torch.tensor(0.5))
    scheduler = build_lr_scheduler(cfg, optimizer, last_epoch=49)
    assert isinstance(optimizer.param_groups[0]["lr"], Tensor)
    assert optimizer.param_groups[0]["lr"].item() == pytest.approx(0.05)
    assert scheduler.get_last_lr() == pytest.approx([0.05])
