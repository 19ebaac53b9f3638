"""The measured profile of one device: exact sizes, and times split into a fixed part and one per image."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import nn

from warmstart.config import CfgNode, get_cfg
from warmstart.engine import measure_loader, measure_profile, resolve_config
from warmstart.engine.analysis.cost_model import Work
from warmstart.engine.analysis.step_profile import _line
from warmstart.modeling import catalog, register_model

PARAMETERS = 4 * (64 * 32 + 32 + 32 * 10 + 10)  # bytes


@pytest.fixture(autouse=True)
def two_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(num_classes: int, in_channels: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, num_classes))

    monkeypatch.setattr(catalog, "_REGISTRY", dict(catalog._REGISTRY))
    register_model("two_layers", build)


@pytest.fixture
def configured() -> Callable[..., CfgNode]:
    def configure(*overrides: object) -> CfgNode:
        cfg = get_cfg()
        cfg.merge_from_list(["MODEL.NAME", "two_layers", "MODEL.DEVICE", "cpu", *overrides])
        return resolve_config(cfg)

    return configure


@pytest.mark.parametrize(
    ("overrides", "state"),
    [
        (("SOLVER.OPTIMIZER", "SGD", "SOLVER.MOMENTUM", 0.9), PARAMETERS),
        (("SOLVER.OPTIMIZER", "SGD", "SOLVER.MOMENTUM", 0), 0),
        (
            ("SOLVER.OPTIMIZER", "AdamW"),
            2 * PARAMETERS + 4 * 4,
        ),  # first and second moments, and 4 step counts
    ],
)
def test_measure_profile_counts_bytes_of_weights_gradients_state_and_average(
    configured: Callable[..., CfgNode], overrides: tuple[object, ...], state: int
) -> None:
    found = measure_profile(configured(*overrides, "SOLVER.EMA.ENABLED", "true"), 4, times=(1, 2, 3))
    assert (found.weights, found.state, found.average) == (PARAMETERS, state, PARAMETERS)
    # The last layer's gradients come first; torch orders those within a layer.
    assert sorted(found.gradients[:2]) == [40, 1280]
    assert sorted(found.gradients[2:]) == [128, 8192]
    assert list(found.ready) == sorted(found.ready)
    assert 0 < found.ready[0] < found.ready[-1] == 1


@pytest.mark.parametrize("images", [2, 4])
def test_measure_profile_counts_the_activations_that_the_backward_pass_needs(
    configured: Callable[..., CfgNode], images: int
) -> None:
    found = measure_profile(configured("SOLVER.IMS_PER_BATCH", 3), images, times=(1, 2, 3))
    # Per image: pixels, hidden layer and log-probabilities in float32, a label in int64. Per batch: one number,
    # the sum of the targets' weights.
    assert found.activations.of(images) == images * (4 * 64 + 4 * 32 + 4 * 10 + 8) + 4


def test_measure_profile_halves_the_bytes_that_are_sent_in_half_precision(
    configured: Callable[..., CfgNode],
) -> None:
    keys = ("DISTRIBUTED.GRADIENTS", "bf16", "MODEL.FSDP.PRECISION", "bf16")
    found = [measure_profile(configured(*some), 2, times=(1, 2, 3)) for some in ((), keys[:2], keys[2:])]
    assert [(each.summed, each.gathered) for each in found] == [(1, 1), (0.5, 1), (1, 0.5)]


def test_measure_profile_scales_given_times_with_the_images(configured: Callable[..., CfgNode]) -> None:
    found = measure_profile(configured(), 4, times=(1, 2, 3))
    assert (found.forward.of(4), found.backward.of(4), found.update) == (1, 2, 3)
    assert (found.forward.of(8), found.backward.of(2)) == (2, 1)


def test_measure_profile_splits_measured_times(configured: Callable[..., CfgNode]) -> None:
    found = measure_profile(configured("SOLVER.CLIP_GRADIENTS.ENABLED", "true"), 64, rounds=3)
    for work in (found.forward, found.backward):
        assert work.fixed >= 0
        assert work.per_image >= 0
        assert 0 < work.of(16) <= work.of(64) < 10
    assert 0 < found.update < 10


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ((2, 0.3), Work(0.1, 0.1)),
        ((2, 1.1), Work(0.9, 0.0)),
        ((2, 0.01), Work(0.0, 0.1125)),
        ((8, 0.9), Work(0, 0.1125)),
    ],
)
def test_line_fits_two_measurements_with_no_negative_part(other: tuple[int, float], expected: Work) -> None:
    assert _line((8, 0.9), other) == pytest.approx(expected)


@pytest.mark.parametrize("workers", [0, 1])
def test_measure_loader_counts_images_per_second(configured: Callable[..., CfgNode], workers: int) -> None:
    cfg = configured("DATALOADER.BACKEND", "worker", "DATALOADER.NUM_WORKERS", workers)
    assert measure_loader(cfg, seconds=0.01) > 100


def test_measure_profile_has_a_unit_for_each_module_that_fsdp_wraps(configured: Callable[..., CfgNode]) -> None:
    found = measure_profile(configured("MODEL.FSDP.WRAP", "Linear"), 2, times=(1, 2, 3))
    last, first = found.units
    assert last[:2] == (4 * (32 * 10 + 10),) * 2  # weights, gradients
    assert first[:2] == (4 * (64 * 32 + 32),) * 2
    assert 0 < last.ready < first.ready == 1
    assert found.rest() == (0, 0)
    none = measure_profile(configured("MODEL.FSDP.RESHARD_AFTER_FORWARD", "false"), 2, times=(1, 2, 3))
    assert (none.units, none.rest(), none.reshard) == ((), (PARAMETERS, PARAMETERS), False)
