"""Micro-batches: equal parts of whatever a loader gives."""

from __future__ import annotations

import pytest
import torch

from warmstart.engine.loop.batches import micro_batch, to_device


@pytest.mark.need("E12")
def test_the_parts_put_together_are_the_batch() -> None:
    batch = (torch.arange(16).view(8, 2), [torch.arange(8), {"masks": torch.ones(8, 3, 3)}], "day", 7)
    parts = [micro_batch(batch, index, 4) for index in range(4)]
    assert torch.equal(torch.cat([part[0] for part in parts]), batch[0])
    assert [part[1][0].tolist() for part in parts] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert parts[3][1][1]["masks"].shape == (2, 3, 3)
    assert all(part[2:] == ("day", 7) for part in parts)


def test_a_part_copies_nothing() -> None:
    images = torch.zeros(8, 3)
    micro_batch((images,), 1, 2)[0].fill_(1)
    assert images.sum() == 12


@pytest.mark.need("B16")
@pytest.mark.parametrize("tensor", [torch.zeros(6, 2), torch.zeros(0, 2), torch.tensor(1.0)])
def test_what_cannot_be_cut_into_equal_parts_is_refused(tensor: torch.Tensor) -> None:
    with pytest.raises(
        ValueError, match=r"shape \(.*\) cannot be cut into 4 equal micro-batches: .* multiple of 4"
    ):
        micro_batch((tensor,), 0, 4)


def test_a_batch_keeps_its_form_on_the_way_to_a_device() -> None:
    batch = ([torch.ones(2)], {"a": (torch.zeros(1), None)}, 3)
    moved = to_device(batch, torch.device("meta"))
    assert moved[0][0].device.type == moved[1]["a"][0].device.type == "meta"
    assert (type(moved[0]), moved[1]["a"][1], moved[2]) == (list, None, 3)
