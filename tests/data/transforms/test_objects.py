"""Objects after transforms: what remains of them, and the way back to the original image."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from warmstart.config import ConfigError
from warmstart.data.datasets.shapes import Shapes
from warmstart.data.transforms.objects import (
    OBJECT_ENTRIES,
    finish_objects,
    frame_of,
    is_mirrored,
    points_in,
    swap_sides,
    to_original,
)

from .object_samples import rows, sample_of, shape_sample

PAIRS = ((1, 2),)


def test_finish_objects_keeps_an_untouched_sample() -> None:
    sample = shape_sample(0)
    found = finish_objects(sample, PAIRS)
    for name in OBJECT_ENTRIES:
        assert type(found[name]) is Tensor
        assert torch.equal(found[name], sample[name].as_subclass(Tensor)), name
    assert found["original"] is sample["original"]


def test_finish_objects_swaps_left_and_right_keypoints_of_a_mirror_image() -> None:
    sample = shape_sample(0)
    found = finish_objects(v2.RandomHorizontalFlip(p=1)(sample), PAIRS)
    before, after = sample["keypoints"].as_subclass(Tensor), found["keypoints"]
    seen = sample["visibility"]
    assert torch.equal(found["visibility"], seen[:, [0, 2, 1]])
    for place, old in enumerate((0, 2, 1)):  # a point at x is at 96 - x, exactly as the edge of a box
        labelled = seen[:, old] > 0
        assert torch.equal(after[labelled, place, 0], 96 - before[labelled, old, 0])
        assert torch.equal(after[labelled, place, 1], before[labelled, old, 1])
    assert torch.equal(found["boxes"][:, 0], 96 - sample["boxes"].as_subclass(Tensor)[:, 2])


def test_finish_objects_swaps_no_sides_after_two_flips() -> None:
    sample = shape_sample(0)
    flips = v2.Compose([v2.RandomHorizontalFlip(p=1), v2.RandomVerticalFlip(p=1)])
    found = finish_objects(flips(sample), PAIRS)
    labelled = sample["visibility"] > 0
    assert torch.equal(found["keypoints"][labelled], 96 - sample["keypoints"].as_subclass(Tensor)[labelled])


@pytest.mark.parametrize("flip", [v2.RandomHorizontalFlip, v2.RandomVerticalFlip])
def test_flipped_points_keep_their_place_in_boxes_at_any_scale(flip: type) -> None:
    # torchvision's own KeyPoints move by a pixel against boxes, before the resize by 10.
    moves = v2.Compose([flip(p=1), v2.Resize((100, 80))])
    boxes = tv_tensors.BoundingBoxes(torch.tensor([[1.0, 2, 3, 5]]), format="XYXY", canvas_size=(10, 8))
    sample = {"image": tv_tensors.Image(torch.zeros(3, 10, 8)), "boxes": boxes}
    sample |= {"points": points_in(torch.tensor([[1.0, 2], [3.0, 5]]), (10, 8))}
    moved = moves(sample)
    points = moved["points"].as_subclass(Tensor)
    assert torch.cat([points.amin(0), points.amax(0)]).tolist() == moved["boxes"][0].tolist()


def test_finish_objects_drops_objects_outside_a_crop_from_all_entries() -> None:
    sample = shape_sample(0)  # boxes: 34 0 75 36, 42 34 74 62, 76 47 96 65, 33 24 47 37
    sample["iscrowd"] = torch.tensor([False, False, True, False])
    cropped = {
        name: v2.functional.crop(value, 40, 60, 56, 36) if isinstance(value, tv_tensors.TVTensor) else value
        for name, value in sample.items()
    }
    found = finish_objects(cropped, PAIRS)
    assert rows(found) == {2}
    assert found["boxes"].tolist() == [[0.0, 0.0, 14.0, 22.0], [16.0, 7.0, 36.0, 25.0]]
    assert found["labels"].tolist() == [2, 2]
    assert found["iscrowd"].tolist() == [False, True]
    assert found["masks"].shape == (2, 56, 36)
    assert found["visibility"][0].tolist() == [0, 0, 2]  # the top and the left are cut off
    assert found["keypoints"][0, :2].tolist() == [[0, 0], [0, 0]]
    before = (32 * 28, 20 * 18)
    assert found["area"].tolist() == pytest.approx(
        [float(sample["area"][1]) * 14 * 22 / before[0], float(sample["area"][2])]
    )


def test_finish_objects_fits_boxes_to_masks_after_a_rotation() -> None:
    sample = shape_sample(2)
    turned = v2.RandomRotation((30, 30), expand=True)(sample)
    found = finish_objects(turned, PAIRS)
    assert len(found["boxes"]) == 3
    for mask, box, loose in zip(found["masks"], found["boxes"], turned["boxes"].tolist(), strict=True):
        ys, xs = mask.nonzero().unbind(1)
        assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        assert box[2] - box[0] <= loose[2] - loose[0] + 1


def test_finish_objects_keeps_boxes_that_are_only_scaled() -> None:
    sample = shape_sample(0)
    found = finish_objects(v2.Resize((80, 144))(sample), PAIRS)
    scale = torch.tensor([1.5, 80 / 96, 1.5, 80 / 96])
    assert torch.allclose(found["boxes"], sample["boxes"].as_subclass(Tensor) * scale)
    assert torch.allclose(found["area"], sample["area"] * 1.5 * 80 / 96)


def test_finish_objects_accepts_an_image_without_objects() -> None:
    dataset = Shapes("train", 200)
    index = next(index for index in range(200) if not len(dataset[index][1]))
    sample = sample_of(*dataset[index])
    moves = v2.Compose([v2.RandomHorizontalFlip(p=1), v2.RandomRotation((10, 10)), v2.RandomCrop(50)])
    found = finish_objects(moves(sample), PAIRS)
    assert rows(found) == {0}
    assert found["keypoints"].shape == (0, 3, 2)
    assert found["masks"].shape == (0, 50, 50)


@pytest.mark.parametrize("without", ["masks", "keypoints"])
def test_finish_objects_needs_neither_masks_nor_keypoints(without: str) -> None:
    sample = shape_sample(0)
    for name in ("masks",) if without == "masks" else ("keypoints", "visibility"):
        del sample[name]
    found = finish_objects(v2.CenterCrop(40)(sample), PAIRS)
    assert len(found["boxes"]) == len(found["labels"])


def test_finish_objects_refuses_entries_of_different_lengths() -> None:
    sample = shape_sample(0)
    sample["labels"] = sample["labels"][:2]
    with pytest.raises(ConfigError, match="image 0 has 4 objects and, after the transforms, 2 labels; leave out"):
        finish_objects(sample)


@pytest.mark.parametrize("index", range(6))
def test_masks_boxes_and_keypoints_agree_after_a_random_pipeline(index: int) -> None:
    torch.manual_seed(index)
    moves = v2.Compose(
        [
            v2.RandomPhotometricDistort(p=1),
            v2.RandomZoomOut(side_range=(1.0, 2.0), p=1),
            v2.RandomHorizontalFlip(),
            v2.RandomAffine(degrees=15, translate=(0.1, 0.1), scale=(0.8, 1.2), shear=5),
            v2.ScaleJitter((128, 128)),
            v2.RandomCrop((90, 100), pad_if_needed=True),
        ]
    )
    found = finish_objects(moves(shape_sample(index)), PAIRS)
    assert len(rows(found)) == 1
    for mask, box, points, seen in zip(
        found["masks"], found["boxes"], found["keypoints"], found["visibility"], strict=True
    ):
        assert set(mask.unique().tolist()) <= {0, 1}
        ys, xs = mask.nonzero().unbind(1)
        assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        slack = 4  # the tip of a thin shape may be in no pixel
        for x, y in points[seen == 2].tolist():
            assert ((xs + 0.5 - x) ** 2 + (ys + 0.5 - y) ** 2).min() <= slack**2


def test_points_in_refuses_a_torchvision_that_clamps_key_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.__version__", "0.23.0+cpu")
    with pytest.raises(ConfigError, match=r"need torchvision 0.24 or newer, and this Python has 0.23.0\+cpu: pip"):
        frame_of((4, 4))


def test_swap_sides_exchanges_pairs() -> None:
    points = torch.arange(8.0).view(1, 4, 2)
    assert swap_sides(points, [(0, 3)])[0].tolist() == [[6, 7], [2, 3], [4, 5], [0, 1]]


def test_is_mirrored_knows_flips_from_turns() -> None:
    frame = frame_of((8, 12))
    assert not is_mirrored(frame)
    assert not is_mirrored(v2.functional.rotate(frame, 170))
    assert is_mirrored(v2.functional.rotate(v2.functional.vertical_flip(frame), 80))


MOVES = {
    "resize": [v2.Resize((50, 190))],
    "flip": [v2.RandomHorizontalFlip(p=1), v2.Resize((60, 60))],
    "pad": [v2.Pad((3, 5, 7, 11)), v2.RandomVerticalFlip(p=1)],
    "turn": [v2.RandomRotation((20, 20), expand=True)],
    "affine": [v2.RandomAffine((5, 5), scale=(0.7, 0.7), shear=(3, 3))],
}


@pytest.mark.parametrize("name", MOVES)
def test_to_original_returns_points_to_where_they_were(name: str) -> None:
    sample = shape_sample(1, (64, 120))
    moved = v2.Compose(MOVES[name])(sample)
    points = torch.cat([moved["keypoints"].as_subclass(Tensor), torch.ones(len(moved["keypoints"]), 3, 1)], dim=2)
    found = {"boxes": moved["boxes"].as_subclass(Tensor), "keypoints": points, "scores": torch.zeros(1)}
    back = to_original(found, moved["frame"].as_subclass(Tensor), sample["original"].size)
    labelled = sample["visibility"] > 0
    expected = sample["keypoints"].as_subclass(Tensor)[labelled]
    assert torch.allclose(back["keypoints"][..., :2][labelled], expected, atol=1e-3)
    if name in ("resize", "flip", "pad"):
        assert torch.allclose(back["boxes"], sample["boxes"].as_subclass(Tensor), atol=1e-3)
    assert back["scores"] is found["scores"]


def test_to_original_returns_masks_to_where_they_were() -> None:
    sample = shape_sample(1, (64, 120))
    height, width = sample["original"].size
    moved = v2.Compose([v2.Resize((height * 2, width * 2)), v2.Pad(4), v2.RandomHorizontalFlip(p=1)])(sample)
    found = {"boxes": moved["boxes"].as_subclass(Tensor), "masks": moved["masks"].as_subclass(Tensor).float()}
    back = to_original(found, moved["frame"].as_subclass(Tensor), (height, width))
    assert torch.equal(back["masks"] >= 0.5, sample["masks"].as_subclass(Tensor).bool())


def test_to_original_clips_boxes_to_the_image() -> None:
    frame = v2.functional.pad(frame_of((4, 4)), [2, 2, 2, 2]).as_subclass(Tensor)
    found = to_original({"boxes": torch.tensor([[0.0, 3.0, 8.0, 5.0]])}, frame, (4, 4))
    assert found["boxes"].tolist() == [[0.0, 1.0, 4.0, 3.0]]


def test_to_original_refuses_a_distorted_frame() -> None:
    frame = frame_of((4, 4)).as_subclass(Tensor).clone()
    frame[3, 0] += 1
    with pytest.raises(ConfigError, match="these distort it; leave out the one that does"):
        to_original({"boxes": torch.zeros(1, 4)}, frame, (4, 4))
