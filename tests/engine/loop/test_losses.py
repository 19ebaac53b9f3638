"""Averages of losses over a window; they do not depend on when the window is flushed."""

from __future__ import annotations

import math

import pytest
import torch

from warmstart.engine import LossWindow


def add(window: LossWindow, *values: float) -> None:
    for value in values:
        window.add({"total_loss": torch.tensor(value), "loss_cls": torch.tensor(value)})


def test_loss_window_averages_only_its_own_updates() -> None:
    window = LossWindow()
    add(window, 1.0, 2.0)
    window.flush(2)
    assert window.averages() == {"total_loss": 1.5, "loss_cls": 1.5}
    add(window, 8.0)
    window.flush(3)
    assert window.averages() == {"total_loss": 8.0, "loss_cls": 8.0}


def test_a_term_missing_in_some_updates_is_averaged_over_the_others() -> None:
    window = LossWindow()
    four, one, two, three = (torch.tensor(value) for value in (4.0, 1.0, 2.0, 3.0))
    window.add({"total_loss": four, "loss_cls": one, "loss_mask": three})
    window.add({"total_loss": two, "loss_cls": two})
    window.flush(2)
    assert window.averages() == {"total_loss": 3.0, "loss_cls": 1.5, "loss_mask": 3.0}


@pytest.mark.need("D12")
def test_averages_have_the_same_bits_whenever_they_were_flushed_or_saved_in_between() -> None:
    values = [0.1, 0.7, 1 / 3, 2e-9, 1e5, 0.3]
    whole = LossWindow()
    add(whole, *values)
    whole.flush(6)
    for k in range(1, 6):
        first = LossWindow()
        add(first, *values[:k])
        first.flush(k)
        second = LossWindow()
        second.load_state_dict(first.state_dict())
        add(second, *values[k:])
        second.flush(6)
        assert second.state_dict() == whole.state_dict()


@pytest.mark.need("E6")
def test_loss_window_with_all_updates_skipped_has_a_total() -> None:
    assert math.isnan(LossWindow().averages()["total_loss"])


def test_flush_reads_nothing_twice() -> None:
    window = LossWindow()
    add(window, 1.0)
    window.flush(1)
    window.flush(1)
    assert window.averages()["total_loss"] == 1.0
