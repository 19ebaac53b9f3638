from __future__ import annotations

import ast
import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest

from warmstart.solver import schedules
from warmstart.solver.compose import Delayed, HeldInEpoch, Multiplied, PerEpoch, Sequential
from warmstart.solver.cycles import CosineWaves
from warmstart.solver.decays import Cosine, Exponential, Poly, StableDecay
from warmstart.solver.schedules import Constant, Group, MultiStep, Step, StepWithFixedGamma, drops
from warmstart.solver.warmup import Interpolate, Product, Warmup

LINEAR, CONSTANT = Warmup("linear", 0.25, 4), Warmup("constant", 0.25, 4)
HALVES = MultiStep((2, 6), gamma=0.5)


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        (MultiStep((), 0.1), {0: 1, 9: 1}),
        (MultiStep((3,), 0.1), {0: 1, 2: 1, 3: 0.1, 4: 0.1, 10**9: 0.1}),
        (MultiStep((3, 3), 0.5), {2: 1, 3: 0.25}),
        (MultiStep((2, 5), 10.0), {1: 1, 2: 10, 5: 100}),
        (Cosine(1), {0: 1, 1: 0, 2: 0}),
        (Cosine(3), {0: 1, 1: 0.75, 2: 0.25, 3: 0, 4: 0}),
        (Cosine(4, end_factor=0.5), {0: 1, 2: 0.75, 4: 0.5, 10**9: 0.5}),
        (Cosine(4, end_factor=1.0), {0: 1, 2: 1, 4: 1}),
        (StepWithFixedGamma(4, 1, 0.5), {0: 1, 1: 1, 2: 0.5, 3: 0.5, 4: 0.5, 5: 0.5}),
        (StepWithFixedGamma(7, 2, 0.5), {0: 1, 2: 1, 3: 0.5, 4: 0.5, 5: 0.25, 10**9: 0.25}),
        (StepWithFixedGamma(5, 0, 0.5), {0: 1, 5: 1}),
        (StepWithFixedGamma(2, 5, 0.5), {0: 1, 1: 0.125, 2: 0.03125, 3: 0.03125}),
        (Step(1, 0.5), {0: 1, 1: 0.5, 10: 2**-10}),
        (Step(10, 0.5), {9: 1, 10: 0.5, 19: 0.5, 20: 0.25}),
        (Step(1, 2.0), {3: 8, 10**6: math.inf}),
        (Warmup("linear", 0.0, 4), {0: 0, 1: 0.25, 3: 0.75, 4: 1, 5: 1}),
        (Warmup("gradual", 0.5, 4), {0: 0.5, 2: 0.75, 4: 1}),
        (Warmup("constant", 0.1, 4), {0: 0.1, 3: 0.1, 4: 1}),
        (Warmup("linear", 0.001, 0), {0: 1, 1: 1}),
        (Warmup("linear", 1.0, 4), {0: 1, 2: 1, 4: 1}),
        (Delayed(HALVES, 3), {0: 1, 3: 1, 4: 1, 5: 0.5, 9: 0.25}),
        (Product(LINEAR, HALVES), {0: 0.25, 1: 0.4375, 2: 0.3125, 3: 0.40625, 4: 0.5, 6: 0.25}),
        (Product(CONSTANT, HALVES), {0: 0.25, 2: 0.125, 3: 0.125, 4: 0.5, 6: 0.25}),
        (Interpolate(LINEAR, HALVES), {0: 0.25, 2: 0.375, 4: 0.5, 5: 0.5, 6: 0.25}),
        (Interpolate(CONSTANT, HALVES), {0: 0.25, 2: 0.25, 3: 0.25, 4: 0.5, 6: 0.25}),
        (Interpolate(Warmup("linear", 0.5, 0), HALVES), {0: 1, 2: 0.5}),
    ],
)
def test_factors(schedule: schedules.Schedule, factors: dict[int, float]) -> None:
    assert {t: schedule(t) for t in factors} == pytest.approx(factors, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (MultiStep((3, 3, 6, 12), 0.1), [3, 6]),
        (MultiStep((3,), 1.0), []),
        (Cosine(12), []),
        (StepWithFixedGamma(10, 3, 0.1), [3, 5, 8]),
        (StepWithFixedGamma(10, 3, 2.0), []),
        (StepWithFixedGamma(2, 5, 0.1), [1, 2]),
        (Step(5, 0.1), [5, 10]),
        (Step(5, 1.0), []),
        (Delayed(Step(5, 0.1), 1), [6, 11]),
        (Product(LINEAR, MultiStep((2, 9), 0.1)), [2, 9]),
        (Interpolate(LINEAR, MultiStep((2, 4, 9), 0.1)), [9]),
        (Product(LINEAR, Delayed(lambda t: 1.0, 4)), []),
    ],
)
def test_drops_before_iteration_12(schedule: schedules.Schedule, expected: list[int]) -> None:
    assert list(drops(schedule, 12)) == expected


@pytest.mark.need("S6")
def test_milestones_of_long_runs_fall_exactly() -> None:
    million = 1_000_000
    schedule = MultiStep((million, 2 * million, 5 * million // 2), 0.1)
    for milestone, before, after in ((million, 1.0, 0.1), (2 * million, 0.1, 0.01), (2_500_000, 0.01, 0.001)):
        assert schedule(milestone - 1) == pytest.approx(before)
        assert schedule(milestone) == pytest.approx(after)
    # Seven even drops over a length that 8 does not divide: each at the first iteration past its share.
    even = StepWithFixedGamma(4_999_999, 7, 0.5)
    for i in range(1, 8):
        drop = math.ceil(Fraction(i, 8) * 4_999_999)
        assert (even(drop - 1), even(drop)) == (0.5 ** (i - 1), 0.5**i)


@pytest.mark.need("B4")
def test_schedules_are_at_most_1_and_repeatable() -> None:
    schedule = Product(Warmup("linear", 0.001, 100), Cosine(1000))
    first = [schedule(t) for t in range(1100)]
    assert max(first) <= 1
    assert [schedule(t) for t in reversed(range(1100))] == first[::-1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MultiStep((6, 3)), r"milestones must increase; got \(6, 3\)"),
        (lambda: Cosine(0), "num_iters must be 1 or more; got 0"),
        (lambda: Cosine(3, math.nan), "end_factor must be 0 or more; got nan"),
        (lambda: StableDecay(3, 1, end_factor=-1.0), "end_factor must be 0 or more; got -1.0"),
        (lambda: StepWithFixedGamma(0, 1), "num_iters must be 1 or more; got 0"),
        (lambda: StepWithFixedGamma(4, -1), "num_decays must be 0 or more; got -1"),
        (lambda: Step(0), "step_size must be 1 or more; got 0"),
        (
            lambda: Warmup("quadratic", 0.1, 4),
            "no warm-up is called 'quadratic'; known: constant, linear, gradual",
        ),
        (lambda: Warmup("linear", 1.5, 4), r"a warm-up factor must be in \[0, 1\]; got 1.5"),
        (lambda: Warmup("linear", 0.5, -1), "the length of warm-up must be 0 or more; got -1"),
    ],
)
def test_impossible_settings(make: type, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", ["schedules", "decays", "cycles", "warmup", "compose"])
def test_pure_schedules_import_only_the_standard_library_and_schedules(name: str) -> None:
    tree = ast.parse(Path(schedules.__file__).with_name(f"{name}.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {
        "." * node.level + str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
    }
    assert {module for module in imported if module.startswith(".")} == ({".schedules"} - {f".{name}"})
    standard = "__future__ bisect collections.abc dataclasses fractions heapq itertools math sys types typing"
    assert {module for module in imported if not module.startswith(".")} <= {*standard.split()}


STEPS = [
    MultiStep((0, 3, 3, 17, 40), 0.5),
    Step(7, 0.5),
    StepWithFixedGamma(50, 6, 0.5),
    StepWithFixedGamma(3, 6, 0.5),
    Delayed(Step(7, 0.5), 5),
    Multiplied((Step(7, 0.5), MultiStep((9, 14), 0.5))),
    Sequential((Step(7, 0.5), MultiStep((9, 14), 0.5), Step(2, 0.5)), (10, 30)),
    *(PerEpoch(Step(2, 0.5), Fraction(*length)) for length in [(5, 2), (3, 1), (1, 2), (17, 5)]),
    *(
        HeldInEpoch(MultiStep((3, 9, 20, 41), 0.5), Fraction(*length))
        for length in [(5, 2), (3, 1), (1, 2), (17, 5)]
    ),
    Interpolate(Warmup("linear", 0.1, 4), MultiStep((2, 9), 0.5)),
]


@pytest.mark.parametrize("schedule", STEPS, ids=lambda schedule: repr(schedule)[:60])
def test_drops_are_the_iterations_at_which_the_factor_falls(schedule: schedules.Schedule) -> None:
    for end in (1, 2, 10, 50, 60):
        falls = [t for t in range(1, end) if schedule(t) < schedule(t - 1)]
        assert list(drops(schedule, end)) == falls


ENDLESS = [
    Step(1, 0.5),
    StepWithFixedGamma(10**15, 10**12, 0.5),
    StepWithFixedGamma(10**12, 10**15, 0.5),
    Delayed(Step(1, 0.5), 5),
    Product(Warmup("linear", 0.1, 4), Step(1, 0.5)),
    Interpolate(Warmup("linear", 0.1, 4), Step(1, 0.5)),
    Multiplied((Step(1, 0.5), Cosine(10**15), Step(2, 0.5))),
    Sequential((Step(1, 0.5), Step(2, 0.5)), (10**14,)),
    PerEpoch(Step(1, 0.5), Fraction(5, 2)),
    HeldInEpoch(Step(1, 0.5), Fraction(5, 2)),
]


@pytest.mark.parametrize("schedule", ENDLESS, ids=lambda schedule: repr(schedule)[:60])
def test_drops_are_lazy_for_a_run_without_an_end(schedule: schedules.Schedule) -> None:
    first = list(itertools.islice(drops(schedule, 10**15), 50))
    assert len(set(first)) == 50
    assert first == sorted(first)


@pytest.mark.parametrize("length", [Fraction(5, 2), Fraction(1, 3), Fraction(171, 16)])
def test_the_start_of_an_epoch_is_exact_far_from_0(length: Fraction) -> None:
    held = HeldInEpoch(lambda t: float(t % 10**6), length)
    for t in (0, 1, 7, 10**6, 10**17 + 1):
        assert held(t) == math.ceil(math.floor(t / length) * length) % 10**6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MultiStep((3,), -1.0), "gamma must be 0 or more; got -1.0"),
        (lambda: MultiStep((3,), math.nan), "gamma must be 0 or more; got nan"),
        (lambda: Step(3, math.inf), "gamma must be 0 or more; got inf"),
        (lambda: Exponential(-0.5), "gamma must be 0 or more; got -0.5"),
        (lambda: Constant(0.5, 0), "num_iters must be 1 or more; got 0"),
        (lambda: CosineWaves(5, -1.0), "eta_min must be 0 or more; got -1.0"),
        (lambda: Group(0.1).number("max_lr", math.inf), "max_lr must be 0 or more; got inf"),
        (lambda: Group(0.1).number("max_lr", -1), "max_lr must be 0 or more; got -1"),
    ],
)
def test_schedules_refuse_values_out_of_range(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_power_of_zero_is_flat_as_in_torch() -> None:
    assert [Poly(4, 0.0)(t) for t in (0, 3, 4, 9)] == [1.0] * 4
