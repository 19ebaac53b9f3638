"""Clipping: numbers by hand, detectron2's meaning of each type, and the norm before it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from warmstart.config import ConfigError, get_cfg
from warmstart.solver import GradientClipping, build_gradient_clipping


def parameters(*gradients: list[float] | None) -> list[nn.Parameter]:
    made = []
    for gradient in gradients:
        parameter = nn.Parameter(torch.zeros(len(gradient or [0.0])))
        parameter.grad = None if gradient is None else torch.tensor(gradient)
        made.append(parameter)
    return made


def gradients(made: list[nn.Parameter]) -> list[list[float]]:
    return [parameter.grad.tolist() for parameter in made if parameter.grad is not None]


@pytest.mark.need("E11", "S12")
@pytest.mark.parametrize(
    ("clip_type", "expected"),
    [
        # Norms 5 and 12, together 13; the limit is 6.
        ("value", [[3.0, -4.0], [6.0]]),
        ("norm", [[3.0, -4.0], [6.0]]),
        ("full_model", [[18 / 13, -24 / 13], [72 / 13]]),
    ],
)
def test_each_type_clips_as_in_detectron2_and_returns_the_norm_before(
    clip_type: str, expected: list[list[float]]
) -> None:
    made = parameters([3.0, -4.0], [12.0])
    norm = GradientClipping(clip_type, 6.0)(iter(made))
    assert norm.shape == ()
    assert norm.item() == 13.0
    assert gradients(made) == [pytest.approx(gradient, rel=1e-6) for gradient in expected]


@pytest.mark.need("S12")
def test_value_and_norm_differ_where_a_norm_is_longer_than_its_numbers() -> None:
    by_value, by_norm = parameters([6.0, -8.0]), parameters([6.0, -8.0])
    GradientClipping("value", 7.0)(by_value)
    GradientClipping("norm", 5.0)(by_norm)
    assert gradients(by_value) == [[6.0, -7.0]]
    assert gradients(by_norm) == [pytest.approx([3.0, -4.0], rel=1e-6)]


@pytest.mark.need("E11")
def test_the_total_norm_is_never_above_the_limit_and_never_raised_to_it() -> None:
    torch.manual_seed(0)
    for scale in (1e-3, 1.0, 1e3):
        made = parameters(*(torch.randn(7).mul(scale).tolist() for _ in range(5)))
        before = GradientClipping("full_model", 2.0)(made)
        after = torch.cat([p.grad for p in made if p.grad is not None]).norm()
        assert after <= 2.0
        assert after == pytest.approx(min(before.item(), 2.0), rel=1e-5)


def test_the_norm_is_of_the_type_asked_for() -> None:
    made = parameters([1.0, -2.0], [3.0])
    assert GradientClipping("full_model", 3.0, norm_type=1.0)(made).item() == 6.0
    assert gradients(made) == [pytest.approx([0.5, -1.0], rel=1e-6), pytest.approx([1.5], rel=1e-6)]


@pytest.mark.parametrize("clip_type", ["value", "norm", "full_model"])
def test_parameters_without_a_gradient_are_passed_over(clip_type: str) -> None:
    made = parameters(None, [3.0, 4.0], None)
    assert GradientClipping(clip_type, 10.0)(made).item() == 5.0
    assert gradients(made) == [[3.0, 4.0]]


@pytest.mark.parametrize("clip_type", ["value", "norm", "full_model"])
def test_nothing_is_read_back_from_the_device(clip_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = parameters([3.0, 4.0], [1.0])

    def refuse(*args: object) -> None:
        raise AssertionError("a synchronisation")

    for method in ("item", "cpu", "tolist", "numpy", "__bool__", "__float__"):
        monkeypatch.setattr(Tensor, method, refuse)
    GradientClipping(clip_type, 1.0)(made)


def test_the_config_decides() -> None:
    cfg = get_cfg()
    assert build_gradient_clipping(cfg) is None
    words = ["ENABLED=true", "CLIP_TYPE=full_model", "CLIP_VALUE=0.5", "NORM_TYPE=1"]
    cfg.merge_from_list([f"SOLVER.CLIP_GRADIENTS.{word}" for word in words])
    assert build_gradient_clipping(cfg) == GradientClipping("full_model", 0.5, 1.0)


@pytest.mark.need("E11")
@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "CLIP_TYPE=fullmodel",
            "expected one of value, norm, full_model; got 'fullmodel' .*did you mean full_model",
        ),
        ("CLIP_VALUE=0", "expected a number above 0 and at most 3e\\+38; got '0'"),
        ("NORM_TYPE=-1", "expected a number above 0; got '-1'"),
    ],
)
def test_config_refuses_wrong_values_in_clip_gradients(word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        get_cfg().merge_from_list([f"SOLVER.CLIP_GRADIENTS.{word}"])
