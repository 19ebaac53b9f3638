"""The reference for other loops: a plain loop uses the configured curve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

# Base rate 0.1, warm-up from 0.01 over 4 of 12 updates; drops at 6 and 9, or half a wave.
MULTI_STEP = [0.01, 0.0325, 0.055, 0.0775, 0.1, 0.1, 0.01, 0.01, 0.01, 0.001, 0.001, 0.001]
COSINE = [0.01, 0.0319463, 0.0513157, 0.0661504, 0.075, 0.0629410]
COSINE += [0.05, 0.0370590, 0.025, 0.0146447, 0.0066987, 0.0017037]


@pytest.mark.need("B2")
def test_the_rates_used_are_those_of_the_closed_form(
    request: pytest.FixtureRequest, fresh: Callable[[], Any], plain_loop: list[list[float]]
) -> None:
    _, _, scheduler, _ = fresh()
    assert plain_loop == [scheduler.lr_at(t) for t in range(12)]
    expected = MULTI_STEP if "multi-step" in request.node.name else COSINE
    weights, biases = zip(*plain_loop, strict=True)
    assert weights == pytest.approx(expected, rel=1e-5)
    assert biases == pytest.approx([2 * rate for rate in expected], rel=1e-5)
