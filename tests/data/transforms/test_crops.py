"""Crops to a fixed size, and torchvision's crop by overlap where it would not end."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors

from warmstart.config import ConfigError
from warmstart.data import build_transform
from warmstart.data.transforms.crops import FixedSizeCrop, RandomIoUCrop
from warmstart.data.transforms.objects import finish_objects, frame_of

from .object_samples import rows, shape_sample


def test_fixed_size_crop_pads_a_smaller_image_at_the_right_and_the_bottom() -> None:
    image = tv_tensors.Image(torch.ones(3, 4, 6, dtype=torch.uint8))
    boxes = tv_tensors.BoundingBoxes(torch.tensor([[1.0, 1, 6, 4]]), format="XYXY", canvas_size=(4, 6))
    masks = tv_tensors.Mask(torch.ones(1, 4, 6, dtype=torch.uint8))
    crop = FixedSizeCrop(size=8, fill=[100, 110, 120])
    sample = crop({"image": image, "boxes": boxes, "masks": masks, "frame": frame_of((4, 6))})
    assert sample["image"].shape == (3, 8, 8)
    assert sample["image"][:, 0, 7].tolist() == sample["image"][:, 7, 0].tolist() == [100, 110, 120]
    assert sample["image"][:, 3, 5].tolist() == [1, 1, 1]
    assert sample["masks"][0].sum() == 24
    assert sample["boxes"].canvas_size == sample["frame"].canvas_size == (8, 8)
    assert sample["boxes"].tolist() == [[1, 1, 6, 4]]


def test_fixed_size_crop_takes_every_part_of_a_larger_image() -> None:
    image = tv_tensors.Image(torch.arange(5, dtype=torch.uint8).expand(1, 2, 5))
    torch.manual_seed(0)
    begins = [FixedSizeCrop([2, 3])(image)[0, 0].tolist() for _ in range(50)]
    assert sorted({tuple(each) for each in begins}) == [(0, 1, 2), (1, 2, 3), (2, 3, 4)]


def test_fixed_size_crop_crops_one_side_and_pads_the_other() -> None:
    sample = {"image": tv_tensors.Image(torch.ones(1, 9, 2)), "frame": frame_of((9, 2))}
    torch.manual_seed(1)
    found = FixedSizeCrop([4, 3])(sample)
    assert found["image"].shape == (1, 4, 3)
    top = -found["frame"][0, 1].item()
    assert 0 <= top <= 5
    assert found["frame"].tolist() == [[0, -top], [2, -top], [0, 9 - top], [2, 9 - top]]


@pytest.mark.parametrize("size", [0, [4], [4, 2.5], [4, -1]])
def test_fixed_size_crop_refuses_other_sizes(size: object) -> None:
    with pytest.raises(ConfigError, match="T: FixedSizeCrop: FixedSizeCrop refuses it: size is a whole number of"):
        build_transform([("FixedSizeCrop", {"size": size})], [0], [1], "T")


def test_random_iou_crop_leaves_an_image_without_objects_as_it_is() -> None:
    boxes = tv_tensors.BoundingBoxes(torch.zeros(0, 4), format="XYXY", canvas_size=(8, 8))
    sample = {"image": tv_tensors.Image(torch.zeros(3, 8, 8)), "boxes": boxes}
    assert RandomIoUCrop()(sample)["image"].shape == (3, 8, 8)


def test_random_iou_crop_refuses_options_that_may_never_fit() -> None:
    with pytest.raises(ConfigError, match=r"sampler_options must contain 1, .* got \[0.9\]"):
        build_transform([("RandomIoUCrop", {"sampler_options": [0.9]})], [0], [1], "T")


def test_random_iou_crop_drops_objects_whose_centre_is_outside() -> None:
    torch.manual_seed(0)
    crop, counts = RandomIoUCrop(), set()
    for _ in range(20):
        found = finish_objects(crop(shape_sample(0)), [(1, 2)])
        assert len(rows(found)) == 1
        assert (found["boxes"][:, 2:] > found["boxes"][:, :2]).all()
        assert type(found["boxes"]) is Tensor
        counts.add(len(found["boxes"]))
    assert counts == {1, 2, 3, 4}
